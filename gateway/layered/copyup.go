// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"fmt"
	"sync"
	"syscall"
)

// CopyUp makes one object of the first layer the image's own, unless it is already: it reads as before, whatever becomes
// of the parent. Objects beyond the raw overlap are left alone. It may run while the stack is in use.
//
// librbd does not learn of the new object before it next writes to it. Before something is done to the image that takes
// the object map for the truth, such as detaching the parent, the object map is to be rebuilt.
func (s *Stack) CopyUp(number int64) error {
	if s.owner == nil {
		return errReadOnly
	}
	return s.again(func() error { return s.ensureObject(number) })
}

var errReadOnly = fmt.Errorf("layered: opened for reading: %w", syscall.EPERM)

// ObjectsShowing is the number of objects, from 0 on, that can show the parent now: those that CopyUp is for.
func (s *Stack) ObjectsShowing() (int64, error) {
	if s.owner == nil {
		return 0, errReadOnly
	}
	raw, err := s.owner.OverlapBytes()
	size := s.owner.ObjectBytes()
	return (raw + size - 1) / size, err
}

// ensure has all objects of a range exist that could show the parent.
func (s *Stack) ensure(offsetBytes, lengthBytes int64) error {
	l := s.layers[0]
	end := offsetBytes + lengthBytes
	number, next := object(offsetBytes, l.DataOffsetBytes, l.Objects.ObjectBytes())
	if lengthBytes == 0 || next >= end {
		return s.ensureObject(number)
	}
	return s.each(offsetBytes, lengthBytes, func(a part) error {
		number, _ := object(a.startBytes, l.DataOffsetBytes, l.Objects.ObjectBytes())
		return s.ensureObject(number)
	})
}

func (s *Stack) ensureObject(number int64) error {
	epoch, err := s.owner.Lock()
	if err != nil {
		return err
	}
	if exists, ok := s.layers[0].known.get(epoch, number); ok && exists {
		return nil
	}
	defer s.under.enter(number)()
	absent, err := s.absent(epoch, number)
	if err != nil || !absent {
		return err
	}
	return s.copyUp(epoch, number)
}

// copyUp creates an object with what it shows of the parent.
func (s *Stack) copyUp(epoch uint64, number int64) error {
	s.room <- struct{}{}
	defer func() { <-s.room }()
	l := s.layers[0]
	raw, err := s.owner.OverlapBytes()
	if err != nil {
		return err
	}
	c, needed := copyUpOf(number, s.owner.ObjectBytes(), raw, s.below(0).SizeBytes(), l.level())
	if !needed {
		return nil
	}
	data := make([]byte, c.endBytes-c.startBytes)
	if err := s.readBelow(0, data[:c.shownBytes], c.startBytes); err != nil {
		return fmt.Errorf("layered: copying up object %d: %w", number, err)
	}
	data = data[:withoutTail(data, l.SectorBytes)]
	if len(data) > 0 {
		s.target.Encrypt(data, c.startBytes)
	}
	if now, ok := s.owner.Epoch(); !ok || now != epoch {
		return errChanged
	}
	if err := s.owner.Create(number, data, c.atBytes); err != nil {
		return err
	}
	if err := s.checkOverlap(epoch, number, raw); err != nil {
		return err
	}
	l.known.set(epoch, number, true)
	return nil
}

// checkOverlap looks whether another client took the lock while an object was copied up, and made the image so small
// meanwhile that there was nothing to copy up. That is the one change which a copy-up must not run into.
func (s *Stack) checkOverlap(epoch uint64, number, rawBytes int64) error {
	if now, ok := s.owner.Epoch(); ok && now == epoch {
		return nil
	}
	now, err := s.owner.OverlapBytes()
	if err != nil {
		return err
	}
	end := min((number+1)*s.owner.ObjectBytes(), rawBytes)
	if now < end {
		return fmt.Errorf("layered: object %d was copied up while another client shrank the image: it shows the parent's data "+
			"up to byte %d of the image, where zeros should be: %w", number, end, syscall.EIO)
	}
	return nil
}

// flights are the objects that are being created. The zero value is ready to use.
type flights struct {
	mu  sync.Mutex
	now map[int64]chan struct{}
}

// enter waits until nobody else creates the object. The caller calls leave when it has.
func (f *flights) enter(number int64) (leave func()) {
	for {
		f.mu.Lock()
		other := f.now[number]
		if other == nil {
			break
		}
		f.mu.Unlock()
		<-other
	}
	if f.now == nil {
		f.now = make(map[int64]chan struct{})
	}
	mine := make(chan struct{})
	f.now[number] = mine
	f.mu.Unlock()
	return func() {
		f.mu.Lock()
		delete(f.now, number)
		f.mu.Unlock()
		close(mine)
	}
}
