// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
)

// ReadOptions modify Read.
type ReadOptions struct {
	// Detached tells that r is a header file and the data is another image. Then the data offset is not compared with
	// sizeBytes, and may be 0.
	Detached bool
}

// Read reads the header at the start of r, which is sizeBytes long. It only reads, a few ranges of 4 KiB to 4 MiB.
//
// An image that is LUKS but cannot be opened gives both a header, for showing it, and an error that matches ErrUnsupported;
// every other error comes with a nil header. Errors of r are wrapped.
func Read(r io.ReaderAt, sizeBytes int64, opts ReadOptions) (*Header, error) {
	h, err := read(r, sizeBytes, opts)
	if err != nil {
		return nil, wrap(err)
	}
	return h, wrap(h.refused)
}

// read reads a header that may be one that we refuse.
func read(r io.ReaderAt, sizeBytes int64, opts ReadOptions) (*Header, error) {
	h, err := readVersion(r, sizeBytes, opts)
	if err != nil {
		return nil, err
	}
	h.sizeBytes = sizeBytes
	h.checkCipher()
	if h.refused == nil && !opts.Detached {
		if err := h.checkData(sizeBytes); err != nil {
			return nil, err
		}
	}
	if h.refused != nil {
		h.Unsupported = h.refused.Error()
	}
	return h, nil
}

// readVersion chooses the version.
func readVersion(r io.ReaderAt, sizeBytes int64, opts ReadOptions) (*Header, error) {
	head := make([]byte, luks1.HeaderBytes)
	n, err := r.ReadAt(head, 0)
	if n < len(head) {
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			// The secondary copy may still be readable.
			return readLUKS2(r, sizeBytes, opts)
		}
		return nil, fmt.Errorf("%w: the image has only %d bytes", ErrNotLUKS, n)
	}
	magic := string(head[:6])
	if (magic == luks1.Magic || magic == luks1.CloneMagic) && head[6] == 0 && head[7] == 1 {
		return readLUKS1(head, sizeBytes, opts)
	}
	return readLUKS2(r, sizeBytes, opts)
}

func readLUKS1(head []byte, sizeBytes int64, opts ReadOptions) (*Header, error) {
	v1, err := luks1.Parse(head)
	if err != nil {
		return nil, err
	}
	if v1.EndBytes() > sizeBytes {
		return nil, fmt.Errorf("%w: header and keyslots need %d bytes, the image has %d", ErrDamaged, v1.EndBytes(), sizeBytes)
	}
	h := &Header{v1: v1, Info: Info{
		Version: 1, UUID: v1.UUID,
		Cipher: v1.CipherName, Mode: v1.CipherMode, KeyBytes: int(v1.KeyBytes), SectorBytes: luks1.SectorBytes,
		DataOffsetBytes: v1.PayloadOffsetBytes(), HeaderBytes: v1.EndBytes(),
		Detached: opts.Detached, CloneMagic: v1.CloneMagic,
		Segments: []Segment{{
			Type: "crypt", OffsetBytes: uint64(v1.PayloadOffsetBytes()), Encryption: v1.CipherName + "-" + v1.CipherMode,
			SectorBytes: luks1.SectorBytes,
		}},
		Digests: []Digest{{Type: kdf.PBKDF2, Hash: v1.HashSpec, Iterations: v1.DigestIterations, Segments: []int{0}}},
	}}
	for i := range v1.Slots {
		s := &v1.Slots[i]
		if s.Invalid() {
			h.Warnings = append(h.Warnings, fmt.Sprintf("LUKS1 keyslot %d has an invalid state", i))
		}
		if !s.Active {
			continue
		}
		h.Digests[0].Keyslots = append(h.Digests[0].Keyslots, i)
		h.Keyslots = append(h.Keyslots, Keyslot{
			ID: i, Type: "luks1", Priority: PriorityNormal, KeyBytes: int(v1.KeyBytes), Bound: true,
			AreaEncryption: v1.CipherName + "-" + v1.CipherMode, AreaKeyBytes: int(v1.KeyBytes),
			AreaOffsetBytes: s.AreaOffsetBytes(), AreaLengthBytes: v1.AreaBytes(), AFHash: v1.HashSpec,
			KDF: KDF{Type: kdf.PBKDF2, Hash: v1.HashSpec, Iterations: s.Iterations},
		})
	}
	h.fillEmpty()
	if _, err := kdf.Hash(v1.HashSpec); err != nil {
		h.refused = err
	}
	return h, nil
}

