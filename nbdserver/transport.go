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

// waitFor says how long a transport waits.
type waitFor uint8

const (
	waitNot   waitFor = iota
	waitShort         // in the system call, a few milliseconds
	waitLong          // in the runtime's poller, until the deadline
)

// transport moves bytes of an established connection. One goroutine may receive while another one sends.
type transport interface {
	// recv receives at least one byte into v, or returns errAgain, io.EOF or another error.
	recv(v *buffer.Vec, wait waitFor) error
	// send sends all of v, or returns errAgain with the rest still in v.
	send(v *buffer.Vec, wait waitFor) error
	// canPoll says that waitNot and waitShort differ from waitLong.
	canPoll() bool
}

// newTransport picks the transport for c.
func newTransport(c net.Conn) transport {
	switch c.(type) {
	case *net.UnixConn, *net.TCPConn:
		if raw, err := c.(syscall.Conn).SyscallConn(); err == nil {
			if s, err := newSocket(raw); err == nil {
				return s
			}
		}
	}
	return &plainConn{c: c}
}

// socket does system calls of its own on a socket. The socket is put into blocking mode with short timeouts: a busy
// connection waits in recvmsg itself, which saves the two calls (a vain recvmsg and epoll_wait) that the runtime's
// poller costs, and the reply of a client that is just reading goes out in one call. Long waits go to the poller, so that
// an idle connection has no thread.
type socket struct {
	raw      syscall.RawConn
	in, out  socketOp
	sent     func(uintptr) bool
	received func(uintptr) bool
}

// socketOp are the arguments and results of one call; kept in the struct so that a call allocates nothing.
type socketOp struct {
	vec  *buffer.Vec
	wait waitFor
	err  error
}

func newSocket(raw syscall.RawConn) (*socket, error) {
	s := &socket{raw: raw}
	s.received, s.sent = s.doRecv, s.doSend
	var err error
	cerr := raw.Control(func(fd uintptr) {
		recvWait, sendWait := unix.NsecToTimeval(int64(hotWait)), unix.NsecToTimeval(int64(sendWait))
		if err = unix.SetsockoptTimeval(int(fd), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &recvWait); err != nil {
			return
		}
		if err = unix.SetsockoptTimeval(int(fd), unix.SOL_SOCKET, unix.SO_SNDTIMEO, &sendWait); err != nil {
			return
		}
		err = unix.SetNonblock(int(fd), false)
	})
	return s, errors.Join(cerr, err)
}

func (s *socket) canPoll() bool { return true }

func (s *socket) recv(v *buffer.Vec, wait waitFor) error {
	s.in = socketOp{vec: v, wait: wait}
	if err := s.raw.Read(s.received); err != nil {
		return err
	}
	return s.in.err
}

func (s *socket) doRecv(fd uintptr) bool {
	op := &s.in
	flags := unix.MSG_DONTWAIT
	if op.wait == waitShort {
		flags = 0
	}
	for {
		n, err := op.vec.Recv(int(fd), flags)
		switch {
		case err == nil && n == 0:
			op.err = io.EOF
			return true
		case err == nil:
			op.err = nil
			return true
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			op.err = errAgain
			return op.wait != waitLong
		default:
			op.err = err
			return true
		}
	}
}

func (s *socket) send(v *buffer.Vec, wait waitFor) error {
	s.out = socketOp{vec: v, wait: wait}
	if err := s.raw.Write(s.sent); err != nil {
		return err
	}
	return s.out.err
}

func (s *socket) doSend(fd uintptr) bool {
	op := &s.out
	flags := 0
	if op.wait == waitNot {
		flags = unix.MSG_DONTWAIT
	}
	for op.vec.Bytes() > 0 {
		_, err := op.vec.Send(int(fd), flags)
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			op.err = errAgain
			return op.wait != waitLong
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

func (p *plainConn) recv(v *buffer.Vec, _ waitFor) error {
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

func (p *plainConn) send(v *buffer.Vec, _ waitFor) error {
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
