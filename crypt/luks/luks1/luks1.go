// SPDX-License-Identifier: Apache-2.0

// Package luks1 is the binary header of LUKS version 1: parsing, cryptsetup's validation, encoding. It does no I/O and
// knows no keys.
//
// Reference: LUKS1 On-Disk Format Specification 1.2.3; docs/luks-format.md has the byte table.
package luks1

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/luksgate/luksgate/crypt/luks/af"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

// Numbers of the format.
const (
	// HeaderBytes is the length of the header without keyslot areas.
	HeaderBytes = 592
	// DiskBytes is how much of the disk the header owns; the rest of it is zero.
	DiskBytes = 1024
	// Slots is the number of keyslots.
	Slots = 8
	// SectorBytes is the unit of PayloadOffset and KeyMaterialOffset.
	SectorBytes = 512
	// AlignBytes is the alignment of keyslot areas that cryptsetup writes.
	AlignBytes = 4096
	// DigestBytes is the length of the digest of the volume key.
	DigestBytes = 20
	// SaltBytes is the length of every salt.
	SaltBytes = 32

	slotActive   = 0x00AC71F3
	slotInactive = 0x0000DEAD

	nameBytes = 32
	uuidBytes = 40
	slotBytes = 48
	slotsAt   = 208
)

// maxKeyBytes bounds the volume key, so that keyslot areas stay small: cryptsetup's largest is 64.
const maxKeyBytes = 512

// Magic begins the header; CloneMagic replaces it where librbd formatted a clone.
const (
	Magic      = "LUKS\xba\xbe"
	CloneMagic = "RBDL\xba\xbe"
)

// Header is the decoded header. Names are cut at their first NUL.
type Header struct {
	CipherName, CipherMode, HashSpec string
	PayloadOffsetSectors             uint32 // 0: the data is elsewhere (detached header)
	KeyBytes                         uint32
	Digest                           [DigestBytes]byte
	DigestSalt                       [SaltBytes]byte
	DigestIterations                 uint32
	UUID                             string
	Slots                            [Slots]Slot
	CloneMagic                       bool // begins with librbd's magic for clones
}

// Slot is one keyslot.
type Slot struct {
	Active             bool
	Iterations         uint32
	Salt               [SaltBytes]byte
	AreaOffsetSectors  uint32
	Stripes            uint32
	inactiveStateValue uint32 // what an inactive slot has for state; cryptsetup knows invalid ones
}

// Invalid tells whether the state of the slot is neither active nor inactive.
func (s *Slot) Invalid() bool { return !s.Active && s.inactiveStateValue != slotInactive }

// AreaOffsetBytes is where the area of the slot begins.
func (s *Slot) AreaOffsetBytes() int64 { return int64(s.AreaOffsetSectors) * SectorBytes }

// AreaBytes is the length of every keyslot area.
func (h *Header) AreaBytes() int64 { return int64(af.AreaBytes(int(h.KeyBytes))) }

// PayloadOffsetBytes is where the data begins, 0 for a detached header.
func (h *Header) PayloadOffsetBytes() int64 { return int64(h.PayloadOffsetSectors) * SectorBytes }

// EndBytes is where the last keyslot area ends.
func (h *Header) EndBytes() int64 {
	end := int64(0)
	for i := range h.Slots {
		end = max(end, h.Slots[i].AreaOffsetBytes()+h.AreaBytes())
	}
	return end
}

// Parse decodes and validates a header of at least HeaderBytes. What it accepts, Encode turns into the same bytes, except
// bytes behind the NUL of a name.
func Parse(b []byte) (*Header, error) {
	if len(b) < HeaderBytes {
		return nil, fmt.Errorf("%w: %d bytes, expected %d", lukserr.Damaged, len(b), HeaderBytes)
	}
	magic := string(b[:6])
	if magic != Magic && magic != CloneMagic {
		return nil, lukserr.NotLUKS
	}
	if v := binary.BigEndian.Uint16(b[6:]); v != 1 {
		return nil, fmt.Errorf("%w: LUKS version %d where 1 is expected", lukserr.Unsupported, v)
	}
	h := &Header{
		CipherName:           cut(b[8 : 8+nameBytes]),
		CipherMode:           cut(b[40 : 40+nameBytes]),
		HashSpec:             cut(b[72 : 72+nameBytes]),
		PayloadOffsetSectors: binary.BigEndian.Uint32(b[104:]),
		KeyBytes:             binary.BigEndian.Uint32(b[108:]),
		DigestIterations:     binary.BigEndian.Uint32(b[164:]),
		UUID:                 cut(b[168 : 168+uuidBytes]),
		CloneMagic:           magic == CloneMagic,
	}
	copy(h.Digest[:], b[112:])
	copy(h.DigestSalt[:], b[132:])
	for i := range h.Slots {
		s, p := &h.Slots[i], b[slotsAt+i*slotBytes:]
		state := binary.BigEndian.Uint32(p)
		s.Active = state == slotActive
		if !s.Active {
			s.inactiveStateValue = state
		}
		s.Iterations = binary.BigEndian.Uint32(p[4:])
		copy(s.Salt[:], p[8:])
		s.AreaOffsetSectors = binary.BigEndian.Uint32(p[40:])
		s.Stripes = binary.BigEndian.Uint32(p[44:])
	}
	if err := h.validate(); err != nil {
		return nil, err
	}
	return h, nil
}

