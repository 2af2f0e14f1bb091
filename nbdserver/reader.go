// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/luksgate/luksgate/nbdserver/buffer"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// serve is the reader: it receives, decodes and hands out requests until the client or the server has had enough. When it
// returns, everything that was executed is answered if the client still listens, and every buffer is given back.
//
//  1. decode all complete requests at hand (decode, dispatch)
//  2. do one piece of large inline reads, look at the socket, go to 1 (bulk)
//  3. send what is answered (flush)
//  4. receive (fill)
func (c *conn) serve() error {
	c.server.polling.awake.Add(1)
	err := c.loop()
	c.server.polling.awake.Add(-1)
	if ferr := c.flush(); err == nil || errors.Is(err, errDisconnected) {
		err = errors.Join(err, ferr)
	}
	if err != nil && !errors.Is(err, errDisconnected) && !errors.Is(err, errDrained) && !errors.Is(err, io.EOF) &&
		!errors.Is(err, errDetached) {
		c.fail(err)
	}
	c.finishBulk()
	c.waitIdle()
	c.reader.used = 0
	c.cool()
	if !errors.Is(err, errDetached) {
		c.reader.r = c.reader.w
	}
	c.dropReadBuffer()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return c.failed
	}
	return err
}

// errDrained is how a connection ends at a shutdown.
var errDrained = errors.New("server shuts down")

func (c *conn) loop() error {
	for {
		if err := c.decode(); err != nil {
			return err
		}
		if c.reader.bulk.head != nil {
			if err := c.bulkPiece(); err != nil {
				return err
			}
			if err := c.fill(false); err != nil && !errors.Is(err, errAgain) {
				return err
			}
			continue
		}
		if err := c.flush(); err != nil {
			return err
		}
		if c.draining.Load() {
			return errDrained
		}
		if c.detaching.Load() {
			return errDetached
		}
		if err := c.fill(true); err != nil && !errors.Is(err, errAgain) {
			return err
		}
	}
}

