// SPDX-License-Identifier: Apache-2.0

package nbdclient

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/luksgate/luksgate/nbdserver/client"
)

// Dial connects to a unix socket or a TCP address, and chooses an export; "" is the default one.
func Dial(ctx context.Context, network, address, export string) (*Conn, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("nbd: %w", err)
	}
	c, err := New(raw, export)
	if err != nil {
		return nil, fmt.Errorf("nbd: export %q at %s: %w", export, address, err)
	}
	return c, nil
}

// New does the handshake on a connection, which it owns from now on: it is closed if there is an error.
func New(raw net.Conn, export string) (*Conn, error) {
	c := newConn(raw)
	e, err := client.Negotiate(raw, export)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	c.SizeBytes, c.Flags = e.SizeBytes, e.Flags
	go c.read()
	go c.write()
	return c, nil
}
