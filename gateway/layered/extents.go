// SPDX-License-Identifier: Apache-2.0

package layered

// An Extent is a run of plaintext. Depth is 0 for what no level holds, which reads as zeros, else 1 for the first level, 2
// for the one below it, and so on; all that lies in the base counts as one level. Zero is what a level holds without data,
// to hide what is below: it reads as zeros too, and whoever copies that level must copy it.
type Extent struct {
	LengthBytes int64
	Depth       int
	Zero        bool
}

// A Mapper is a Source that knows its own holes.
type Mapper interface {
	Source
	// Holes appends what is known from offsetBytes on, in order and without gaps, at most cap(dst)-len(dst) entries and at
	// least one: depth 1 for data, 0 for holes.
	Holes(offsetBytes, lengthBytes int64, dst []Extent) ([]Extent, error)
}

const (
	// maxAsked bounds how many objects one question about extents asks for.
	maxAsked = 256
	// maxPerObject bounds how many extents of a level below are looked at for one object.
	maxPerObject = 64
)

// Extents appends the allocation of the plaintext from offsetBytes on, in order and without gaps, at most
// cap(dst)-len(dst) entries and at least one. They may end before the range does. What is written meanwhile may be missing.
// The base must be a Mapper.
func (s *Stack) Extents(offsetBytes, lengthBytes int64, dst []Extent) ([]Extent, error) {
	parts := s.layers[0].parts(0, false, offsetBytes, offsetBytes+lengthBytes)
	parts = parts[:min(len(parts), maxAsked)]
	found := make([][]Extent, len(parts))
	first := parts[0].startBytes
	number := func(a part) int64 {
		n, _ := object(a.startBytes, s.layers[0].DataOffsetBytes, s.layers[0].Objects.ObjectBytes())
		return n
	}
	begin := number(part{startBytes: first})
	err := inParallel(parts, func(a part) error {
		var err error
		found[number(a)-begin], err = s.extents(0, a.startBytes, a.endBytes, nil)
		return err
	})
	if err != nil {
		return dst, err
	}
	known := len(dst)
	for i, all := range found {
		at := parts[i].startBytes
		for _, e := range all {
			if n := len(dst); n > known && dst[n-1].Depth == e.Depth && dst[n-1].Zero == e.Zero {
				dst[n-1].LengthBytes += e.LengthBytes
			} else if n == cap(dst) {
				return dst, nil
			} else {
				dst = append(dst, e)
			}
			at += e.LengthBytes
		}
		if at < parts[i].endBytes {
			return dst, nil // the level below has more to tell
		}
	}
	return dst, nil
}

// extents are those of a range of a level and what it shows.
func (s *Stack) extents(level int, startBytes, endBytes int64, dst []Extent) ([]Extent, error) {
	if level == len(s.layers) {
		return s.baseExtents(startBytes, endBytes, dst)
	}
	l := s.layers[level]
	for startBytes < endBytes {
		number, next := object(startBytes, l.DataOffsetBytes, l.Objects.ObjectBytes())
		end := min(next, endBytes)
		exists, sizeBytes, err := l.stat(number)
		if err != nil {
			return dst, err
		}
		before := len(dst)
		if exists {
			// Behind the end of a short object there are zeros, in whole sectors.
			data := number*l.Objects.ObjectBytes() + sizeBytes - l.DataOffsetBytes
			data = max(min((data+l.SectorBytes-1)/l.SectorBytes*l.SectorBytes, end), startBytes)
			dst = add(add(dst, Extent{data - startBytes, level + 1, false}), Extent{end - data, level + 1, true})
		} else if dst, err = s.extentsBelow(level, startBytes, end, dst); err != nil {
			return dst, err
		}
		for _, e := range dst[before:] {
			startBytes += e.LengthBytes
		}
		if len(dst) == before || startBytes < end {
			return dst, nil
		}
	}
	return dst, nil
}

func (s *Stack) extentsBelow(level int, startBytes, endBytes int64, dst []Extent) ([]Extent, error) {
	n, err := s.shown(level, startBytes, endBytes-startBytes)
	if err != nil {
		return dst, err
	}
	if n > 0 {
		before := len(dst)
		if dst, err = s.extents(level+1, startBytes, startBytes+n, dst); err != nil {
			return dst, err
		}
		got := int64(0)
		for _, e := range dst[before:] {
			got += e.LengthBytes
		}
		if got < n {
			return dst, nil
		}
	}
	return add(dst, Extent{LengthBytes: endBytes - startBytes - n}), nil
}

func (s *Stack) baseExtents(startBytes, endBytes int64, dst []Extent) ([]Extent, error) {
	all, err := s.base.(Mapper).Holes(startBytes, endBytes-startBytes, make([]Extent, 0, maxPerObject))
	for _, e := range all {
		e.LengthBytes = min(e.LengthBytes, endBytes-startBytes)
		startBytes += e.LengthBytes
		if e.Depth > 0 {
			e.Depth = len(s.layers) + 1
		}
		dst = add(dst, e)
	}
	return dst, err
}

// stat is Objects.Stat, but for objects that are known not to exist.
func (l *Layer) stat(number int64) (exists bool, sizeBytes int64, err error) {
	epoch, ok := l.Objects.Epoch()
	if ok {
		if exists, is := l.known.get(epoch, number); is && !exists {
			return false, 0, nil
		}
	}
	exists, sizeBytes, err = l.Objects.Stat(number)
	if err == nil && ok {
		l.known.set(epoch, number, exists)
	}
	return exists, sizeBytes, err
}

// add appends an extent, if there is anything of it. Neighbours are kept apart, since their lengths are counted.
func add(dst []Extent, e Extent) []Extent {
	if e.LengthBytes <= 0 {
		return dst
	}
	return append(dst, e)
}
