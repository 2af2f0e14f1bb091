// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// idleError ends a connection whose client asked for nothing for longer than it may. It ends as by a shutdown: everything
// is answered, and nobody is to blame.
type idleError struct{ limit time.Duration }

func (e *idleError) Error() string { return fmt.Sprintf("client asked for nothing for %v", e.limit) }

// Is implements the interface of errors.Is.
func (e *idleError) Is(target error) bool { return target == errDrained }

// recvNext waits for the next request: for ever, or as long as a client may be idle. One whose requests are still in
// execution is not.
func (c *conn) recvNext() error {
	limit := c.server.limits.Idle
	if limit <= 0 {
		return c.recvIdle()
	}
	for {
		deadline := time.Now().Add(limit)
		_ = c.netConn.SetReadDeadline(deadline)
		if c.draining.Load() || c.detaching.Load() {
			_ = c.netConn.SetReadDeadline(past) // theirs, which ours may have replaced
		}
		err := c.recvIdle()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = c.netConn.SetReadDeadline(time.Time{})
			return err
		}
		if c.draining.Load() || c.detaching.Load() || time.Now().Before(deadline) {
			return err
		}
		if !c.owesReplies() {
			return &idleError{limit}
		}
	}
}

// recvIdle waits for ever, holding as little as possible.
func (c *conn) recvIdle() error {
	rd := &c.reader
	if rd.r == rd.w && (c.io.canPoll() || rd.got < smallReadBytes) {
		c.dropReadBuffer()
		rd.room = len(rd.buf) - rd.w
		rd.vec.Reset()
		rd.vec.Append(rd.buf[rd.w:])
	}
	return c.io.recv(&rd.vec, true)
}

// owesReplies tells whether requests are in execution or replies on their way.
func (c *conn) owesReplies() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight > 0 || c.sending
}