// decode hands out the complete requests in the read buffer.
func (c *conn) decode() error {
	rd := &c.reader
	headerBytes := wire.RequestBytes
	if c.extended {
		headerBytes = wire.ExtendedRequestBytes
	}
	for {
		have := rd.buf[rd.r:rd.w]
		if len(have) < headerBytes {
			rd.need = headerBytes
			return nil
		}
		var q wire.Request
		ok := false
		if c.extended {
			ok = wire.ParseExtendedRequest(have, &q)
		} else {
			ok = wire.ParseRequest(have, &q)
		}
		if !ok {
			return fmt.Errorf("%w request: wrong magic %x", wire.ErrMalformed, have[:4])
		}
		complete, err := c.dispatch(&q, headerBytes)
		if err != nil || !complete {
			return err
		}
		if rd.used >= flushBytes {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
}

// dispatch takes one request off the read buffer and executes it or hands it out. It returns false, and leaves the
// request where it is, if more of its payload must be received first.
func (c *conn) dispatch(q *wire.Request, headerBytes int) (complete bool, err error) {
	rd := &c.reader
	payload := c.rules.payloadBytes(q)
	if f := c.rules.validate(q); f != noFault {
		rd.r += headerBytes
		return true, c.refuse(q, payload, f)
	}
	inline := c.inline(q)
	switch {
	case q.Command == wire.CmdDisc:
		rd.r += headerBytes
		return true, errDisconnected
	case inline && q.Command == wire.CmdWrite && payload <= largePayload:
		if rd.w-rd.r < headerBytes+int(payload) {
			rd.need = headerBytes + int(payload)
			return false, nil
		}
		rd.r += headerBytes
		err = c.inlineWrite(q, rd.buf[rd.r:rd.r+int(payload)])
		rd.r += int(payload)
		return true, err
	case inline && q.Command == wire.CmdRead && q.LengthBytes <= inlineBytes:
		rd.r += headerBytes
		return true, c.inlineRead(q)
	case inline && q.Command == wire.CmdRead && c.mode != modeSimple && q.Flags&wire.CmdFlagDF == 0:
		rd.r += headerBytes
		return true, c.startBulk(q)
	}
	rd.r += headerBytes
	return true, c.startJob(q, int(payload), inline && q.Command == wire.CmdWrite)
}

// refuse answers a wrong request and skips its payload, so that the next request is found.
func (c *conn) refuse(q *wire.Request, payload uint64, f fault) error {
	if payload > skipBytes {
		return fmt.Errorf("%w request: payload of %d bytes for %s", wire.ErrMalformed, payload, commandName(q.Command))
	}
	if err := c.skip(int(payload)); err != nil {
		return err
	}
	if ok, dropped := c.logged.allow(time.Now(), 10); ok {
		c.log.Warn("request refused", "command", commandName(q.Command), "flags", q.Flags, "offset", q.OffsetBytes,
			"length", q.LengthBytes, "reason", f.text, "lines_left_out", dropped)
	}
	if c.metrics != nil {
		c.metrics.Request(commandName(q.Command), 0, 0, 0, f.errno)
	}
	return c.replyError(q, f.errno, f.text)
}

// skip drops n bytes of payload.
func (c *conn) skip(n int) error {
	rd := &c.reader
	rd.payload = true
	defer func() { rd.payload = false }()
	for n > 0 {
		have := min(n, rd.w-rd.r)
		rd.r += have
		n -= have
		if n > 0 {
			if err := c.flush(); err != nil {
				return err
			}
			rd.need = 1
			if err := c.fill(true); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill receives into the read buffer at least one byte.
func (c *conn) fill(wait bool) error {
	rd := &c.reader
	c.makeRoom()
	rd.vec.Reset()
	rd.room = min(len(rd.buf)-rd.w, max(rd.limit, rd.need))
	rd.vec.Append(rd.buf[rd.w : rd.w+rd.room])
	err := c.recv(wait, rd.w-rd.r > 0)
	rd.got = rd.room - rd.vec.Bytes()
	if rd.vec.Bytes() == 0 {
		rd.limit = bigReadBytes
	}
	rd.w += rd.got
	return err
}

// makeRoom moves what is undecoded to the front where the rest of the request would not fit, and takes a large buffer
// when the small one was too small.
func (c *conn) makeRoom() {
	rd := &c.reader
	if rd.r == rd.w {
		full := rd.w == len(rd.buf)
		rd.r, rd.w = 0, 0
		if full && rd.big == nil {
			c.growReadBuffer()
		}
		return
	}
	if rd.w < len(rd.buf) && rd.r+rd.need <= len(rd.buf) {
		return
	}
	if rd.big == nil {
		c.growReadBuffer()
	}
	rd.w = copy(rd.buf, rd.buf[rd.r:rd.w])
	rd.r = 0
}

func (c *conn) growReadBuffer() {
	rd := &c.reader
	b := c.server.reads.TryGet(bigReadBytes)
	if b == nil {
		if rd.need <= len(rd.buf) {
			return
		}
		// A request that does not fit must be received whatever the budget; there is one such buffer a connection.
		heap := make([]byte, bigReadBytes)
		rd.w = copy(heap, rd.buf[rd.r:rd.w])
		rd.r, rd.buf = 0, heap
		return
	}
	rd.w = copy(b.Bytes(), rd.buf[rd.r:rd.w])
	rd.r, rd.big, rd.buf = 0, b, b.Bytes()
}

// dropReadBuffer goes back to the small buffer if what is undecoded fits.
func (c *conn) dropReadBuffer() {
	rd := &c.reader
	if rd.w-rd.r > len(rd.small) {
		return
	}
	if &rd.buf[0] != &rd.small[0] {
		rd.w = copy(rd.small[:], rd.buf[rd.r:rd.w])
		rd.r, rd.buf = 0, rd.small[:]
	}
	if rd.big != nil {
		rd.big.Release()
		rd.big = nil
	}
}

// recv receives into the reader's vec. When there is nothing the connection gives back what only a busy one needs, before
// it waits. With partial the client owes the rest of something and has a deadline.
func (c *conn) recv(wait, partial bool) error {
	rd := &c.reader
	if c.io.canPoll() {
		err := c.io.recv(&rd.vec, false)
		if rd.payload && c.detaching.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			err = errAgain // the deadline of detach is not for the rest of a payload
		}
		if !wait || !errors.Is(err, errAgain) {
			return c.recvError(err)
		}
	} else if !wait {
		return errAgain
	}
	if err := c.flush(); err != nil { // nobody waits for an answer while we wait for a question
		return err
	}
	if c.io.canPoll() {
		if err := c.look(); !errors.Is(err, errAgain) {
			return err
		}
	}
	c.cool()
	defer c.wakes(c.sleeps())
	if !partial {
		err := c.recvNext()
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.draining.Load() && !c.detaching.Load() {
			_ = c.netConn.SetReadDeadline(time.Time{}) // of a detach that was given up
			return errAgain
		}
		return c.recvError(err)
	}
	return c.recvPartial(time.Now().Add(c.server.limits.Stall))
}

// recvPartial waits until deadline for the rest of something. A connection that is to be detached still receives the
// payload that its client is sending, but not the rest of a header.
func (c *conn) recvPartial(deadline time.Time) error {
	rd := &c.reader
	for {
		_ = c.netConn.SetReadDeadline(deadline)
		err := errDrained
		switch {
		case c.draining.Load():
		case c.detaching.Load() && !rd.payload:
			err = errDetached
		default:
			err = c.io.recv(&rd.vec, true)
		}
		_ = c.netConn.SetReadDeadline(time.Time{})
		if c.draining.Load() && err != nil {
			return errDrained
		}
		if rd.payload && c.detaching.Load() && errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline) {
			continue // it was woken to be detached
		}
		return c.recvError(err)
	}
}

func (c *conn) recvError(err error) error {
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if c.draining.Load() {
		return errDrained
	}
	if c.detaching.Load() && !c.reader.payload {
		return errDetached
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return c.failed
	}
	return fmt.Errorf("client stalled for %v in the middle of a request: %w", c.server.limits.Stall, err)
}

// cool gives back what only a busy connection needs.
func (c *conn) cool() {
	rd := &c.reader
	if rd.arena != nil && rd.used == 0 {
		c.dropArena(nil)
	}
}

// recvPayload fills pieces, of n bytes in all, from the read buffer and the socket, without a copy for what is still in the
// socket.
func (c *conn) recvPayload(n int, pieces ...[]byte) error {
	rd := &c.reader
	rd.payload = true
	defer func() { rd.payload = false }()
	rd.vec.Reset()
	for _, p := range pieces {
		have := copy(p, rd.buf[rd.r:rd.w])
		rd.r += have
		rd.vec.Append(p[have:])
	}
	if rd.vec.Bytes() == 0 {
		return nil
	}
	ahead := len(rd.buf)
	if n >= largePayload {
		ahead, rd.limit = min(ahead, smallReadBytes), smallReadBytes
	}
	rd.r, rd.w = 0, 0
	rd.vec.Append(rd.buf[:ahead])
	for rd.vec.Bytes() > ahead {
		if err := c.recv(true, true); err != nil {
			return err
		}
	}
	rd.w = ahead - rd.vec.Bytes()
	return nil
}

// getBuffer waits for a buffer of n bytes. Replies go out first, and what is not needed is given back, so that nobody
// holds budget while waiting for more.
func (c *conn) getBuffer(n int) (*buffer.Buffer, error) {
	if b := c.server.pool.TryGet(n); b != nil {
		return b, nil
	}
	if err := c.flush(); err != nil {
		return nil, err
	}
	c.dropArena(nil)
	return c.server.pool.Get(c.ctx, n)
}
