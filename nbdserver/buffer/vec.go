// SPDX-License-Identifier: Apache-2.0

package buffer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxPieces is how many pieces a Vec takes (well below the kernel's 1024).
const MaxPieces = 128

// Vec is a list of memory pieces for one sendmsg or recvmsg. It allocates nothing once it has grown, which
// golang.org/x/sys/unix's Readv and Writev cannot promise. The zero value is ready; it is for one goroutine at a time.
type Vec struct {
	iov   []unix.Iovec
	first int // pieces before it are done
	bytes int // left
	hdr   unix.Msghdr
}

// Reset empties the list.
func (v *Vec) Reset() {
	clear(v.iov)
	v.iov, v.first, v.bytes = v.iov[:0], 0, 0
}

// Append adds a piece; the caller keeps it alive and unchanged until the I/O is over. An empty piece is left out.
func (v *Vec) Append(p []byte) {
	if len(p) == 0 {
		return
	}
	iov := unix.Iovec{Base: unsafe.SliceData(p)}
	iov.SetLen(len(p))
	v.iov = append(v.iov, iov)
	v.bytes += len(p)
}

// Full says that no more pieces fit.
func (v *Vec) Full() bool { return len(v.iov) >= MaxPieces }

// Bytes is how many bytes are left.
func (v *Vec) Bytes() int { return v.bytes }

// Pieces calls f for each piece that is left, for transports that are no sockets.
func (v *Vec) Pieces(f func([]byte) error) error {
	for i := v.first; i < len(v.iov); i++ {
		if err := f(unsafe.Slice(v.iov[i].Base, v.iov[i].Len)); err != nil {
			return err
		}
	}
	return nil
}

// Advance takes n bytes off the front.
func (v *Vec) Advance(n int) {
	v.bytes -= n
	for n > 0 {
		iov := &v.iov[v.first]
		if uint64(n) < iov.Len {
			iov.Base = (*byte)(unsafe.Add(unsafe.Pointer(iov.Base), n))
			iov.SetLen(int(iov.Len) - n)
			return
		}
		n -= int(iov.Len)
		*iov = unix.Iovec{}
		v.first++
	}
}

// Send calls sendmsg once, without waiting, with what is left, and takes off what was sent. SIGPIPE is never raised.
func (v *Vec) Send(fd int) (int, error) {
	return v.call(unix.SYS_SENDMSG, fd, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// Recv calls recvmsg once, without waiting, into what is left, and takes off what was received. Nothing and no error
// means end of stream.
func (v *Vec) Recv(fd int) (int, error) {
	return v.call(unix.SYS_RECVMSG, fd, unix.MSG_DONTWAIT)
}

// call does not tell the scheduler: a call that does not wait takes no longer than to copy what fits a socket's buffers,
// and to have other threads take over meanwhile costs more than that.
func (v *Vec) call(trap uintptr, fd, flags int) (int, error) {
	if v.first == len(v.iov) {
		return 0, nil
	}
	v.hdr.Iov = &v.iov[v.first]
	v.hdr.SetIovlen(len(v.iov) - v.first)
	n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&v.hdr)), uintptr(flags))
	v.hdr.Iov = nil
	if errno != 0 {
		return 0, errno
	}
	v.Advance(int(n))
	return int(n), nil
}
