// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"bytes"
	"time"

	"github.com/luksgate/luksgate/nbdserver/buffer"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// inline says whether the reader executes a READ or WRITE itself. A hand-over to another goroutine costs more than what
// a device that answers from memory takes; for one that must wait it would hold up the requests behind. Devices that
// do not promise to be immediate are measured: while their small requests are quick, the reader makes them.
func (c *conn) inline(q *wire.Request) bool {
	if q.Command > wire.CmdWrite {
		return false
	}
	if c.props.Immediate {
		return true
	}
	return q.LengthBytes <= largePayload && q.Flags&wire.CmdFlagFUA == 0 && c.deviceNanos.Load() < fastNanos
}

// clock returns the time if somebody wants to know how long the device takes.
func (c *conn) clock() time.Time {
	if c.metrics == nil && c.props.Immediate {
		return time.Time{}
	}
	return time.Now()
}

// account records how a request went; start is what clock returned before the device was called.
func (c *conn) account(q *wire.Request, arrive, start time.Time, errno uint32) {
	if start.IsZero() {
		return
	}
	took := time.Since(start)
	if !c.props.Immediate && q.Command <= wire.CmdWrite && q.LengthBytes <= largePayload {
		average := c.deviceNanos.Load()
		c.deviceNanos.Store(average + (min(int64(took), 100*fastNanos)-average)/8)
	}
	if c.metrics != nil {
		c.metrics.Request(commandName(q.Command), int64(q.LengthBytes), start.Sub(arrive), took, errno)
	}
}

// inlineWrite executes a write whose payload is in the read buffer.
func (c *conn) inlineWrite(q *wire.Request, payload []byte) error {
	start := c.clock()
	return c.wrote(q, start, start, c.device.WriteAt(payload, int64(q.OffsetBytes), q.Flags&wire.CmdFlagFUA != 0))
}

// wrote answers a write that the reader made.
func (c *conn) wrote(q *wire.Request, arrive, start time.Time, err error) error {
	errno := errnoOf(err, false)
	c.account(q, arrive, start, errno)
	if err != nil {
		return c.replyFailed(q, err, errno)
	}
	return c.replyDone(q)
}

// replyFailed answers a request that the device did not fulfil, after the log has the reason.
func (c *conn) replyFailed(q *wire.Request, err error, errno uint32) error {
	c.logError(q, err, errno)
	return c.replyError(q, errno, errnoText(errno))
}

// inlineRead executes a read whose reply fits the arena.
func (c *conn) inlineRead(q *wire.Request) error {
	switch {
	case c.mode == modeSimple:
		return c.inlineSimple(q)
	case q.LengthBytes == 0:
		return c.replyDone(q)
	}
	n := int(q.LengthBytes)
	arrive := c.clock()
	if q.Flags&wire.CmdFlagDF == 0 {
		sent, err := c.lendAll(q, arrive, n)
		if sent == n || err != nil {
			return err
		}
		n -= sent
	}
	_, err := c.readChunk(q, arrive, q.OffsetBytes+q.LengthBytes-uint64(n), n, true)
	return err
}

// inlineSimple is inlineRead without chunks.
func (c *conn) inlineSimple(q *wire.Request) error {
	n := int(q.LengthBytes)
	space, err := c.arenaSpace(wire.SimpleReplyBytes + n)
	if err != nil {
		return err
	}
	start := c.clock()
	err = c.device.ReadAt(space[wire.SimpleReplyBytes:wire.SimpleReplyBytes+n], int64(q.OffsetBytes))
	errno := errnoOf(err, false)
	c.account(q, start, start, errno)
	if err != nil {
		return c.replyFailed(q, err, errno)
	}
	c.reader.used += wire.PutSimpleReply(space, 0, q.Cookie) + n
	return nil
}

// isZero looks at the first byte first: data that is not zero costs next to nothing.
func isZero(p []byte) bool {
	return p[0] == 0 && bytes.Equal(p[:len(p)-1], p[1:])
}

// replyDone answers a request that has no data to return.
func (c *conn) replyDone(q *wire.Request) error {
	space, err := c.arenaSpace(wire.MaxDataHeaderBytes)
	if err != nil {
		return err
	}
	c.reader.used += putDone(space, c.mode, q)
	return nil
}

// replyError answers a request that failed.
func (c *conn) replyError(q *wire.Request, errno uint32, text string) error {
	space, err := c.arenaSpace(errorReplyBytes)
	if err != nil {
		return err
	}
	c.reader.used += putError(space, c.mode, q, errno, text)
	return nil
}

// errorReplyBytes is the room that putError needs.
const errorReplyBytes = 128

// putDone encodes success without data.
func putDone(b []byte, m mode, q *wire.Request) int {
	if m == modeSimple || m == modeStructured && q.Command != wire.CmdRead && q.Command != wire.CmdBlockStatus {
		return wire.PutSimpleReply(b, 0, q.Cookie)
	}
	chunk := wire.Chunk{Flags: wire.ChunkFlagDone, Type: wire.ChunkNone, Cookie: q.Cookie, OffsetBytes: q.OffsetBytes}
	return chunk.Put(b, m == modeExtended)
}

