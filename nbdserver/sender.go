// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/luksgate/luksgate/nbdserver/buffer"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// finish queues the reply of a request and sends it, unless somebody else is sending and will find it.
func (c *conn) finish(r *request) {
	c.mu.Lock()
	c.queue.push(r)
	if c.sending {
		c.mu.Unlock()
		return
	}
	c.sending = true
	c.mu.Unlock()
	c.sendQueue()
}

// sendQueue sends until the queue is empty. The caller has set sending.
func (c *conn) sendQueue() {
	for c.nextBatch() {
		c.batchSent(c.sendAll(&c.sender.vec))
	}
}

// nextBatch fills the sender from the queue. Where that is empty it ends the sending and returns false.
func (c *conn) nextBatch() bool {
	s := &c.sender
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		c.dropQueue()
	}
	s.vec.Reset()
	c.gather()
	if len(s.batch) == 0 {
		c.sending = false
		c.room.Broadcast()
		return false
	}
	return true
}

// batchSent frees what was sent, and queues large replies for their next piece. err is that of sending.
func (c *conn) batchSent(err error) {
	if err != nil {
		c.fail(err)
	}
	s := &c.sender
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range s.batch {
		s.batch[i] = nil
		if c.failed != nil || r.raw || r.done == len(r.data) {
			c.freeLocked(r)
		} else {
			c.queue.push(r)
		}
	}
	s.batch = s.batch[:0]
	c.room.Broadcast()
}

// gather moves replies, or pieces of large ones, from the queue into the sender's batch. c.mu is held.
func (c *conn) gather() {
	s := &c.sender
	for c.queue.head != nil && s.vec.Bytes() < batchBytes && len(s.batch) < buffer.MaxPieces/2 {
		r := c.queue.pop()
		c.appendPiece(r)
		s.batch = append(s.batch, r)
	}
}

// appendPiece appends the next piece of r's reply to the sender's vec, and counts it as sent.
func (c *conn) appendPiece(r *request) {
	v := &c.sender.vec
	switch {
	case r.raw:
		v.Append(r.data)
	case r.errno != 0:
		v.Append(r.hdr[:putError(r.hdr[:], c.mode, &r.Request, r.errno, r.text)])
		r.done = len(r.data)
	case r.Command != wire.CmdRead || len(r.data) == 0:
		v.Append(r.hdr[:putDone(r.hdr[:], c.mode, &r.Request)])
		r.done = len(r.data)
	case c.mode == modeSimple:
		v.Append(r.hdr[:wire.PutSimpleReply(r.hdr[:], 0, r.Cookie)])
		v.Append(r.data)
		r.done = len(r.data)
	default:
		c.appendChunk(r)
	}
}

func (c *conn) appendChunk(r *request) {
	n := len(r.data) - r.done
	if r.Flags&wire.CmdFlagDF == 0 {
		n = min(n, pieceBytes)
	}
	data := r.data[r.done : r.done+n]
	offset := r.OffsetBytes + uint64(r.done)
	flags := uint16(0)
	if r.done += n; r.done == len(r.data) {
		flags = wire.ChunkFlagDone
	}
	v := &c.sender.vec
	if isZero(data) {
		v.Append(r.hdr[:wire.PutHoleChunk(r.hdr[:], c.extended, flags, r.Cookie, r.OffsetBytes, offset, n)])
		return
	}
	v.Append(r.hdr[:wire.PutDataChunk(r.hdr[:], c.extended, flags, r.Cookie, r.OffsetBytes, offset, n)])
	v.Append(data)
}

// sendAll sends v and waits for a slow client for a limited time.
func (c *conn) sendAll(v *buffer.Vec) error {
	if c.io.canPoll() {
		if err := c.io.send(v, false); !errors.Is(err, errAgain) {
			return err
		}
	}
	_ = c.netConn.SetWriteDeadline(time.Now().Add(c.server.limits.Stall))
	err := c.io.send(v, true)
	_ = c.netConn.SetWriteDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("client took no replies for %v: %w", c.server.limits.Stall, err)
	}
	return err
}

// dropQueue frees what cannot be sent any more. c.mu is held.
func (c *conn) dropQueue() {
	for r := c.queue.pop(); r != nil; r = c.queue.pop() {
		c.freeLocked(r)
	}
}

// flush sends the arena. The reader does it itself if nobody is sending and the client takes the bytes soon; else the
// arena goes into the queue and the reader goes on.
func (c *conn) flush() error {
	rd := &c.reader
	if rd.used == 0 {
		return nil
	}
	c.mu.Lock()
	if err := c.failed; err != nil {
		rd.used = 0
		c.mu.Unlock()
		return err
	}
	if c.sending {
		c.queue.push(c.arenaRequest(0))
		c.mu.Unlock()
		return nil
	}
	c.sending = true
	c.mu.Unlock()

	v := &c.sender.vec
	v.Reset()
	v.Append(rd.out[:rd.used])
	return c.flushed(v, c.sendPatiently(v))
}

// sendPatiently sends for the reader: at once, or within a time so short that a client that sends before it receives is
// not stuck. It returns errAgain with the rest in v.
func (c *conn) sendPatiently(v *buffer.Vec) error {
	if !c.io.canPoll() {
		if v.Bytes() > flushBytes {
			return errAgain
		}
		return c.io.send(v, true)
	}
	err := c.io.send(v, false)
	if !errors.Is(err, errAgain) {
		return err
	}
	_ = c.netConn.SetWriteDeadline(time.Now().Add(patience))
	err = c.io.send(v, true)
	_ = c.netConn.SetWriteDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errAgain
	}
	return err
}

// flushed ends the reader's turn as the sender.
func (c *conn) flushed(v *buffer.Vec, err error) error {
	rd := &c.reader
	if err != nil && !errors.Is(err, errAgain) {
		rd.used = 0
		c.fail(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, errAgain) {
		c.queue.pushFront(c.arenaRequest(rd.used - v.Bytes()))
		err = nil
	}
	rd.used = 0
	if c.queue.head != nil {
		c.server.workers.do(job{conn: c})
		return err
	}
	c.sending = false
	c.room.Broadcast()
	return err
}

// arenaRequest makes the unsent replies from byte sent on an item of the queue, which owns the arena now. c.mu is held.
func (c *conn) arenaRequest(sent int) *request {
	rd := &c.reader
	r := c.spareLocked()
	r.raw, r.slot = true, true
	c.inFlight++
	if rd.arena == nil {
		r.data = bytes.Clone(rd.few[sent:rd.used])
	} else {
		r.buf, r.data, r.held = rd.arena, rd.out[sent:rd.used], int64(len(rd.out))
		c.bytes += r.held
		rd.arena, rd.out = nil, rd.few[:]
	}
	rd.used = 0
	return r
}
