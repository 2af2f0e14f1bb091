// SPDX-License-Identifier: Apache-2.0

package virt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/luksgate/luksgate/attach"
)

// ErrNoLibvirt means that no libvirt daemon listens on this host.
var ErrNoLibvirt = errors.New("no libvirt daemon answers")

// A Conn is a connection to a libvirt daemon.
type Conn struct {
	raw net.Conn
	rpc *libvirt.Libvirt
}

// Open connects. uri is a libvirt URI of this host, "" for the one that virsh would take.
func Open(ctx context.Context, uri string) (*Conn, error) {
	e, err := resolve(uri, os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("virt: %w", err)
	}
	raw, err := e.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("virt: %w", err)
	}
	c := &Conn{raw, libvirt.NewWithDialer(dialers.NewAlreadyConnected(raw))}
	err = c.call(ctx, "connecting to "+e.driver, func() error { return c.rpc.ConnectToURI(libvirt.ConnectURI(e.driver)) })
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

// dial tries the sockets. Of several failures the one that is not "there is no such file" is reported.
func (e endpoint) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	var worst error
	for _, path := range e.sockets {
		raw, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return raw, nil
		}
		if worst == nil || errors.Is(worst, fs.ErrNotExist) {
			worst = fmt.Errorf("libvirt's socket %s: %w", path, bare(err))
		}
	}
	if errors.Is(worst, fs.ErrNotExist) || errors.Is(worst, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", ErrNoLibvirt, worst)
	}
	if errors.Is(worst, fs.ErrPermission) {
		return nil, fmt.Errorf("%w; root and members of group libvirt may use it", worst)
	}
	return nil, worst
}

// bare is the error number below net's description of the same address.
func bare(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}

// call runs one remote call, or several, and gives up with ctx.
func (c *Conn) call(ctx context.Context, what string, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	defer stop()
	err := f()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("virt: %s: %w", what, err)
}

// Close ends the connection.
func (c *Conn) Close() {
	// What the daemon thinks of the farewell is of no use any more.
	_ = c.rpc.Disconnect()
	_ = c.raw.Close()
}

// Versions are those of libvirt and of the hypervisor that it starts.
func (c *Conn) Versions(ctx context.Context) (lib, hypervisor attach.Version, err error) {
	var l, h uint64
	err = c.call(ctx, "asking for versions", func() error {
		if l, err = c.rpc.ConnectGetLibVersion(); err != nil {
			return err
		}
		h, err = c.rpc.ConnectGetVersion()
		return err
	})
	return versionOf(l), versionOf(h), err
}

// versionOf takes libvirt's number apart: 1000000 * major + 1000 * minor + micro.
func versionOf(n uint64) attach.Version {
	return attach.Version{Major: int(n / 1_000_000), Minor: int(n / 1000 % 1000), Micro: int(n % 1000)}
}
