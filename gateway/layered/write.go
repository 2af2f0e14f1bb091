// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"errors"
	"fmt"
	"syscall"
)

// An Owner is the objects of an image that is written. They may be used by many goroutines at once.
type Owner interface {
	Objects
	// Lock takes the image's exclusive lock, unless it is ours still, and returns the epoch in which it is: as long as that
	// epoch lasts, nobody else changes the image.
	Lock() (epoch uint64, err error)
	// HasSnapshots tells whether the image has any, now.
	HasSnapshots() (bool, error)
	// Create makes an object that holds data from byte atBytes on, and zeros before; one that exists stays as it is. All
	// snapshots of the image see the new object too.
	Create(number int64, data []byte, atBytes int64) error
}

// A Target is the Source of the first level, for writing. Of objects that exist, or lie beyond the raw overlap.
type Target interface {
	Source
	// WriteAt writes p, whose content is undefined afterwards. An error that wraps ErrAbsent means that an object is missing
	// of which a part had to be read: then p is as it was, and nothing has been written.
	WriteAt(p []byte, offsetBytes int64, fua bool) error
	// Trim frees what it can of the range.
	Trim(offsetBytes, lengthBytes int64) error
	// WriteZeroes makes the range read as zeros; its errors are as those of WriteAt.
	WriteZeroes(offsetBytes, lengthBytes int64, opts ZeroOptions) error
	Flush() error
	// Encrypt encrypts whole sectors in place, as WriteAt does, and writes nothing.
	Encrypt(p []byte, offsetBytes int64)
}

// ZeroOptions modify WriteZeroes.
type ZeroOptions struct {
	// FUA: on stable storage before the return.
	FUA bool
	// NoHole: nothing is freed.
	NoHole bool
	// Fast: an error that wraps ENOTSUP, at once, where zeros would have to be written as data.
	Fast bool
}

// copyUpRoomBytes bounds the memory of all copy-ups at once, as far as one object allows.
const copyUpRoomBytes = 32 << 20

// NewWritable makes a stack that can be written through its first layer, whose Source is a Target and whose Objects are
// an Owner. The data of that layer begin at a multiple of its sectors, so that no sector lies in two objects.
func NewWritable(layers []*Layer, base Source) (*Stack, error) {
	s := New(layers, base)
	l := layers[0]
	s.owner, s.target = l.Objects.(Owner), l.Source.(Target)
	if objects := l.Objects.ObjectBytes(); l.SectorBytes <= 0 || l.DataOffsetBytes%l.SectorBytes != 0 || objects%l.SectorBytes != 0 {
		return nil, fmt.Errorf("layered: data at %d in objects of %d bytes: sectors of %d bytes would lie in two objects",
			l.DataOffsetBytes, objects, l.SectorBytes)
	}
	s.room = make(chan struct{}, max(1, min(copyUpRoomBytes/l.Objects.ObjectBytes(), maxParts)))
	return s, nil
}

// maxTries bounds how often a request begins anew because another client took the lock or removed objects.
const maxTries = 16

// errChanged is for a change of the epoch, or of objects in it, in the middle of a request.
var errChanged = errors.New("layered: other clients keep changing the image")

// again calls f until nobody has interfered.
func (s *Stack) again(f func() error) error {
	var err error
	for range maxTries {
		if err = f(); !errors.Is(err, errChanged) && !errors.Is(err, ErrAbsent) {
			return err
		}
		if errors.Is(err, ErrAbsent) {
			s.layers[0].known.distrust()
		}
	}
	return fmt.Errorf("%w: %w", err, syscall.EIO)
}

// WriteAt writes p, whose content is undefined afterwards. The range must lie inside the first layer.
func (s *Stack) WriteAt(p []byte, offsetBytes int64, fua bool) error {
	return s.again(func() error {
		if err := s.ensure(offsetBytes, int64(len(p))); err != nil {
			return err
		}
		return s.target.WriteAt(p, offsetBytes, fua)
	})
}

// Trim frees what it can of the range. Objects that show the parent hide it afterwards where that takes no copying.
func (s *Stack) Trim(offsetBytes, lengthBytes int64) error {
	return s.each(offsetBytes, lengthBytes, func(a part) error {
		state, err := s.state(a)
		if err != nil || state == stateShows {
			return err
		}
		if state == stateShowsWhole {
			if hidden, err := s.hide(a); err != nil || !hidden {
				return err
			}
		}
		return s.target.Trim(a.startBytes, a.endBytes-a.startBytes)
	})
}

