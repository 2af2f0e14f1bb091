// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"errors"
	"syscall"

	"github.com/luksgate/luksgate/nbdserver/wire"
)

// errnoOf is the only place where an error becomes a number on the wire (proto.md, "Error values"). ESHUTDOWN is never
// used: qemu passes it on to the guest as an I/O error instead of connecting again.
func errnoOf(err error, fastZero bool) uint32 {
	if err == nil {
		return 0
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return wire.ErrIO
	}
	switch errno {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return wire.ErrPerm
	case syscall.ENOMEM:
		return wire.ErrNoMem
	case syscall.EINVAL:
		return wire.ErrInvalid
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return wire.ErrNoSpace
	case syscall.EOPNOTSUPP:
		if fastZero { // the only command that may answer it
			return wire.ErrNotSup
		}
		return wire.ErrInvalid
	}
	return wire.ErrIO
}

// errnoText is what a client gets to read: short, because qemu 4.2 loses the disk over payloads above 1000 bytes, and
// constant, because the real error may name things that are none of the client's business. That one is in the log.
func errnoText(errno uint32) string {
	switch errno {
	case wire.ErrPerm:
		return "operation not permitted"
	case wire.ErrIO:
		return "input/output error, see the server's log"
	case wire.ErrNoMem:
		return "out of memory"
	case wire.ErrInvalid:
		return "invalid request"
	case wire.ErrNoSpace:
		return "no space left on the device"
	case wire.ErrOverflow:
		return "too large"
	case wire.ErrNotSup:
		return "not supported"
	}
	return ""
}
