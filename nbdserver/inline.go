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
	err := c.device.WriteAt(payload, int64(q.OffsetBytes), q.Flags&wire.CmdFlagFUA != 0)
	errno := errnoOf(err, false)
	c.account(q, start, start, errno)
	if err != nil {
		c.logError(q, err, errno)
		return c.replyError(q, errno, errnoText(errno))
	}
	return c.replyDone(q)
}

// inlineRead executes a read straight into the reply arena.
func (c *conn) inlineRead(q *wire.Request) error {
	n := int(q.LengthBytes)
	space, err := c.arenaSpace(wire.MaxDataHeaderBytes + n)
	if err != nil {
		return err
	}
	header := wire.SimpleReplyBytes
	if c.mode != modeSimple {
		header = wire.HeaderBytes(c.extended) + 8
	}
	data := space[header : header+n]
	start := c.clock()
	err = c.device.ReadAt(data, int64(q.OffsetBytes))
	errno := errnoOf(err, false)
	c.account(q, start, start, errno)
	switch {
	case err != nil:
		c.logError(q, err, errno)
		return c.replyError(q, errno, errnoText(errno))
	case c.mode == modeSimple:
		wire.PutSimpleReply(space, 0, q.Cookie)
	case n == 0:
		return c.replyDone(q)
	case isZero(data):
		c.reader.used += wire.PutHoleChunk(space, c.extended, wire.ChunkFlagDone, q.Cookie, q.OffsetBytes, q.OffsetBytes, n)
		return nil
	default:
		wire.PutDataChunk(space, c.extended, wire.ChunkFlagDone, q.Cookie, q.OffsetBytes, q.OffsetBytes, n)
	}
	c.reader.used += header + n
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
	n := min(int(r.LengthBytes)-r.done, pieceBytes)
	last := r.done+n == int(r.LengthBytes)
	piece := r.Request
	piece.OffsetBytes += uint64(r.done)
	piece.LengthBytes = uint64(n)
	ended, err := c.bulkChunk(r, &piece, last)
	if ended || err != nil {
		c.free(r)
		if err != nil {
			return err
		}
	} else {
		r.done += n
		c.reader.bulk.push(r)
	}
	return c.flushOn(c.reader.bulk.head != nil)
}

// bulkChunk puts one chunk of a large read into the arena. It returns true when the reply is complete.
func (c *conn) bulkChunk(r *request, piece *wire.Request, last bool) (bool, error) {
	n := int(piece.LengthBytes)
	space, err := c.arenaSpace(wire.MaxDataHeaderBytes + n)
	if err != nil {
		return false, err
	}
	header := wire.HeaderBytes(c.extended) + 8
	data := space[header : header+n]
	start := c.clock()
	err = c.device.ReadAt(data, int64(piece.OffsetBytes))
	errno := errnoOf(err, false)
	if last || err != nil {
		c.account(&r.Request, r.arrive, start, errno)
	}
	if err != nil {
		c.logError(&r.Request, err, errno)
		return true, c.replyError(&r.Request, errno, errnoText(errno))
	}
	flags := uint16(0)
	if last {
		flags = wire.ChunkFlagDone
	}
	if isZero(data) {
		c.reader.used += wire.PutHoleChunk(space, c.extended, flags, r.Cookie, r.OffsetBytes, piece.OffsetBytes, n)
		return last, nil
	}
	c.reader.used += wire.PutDataChunk(space, c.extended, flags, r.Cookie, r.OffsetBytes, piece.OffsetBytes, n) + n
	return last, nil
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