// WriteZeroes makes the range read as zeros.
func (s *Stack) WriteZeroes(offsetBytes, lengthBytes int64, opts ZeroOptions) error {
	if opts.Fast {
		if err := s.checkFast(offsetBytes, lengthBytes, opts); err != nil {
			return err
		}
	}
	return s.each(offsetBytes, lengthBytes, func(a part) error {
		return s.again(func() error {
			state, err := s.state(a)
			if err == nil && state == stateShowsWhole && !opts.NoHole {
				_, err = s.hide(a)
			}
			if err == nil {
				err = s.ensure(a.startBytes, a.endBytes-a.startBytes)
			}
			if err != nil {
				return err
			}
			return s.target.WriteZeroes(a.startBytes, a.endBytes-a.startBytes, opts)
		})
	})
}

// checkFast refuses what would take copying or writing: all but whole objects of an image without snapshots.
func (s *Stack) checkFast(offsetBytes, lengthBytes int64, opts ZeroOptions) error {
	slow := fmt.Errorf("layered: zeros at %d+%d would be written as data: %w", offsetBytes, lengthBytes, syscall.ENOTSUP)
	if opts.NoHole {
		return slow
	}
	for _, a := range s.layers[0].parts(0, false, offsetBytes, offsetBytes+lengthBytes) {
		if !s.whole(a) {
			return slow
		}
	}
	snapshots, err := s.owner.HasSnapshots()
	if err == nil && snapshots {
		err = slow
	}
	return err
}

// Flush puts every write that returned before the call on stable storage.
func (s *Stack) Flush() error { return s.target.Flush() }

// each calls f for the part of a range that lies in each object, some at a time.
func (s *Stack) each(offsetBytes, lengthBytes int64, f func(part) error) error {
	if lengthBytes == 0 {
		return nil
	}
	return inParallel(s.layers[0].parts(0, false, offsetBytes, offsetBytes+lengthBytes), f)
}

// whole tells whether a part is all of the plaintext that its object can hold.
func (s *Stack) whole(a part) bool {
	l := s.layers[0]
	number, _ := object(a.startBytes, l.DataOffsetBytes, l.Objects.ObjectBytes())
	start, end := l.level().content(number, l.Objects.ObjectBytes())
	return a.startBytes <= start && a.endBytes >= end
}

// What an object is to a request that frees it.
const (
	stateOwn        = iota // its bytes are the image's own, or there are none
	stateShows             // it shows the parent, and the request is for a part of it
	stateShowsWhole        // it shows the parent, and the request is for all of it
)

func (s *Stack) state(a part) (int, error) {
	l := s.layers[0]
	number, _ := object(a.startBytes, l.DataOffsetBytes, l.Objects.ObjectBytes())
	epoch, err := s.owner.Lock()
	if err != nil {
		return 0, err
	}
	absent, err := s.absent(epoch, number)
	switch {
	case err != nil || !absent:
		return stateOwn, err
	case s.whole(a):
		return stateShowsWhole, nil
	default:
		return stateShows, nil
	}
}

// absent tells whether an object does not exist and can show the parent, under the lock of an epoch.
func (s *Stack) absent(epoch uint64, number int64) (bool, error) {
	l := s.layers[0]
	exists, ok := l.known.get(epoch, number)
	if ok && exists {
		return false, nil
	}
	raw, err := s.owner.OverlapBytes()
	if err != nil || number*l.Objects.ObjectBytes() >= raw {
		return false, err
	}
	if !ok {
		if exists, _, err = s.owner.Stat(number); err != nil {
			return false, err
		}
		l.known.set(epoch, number, exists)
	}
	return !exists, nil
}

// hide makes an empty object where none is, which reads as zeros. It returns false where snapshots, which would show it
// too, are in the way. One that somebody makes meanwhile may have either content.
func (s *Stack) hide(a part) (bool, error) {
	snapshots, err := s.owner.HasSnapshots()
	if err != nil || snapshots {
		return false, err
	}
	l := s.layers[0]
	number, _ := object(a.startBytes, l.DataOffsetBytes, l.Objects.ObjectBytes())
	defer s.under.enter(number)()
	epoch, err := s.owner.Lock()
	if err != nil {
		return false, err
	}
	if err := s.owner.Create(number, nil, 0); err != nil {
		return false, err
	}
	l.known.set(epoch, number, true)
	return true, nil
}
