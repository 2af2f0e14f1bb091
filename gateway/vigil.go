// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"sync"

	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// need notes that the source cannot be read without a level of its chain.
func (s *source) need(l *link) {
	if l.rbd != nil && l.rbd != s.rbd {
		s.needed = append(s.needed, l.rbd)
	}
}

// watch has s.dead closed when the image, or a parent that it needs, cannot be used any more. A parent that is shared has a
// connection of its own, and may end alone.
func (s *source) watch() {
	if s.rbd == nil {
		return
	}
	if len(s.needed) == 0 {
		s.dead = s.rbd.Dead()
		return
	}
	dead, quit := make(chan struct{}), make(chan struct{})
	tell := sync.OnceFunc(func() { close(dead) })
	var wg sync.WaitGroup
	for _, m := range s.images() {
		wg.Go(func() {
			select {
			case <-m.Dead():
				tell()
			case <-quit:
			}
		})
	}
	s.dead = dead
	s.closers = append(s.closers, func() error {
		close(quit)
		wg.Wait()
		return nil
	})
}

// images are all that have to be well.
func (s *source) images() []*rbd.Image { return append([]*rbd.Image{s.rbd}, s.needed...) }

// err is why one of them is not.
func (s *source) err() error {
	if s.rbd == nil {
		return nil
	}
	for _, m := range s.images() {
		if err := m.Err(); err != nil {
			return err
		}
	}
	return nil
}
