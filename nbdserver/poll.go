// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Waking a sleeping goroutine, its thread and perhaps its processor takes longer than most clients need between an answer
// and their next request. So a reader looks at its socket for a while before it sleeps. How long adapts to what that
// would have gained, as in the I/O threads of qemu: after a wait shorter than the limit it looks longer, after a longer
// one no more. In the middle of a payload the client owes it more, which comes soon from the same host but not from
// everywhere: so there it looks as long as it may, and less often after attempts in vain. It never does so
//
//   - where readers that are awake have no processor to spare for it, nor on a single processor;
//   - while the connection has requests under way, whose goroutines need the processor;
//   - for a while after somebody else wanted the processor.

const (
	pollStart = 4 * time.Microsecond // the first attempt
	pollLost  = 50 * time.Microsecond
	// pollMisses is for how many attempts in vain in a row the number of waits without one doubles.
	pollMisses = 6
	// Pauses. A processor that was taken away comes back after some milliseconds: so a pause is much longer.
	pollMinPause = 250 * time.Millisecond
	pollMaxPause = 16 * time.Second
)

// polling is a server's part of it.
type polling struct {
	limit   time.Duration
	readers int32        // how many may be awake when one of them looks
	awake   atomic.Int32 // readers that do not sleep

	began time.Time
	until atomic.Int64 // nanoseconds after began: no looking before it
	mu    sync.Mutex
	pause time.Duration // how long the last pause was, or is
}

func (p *polling) start(limit time.Duration) {
	processors := runtime.GOMAXPROCS(0)
	if processors > 1 {
		p.limit = limit
	}
	p.readers = int32(processors / 2)
	p.began = time.Now()
}

// paused tells whether somebody else wants the processors.
func (p *polling) paused(now time.Time) bool { return int64(now.Sub(p.began)) < p.until.Load() }

// lost pauses the looking of all connections because somebody else wanted the processor: twice as long each time, unless
// that was longer ago than the last pause took.
func (p *polling) lost(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := now.Sub(p.began) - time.Duration(p.until.Load())
	switch {
	case since < 0:
		return // another connection has noticed it
	case since <= p.pause:
		p.pause = min(2*p.pause, pollMaxPause)
	default:
		p.pause = pollMinPause
	}
	p.until.Store(int64(now.Sub(p.began) + p.pause))
}

// pollState is a connection's.
type pollState struct {
	window time.Duration // how long to look
	misses int           // attempts in a row that found no more of a payload
	skip   int           // waits for a payload without an attempt
}

// missed notes that an attempt in the middle of a payload was in vain.
func (s *pollState) missed() {
	s.misses = min(s.misses+1, pollMisses)
	s.skip = 1 << s.misses
}

// look receives into the reader's vec as soon as there is something, or returns errAgain when the time is over.
func (c *conn) look() error {
	p, s := &c.server.polling, &c.reader.poll
	window, payload := s.window, c.reader.payload
	if payload {
		window = p.limit
		if s.skip > 0 {
			s.skip--
			return errAgain
		}
	}
	if window == 0 || p.awake.Load() > p.readers || !payload && c.owesReplies() {
		return errAgain
	}
	start := time.Now()
	if p.paused(start) {
		return errAgain
	}
	for before := start; ; {
		err := c.io.recv(&c.reader.vec, false)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errAgain // whoever waits knows what that means
		}
		if !errors.Is(err, errAgain) {
			if payload {
				s.misses = 0
			}
			return err
		}
		// Whoever else is to run on this processor runs now, and is noticed.
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		now := time.Now()
		if now.Sub(before) > pollLost {
			p.lost(now)
			s.window = 0
			return errAgain
		}
		if now.Sub(start) >= window {
			if payload {
				s.missed()
			}
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
