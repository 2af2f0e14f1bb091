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

// lock returns when h covers [startBytes, endBytes) in the asked mode.
func (l *rangeLock) lock(h *rangeHold, startBytes, endBytes int64, exclusive bool) {
	h.startBytes, h.endBytes, h.exclusive, h.blockers = startBytes, endBytes, exclusive, 0
	l.mu.Lock()
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
	wait := h.blockers > 0
	l.mu.Unlock()
	if wait {
		<-h.wake
	}
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
	h.prev.next, h.next.prev = h.next, h.prev
	h.prev, h.next = nil, nil
	l.mu.Unlock()
}
