// SPDX-License-Identifier: Apache-2.0

// Package layered puts the plaintext of a clone over that of its parent where the two are not encrypted with the same key,
// so that what librbd shows through the clone would be noise.
//
// A READ, at each level:
//
//  1. cut the range where the level's objects end;
//  2. ask whether the object exists; if it does, its bytes are the level's own, holes and all;
//  3. else cut off what lies beyond the overlap, which reads as zeros, and go on with the rest at the next level, at the
//     same offset of the plaintext.
//
// The last level has nothing below it that needs another key: a plaintext image, or a chain with one key.
//
// Nothing in this package knows Ceph, LUKS or NBD.
package layered

import "sync"

// A Source is the plaintext of one level. It may be used by many goroutines at once.
type Source interface {
	// SizeBytes is its size now.
	SizeBytes() int64
	// ReadAt fills p; it is given no range outside the source.
	ReadAt(p []byte, offsetBytes int64) error
}

// Objects are those that one level is made of. They may be used by many goroutines at once.
type Objects interface {
	// ObjectBytes is their size; it stays.
	ObjectBytes() int64
	// Exists tells whether there is an object, whatever it holds: it hides the parent.
	Exists(number int64) (bool, error)
	// OverlapBytes is the raw size, from byte 0 on, up to which the parent can be seen where no object exists, now.
	OverlapBytes() (int64, error)
	// Fixed tells that the answers never change: this is a snapshot.
	Fixed() bool
}

// A Layer is a level with another one below it.
type Layer struct {
	Source          Source
	Objects         Objects
	DataOffsetBytes int64
	known           known
}

// A Stack is the plaintext of a chain, for reading. It may be used by many goroutines at once.
type Stack struct {
	layers []*Layer
	base   Source
}

// New makes a stack of layers, top first, over a base.
func New(layers []*Layer, base Source) *Stack { return &Stack{layers, base} }

// ReadAt fills p with plaintext. The range must lie inside the first layer.
func (s *Stack) ReadAt(p []byte, offsetBytes int64) error { return s.read(0, p, offsetBytes) }

func (s *Stack) read(level int, p []byte, offsetBytes int64) error {
	if level == len(s.layers) {
		return s.base.ReadAt(p, offsetBytes)
	}
	l := s.layers[level]
	for len(p) > 0 {
		// One read for a run of objects that are all there, or all not.
		exists, n, err := l.run(int64(len(p)), offsetBytes)
		if err != nil {
			return err
		}
		if exists {
			err = l.Source.ReadAt(p[:n], offsetBytes)
		} else {
			err = s.readBelow(level, p[:n], offsetBytes)
		}
		if err != nil {
			return err
		}
		p, offsetBytes = p[n:], offsetBytes+n
	}
	return nil
}

// run is how many of the next bytes are alike in having, or not having, an object of this level.
func (l *Layer) run(lengthBytes, offsetBytes int64) (exists bool, n int64, err error) {
	for n < lengthBytes {
		number, end := object(offsetBytes+n, l.DataOffsetBytes, l.Objects.ObjectBytes())
		e, err := l.exists(number)
		if err != nil {
			return false, 0, err
		}
		if n > 0 && e != exists {
			break
		}
		exists, n = e, min(end-offsetBytes, lengthBytes)
	}
	return exists, n, nil
}

// readBelow reads what is seen through a range without objects.
func (s *Stack) readBelow(level int, p []byte, offsetBytes int64) error {
	l := s.layers[level]
	raw, err := l.Objects.OverlapBytes()
	if err != nil {
		return err
	}
	below := s.base
	if level+1 < len(s.layers) {
		below = s.layers[level+1].Source
	}
	n := max(min(OverlapBytes(raw, l.DataOffsetBytes, below.SizeBytes())-offsetBytes, int64(len(p))), 0)
	clear(p[n:])
	if n == 0 {
		return nil
	}
	return s.read(level+1, p[:n], offsetBytes)
}

// exists asks about an object, once if the answer stays. An image that is not a snapshot is asked each time: nobody tells
// us of objects that another client adds, or removes by rolling back to a snapshot.
func (l *Layer) exists(number int64) (bool, error) {
	if !l.Objects.Fixed() {
		return l.Objects.Exists(number)
	}
	if exists, ok := l.known.get(number); ok {
		return exists, nil
	}
	exists, err := l.Objects.Exists(number)
	if err == nil {
		l.known.set(number, exists)
	}
	return exists, err
}

// known is what has been learnt of the objects of a snapshot: two bits for each, in pages for what has been touched. The
// zero value is ready to use.
type known struct {
	mu    sync.Mutex
	pages map[int64]*[pageObjects / 32]uint64
}

const pageObjects = 4096

func (k *known) get(number int64) (exists, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	page := k.pages[number/pageObjects]
	if page == nil {
		return false, false
	}
	bits := page[number%pageObjects/32] >> (number % 32 * 2) & 3
	return bits == 3, bits != 0
}

func (k *known) set(number int64, exists bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pages == nil {
		k.pages = make(map[int64]*[pageObjects / 32]uint64)
	}
	page := k.pages[number/pageObjects]
	if page == nil {
		page = new([pageObjects / 32]uint64)
		k.pages[number/pageObjects] = page
	}
	bits := uint64(1)
	if exists {
		bits = 3
	}
	page[number%pageObjects/32] |= bits << (number % 32 * 2)
}