// cut returns a fixed-size name up to its first NUL; the last byte never counts.
func cut(b []byte) string {
	b = b[:len(b)-1]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// validate applies the checks of cryptsetup that need no device: stripes, areas between header and payload, no overlap.
func (h *Header) validate() error {
	if h.KeyBytes == 0 || h.KeyBytes > maxKeyBytes {
		return fmt.Errorf("%w: volume key of %d bytes, expected 1 to %d", lukserr.Damaged, h.KeyBytes, maxKeyBytes)
	}
	order := make([]int, Slots)
	for i := range h.Slots {
		order[i] = i
		s := &h.Slots[i]
		switch end := s.AreaOffsetBytes() + h.AreaBytes(); {
		case s.Stripes != af.Stripes:
			return fmt.Errorf("%w: keyslot %d has %d stripes, expected %d", lukserr.Damaged, i, s.Stripes, af.Stripes)
		case s.AreaOffsetBytes() < DiskBytes:
			return fmt.Errorf("%w: keyslot %d at byte %d lies in the header", lukserr.Damaged, i, s.AreaOffsetBytes())
		case h.PayloadOffsetSectors != 0 && end > h.PayloadOffsetBytes():
			return fmt.Errorf("%w: keyslot %d ends at byte %d, behind the payload offset %d", lukserr.Damaged, i, end,
				h.PayloadOffsetBytes())
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		return int(h.Slots[a].AreaOffsetBytes() - h.Slots[b].AreaOffsetBytes())
	})
	for i := 1; i < Slots; i++ {
		prev, next := &h.Slots[order[i-1]], &h.Slots[order[i]]
		if next.AreaOffsetBytes() < prev.AreaOffsetBytes()+h.AreaBytes() {
			return fmt.Errorf("%w: areas of keyslots %d and %d overlap", lukserr.Damaged, order[i-1], order[i])
		}
	}
	return nil
}

// Encode returns the DiskBytes to write at offset 0.
func (h *Header) Encode() []byte {
	b := make([]byte, DiskBytes)
	copy(b, Magic)
	if h.CloneMagic {
		copy(b, CloneMagic)
	}
	binary.BigEndian.PutUint16(b[6:], 1)
	copy(b[8:8+nameBytes-1], h.CipherName)
	copy(b[40:40+nameBytes-1], h.CipherMode)
	copy(b[72:72+nameBytes-1], h.HashSpec)
	binary.BigEndian.PutUint32(b[104:], h.PayloadOffsetSectors)
	binary.BigEndian.PutUint32(b[108:], h.KeyBytes)
	copy(b[112:], h.Digest[:])
	copy(b[132:], h.DigestSalt[:])
	binary.BigEndian.PutUint32(b[164:], h.DigestIterations)
	copy(b[168:168+uuidBytes-1], h.UUID)
	for i := range h.Slots {
		s, p := &h.Slots[i], b[slotsAt+i*slotBytes:]
		state := s.inactiveStateValue
		if s.Active {
			state = slotActive
		}
		binary.BigEndian.PutUint32(p, state)
		binary.BigEndian.PutUint32(p[4:], s.Iterations)
		copy(p[8:], s.Salt[:])
		binary.BigEndian.PutUint32(p[40:], s.AreaOffsetSectors)
		binary.BigEndian.PutUint32(p[44:], s.Stripes)
	}
	return b
}

// Activate marks slot i as in use with these parameters.
func (h *Header) Activate(i int, iterations uint32, salt [SaltBytes]byte) {
	s := &h.Slots[i]
	s.Active, s.inactiveStateValue = true, 0
	s.Iterations, s.Salt = iterations, salt
}

// Deactivate marks slot i as free and forgets its parameters.
func (h *Header) Deactivate(i int) {
	s := &h.Slots[i]
	s.Active, s.inactiveStateValue = false, slotInactive
	s.Iterations, s.Salt = 0, [SaltBytes]byte{}
}

// New returns a header without active keyslots, laid out as cryptsetup does. payloadOffsetBytes 0 makes a detached header;
// another value must not be below MinPayloadBytes.
func New(keyBytes int, payloadOffsetBytes int64) (*Header, error) {
	if payloadOffsetBytes%SectorBytes != 0 || payloadOffsetBytes < 0 || payloadOffsetBytes>>9 > 1<<32-1 {
		return nil, fmt.Errorf("%w: LUKS1 data offset of %d bytes", lukserr.Unsupported, payloadOffsetBytes)
	}
	h := &Header{KeyBytes: uint32(keyBytes), PayloadOffsetSectors: uint32(payloadOffsetBytes / SectorBytes)}
	at := int64(AlignBytes)
	for i := range h.Slots {
		h.Slots[i].AreaOffsetSectors = uint32(at / SectorBytes)
		h.Slots[i].Stripes = af.Stripes
		h.Deactivate(i)
		at = alignUp(at + h.AreaBytes())
	}
	if payloadOffsetBytes != 0 && payloadOffsetBytes < at {
		return nil, fmt.Errorf("%w: data offset of %d bytes, the header needs %d", lukserr.NoSpace, payloadOffsetBytes, at)
	}
	if err := h.validate(); err != nil {
		return nil, err
	}
	return h, nil
}

// MinPayloadBytes is where the data may begin at the earliest behind a header that New lays out.
func MinPayloadBytes(keyBytes int) int64 {
	return AlignBytes + Slots*alignUp(int64(af.AreaBytes(keyBytes)))
}

func alignUp(n int64) int64 { return (n + AlignBytes - 1) / AlignBytes * AlignBytes }
