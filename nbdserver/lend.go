// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"time"

	"github.com/luksgate/luksgate/nbdserver/wire"
)

// lendAll sends the first n bytes of a read from the device's memory, in as many chunks as it takes, and returns how many
// it could send. All n are the whole read.
func (c *conn) lendAll(q *wire.Request, arrive time.Time, n int) (int, error) {
	for sent := 0; ; {
		m, err := c.lendChunk(q, arrive, q.OffsetBytes+uint64(sent), n-sent, true)
		if sent += m; m == 0 || sent == n || err != nil {
			return sent, err
		}
	}
}

// lendChunk sends the first of n bytes of a read straight from the device's memory, behind the replies that wait in the
// arena. With end these n bytes are the rest of the read. It returns how many it were, none if that cannot be done now.
//
// The memory is the device's again before anybody is waited for: what the socket does not take at once is copied to the
// arena first. So a slow client holds up no writer, and gets no sector that is half old and half new.
func (c *conn) lendChunk(q *wire.Request, arrive time.Time, offset uint64, n int, end bool) (int, error) {
	if c.lender == nil || n < lendBytes {
		return 0, nil
	}
	space, err := c.arenaSpace(wire.MaxDataHeaderBytes + n)
	if err != nil {
		return 0, err
	}
	start := c.clock()
	p := c.lender.Lend(int64(offset), int64(n))
	if p == nil {
		return 0, nil
	}
	rd, last := &c.reader, end && len(p) == n
	if last {
		c.account(q, arrive, start, 0)
	}
	if isZero(p) {
		c.lender.TakeBack(int64(offset))
		rd.used += wire.PutHoleChunk(space, c.extended, doneFlag(last), q.Cookie, q.OffsetBytes, offset, len(p))
		return len(p), nil
	}
	if !c.claimSender() {
		c.lender.TakeBack(int64(offset))
		return 0, nil
	}
	header := wire.PutDataChunk(space, c.extended, doneFlag(last), q.Cookie, q.OffsetBytes, offset, len(p))
	v := &c.sender.vec
	v.Reset()
	v.Append(rd.out[:rd.used+header])
	v.Append(p)
	err = c.io.send(v, false)
	rd.used += header + len(p)
	if errors.Is(err, errAgain) {
		left := v.Bytes()
		keep := min(left, len(p))
		copy(rd.out[rd.used-keep:], p[len(p)-keep:])
		v.Reset()
		v.Append(rd.out[rd.used-left : rd.used])
	}
	c.lender.TakeBack(int64(offset))
	if errors.Is(err, errAgain) {
		err = c.sendPatiently(v)
	}
	return len(p), c.flushed(v, err)
}

// adoptWrite receives a payload into memory that becomes the device's. It returns false if the device lends none.
func (c *conn) adoptWrite(q *wire.Request, payload int) (bool, error) {
	if c.lender == nil || payload < lendBytes {
		return false, nil
	}
	rd := &c.reader
	rd.lent = c.lender.Spare(int64(q.OffsetBytes), int64(payload), rd.lent[:0])
	if len(rd.lent) == 0 {
		return false, nil
	}
	if err := c.recvPayload(payload, rd.lent...); err != nil {
		c.lender.GiveUp(rd.lent)
		return false, err
	}
	start := c.clock()
	return true, c.wrote(q, start, start, c.lender.Adopt(int64(q.OffsetBytes), rd.lent, q.Flags&wire.CmdFlagFUA != 0))
}

// claimSender makes the reader the sender, if nobody is.
func (c *conn) claimSender() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sending || c.failed != nil {
		return false
	}
	c.sending = true
	return true
}
