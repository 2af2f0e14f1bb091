// SPDX-License-Identifier: Apache-2.0

package volume

// Extents appends the allocation of the plaintext from offsetBytes on; holes are told only where they read as zeros.
func (v *Volume) Extents(offsetBytes, lengthBytes int64, dst []Extent) ([]Extent, error) {
	g := v.opts.Geometry
	if err := v.check(offsetBytes, lengthBytes); err != nil {
		return dst, err
	}
	if v.opts.Holes != HolesZero {
		return append(dst, Extent{LengthBytes: lengthBytes}), nil
	}
	s := g.span(offsetBytes, lengthBytes)
	known := len(dst)
	dst, err := v.store.Extents(g.storeOffset(s.startBytes), s.endBytes-s.startBytes, dst)
	if err != nil {
		return dst, err
	}
	found := g.wholeSectors(dst[known:], s, offsetBytes, lengthBytes)
	return append(dst[:known], found[:min(len(found), cap(dst)-known)]...), nil
}

// wholeSectors turns the store's extents of a span into those of the byte range in it: a sector that is only partly a
// hole counts as data, since it decrypts to something.
func (g Geometry) wholeSectors(ext []Extent, s span, offsetBytes, lengthBytes int64) []Extent {
	sector := int64(g.SectorBytes)
	out := make([]Extent, 0, len(ext))
	pos, done, limit := s.startBytes, offsetBytes, offsetBytes+lengthBytes
	emit := func(end int64, hole bool) {
		end = min(end, limit)
		if end <= done {
			return
		}
		if n := len(out); n > 0 && out[n-1].Hole == hole {
			out[n-1].LengthBytes += end - done
		} else {
			out = append(out, Extent{LengthBytes: end - done, Hole: hole})
		}
		done = end
	}
	for _, e := range ext {
		end := pos + e.LengthBytes
		if e.Hole {
			start := (pos + sector - 1) / sector * sector
			whole := end - end%sector
			if whole > start {
				emit(start, false)
				emit(whole, true)
			}
		} else {
			emit((end+sector-1)/sector*sector, false)
		}
		pos = end
	}
	if done == offsetBytes { // the store's answer ended inside the first sector
		emit(s.startBytes+sector, false)
	}
	return out
}