func readLUKS2(r io.ReaderAt, sizeBytes int64, opts ReadOptions) (*Header, error) {
	disk, err := luks2.Read(r, sizeBytes)
	if err != nil {
		return nil, err
	}
	used := disk.Used()
	m := used.Meta
	h := &Header{v2: disk, Info: Info{
		Version: 2, UUID: used.Binary.UUID, Label: used.Binary.Label, Subsystem: used.Binary.Subsystem,
		HeaderBytes: int64(m.EndBytes()), SequenceID: used.Binary.SeqID,
		Detached: opts.Detached, CloneMagic: used.Binary.CloneMagic,
		Flags: m.Config.Flags, Requirements: m.Config.Requirements, Warnings: disk.Warnings,
	}}
	// The first segment describes the data even if we refuse to open it.
	s := &m.Segments[0]
	h.Cipher, h.Mode, _ = strings.Cut(s.Encryption, "-")
	h.SectorBytes, h.IVOffset = int(s.SectorBytes), s.IVTweak
	if s.OffsetBytes > 1<<62 || s.SizeBytes > 1<<62 && len(m.Segments) == 1 {
		return nil, fmt.Errorf("%w: segment of %d bytes at %d", ErrDamaged, s.SizeBytes, s.OffsetBytes)
	}
	h.DataOffsetBytes, h.DataLengthBytes = int64(s.OffsetBytes), int64(s.SizeBytes)
	h.digest, _ = m.SegmentDigest(s.ID)
	h.describe(m)
	h.fillEmpty()
	if _, err := m.DataSegment(); err != nil {
		h.refused = err
	}
	return h, nil
}

// describe fills the lists of LUKS2 objects and KeyBytes.
func (h *Header) describe(m *luks2.Metadata) {
	for i := range m.Keyslots {
		k := &m.Keyslots[i]
		bound := h.digest != nil && h.digest.Has(k.ID)
		if bound && h.KeyBytes == 0 {
			h.KeyBytes = int(k.KeyBytes)
		}
		h.Keyslots = append(h.Keyslots, Keyslot{
			ID: k.ID, Type: k.Type, Priority: int(k.Priority), KeyBytes: int(k.KeyBytes), Bound: bound,
			AreaEncryption: k.Area.Encryption, AreaKeyBytes: int(k.Area.KeyBytes),
			AreaOffsetBytes: int64(k.Area.OffsetBytes), AreaLengthBytes: int64(k.Area.SizeBytes), AFHash: k.AFHash,
			KDF: KDF{
				Type: k.KDF.Type, Hash: k.KDF.Hash, Iterations: k.KDF.Iterations,
				TimeCost: k.KDF.TimeCost, MemoryKiB: k.KDF.MemoryKiB, Threads: k.KDF.Threads,
			},
		})
	}
	for _, t := range m.Tokens {
		h.Tokens = append(h.Tokens, Token(t))
	}
	for _, d := range m.Digests {
		h.Digests = append(h.Digests, Digest{
			ID: d.ID, Type: d.Type, Hash: d.Hash, Iterations: d.Iterations, Keyslots: d.Keyslots, Segments: d.Segments,
		})
	}
	for i := range m.Segments {
		s := &m.Segments[i]
		h.Segments = append(h.Segments, Segment{
			ID: s.ID, Type: s.Type, OffsetBytes: s.OffsetBytes, LengthBytes: s.SizeBytes, Encryption: s.Encryption,
			SectorBytes: int(s.SectorBytes), Integrity: s.Integrity, Flags: s.Flags,
		})
	}
}

// fillEmpty makes lists that are nil empty, for JSON.
func (h *Header) fillEmpty() {
	if h.Keyslots == nil {
		h.Keyslots = []Keyslot{}
	}
	if h.Tokens == nil {
		h.Tokens = []Token{}
	}
	if h.Digests == nil {
		h.Digests = []Digest{}
	}
	for _, list := range []*[]string{&h.Flags, &h.Requirements, &h.Warnings} {
		if *list == nil {
			*list = []string{}
		}
	}
}

// checkCipher refuses data that package xts cannot decrypt.
func (h *Header) checkCipher() {
	if h.refused != nil {
		return
	}
	switch {
	case h.Cipher == "cipher_null":
		h.refused = fmt.Errorf("%w: the data is not encrypted (cipher_null)", ErrUnsupported)
	case h.Cipher != "aes" || h.Mode != "xts-plain64":
		h.refused = fmt.Errorf("%w: data cipher %q, expected aes-xts-plain64", ErrUnsupported, h.Cipher+"-"+h.Mode)
	case h.KeyBytes != 32 && h.KeyBytes != 64 && (h.KeyBytes != 0 || len(h.Keyslots) != 0):
		h.refused = fmt.Errorf("%w: aes-xts-plain64 with a key of %d bits, expected 256 or 512", ErrUnsupported, h.KeyBytes*8)
	}
	switch h.SectorBytes {
	case 512, 1024, 2048, 4096:
	default:
		if h.refused == nil {
			h.refused = fmt.Errorf("%w: sectors of %d bytes, expected 512, 1024, 2048 or 4096", ErrUnsupported, h.SectorBytes)
		}
	}
}

// checkData compares the place of the data with the image that holds both header and data.
func (h *Header) checkData(sizeBytes int64) error {
	switch {
	case h.DataOffsetBytes == 0:
		h.refused = fmt.Errorf("%w: the header is a detached one, its data is another image: give it as the header of that image",
			ErrUnsupported)
	case h.DataOffsetBytes > sizeBytes:
		return fmt.Errorf("%w: the data begins at byte %d, the image ends at %d", ErrDamaged, h.DataOffsetBytes, sizeBytes)
	case h.DataLengthBytes > sizeBytes-h.DataOffsetBytes:
		return fmt.Errorf("%w: %d bytes of data at byte %d, the image ends at %d", ErrDamaged, h.DataLengthBytes,
			h.DataOffsetBytes, sizeBytes)
	}
	return nil
}
