// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/luksgate/luksgate/crypt/luks/lukserr"
	"github.com/luksgate/luksgate/crypt/luks/signature"
)

// State is what reading one copy came to, in cryptsetup's terms.
type State int

// States of a copy.
const (
	OK       State = iota
	Obsolete       // the checksum is right, but the metadata is invalid or older than the other copy's
	Failed         // no header, or a damaged one
	FailedIO       // could not be read
)

// Copy is one of the two headers on the disk. Binary is nil unless the checksum was right, Meta unless the metadata is valid.
type Copy struct {
	State  State
	Binary *Binary
	Meta   *Metadata
	Err    error // why State is not OK
}

// Disk is what was found on an image.
type Disk struct {
	Primary, Secondary Copy
	// Warnings tell what is not as it should be, and how to repair it.
	Warnings []string
}

// Used returns the copy to work with: one whose State is OK.
func (d *Disk) Used() *Copy {
	if d.Primary.State == OK {
		return &d.Primary
	}
	return &d.Secondary
}

// Other returns the copy that Used did not choose.
func (d *Disk) Other() *Copy {
	if d.Primary.State == OK {
		return &d.Secondary
	}
	return &d.Primary
}

// Read reads both copies and chooses, as cryptsetup does:
//
//  1. the primary copy at offset 0;
//  2. the secondary where the primary says, or, if the primary's binary part is bad, at each place where one may be;
//  3. of two good copies the one with the higher sequence number;
//  4. a lone secondary only if nothing else claims the start of the image.
//
// Nothing is written. sizeBytes is the length of what r reads. Errors: lukserr.NotLUKS if there is no magic at any place,
// lukserr.Unsupported for another version, lukserr.Damaged, or the error of r if both copies could not be read.
func Read(r io.ReaderAt, sizeBytes int64) (*Disk, error) {
	d := &Disk{Primary: readCopy(r, 0, false)}
	if d.Primary.State == OK || d.Primary.State == Obsolete {
		d.Secondary = readCopy(r, d.Primary.Binary.HeaderBytes, true)
	} else {
		d.Secondary = findSecondary(r)
	}
	if d.Primary.State == OK && d.Secondary.State == OK {
		d.compareSequence()
	}
	if d.Primary.State != OK && d.Secondary.State != OK {
		return nil, d.failure()
	}
	used := d.Used()
	if end := used.Meta.EndBytes(); sizeBytes < 0 || end > uint64(sizeBytes) {
		return nil, fmt.Errorf("%w: header and keyslots need %d bytes, the image has %d", lukserr.Damaged, end, sizeBytes)
	}
	if d.Primary.State != OK && d.Primary.Binary == nil {
		if name := signature.DetectForeign(r, sizeBytes); name != "" {
			return nil, fmt.Errorf("%w: there is a good secondary header at byte %d, but the image begins with %s: if the image "+
				"is LUKS, run cryptsetup repair on it", lukserr.Damaged, d.Secondary.Binary.OffsetBytes(), name)
		}
	}
	d.warn()
	return d, nil
}

// readCopy reads and checks the copy at offset.
func readCopy(r io.ReaderAt, offset uint64, secondary bool) Copy {
	fail := func(err error) Copy { return Copy{State: Failed, Err: err} }
	fixed := make([]byte, BinaryBytes)
	if n, err := r.ReadAt(fixed, int64(offset)); n < len(fixed) {
		return readFailure(err)
	}
	bin, err := parseBinary(fixed, secondary, offset)
	if err != nil {
		return fail(err)
	}
	whole := make([]byte, bin.HeaderBytes)
	if n, err := r.ReadAt(whole, int64(offset)); n < len(whole) {
		return readFailure(err)
	}
	// The image may have changed between the reads: what was checked is what is used.
	if bin, err = parseBinary(whole, secondary, offset); err != nil {
		return fail(err)
	}
	if uint64(len(whole)) != bin.HeaderBytes {
		return fail(badf("the header changed while it was read"))
	}
	if err := bin.verifyChecksum(whole); err != nil {
		return fail(err)
	}
	meta, err := ParseMetadata(whole[BinaryBytes:])
	if err != nil {
		return Copy{State: Obsolete, Binary: bin, Err: err}
	}
	return Copy{State: OK, Binary: bin, Meta: meta}
}

// readFailure tells the end of the image from a failing one.
func readFailure(err error) Copy {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Copy{State: Failed, Err: fmt.Errorf("%w: the image ends inside the header", lukserr.NotLUKS)}
	}
	return Copy{State: FailedIO, Err: fmt.Errorf("read header: %w", err)}
}

// findSecondary looks for a secondary copy at every place where one may be and takes the first whose checksum is right.
func findSecondary(r io.ReaderAt) Copy {
	best := Copy{State: Failed, Err: lukserr.NotLUKS}
	for _, offset := range headerSizes {
		c := readCopy(r, offset, true)
		if c.State == OK || c.State == Obsolete {
			return c
		}
		if errors.Is(best.Err, lukserr.NotLUKS) {
			best = c
		}
	}
	return best
}

// compareSequence makes the older of two good copies obsolete.
func (d *Disk) compareSequence() {
	p, s := d.Primary.Binary.SeqID, d.Secondary.Binary.SeqID
	if p > s {
		d.Secondary.State = Obsolete
		d.Secondary.Err = badf("it has sequence number %d, the primary has %d", s, p)
	}
	if s > p {
		d.Primary.State = Obsolete
		d.Primary.Err = badf("it has sequence number %d, the secondary has %d", p, s)
	}
}

// failure explains why there is no usable copy.
func (d *Disk) failure() error {
	p, s := d.Primary.Err, d.Secondary.Err
	switch {
	case d.Primary.State == FailedIO && (d.Secondary.State == FailedIO || errors.Is(s, lukserr.NotLUKS)):
		return p
	case d.Secondary.State == FailedIO && errors.Is(p, lukserr.NotLUKS):
		return s
	case errors.Is(p, lukserr.NotLUKS) && errors.Is(s, lukserr.NotLUKS):
		return lukserr.NotLUKS
	case errors.Is(p, lukserr.Unsupported) && errors.Is(s, lukserr.NotLUKS):
		return p
	}
	return fmt.Errorf("%w: neither copy can be used; primary: %s; secondary: %s", lukserr.Damaged, reason(p), reason(s))
}

// reason is the text of an error without the sentinel that begins it, for use inside another one.
func reason(err error) string {
	return strings.TrimPrefix(err.Error(), lukserr.Damaged.Error()+": ")
}

// repairHint ends the warnings.
const repairHint = "; to repair it run \"luksgate header repair\", or \"cryptsetup repair\" on the device"

// warn describes what Read had to put up with.
func (d *Disk) warn() {
	if d.Primary.State != OK {
		d.Warnings = append(d.Warnings, fmt.Sprintf("the primary LUKS2 header is not usable (%s), opened with the secondary%s",
			reason(d.Primary.Err), repairHint))
	}
	if d.Secondary.State != OK {
		d.Warnings = append(d.Warnings, fmt.Sprintf("the secondary LUKS2 header is not usable (%s), there is no second copy to "+
			"fall back on%s", reason(d.Secondary.Err), repairHint))
	}
	if d.Used().Meta.Repaired {
		d.Warnings = append(d.Warnings, "the kdf of a keyslot has parameters left over by an old cryptsetup, ignored"+repairHint)
	}
}
