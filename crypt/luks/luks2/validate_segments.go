// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"math"
	"slices"
	"strings"
)

const sectorBytes = 512

func (m *Metadata) readSegments() error {
	err := each(m.tree, "segments", func(id int, where string, o object) error {
		s, err := readSegment(id, where, o)
		if err != nil {
			return err
		}
		if s.Type == "crypt" || s.Type == "hw-opal-crypt" {
			if err := m.readCryptSegment(&s, where, o); err != nil {
				return err
			}
		}
		m.Segments = append(m.Segments, s)
		return nil
	})
	if err != nil {
		return err
	}
	return m.checkSegmentOrder()
}

// readSegment reads the fields that all types of segments have.
func readSegment(id int, where string, o object) (s Segment, err error) {
	s.ID = id
	if s.Type, err = getString(o, where, "type"); err != nil {
		return s, err
	}
	if s.OffsetBytes, err = getUint64(o, where, "offset"); err != nil {
		return s, err
	}
	size, err := getString(o, where, "size")
	if err != nil {
		return s, err
	}
	if size != "dynamic" {
		if s.SizeBytes, err = parseUint64(size, where, "size"); err != nil {
			return s, err
		}
		if s.SizeBytes == 0 {
			return s, badf("%s: size is 0", where)
		}
	}
	if s.OffsetBytes%sectorBytes != 0 || s.SizeBytes%sectorBytes != 0 {
		return s, badf("%s: offset %d and size %d must be multiples of %d", where, s.OffsetBytes, s.SizeBytes, sectorBytes)
	}
	s.Flags, err = getStrings(o, where, "flags")
	return s, err
}

// readCryptSegment reads the fields of a crypt segment.
func (m *Metadata) readCryptSegment(s *Segment, where string, o object) (err error) {
	if s.IVTweak, err = getUint64(o, where, "iv_tweak"); err != nil {
		return err
	}
	if s.Encryption, err = getString(o, where, "encryption"); err != nil {
		return err
	}
	if s.SectorBytes, err = getUint32(o, where, "sector_size"); err != nil {
		return err
	}
	if _, ok := o["integrity"]; ok {
		integrity, err := getObject(o, where, "integrity")
		if err != nil {
			return err
		}
		for _, key := range []string{"journal_encryption", "journal_integrity"} {
			if _, err := getString(integrity, where+" integrity", key); err != nil {
				return err
			}
		}
		if s.Integrity, err = getString(integrity, where+" integrity", "type"); err != nil {
			return err
		}
	}
	if s.SectorBytes == 0 || s.SectorBytes%sectorBytes != 0 {
		return badf("%s: sector size of %d bytes, expected a multiple of %d", where, s.SectorBytes, sectorBytes)
	}
	if s.SizeBytes%uint64(s.SectorBytes) != 0 {
		return badf("%s: size %d is no multiple of its sector size %d", where, s.SizeBytes, s.SectorBytes)
	}
	if _, ok := m.SegmentDigest(s.ID); !ok {
		return badf("%s has no digest", where)
	}
	return nil
}

// isBackup tells whether the segment describes a state of reencryption, not a place.
func (s *Segment) isBackup() bool {
	return slices.ContainsFunc(s.Flags, func(f string) bool { return strings.HasPrefix(f, "backup-") })
}

// checkSegmentOrder checks what concerns several segments: numbers without gaps, backup segments last, regular ones disjoint
// and only the last one dynamic.
func (m *Metadata) checkSegmentOrder() error {
	if len(m.Segments) == 0 {
		return badf("no segments")
	}
	regular := m.Segments
	for i := range m.Segments {
		s := &m.Segments[i]
		if s.ID != i {
			return badf("segments: number %d is missing", i)
		}
		if s.isBackup() {
			if len(regular) == len(m.Segments) {
				regular = m.Segments[:i]
			}
		} else if len(regular) != len(m.Segments) {
			return badf("segment %d lies behind a backup segment", i)
		}
	}
	if len(regular) == 0 {
		return badf("only backup segments")
	}
	end := func(s *Segment) uint64 {
		if s.SizeBytes == 0 {
			return math.MaxUint64
		}
		return s.OffsetBytes + s.SizeBytes
	}
	for i := range regular {
		s := &regular[i]
		if s.SizeBytes == 0 && i != len(regular)-1 {
			return badf("segment %d is dynamic and not the last", i)
		}
		// A single segment may claim any size: cryptsetup compares segments with each other only.
		if len(regular) > 1 && end(s) < s.OffsetBytes {
			return badf("segment %d ends behind 2^64 bytes", i)
		}
		for j := range regular {
			if o := &regular[j]; i != j && s.OffsetBytes >= o.OffsetBytes && s.OffsetBytes < end(o) {
				return badf("segments %d and %d overlap", i, j)
			}
		}
	}
	return nil
}
