// SPDX-License-Identifier: Apache-2.0

// Package nbdclient is an NBD client that keeps many requests in flight on one connection, for measuring servers. It is
// not a client for anything else: no structured replies, no TLS, no metadata contexts.
//
// Who asks fills an Op and submits it; when its reply is there, the connection's reader calls Op.Done, which may submit the
// Op anew. Reader and writer are two goroutines that never wait for each other, so that a server which does not read before
// its reply is taken is served too.
package nbdclient

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/nbdserver/client"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

const (
	// maxOps bounds the Ops of a connection.
	maxOps = 4096
	// batch is how many requests one system call sends at most, inBytes how much one receives.
	batch   = 64
	inBytes = 256 << 10
)

// ErrClosed is why a connection ended that Close closed.
var ErrClosed = errors.New("nbd: connection closed")

// A Conn is one connection to one export. Submit and Close may be called by any goroutine.
type Conn struct {
	// SizeBytes and Flags are what the server says of the export (wire.ExportReadOnly and so on).
	SizeBytes int64
	Flags     uint16

	raw   net.Conn
	in    *bufio.Reader
	ops   []*Op
	queue chan *Op // never full: it has room for all Ops

	dead chan struct{} // closed when nothing comes any more
	once sync.Once
	err  error // valid when dead is closed
	wg   sync.WaitGroup
}

// An Op is a request, used again and again. Between Submit and Done it belongs to the connection.
type Op struct {
	Command, Flags uint16
	OffsetBytes    int64
	LengthBytes    uint32
	// Data is what is written, or where what is read goes: LengthBytes of it. It is only read, or only written, by the
	// connection.
	Data []byte
	// Done is called by the connection's reader; it must not block. err is a syscall.Errno that the server sent, or nil.
	// It is not called when the connection ends: see Dead.
	Done func(op *Op, err error)
	// Began is when it was submitted.
	Began time.Time

	cookie uint64
	busy   atomic.Bool // in flight: set by the writer before it sends, cleared by the reader after the reply
}

// Ask makes the op a write of Data, or a read into it, at an offset.
func (op *Op) Ask(write bool, offsetBytes int64) {
	op.Command, op.OffsetBytes = wire.CmdRead, offsetBytes
	if write {
		op.Command = wire.CmdWrite
	}
}

func newConn(raw net.Conn) *Conn {
	c := &Conn{
		raw: raw, in: bufio.NewReaderSize(raw, inBytes),
		queue: make(chan *Op, maxOps), dead: make(chan struct{}),
	}
	c.wg.Add(2)
	return c
}

// NewOp makes one more Op. All are made before the first is submitted.
func (c *Conn) NewOp() *Op {
	if len(c.ops) == maxOps {
		panic("BUG: nbdclient: too many Ops for one connection")
	}
	op := &Op{cookie: uint64(len(c.ops))}
	c.ops = append(c.ops, op)
	return op
}

// Submit sends the request. It never blocks.
func (c *Conn) Submit(op *Op) {
	op.Began = time.Now()
	c.queue <- op
}

// Dead is closed when the connection has ended; Err says why.
func (c *Conn) Dead() <-chan struct{} { return c.dead }

// Err is why the connection ended; it is valid once Dead is closed.
func (c *Conn) Err() error { return c.err }

func (c *Conn) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.dead)
		_ = c.raw.Close() // wakes the other goroutine
	})
}

// Close ends the connection politely, if nothing is in flight, and waits for its goroutines.
func (c *Conn) Close() error {
	bye := &Op{Command: wire.CmdDisc, cookie: maxOps}
	select {
	case <-c.dead:
	default:
		c.queue <- bye // the server closes the connection, and the reader ends
		select {
		case <-c.dead:
		case <-time.After(time.Second):
		}
	}
	c.fail(ErrClosed)
	c.wg.Wait()
	return nil
}

// write takes what is to be sent and sends it, as much as there is with one system call.
func (c *Conn) write() {
	defer c.wg.Done()
	headers := make([]byte, batch*wire.RequestBytes)
	for {
		var op *Op
		select {
		case op = <-c.queue:
		case <-c.dead:
			return
		}
		var parts net.Buffers
		for n := 0; ; {
			h := headers[n*wire.RequestBytes : (n+1)*wire.RequestBytes]
			wire.PutRequest(h, &wire.Request{
				Flags: op.Flags, Command: op.Command, Cookie: op.cookie,
				OffsetBytes: uint64(op.OffsetBytes), LengthBytes: uint64(op.LengthBytes),
			})
			op.busy.Store(true)
			parts = append(parts, h)
			if op.Command == wire.CmdWrite {
				parts = append(parts, op.Data[:op.LengthBytes])
			}
			if n++; n == batch || len(c.queue) == 0 {
				break
			}
			op = <-c.queue
		}
		if _, err := parts.WriteTo(c.raw); err != nil {
			c.fail(fmt.Errorf("nbd: send: %w", err))
			return
		}
	}
}

// read takes the replies.
func (c *Conn) read() {
	defer c.wg.Done()
	for {
		if err := c.reply(); err != nil {
			c.fail(fmt.Errorf("nbd: receive: %w", err))
			return
		}
	}
}

func (c *Conn) reply() error {
	var head [wire.SimpleReplyBytes]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return err
	}
	cookie := binary.BigEndian.Uint64(head[8:])
	if binary.BigEndian.Uint32(head[:]) != wire.MagicSimpleReply || cookie >= uint64(len(c.ops)) || !c.ops[cookie].busy.Load() {
		return fmt.Errorf("%w: reply %x to nothing that was asked for", client.ErrProtocol, head)
	}
	op := c.ops[cookie]
	var failed error
	if no := binary.BigEndian.Uint32(head[4:]); no != 0 {
		failed = syscall.Errno(no)
	} else if op.Command == wire.CmdRead {
		if _, err := io.ReadFull(c.in, op.Data[:op.LengthBytes]); err != nil {
			return err
		}
	}
	op.busy.Store(false)
	op.Done(op, failed)
	return nil
}

// Do sends one request and waits for its reply. Nothing else may be in flight but by other calls of Do with other Ops.
func (c *Conn) Do(op *Op) error {
	result := make(chan error, 1)
	op.Done = func(_ *Op, err error) { result <- err }
	c.Submit(op)
	select {
	case err := <-result:
		return err
	case <-c.dead:
		return c.err
	}
}
