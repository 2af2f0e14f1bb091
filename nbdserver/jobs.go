// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"time"

	"github.com/luksgate/luksgate/nbdserver/buffer"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// newRequest takes a free request for q, waiting until the connection may have one more with holdBytes of buffer.
func (c *conn) newRequest(q *wire.Request, holdBytes int64) (*request, error) {
	if err := c.waitRoom(holdBytes, 1); err != nil {
		return nil, err
	}
	c.mu.Lock()
	r := c.spareLocked()
	r.slot, r.held = true, holdBytes
	c.inFlight++
	c.bytes += holdBytes
	c.mu.Unlock()
	r.Request = *q
	if c.metrics != nil {
		r.arrive = time.Now()
	}
	return r, nil
}

// waitRoom waits until the connection may hold that many bytes and requests more. Only the reader adds to both.
func (c *conn) waitRoom(bytes int64, requests int) error {
	limits := &c.server.limits
	full := func() bool {
		return c.inFlight+requests > limits.InFlight || c.bytes > 0 && c.bytes+bytes > limits.InFlightBytes
	}
	c.mu.Lock()
	if !full() {
		err := c.failed
		c.mu.Unlock()
		return err
	}
	c.mu.Unlock()
	if err := c.flush(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.failed == nil && full() {
		if requests > 0 && c.reader.bulk.head != nil { // only the reader can finish them
			c.mu.Unlock()
			err := c.bulkPiece()
			c.mu.Lock()
			if err != nil {
				return err
			}
			continue
		}
		c.room.Wait()
	}
	return c.failed
}

// spareLocked returns an unused request. c.mu is held.
func (c *conn) spareLocked() *request {
	r := c.spare
	if r == nil {
		return &request{}
	}
	c.spare, r.next = r.next, nil
	return r
}

// free gives back a request and what it holds.
func (c *conn) free(r *request) {
	c.mu.Lock()
	c.freeLocked(r)
	c.room.Broadcast()
	c.mu.Unlock()
}

// freeLocked is free for holders of c.mu, who wake the others.
func (c *conn) freeLocked(r *request) {
	if r.buf != nil {
		r.buf.Release()
	}
	if r.slot {
		c.inFlight--
	}
	c.bytes -= r.held
	r.buf, r.data, r.done, r.raw, r.held, r.slot, r.errno, r.text = nil, nil, 0, false, 0, false, 0, ""
	r.next, c.spare, r.conn = c.spare, r, nil
}

// startJob gives a request its buffer and its payload, and has a worker execute it. With inline it is a write that the
// reader executes itself.
func (c *conn) startJob(q *wire.Request, payload int, inline bool) error {
	if inline {
		if done, err := c.adoptWrite(q, payload); done || err != nil {
			return err
		}
	}
	n := payload
	if q.Command == wire.CmdRead {
		n = int(q.LengthBytes)
	}
	hold := int64(0)
	if n > 0 {
		hold = buffer.SizeBytes(n)
	}
	r, err := c.newRequest(q, hold)
	if err != nil {
		return err
	}
	if n > 0 {
		if r.buf, err = c.getBuffer(n); err != nil {
			c.free(r)
			return err
		}
		r.data = r.buf.Bytes()[:n]
	}
	if payload > 0 {
		if err = c.recvPayload(payload, r.data); err != nil {
			c.free(r)
			return err
		}
		if c.metrics != nil {
			r.arrive = time.Now()
		}
	}
	if inline {
		err = c.inlineWrite(q, r.data)
		c.free(r)
		return err
	}
	if !c.startAsync(r) {
		c.server.workers.do(job{conn: c, req: r})
	}
	return nil
}

// execute makes the device do a valid request and finishes it.
func (c *conn) execute(r *request) {
	start := c.clock()
	c.outcome(r, start, c.call(r))
	c.finish(r)
}

// call is the one place where a request becomes a call of the device (inline reads and writes apart).
func (c *conn) call(r *request) error {
	offset, length := int64(r.OffsetBytes), int64(r.LengthBytes)
	fua := r.Flags&wire.CmdFlagFUA != 0
	switch r.Command {
	case wire.CmdRead:
		if length == 0 {
			return nil
		}
		return c.device.ReadAt(r.data, offset)
	case wire.CmdWrite:
		if length == 0 {
			return nil
		}
		return c.device.WriteAt(r.data, offset, fua)
	case wire.CmdFlush:
		if !c.props.Flush {
			return nil
		}
		return c.device.Flush()
	case wire.CmdTrim:
		if length == 0 {
			return nil
		}
		return c.device.Trim(offset, length, fua)
	case wire.CmdWriteZeroes:
		if length == 0 {
			return nil
		}
		return c.device.WriteZeroes(offset, length, zeroFlags(r.Flags))
	case wire.CmdCache:
		return c.device.Cache(offset, length)
	default:
		return c.blockStatus(r)
	}
}

func zeroFlags(flags uint16) ZeroFlags {
	var z ZeroFlags
	if flags&wire.CmdFlagFUA != 0 {
		z |= ZeroFUA
	}
	if flags&wire.CmdFlagNoHole != 0 {
		z |= ZeroNoHole
	}
	if flags&wire.CmdFlagFastZero != 0 {
		z |= ZeroFast
	}
	return z
}
