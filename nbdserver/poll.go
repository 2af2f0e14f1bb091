// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Waking a sleeping goroutine, its thread and perhaps its processor takes longer than most clients need between an answer
// and their next request. So a reader looks at its socket for a while before it sleeps. How long adapts to what that
// would have gained, as in the I/O threads of qemu: after a wait shorter than the limit it looks longer, after a longer
// one no more. It never does so
//
//   - where readers that are awake have no processor to spare for it, nor on a single processor;
//   - while the connection has requests under way, whose goroutines need the processor;
//   - for a second after somebody else wanted the processor.

const (
	pollStart = 4 * time.Microsecond // the first attempt
	pollLost  = 50 * time.Microsecond
	pollPause = time.Second
)

// polling is a server's part of it.
type polling struct {
	limit   time.Duration
	readers int32        // how many may be awake when one of them looks
	awake   atomic.Int32 // readers that do not sleep
}

func (p *polling) start(limit time.Duration) {
	processors := runtime.GOMAXPROCS(0)
	if processors > 1 {
		p.limit = limit
	}
	p.readers = int32(processors / 2)
}

// pollState is a connection's.
type pollState struct {
	window time.Duration // how long to look
	pause  time.Time     // no looking before it
}

// look receives into the reader's vec as soon as there is something, or returns errAgain when the time is over.
func (c *conn) look() error {
	p, s := &c.server.polling, &c.reader.poll
	if s.window == 0 || p.awake.Load() > p.readers || !c.reader.payload && c.owesReplies() {
		return errAgain
	}
	start := time.Now()
	if start.Before(s.pause) {
		return errAgain
	}
	for before := start; ; {
		err := c.io.recv(&c.reader.vec, false)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errAgain // whoever waits knows what that means
		}
		if !errors.Is(err, errAgain) {
			return err
		}
		// Whoever else is to run on this processor runs now, and is noticed.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		now := time.Now()
		if now.Sub(before) > pollLost {
			s.window, s.pause = 0, now.Add(pollPause)
			return errAgain
		}
		if now.Sub(start) >= s.window {
			return errAgain
		}
		before = now
	}
}

// sleeps notes that the reader is about to sleep.
func (c *conn) sleeps() time.Time {
	c.server.polling.awake.Add(-1)
	return time.Now()
}

// wakes adapts the time to look to a sleep.
func (c *conn) wakes(start time.Time) {
	c.server.polling.awake.Add(1)
	s, limit := &c.reader.poll, c.server.polling.limit
	switch {
	case time.Since(start) > limit: // always, where polling is off
		s.window = 0
	case s.window == 0:
		s.window = min(pollStart, limit)
	default:
		s.window = min(2*s.window, limit)
	}
}
