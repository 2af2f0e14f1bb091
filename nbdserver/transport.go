// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/nbdserver/buffer"
	"golang.org/x/sys/unix"
)

// errAgain says that there is nothing to receive now, or no room to send into.
var errAgain = errors.New("nbdserver: not ready")

// transport moves bytes of an established connection. One goroutine may receive while another one sends.
type transport interface {
	// recv receives at least one byte into v, or returns io.EOF or another error. Without wait it returns errAgain if
	// there is nothing; else it waits until the connection's read deadline.
	recv(v *buffer.Vec, wait bool) error
	// send sends all of v. Without wait it returns errAgain, with the rest still in v, if there is no room.
	send(v *buffer.Vec, wait bool) error
	// canPoll says that it can do without waiting.
	canPoll() bool
}

// newTransport picks the transport for c.
func newTransport(c net.Conn) transport {
	switch c := c.(type) {
	case *net.UnixConn, *net.TCPConn:
		if u, ok := c.(*net.UnixConn); ok {
			_ = u.SetWriteBuffer(unixSendBytes)
		}
		if raw, err := c.(syscall.Conn).SyscallConn(); err == nil {
			return newSocket(raw)
		}
	}
	return &plainConn{c: c}
}

// socket does system calls of its own on a socket, to move many pieces with each and to look without waiting. It waits
// in the runtime's poller, so that an idle connection has no thread. (Waiting in recvmsg itself was measured: it is slower
// at any depth, because the scheduler takes the processor away and must give it back.)
type socket struct {
	raw      syscall.RawConn
	in, out  socketOp
	sent     func(uintptr) bool
	received func(uintptr) bool
}

// socketOp are the arguments and results of one call; kept in the struct so that a call allocates nothing.
type socketOp struct {
	vec  *buffer.Vec
	wait bool
	err  error
}

func newSocket(raw syscall.RawConn) *socket {
	s := &socket{raw: raw}
	s.received, s.sent = s.doRecv, s.doSend
	return s
}

func (s *socket) canPoll() bool { return true }

func (s *socket) recv(v *buffer.Vec, wait bool) error {
	s.in = socketOp{vec: v, wait: wait}
	if err := s.raw.Read(s.received); err != nil {
		return err
	}
	return s.in.err
}

// doRecv returns false to be called again when there is something.
func (s *socket) doRecv(fd uintptr) bool {
	op := &s.in
	for {
		n, err := op.vec.Recv(int(fd))
		switch {
		case err == nil && n == 0:
			op.err = io.EOF
			return true
		case err == nil:
			op.err = nil
			return true
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			op.err = errAgain
			return !op.wait
		default:
			op.err = err
			return true
		}
	}
}

func (s *socket) send(v *buffer.Vec, wait bool) error {
	s.out = socketOp{vec: v, wait: wait}
	if err := s.raw.Write(s.sent); err != nil {
		return err
	}
	return s.out.err
}

// doSend returns false to be called again when there is room.
func (s *socket) doSend(fd uintptr) bool {
	op := &s.out
	for op.vec.Bytes() > 0 {
		_, err := op.vec.Send(int(fd))
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			op.err = errAgain
			return !op.wait
		default:
			op.err = err
			return true
		}
	}
	op.err = nil
	return true
}

// plainConn is any other connection: TLS, pipes. It always waits.
type plainConn struct {
	c      net.Conn
	gather []byte
}

// gatherBytes is what plainConn sends in one piece: a TLS record.
const gatherBytes = 16 << 10

func (p *plainConn) canPoll() bool { return false }

func (p *plainConn) recv(v *buffer.Vec, _ bool) error {
	n := 0
	err := v.Pieces(func(piece []byte) error {
		m, err := p.c.Read(piece)
		n = m
		if err == nil {
			return errAgain // the first piece is enough
		}
		return err
	})
	v.Advance(n)
	if n > 0 || errors.Is(err, errAgain) {
		return nil
	}
	return err
}

func (p *plainConn) send(v *buffer.Vec, _ bool) error {
	p.gather = p.gather[:0]
	err := v.Pieces(func(piece []byte) error {
		for len(piece) > 0 {
			if len(p.gather) == 0 && len(piece) >= gatherBytes {
				_, err := p.c.Write(piece)
				return err
			}
			if p.gather == nil {
				p.gather = make([]byte, 0, gatherBytes)
			}
			n := min(len(piece), gatherBytes-len(p.gather))
			p.gather = append(p.gather, piece[:n]...)
			piece = piece[n:]
			if len(p.gather) == gatherBytes {
				if err := p.flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = p.flush()
	}
	v.Reset()
	return err
}

func (p *plainConn) flush() error {
	if len(p.gather) == 0 {
		return nil
	}
	_, err := p.c.Write(p.gather)
	p.gather = p.gather[:0]
	return err
}

// past is a deadline that is over.
var past = time.Unix(1, 0)
