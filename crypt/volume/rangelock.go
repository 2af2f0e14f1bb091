// SPDX-License-Identifier: Apache-2.0

package volume

import "sync"

// rangeLock gives shared or exclusive access to byte ranges, first come first served: a request waits for every earlier
// one that it conflicts with, so neither readers nor writers starve. The zero value is ready to use.
//
// The list holds what is in flight, a few dozen entries at the most, so it is searched linearly.
type rangeLock struct {
	mu   sync.Mutex
	list rangeHold // ring with this sentinel, in order of arrival
}

// A rangeHold is one holder or waiter. It is reused by its owner; wake must have room for one.
type rangeHold struct {
	prev, next           *rangeHold
	startBytes, endBytes int64
	exclusive            bool
	blockers             int // earlier conflicting entries still in the list
	wake                 chan struct{}
}

func (h *rangeHold) conflicts(o *rangeHold) bool {
	return (h.exclusive || o.exclusive) && h.startBytes < o.endBytes && o.startBytes < h.endBytes
}

// tryLock is lock where nobody earlier conflicts; else it returns false and h is not in the list.
func (l *rangeLock) tryLock(h *rangeHold, startBytes, endBytes int64, exclusive bool) bool {
	h.startBytes, h.endBytes, h.exclusive, h.blockers = startBytes, endBytes, exclusive, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.enter(h) {
		return true
	}
	l.remove(h)
	return false
}

// lock returns when h covers [startBytes, endBytes) in the asked mode.
func (l *rangeLock) lock(h *rangeHold, startBytes, endBytes int64, exclusive bool) {
	h.startBytes, h.endBytes, h.exclusive, h.blockers = startBytes, endBytes, exclusive, 0
	l.mu.Lock()
	free := l.enter(h)
	l.mu.Unlock()
	if !free {
		<-h.wake
	}
}

// enter appends h and tells whether it has the range now. l.mu is held.
func (l *rangeLock) enter(h *rangeHold) (free bool) {
	if l.list.next == nil {
		l.list.prev, l.list.next = &l.list, &l.list
	}
	for e := l.list.next; e != &l.list; e = e.next {
		if h.conflicts(e) {
			h.blockers++
		}
	}
	h.prev, h.next = l.list.prev, &l.list
	h.prev.next, l.list.prev = h, h
	return h.blockers == 0
}

// remove takes h off the list. l.mu is held.
func (l *rangeLock) remove(h *rangeHold) {
	h.prev.next, h.next.prev = h.next, h.prev
	h.prev, h.next = nil, nil
}

func (l *rangeLock) unlock(h *rangeHold) {
	l.mu.Lock()
	for e := h.next; e != &l.list; e = e.next {
		if h.conflicts(e) {
			if e.blockers--; e.blockers == 0 {
				e.wake <- struct{}{}
			}
		}
	}
	l.remove(h)
	l.mu.Unlock()
}
