// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/luksgate/luksgate/gateway/image"
)

// ListenUnix listens on a unix socket that only its owner may use. A socket that a dead process left behind is
// replaced; one that somebody serves is an error that wraps image.ErrBusy. Closing the listener removes the socket.
func ListenUnix(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, bareError(err))
	}
	return l, nil
}

func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket %s: %w", path, bareError(err))
	}
	if st.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("socket %s: there is a file of that name that is no socket", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("socket %s: %w: another process serves on it", path, image.ErrBusy)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("socket %s: %w", path, bareError(err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket %s: %w", path, bareError(err))
	}
	return nil
}

// ListenTCP listens on host and port; port 0 is any free one.
func ListenTCP(host string, port int) (net.Listener, error) {
	address := net.JoinHostPort(host, strconv.Itoa(port))
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("address %s: %w: another process listens there", address, image.ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", address, bareError(err))
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
