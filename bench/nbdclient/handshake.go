// SPDX-License-Identifier: Apache-2.0

package nbdclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/luksgate/luksgate/nbdserver/wire"
)

const (
	// handshakeTimeout bounds a server that says nothing.
	handshakeTimeout = 30 * time.Second
	// maxReplyBytes is the longest answer to an option that is read.
	maxReplyBytes = 64 << 10
)

// ErrProtocol is what a server says that NBD does not know.
var ErrProtocol = errors.New("not the NBD protocol")

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
	if err := c.handshake(export); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	go c.read()
	go c.write()
	return c, nil
}

// handshake is fixed newstyle with NBD_OPT_GO, without structured replies: simple ones are the least to parse.
func (c *Conn) handshake(export string) error {
	if err := c.raw.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	var greeting [wire.GreetingBytes]byte
	if _, err := io.ReadFull(c.in, greeting[:]); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	flags := binary.BigEndian.Uint16(greeting[16:])
	if binary.BigEndian.Uint64(greeting[:]) != wire.MagicOldstyle ||
		binary.BigEndian.Uint64(greeting[8:]) != wire.MagicOption || flags&wire.FlagFixedNewstyle == 0 {
		return fmt.Errorf("%w: the server's greeting is %x, expected that of fixed newstyle", ErrProtocol, greeting)
	}
	answer := wire.ClientFlagFixedNewstyle
	if flags&wire.FlagNoZeroes != 0 {
		answer |= wire.ClientFlagNoZeroes
	}
	b := binary.BigEndian.AppendUint32(nil, answer)
	b = binary.BigEndian.AppendUint64(b, wire.MagicOption)
	b = binary.BigEndian.AppendUint32(b, wire.OptGo)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(export)+2))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 0)
	if _, err := c.raw.Write(b); err != nil {
		return err
	}
	for {
		if done, err := c.optionReply(); done || err != nil {
			return errors.Join(err, c.raw.SetDeadline(time.Time{}))
		}
	}
}

// optionReply reads one answer to NBD_OPT_GO; the last one is an acknowledgement.
func (c *Conn) optionReply() (done bool, err error) {
	var head [wire.OptionReplyHeaderBytes]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return false, fmt.Errorf("answer to the choice of the export: %w", err)
	}
	kind, length := binary.BigEndian.Uint32(head[12:]), binary.BigEndian.Uint32(head[16:])
	if binary.BigEndian.Uint64(head[:]) != wire.MagicOptionReply || length > maxReplyBytes {
		return false, fmt.Errorf("%w: answer %x to the choice of the export", ErrProtocol, head)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(c.in, data); err != nil {
		return false, err
	}
	switch {
	case kind == wire.RepAck:
		if c.SizeBytes == 0 && c.Flags == 0 {
			return false, fmt.Errorf("%w: the server says nothing about the export", ErrProtocol)
		}
		return true, nil
	case kind == wire.RepInfo && len(data) >= 12 && binary.BigEndian.Uint16(data) == wire.InfoExport:
		c.SizeBytes = int64(binary.BigEndian.Uint64(data[2:]))
		c.Flags = binary.BigEndian.Uint16(data[10:])
		if c.SizeBytes < 0 {
			return false, fmt.Errorf("%w: the export has %d bytes", ErrProtocol, uint64(c.SizeBytes))
		}
	case kind&(1<<31) != 0:
		return false, fmt.Errorf("the server refuses it: error %#x %q", kind, data)
	}
	return false, nil
}
