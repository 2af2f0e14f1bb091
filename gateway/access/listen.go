// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/nbdserver"
)

// A Socket says who may connect to a unix socket. Owner and Group are names or numbers; empty means the process's own.
type Socket struct {
	Mode         fs.FileMode
	Owner, Group string
}

func (s Socket) options() (nbdserver.SocketOptions, error) {
	o := nbdserver.SocketOptions{Mode: s.Mode.Perm(), UID: -1, GID: -1}
	if s.Owner != "" {
		n, err := UserID(s.Owner)
		if err != nil {
			return o, err
		}
		o.UID = int(n)
	}
	if s.Group != "" {
		n, err := GroupID(s.Group)
		if err != nil {
			return o, err
		}
		o.GID = int(n)
	}
	return o, nil
}

// ListenUnix listens on a unix socket, as nbdserver.ListenUnix does. A socket that somebody serves is an error that wraps
// image.ErrBusy.
func ListenUnix(path string, s Socket) (*nbdserver.UnixListener, error) {
	o, err := s.options()
	if err != nil {
		return nil, fmt.Errorf("access: socket %s: %w", path, err)
	}
	l, err := nbdserver.ListenUnix(path, o)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: %w", image.ErrBusy, err)
	}
	return l, err
}

// Apply changes who may connect to a socket that is there.
func (s Socket) Apply(path string) error {
	o, err := s.options()
	if err == nil && (o.UID >= 0 || o.GID >= 0) {
		err = os.Chown(path, o.UID, o.GID)
	}
	if err == nil {
		err = os.Chmod(path, o.Mode)
	}
	if err != nil {
		return fmt.Errorf("access: socket %s: %w", path, err)
	}
	return nil
}

// ListenTCP listens on HOST:PORT; port 0 is any free one. An address that somebody else listens on is an error that wraps
// image.ErrBusy.
func ListenTCP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("access: address %s: %w: another process listens there", address, image.ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("access: address %s: %w", address, bareError(err))
	}
	return l, nil
}

// bareError is the error number below the layers of packages net and os, which repeat what we say ourselves.
func bareError(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}
