// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

// Numbers of the format.
const (
	// BinaryBytes is the length of the binary header, before the JSON area.
	BinaryBytes = 4096
	// MinHeaderBytes and MaxHeaderBytes bound one copy: binary header and JSON area.
	MinHeaderBytes = 16 << 10
	MaxHeaderBytes = 4 << 20
	// SaltBytes is the length of the salt of a copy, which makes the copies differ.
	SaltBytes = 64
	// MaxKeyslots is how many keyslots there may be.
	MaxKeyslots = 32
	// LabelBytes is the space for a label, its NUL included.
	LabelBytes = 48

	magicBytes       = 6
	uuidBytes        = 40
	checksumAlgBytes = 32
	checksumBytes    = 64
	checksumAt       = 448
)

// Magics of the primary and the secondary copy, and what librbd puts in their place on a clone.
const (
	MagicPrimary        = "LUKS\xba\xbe"
	MagicSecondary      = "SKUL\xba\xbe"
	MagicClonePrimary   = "RBDL\xba\xbe"
	MagicCloneSecondary = "LDBR\xba\xbe"
)

// headerSizes are the lengths a copy may have, which are also the places where a secondary copy may be.
var headerSizes = []uint64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}

// Binary is a decoded binary header.
type Binary struct {
	Secondary   bool
	CloneMagic  bool // has librbd's magic for clones
	HeaderBytes uint64
	SeqID       uint64
	Label       string
	ChecksumAlg string
	Salt        [SaltBytes]byte
	UUID        string
	Subsystem   string
}

// OffsetBytes is where this copy is on the disk.
func (h *Binary) OffsetBytes() int64 {
	if h.Secondary {
		return int64(h.HeaderBytes)
	}
	return 0
}

// parseBinary decodes the fixed part of a copy that was read at offset and checks it as cryptsetup does before it trusts
// the length. lukserr.NotLUKS means another magic.
func parseBinary(b []byte, secondary bool, offset uint64) (*Binary, error) {
	if len(b) < BinaryBytes {
		return nil, fmt.Errorf("%w: %d bytes, expected %d", lukserr.Damaged, len(b), BinaryBytes)
	}
	h := &Binary{Secondary: secondary}
	switch magic := string(b[:magicBytes]); {
	case magic == MagicPrimary && !secondary, magic == MagicSecondary && secondary:
	case magic == MagicClonePrimary && !secondary, magic == MagicCloneSecondary && secondary:
		h.CloneMagic = true
	default:
		return nil, lukserr.NotLUKS
	}
	if v := binary.BigEndian.Uint16(b[6:]); v != 2 {
		return nil, fmt.Errorf("%w: LUKS version %d", lukserr.Unsupported, v)
	}
	h.HeaderBytes = binary.BigEndian.Uint64(b[8:])
	h.SeqID = binary.BigEndian.Uint64(b[16:])
	h.Label = cut(b[24:72])
	h.ChecksumAlg = cut(b[72:104])
	copy(h.Salt[:], b[104:168])
	h.UUID = cut(b[168:208])
	h.Subsystem = cut(b[208:256])
	if at := binary.BigEndian.Uint64(b[256:]); at != offset {
		return nil, fmt.Errorf("%w: header at byte %d says that it belongs at %d", lukserr.Damaged, offset, at)
	}
	if h.HeaderBytes < MinHeaderBytes || h.HeaderBytes > MaxHeaderBytes {
		return nil, fmt.Errorf("%w: header of %d bytes, expected %d to %d", lukserr.Damaged, h.HeaderBytes,
			MinHeaderBytes, MaxHeaderBytes)
	}
	if secondary && h.HeaderBytes != offset {
		return nil, fmt.Errorf("%w: secondary header at byte %d of a header of %d bytes", lukserr.Damaged, offset,
			h.HeaderBytes)
	}
	return h, nil
}

// cut returns a fixed-size string up to its first NUL; the last byte never counts.
func cut(b []byte) string {
	b = b[:len(b)-1]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// checksum computes the checksum over a whole copy as it would be with the plain LUKS magic: librbd changes the magic of
// clones without a new checksum. b is not modified.
func (h *Binary) checksum(b []byte) ([]byte, error) {
	newHash, err := kdf.Hash(h.ChecksumAlg)
	if err != nil {
		return nil, fmt.Errorf("header checksum: %w", err)
	}
	fixed := slices.Clone(b[:BinaryBytes])
	copy(fixed, MagicPrimary)
	if h.Secondary {
		copy(fixed, MagicSecondary)
	}
	clear(fixed[checksumAt : checksumAt+checksumBytes])
	sum := newHash()
	_, _ = sum.Write(fixed)
	_, _ = sum.Write(b[BinaryBytes:])
	return sum.Sum(nil), nil
}

// verifyChecksum compares the stored checksum with that of b, a whole copy.
func (h *Binary) verifyChecksum(b []byte) error {
	sum, err := h.checksum(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(sum, b[checksumAt:checksumAt+len(sum)]) {
		return fmt.Errorf("%w: %s checksum differs", lukserr.Damaged, h.ChecksumAlg)
	}
	return nil
}

// Encode returns the whole copy, h.HeaderBytes long, with a fresh checksum: what belongs at h.OffsetBytes. json must leave
// room for a NUL.
func (h *Binary) Encode(json []byte) ([]byte, error) {
	if uint64(len(json)) >= h.HeaderBytes-BinaryBytes {
		return nil, fmt.Errorf("%w: metadata of %d bytes in a JSON area of %d", lukserr.NoSpace, len(json),
			h.HeaderBytes-BinaryBytes)
	}
	b := make([]byte, h.HeaderBytes)
	magics := [2][2]string{{MagicPrimary, MagicClonePrimary}, {MagicSecondary, MagicCloneSecondary}}
	copy(b, magics[index(h.Secondary)][index(h.CloneMagic)])
	binary.BigEndian.PutUint16(b[6:], 2)
	binary.BigEndian.PutUint64(b[8:], h.HeaderBytes)
	binary.BigEndian.PutUint64(b[16:], h.SeqID)
	copy(b[24:24+LabelBytes-1], h.Label)
	copy(b[72:72+checksumAlgBytes-1], h.ChecksumAlg)
	copy(b[104:], h.Salt[:])
	copy(b[168:168+uuidBytes-1], h.UUID)
	copy(b[208:208+LabelBytes-1], h.Subsystem)
	binary.BigEndian.PutUint64(b[256:], uint64(h.OffsetBytes()))
	copy(b[BinaryBytes:], json)
	sum, err := h.checksum(b)
	if err != nil {
		return nil, err
	}
	copy(b[checksumAt:], sum)
	return b, nil
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}
