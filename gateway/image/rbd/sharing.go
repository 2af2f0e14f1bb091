// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"slices"
	"sync"
)

// A sharing is of things that are opened for the first who wants one, used by others meanwhile, and closed after the last.
// The zero value is ready to use, by many goroutines at once.
type sharing[T any] struct {
	mu     sync.Mutex
	byName map[string][]*share[T]
}

// A share is one of the things.
type share[T any] struct {
	name  string
	ready chan struct{} // closed when value and err are set
	value T
	err   error
	users int // under sharing.mu
}

// get returns the share of that name with the fewest users that is fit for one more, or else opens a new one. No share gets
// more users than most says, which is told how many shares there are. It blocks nobody but those who want the same. An open
// that fails is not kept: the error is for those who wait for it.
func (s *sharing[T]) get(name string, most func(shares int) int, fit func(T) bool, open func() (T, error)) (*share[T], error) {
	e, first := s.reserve(name, most, fit)
	if first {
		e.value, e.err = open()
		close(e.ready)
	}
	<-e.ready
	if e.err != nil {
		s.put(e)
		return nil, e.err
	}
	return e, nil
}

// reserve finds a share, or makes one that the caller, the first, must open.
func (s *sharing[T]) reserve(name string, most func(int) int, fit func(T) bool) (least *share[T], first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := s.byName[name]
	room := most(len(same))
	for _, e := range same {
		if e.users < room && (e.opening() || e.err == nil && fit(e.value)) {
			least, room = e, e.users // from here on, only one with fewer
		}
	}
	if least != nil {
		least.users++
		return least, false
	}
	if s.byName == nil {
		s.byName = make(map[string][]*share[T])
	}
	e := &share[T]{name: name, ready: make(chan struct{}), users: 1}
	s.byName[name] = append(same, e)
	return e, true
}

func (e *share[T]) opening() bool {
	select {
	case <-e.ready:
		return false
	default:
		return true
	}
}

// put gives a share back. The last one who does is told so, and closes its value.
func (s *sharing[T]) put(e *share[T]) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.users--
	last = e.users == 0
	if last || e.err != nil {
		// Nobody new may get it, even if others still wait for it in vain.
		same := slices.DeleteFunc(s.byName[e.name], func(o *share[T]) bool { return o == e })
		s.byName[e.name] = same
		if len(same) == 0 {
			delete(s.byName, e.name)
		}
	}
	return last
}
