// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"time"

	"github.com/luksgate/luksgate/nbdserver/wire"
)

// Requests without a goroutine of their own, for a device that waits for something else than the processor:
//
//  1. the connection's reader starts the request at the device and goes on (startAsync)
//  2. the device ends a batch of requests, of any connections, in a goroutine of its own (request.Done), which queues the
//     replies
//  3. it then tells each connection once (conn.Send), which sends all of them with one system call as far as the client
//     takes them at once; a worker waits for the client with the rest
//
// So the device's goroutine never waits for a client, and no goroutine is woken for a request.

// An AsyncDevice is what a Device has besides that can be asked without waiting for the answer.
type AsyncDevice interface {
	// StartRead begins to fill p with the bytes at offsetBytes and returns true. p, which is not empty and lies outside
	// the Go heap or is pinned by the device, is borrowed until done.Done is called, once, from any goroutine, perhaps
	// before StartRead returns. False means that nothing was begun and ReadAt must do it. It may wait for the device to
	// have room for one more request, but not for a request to end.
	StartRead(p []byte, offsetBytes int64, done Completion) bool

	// StartWrite is the same for WriteAt without FUA; the content of p is undefined afterwards.
	StartWrite(p []byte, offsetBytes int64, done Completion) bool
}

// A Completion is told how a request ended. Done does not wait. When the device has no more to tell at the moment, it
// calls Send once for each Sender that it got, which does not wait either.
type Completion = interface{ Done(err error) Sender }

// A Sender sends answers that have been gathered.
type Sender = interface{ Send() }

// asyncBytes is the largest request that is started without a goroutine. What is larger takes so long to decrypt and to
// send that the device's goroutine has better things to do, and a wake matters little.
const asyncBytes = 64 << 10

// sendRounds is how many system calls a device's goroutine makes for one connection in a row.
const sendRounds = 4

// startAsync hands a valid request with its buffer to the device, if that can be done without waiting for its end.
// Afterwards r is no longer the caller's.
func (c *conn) startAsync(r *request) bool {
	if c.async == nil || len(r.data) == 0 || len(r.data) > asyncBytes || r.Flags&wire.CmdFlagFUA != 0 {
		return false
	}
	r.conn, r.start = c, c.clock()
	switch r.Command {
	case wire.CmdRead:
		return c.async.StartRead(r.data, int64(r.OffsetBytes), r)
	case wire.CmdWrite:
		return c.async.StartWrite(r.data, int64(r.OffsetBytes), r)
	}
	return false
}

// Done implements Completion.
func (r *request) Done(err error) Sender {
	c := r.conn
	c.outcome(r, r.start, err)
	c.mu.Lock()
	c.queue.push(r)
	c.mu.Unlock()
	return c
}

// outcome makes the result of the device that of the request.
func (c *conn) outcome(r *request, start time.Time, err error) {
	r.errno = errnoOf(err, r.Command == wire.CmdWriteZeroes && r.Flags&wire.CmdFlagFastZero != 0)
	c.account(&r.Request, r.arrive, start, r.errno)
	if err != nil {
		c.logError(&r.Request, err, r.errno)
		r.text = errnoText(r.errno)
		r.raw = false
	}
}

// Send implements Sender: it sends the queue unless somebody else is sending and will find it.
func (c *conn) Send() {
	c.mu.Lock()
	if c.sending || c.queue.head == nil {
		c.mu.Unlock()
		return
	}
	c.sending = true
	c.mu.Unlock()
	if !c.io.canPoll() {
		c.server.workers.do(job{conn: c})
		return
	}
	for range sendRounds {
		if !c.nextBatch() {
			return
		}
		err := c.io.send(&c.sender.vec, false)
		if errors.Is(err, errAgain) {
			c.server.workers.do(job{conn: c, rest: true})
			return
		}
		c.batchSent(err)
	}
	c.server.workers.do(job{conn: c})
}

// sendRest goes on where Send found no room.
func (c *conn) sendRest() {
	c.batchSent(c.sendAll(&c.sender.vec))
	c.sendQueue()
}