// putError encodes an error; text is one of ours and short.
func putError(b []byte, m mode, q *wire.Request, errno uint32, text string) int {
	if m == modeSimple {
		return wire.PutSimpleReply(b, errno, q.Cookie)
	}
	return wire.PutErrorChunk(b, m == modeExtended, q.Cookie, q.OffsetBytes, errno, text)
}

// arenaSpace returns at least n bytes behind the replies not yet sent; the caller adds what it fills to reader.used. It
// may wait for memory only if n is more than smallReplyBytes, and the caller must hold no buffer then.
func (c *conn) arenaSpace(n int) ([]byte, error) {
	rd := &c.reader
	if rd.used+n > len(rd.out) && (rd.arena != nil || n <= smallReplyBytes) {
		if err := c.flush(); err != nil {
			return nil, err
		}
	}
	if rd.used+n > len(rd.out) {
		if err := c.takeArena(n); err != nil {
			return nil, err
		}
	}
	return rd.out[rd.used:], nil
}

// takeArena goes from few to a buffer with room for n bytes more.
func (c *conn) takeArena(n int) error {
	if err := c.waitRoom(arenaBytes, 0); err != nil {
		return err
	}
	b := c.server.pool.TryGet(arenaBytes)
	if b == nil {
		if err := c.flush(); err != nil {
			return err
		}
		var err error
		if b, err = c.server.pool.Get(c.ctx, n); err != nil {
			return err
		}
	}
	c.dropArena(b)
	return nil
}

// dropArena gives the arena back, and goes on with b, or with few if b is nil. What is used goes along.
func (c *conn) dropArena(b *buffer.Buffer) {
	rd := &c.reader
	out := rd.few[:]
	if b != nil {
		out = b.Bytes()
	}
	copy(out, rd.out[:rd.used])
	if rd.arena != nil {
		rd.arena.Release()
	}
	rd.arena, rd.out = b, out
}

// startBulk begins a large read of an immediate device.
func (c *conn) startBulk(q *wire.Request) error {
	r, err := c.newRequest(q, 0)
	if err != nil {
		return err
	}
	c.reader.bulk.push(r)
	return nil
}

// bulkPiece reads and sends one piece of the large read whose turn it is.
func (c *conn) bulkPiece() error {
	r := c.reader.bulk.pop()
	offset := r.OffsetBytes + uint64(r.done)
	// Pieces meet where sectors do: one that is read in two pieces could be half old and half new.
	n := min(int(r.LengthBytes)-r.done, pieceBytes-int(offset%pieceBytes))
	last := r.done+n == int(r.LengthBytes)
	sent, err := c.lendChunk(&r.Request, r.arrive, offset, n, last)
	failed := false
	if sent == 0 && err == nil {
		sent = n
		failed, err = c.readChunk(&r.Request, r.arrive, offset, n, last)
	}
	if r.done += sent; failed || err != nil || r.done == int(r.LengthBytes) {
		c.free(r)
	} else {
		c.reader.bulk.push(r)
	}
	if err != nil {
		return err
	}
	return c.flush()
}

// readChunk puts n bytes of a read, with last its last ones, into the arena. It returns true if the device failed, which
// ends the reply.
func (c *conn) readChunk(q *wire.Request, arrive time.Time, offset uint64, n int, last bool) (failed bool, err error) {
	space, err := c.arenaSpace(wire.MaxDataHeaderBytes + n)
	if err != nil {
		return false, err
	}
	header := wire.HeaderBytes(c.extended) + 8
	data := space[header : header+n]
	start := c.clock()
	err = c.device.ReadAt(data, int64(offset))
	errno := errnoOf(err, false)
	if last || err != nil {
		c.account(q, arrive, start, errno)
	}
	if err != nil {
		return true, c.replyFailed(q, err, errno)
	}
	if isZero(data) {
		c.reader.used += wire.PutHoleChunk(space, c.extended, doneFlag(last), q.Cookie, q.OffsetBytes, offset, n)
		return false, nil
	}
	c.reader.used += wire.PutDataChunk(space, c.extended, doneFlag(last), q.Cookie, q.OffsetBytes, offset, n) + n
	return false, nil
}

// doneFlag are the flags of a chunk.
func doneFlag(last bool) uint16 {
	if last {
		return wire.ChunkFlagDone
	}
	return 0
}

// finishBulk completes large reads that were begun, as far as the client takes them.
func (c *conn) finishBulk() {
	for c.reader.bulk.head != nil {
		if err := c.bulkPiece(); err != nil {
			for r := c.reader.bulk.pop(); r != nil; r = c.reader.bulk.pop() {
				c.free(r)
			}
		}
	}
}
