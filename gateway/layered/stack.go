// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"errors"
	"sync"
)

// ErrAbsent is what a layer's Source says of an object that does not exist.
var ErrAbsent = errors.New("layered: no such object")

// A Source is the plaintext of one level. It may be used by many goroutines at once.
type Source interface {
	// SizeBytes is its size now.
	SizeBytes() int64
	// ReadAt fills p; it is given no range outside the source. That of a layer is given ranges inside one object, reads
	// nothing but that object, and returns an error that wraps ErrAbsent if there is none.
	ReadAt(p []byte, offsetBytes int64) error
}

// Objects are those that one level is made of. They may be used by many goroutines at once.
type Objects interface {
	// ObjectBytes is their size; it stays.
	ObjectBytes() int64
	// Stat tells whether there is an object, whatever it holds: it hides the parent. Its size is where its data end.
	Stat(number int64) (exists bool, sizeBytes int64, err error)
	// OverlapBytes is the raw size, from byte 0 on, up to which the parent can be seen where no object exists, now.
	OverlapBytes() (int64, error)
	// Epoch grows whenever somebody else may have made or removed objects. ok is false while that could happen without a
	// new epoch; then nothing may be remembered. For a snapshot it is one epoch for ever. It costs next to nothing.
	Epoch() (epoch uint64, ok bool)
}

// A Layer is a level with another one below it.
type Layer struct {
	Source  Source
	Objects Objects
	// DataOffsetBytes is where plaintext byte 0 lies, SectorBytes the unit of encryption.
	DataOffsetBytes int64
	SectorBytes     int64
	known           known
}

func (l *Layer) level() Level {
	size := l.Source.SizeBytes()
	return Level{RawBytes: l.DataOffsetBytes + size, DataOffsetBytes: l.DataOffsetBytes, SectorBytes: l.SectorBytes}
}

// A Stack is the plaintext of a chain. It may be used by many goroutines at once.
type Stack struct {
	layers []*Layer
	base   Source
	owner  Owner // nil: read-only
	target Target
	under  flights
	room   chan struct{}
}

// New makes a stack of layers, top first, over a base, for reading.
func New(layers []*Layer, base Source) *Stack { return &Stack{layers: layers, base: base} }

// maxParts bounds how many objects one request reads, or changes, at once.
const maxParts = 8

// A part of a request lies in one object of a level, or in some that are known not to exist.
type part struct {
	startBytes, endBytes int64
	absent               bool
}

// ReadAt fills p with plaintext. The range must lie inside the first layer.
func (s *Stack) ReadAt(p []byte, offsetBytes int64) error { return s.read(0, p, offsetBytes) }

func (s *Stack) read(level int, p []byte, offsetBytes int64) error {
	if level == len(s.layers) {
		return s.base.ReadAt(p, offsetBytes)
	}
	if len(p) == 0 {
		return nil
	}
	l := s.layers[level]
	epoch, ok := l.Objects.Epoch()
	read := func(a part) error {
		q := p[a.startBytes-offsetBytes : a.endBytes-offsetBytes]
		if !a.absent {
			err := l.Source.ReadAt(q, a.startBytes)
			if !errors.Is(err, ErrAbsent) {
				return err
			}
			if ok {
				number, _ := object(a.startBytes, l.DataOffsetBytes, l.Objects.ObjectBytes())
				l.known.set(epoch, number, false)
			}
		}
		return s.readBelow(level, q, a.startBytes)
	}
	first := l.part(epoch, ok, offsetBytes, offsetBytes+int64(len(p)))
	if first.endBytes == offsetBytes+int64(len(p)) {
		return read(first)
	}
	return inParallel(l.parts(epoch, ok, offsetBytes, offsetBytes+int64(len(p))), read)
}

// part is the first part of a range.
func (l *Layer) part(epoch uint64, ok bool, startBytes, endBytes int64) part {
	a := part{startBytes: startBytes, endBytes: startBytes}
	for a.endBytes < endBytes {
		number, next := object(a.endBytes, l.DataOffsetBytes, l.Objects.ObjectBytes())
		absent := false
		if ok {
			exists, is := l.known.get(epoch, number)
			absent = is && !exists
		}
		first := a.endBytes == startBytes
		if !first && !absent {
			break
		}
		a.absent, a.endBytes = absent, min(next, endBytes)
		if !absent {
			break
		}
	}
	return a
}

func (l *Layer) parts(epoch uint64, ok bool, startBytes, endBytes int64) []part {
	var all []part
	for startBytes < endBytes {
		a := l.part(epoch, ok, startBytes, endBytes)
		all, startBytes = append(all, a), a.endBytes
	}
	return all
}

// inParallel calls f for all parts, some at a time, and returns the first error. None is begun after one.
func inParallel(parts []part, f func(part) error) error {
	if len(parts) == 1 {
		return f(parts[0])
	}
	var mu sync.Mutex
	var failed error
	next := 0
	take := func(err error) (part, bool) {
		mu.Lock()
		defer mu.Unlock()
		if failed == nil {
			failed = err
		}
		if failed != nil || next == len(parts) {
			return part{}, false
		}
		next++
		return parts[next-1], true
	}
	var wg sync.WaitGroup
	for range min(len(parts), maxParts) {
		wg.Go(func() {
			a, more := take(nil)
			for more {
				a, more = take(f(a))
			}
		})
	}
	wg.Wait()
	return failed
}

// readBelow reads what is seen through a range without objects.
func (s *Stack) readBelow(level int, p []byte, offsetBytes int64) error {
	n, err := s.shown(level, offsetBytes, int64(len(p)))
	if err != nil {
		return err
	}
	clear(p[n:])
	if n == 0 {
		return nil
	}
	return s.read(level+1, p[:n], offsetBytes)
}

// shown is how much of a range of a level, from its start on, can show the level below; the rest reads as zeros.
func (s *Stack) shown(level int, offsetBytes, lengthBytes int64) (int64, error) {
	l := s.layers[level]
	raw, err := l.Objects.OverlapBytes()
	if err != nil {
		return 0, err
	}
	overlap := OverlapBytes(raw, l.DataOffsetBytes, s.below(level).SizeBytes())
	return max(min(overlap-offsetBytes, lengthBytes), 0), nil
}

// below is the plaintext of the level below.
func (s *Stack) below(level int) Source {
	if level+1 < len(s.layers) {
		return s.layers[level+1].Source
	}
	return s.base
}
