// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
	"github.com/luksgate/luksgate/crypt/secret"
)

// Backup writes headers and keyslot areas to w, in the format of "cryptsetup luksHeaderBackup". r is what h was read from.
// With the backup and a passphrase of its time the image opens, whatever happens to its keyslots: keep it as safe as the
// image. Areas of free LUKS1 keyslots are left out.
func (h *Header) Backup(r io.ReaderAt, w io.Writer) error {
	size := h.backupBytes()
	buf := make([]byte, size)
	if n, err := r.ReadAt(buf, 0); n < len(buf) {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return wrap(fmt.Errorf("read %d bytes of header: %w", size, err))
	}
	if h.Version == 1 {
		keep := make([]byte, size)
		copy(keep, buf[:luks1.DiskBytes])
		for _, k := range h.Keyslots {
			copy(keep[k.AreaOffsetBytes:k.AreaOffsetBytes+k.AreaLengthBytes], buf[k.AreaOffsetBytes:])
		}
		secret.Wipe(buf)
		buf = keep
	}
	if _, err := w.Write(buf); err != nil {
		return wrap(fmt.Errorf("write backup: %w", err))
	}
	return nil
}

// backupBytes is the length of a backup: all of LUKS2, and LUKS1 in whole pages as cryptsetup expects, if there is room.
func (h *Header) backupBytes() int64 {
	if h.Version == 2 {
		return h.HeaderBytes
	}
	pages := (h.HeaderBytes + luks1.AlignBytes - 1) / luks1.AlignBytes * luks1.AlignBytes
	return min(pages, h.sizeBytes)
}

// Restore writes a backup made by Header.Backup or "cryptsetup luksHeaderBackup" to dev, an image of sizeBytes, and returns
// the header as it then is.
//
// The present header must be of the same image: same version, UUID, data offset and key size. Anything else, also when no
// header can be read, gives ErrInUse unless force is set. Whoever knows a passphrase that was removed after the backup was
// made can open the image again.
//
// A power loss in the middle can leave an image that does not open; restore again.
func Restore(dev Device, sizeBytes int64, backup io.ReaderAt, backupBytes int64, force bool) (*Header, error) {
	h, err := restore(dev, sizeBytes, backup, backupBytes, force)
	return h, wrap(err)
}

func restore(dev Device, sizeBytes int64, backup io.ReaderAt, backupBytes int64, force bool) (*Header, error) {
	// The data offset of the backup is compared with the image below.
	from, err := read(backup, backupBytes, ReadOptions{Detached: true})
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if end := from.HeaderBytes; end > sizeBytes || from.DataOffsetBytes > sizeBytes {
		return nil, fmt.Errorf("%w: header of %d bytes and data from byte %d, the image has %d", ErrNoSpace, end,
			from.DataOffsetBytes, sizeBytes)
	}
	detached := from.DataOffsetBytes == 0
	now, err := read(dev, sizeBytes, ReadOptions{Detached: detached})
	if err != nil && !errors.Is(err, ErrNotLUKS) && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnsupported) {
		return nil, err
	}
	if !force {
		if err != nil {
			return nil, fmt.Errorf("%w: the image has no header to compare with (%s), force is needed", ErrInUse, err.Error())
		}
		if err := sameImage(from, now); err != nil {
			return nil, err
		}
	}
	clone := from.CloneMagic
	if now != nil {
		clone = now.CloneMagic
	}
	if err := from.copyTo(dev, backup, clone); err != nil {
		return nil, err
	}
	return read(dev, sizeBytes, ReadOptions{Detached: detached})
}

// sameImage refuses a backup of another image.
func sameImage(from, now *Header) error {
	for _, c := range []struct {
		what      string
		from, now any
	}{
		{"version", from.Version, now.Version},
		{"UUID", strconv.Quote(from.UUID), strconv.Quote(now.UUID)},
		{"data offset", from.DataOffsetBytes, now.DataOffsetBytes},
		{"key size", from.KeyBytes, now.KeyBytes},
		{"sector size", from.SectorBytes, now.SectorBytes},
	} {
		if c.from != c.now {
			return fmt.Errorf("%w: the %s of the backup is %v, that of the image %v, force is needed", ErrInUse, c.what, c.from, c.now)
		}
	}
	return nil
}

// copyTo writes the keyslot areas of a backup, then its headers, the primary last.
func (h *Header) copyTo(dev Device, backup io.ReaderAt, clone bool) error {
	buf := make([]byte, h.backupBytes())
	if n, err := backup.ReadAt(buf, 0); n < len(buf) {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("backup: read %d bytes: %w", len(buf), err)
	}
	if h.Version == 1 {
		v1 := *h.v1
		v1.CloneMagic = clone
		copy(buf, v1.Encode())
		if err := writeStable(dev, buf[luks1.DiskBytes:], luks1.DiskBytes); err != nil {
			return fmt.Errorf("write keyslots: %w", err)
		}
		return commit1(dev, &v1)
	}
	bin := *h.v2.Used().Binary
	bin.CloneMagic = clone
	keyslotsAt := 2 * int64(bin.HeaderBytes)
	if err := writeStable(dev, buf[keyslotsAt:], keyslotsAt); err != nil {
		return fmt.Errorf("write keyslots: %w", err)
	}
	for _, secondary := range []bool{true, false} {
		c := luks2.Binary(bin)
		c.Secondary = secondary
		if err := writeCopy(dev, &c, h.v2.Used().Meta); err != nil {
			return err
		}
	}
	return nil
}
