// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver/buffer"
)

// emptyTransport has nothing to receive and counts who asks.
type emptyTransport struct{ looks int }

func (e *emptyTransport) recv(*buffer.Vec, bool) error { e.looks++; return errAgain }
func (e *emptyTransport) send(*buffer.Vec, bool) error { return net.ErrClosed }
func (e *emptyTransport) canPoll() bool                { return true }

func newLooker(limit time.Duration) (*conn, *emptyTransport) {
	e := &emptyTransport{}
	c := &conn{server: &Server{}, io: e}
	c.server.polling.limit, c.server.polling.readers, c.server.polling.began = limit, 1, time.Now()
	return c, e
}

func TestLookingAdapts(t *testing.T) {
	const limit = time.Hour // so that no sleep of the test is too long
	c, _ := newLooker(limit)
	for i := range 3 {
		c.wakes(c.sleeps())
		if want := pollStart << i; c.reader.poll.window != want {
			t.Fatalf("after %d short sleeps: %v, want %v", i+1, c.reader.poll.window, want)
		}
	}
	c.reader.poll.window = limit
	c.wakes(c.sleeps())
	if c.reader.poll.window != limit {
		t.Errorf("%v, above the limit", c.reader.poll.window)
	}
	c.wakes(c.sleeps().Add(-2 * limit))
	if c.reader.poll.window != 0 {
		t.Errorf("after a long sleep: %v", c.reader.poll.window)
	}
}

func TestLookingIsForSpareProcessors(t *testing.T) {
	for _, x := range []struct {
		name  string
		looks bool
		set   func(*conn)
	}{
		{"free", true, func(*conn) {}},
		{"quiet", false, func(c *conn) { c.reader.poll.window = 0 }},
		{"others are awake", false, func(c *conn) { c.server.polling.awake.Store(2) }},
		{"requests under way", false, func(c *conn) { c.inFlight = 1 }},
		{"in a payload", true, func(c *conn) { c.inFlight, c.reader.payload, c.reader.poll.window = 1, true, 0 }},
		{"in the payload of a slow client", false, func(c *conn) { c.reader.payload, c.reader.poll.skip = true, 1 }},
		{"processor was taken away", false, func(c *conn) { c.server.polling.until.Store(int64(time.Hour)) }},
	} {
		c, e := newLooker(time.Millisecond)
		c.reader.poll.window = time.Millisecond
		x.set(c)
		if err := c.look(); !errors.Is(err, errAgain) || e.looks > 0 != x.looks {
			t.Errorf("%s: error %v, %d looks", x.name, err, e.looks)
		}
	}
}

func TestLookingInVainBecomesRare(t *testing.T) {
	c, e := newLooker(time.Microsecond)
	c.reader.payload = true
	waits, attempts := 1000, 0
	for range waits {
		before := e.looks
		_ = c.look()
		// An attempt that ended because the processor was taken away says nothing of the client, and has its own pause.
		lost := c.server.polling.until.Swap(0) != 0
		if e.looks > before && !lost {
			attempts++
		}
	}
	if attempts < 2 || attempts > 2*pollMisses+waits>>pollMisses {
		t.Errorf("%d attempts in %d waits", attempts, waits)
	}
}

func TestPausesGrow(t *testing.T) {
	now := time.Now()
	p := polling{began: now}
	lost := func(want time.Duration) {
		t.Helper()
		if p.lost(now); p.pause != want || !p.paused(now.Add(want-1)) || p.paused(now.Add(want)) {
			t.Fatalf("a pause of %v, want %v", p.pause, want)
		}
	}
	now = now.Add(time.Second)
	for want := pollMinPause; want < pollMaxPause; want *= 2 {
		lost(want)
		p.lost(now.Add(want / 2)) // another connection, which looked at the same time
		now = now.Add(want)
	}
	for range 2 {
		lost(pollMaxPause)
		now = now.Add(2 * pollMaxPause)
	}
	now = now.Add(1)
	lost(pollMinPause)
}

func TestLookingIsOffOnOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var p polling
	p.start(time.Millisecond)
	if p.limit != 0 {
		t.Errorf("limit %v", p.limit)
	}
	if l := (Limits{Poll: -1}).withDefaults(); l.Poll != 0 {
		t.Errorf("off is %v", l.Poll)
	}
	if l := (Limits{}).withDefaults(); l.Poll != 0 {
		t.Errorf("default is %v", l.Poll)
	}
}
