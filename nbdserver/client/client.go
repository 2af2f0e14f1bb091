// SPDX-License-Identifier: Apache-2.0

// Package client is the handshake of an NBD client. What comes after it is its callers' business: the kernel's, or that of
// a program that measures servers. No TLS, no structured replies, no metadata contexts.
package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/luksgate/luksgate/nbdserver/wire"
)

// An Export is what a server says of itself at the end of the handshake.
type Export struct {
	SizeBytes int64
	// Flags are wire.ExportReadOnly and so on.
	Flags uint16
	// MinBlockBytes is the smallest request; 0 if the server says nothing of it.
	MinBlockBytes uint32
}

// ErrProtocol is what a server says that NBD does not know.
var ErrProtocol = errors.New("not the NBD protocol")

// What a server may take and send in a handshake. It may fetch a key and open an image before it answers, and deriving a key takes
// tens of seconds where the processor is slow or busy.
const (
	handshakeTimeout = 2 * time.Minute
	maxReplyBytes    = 64 << 10
	maxReplies       = 1000
)

// Negotiate does a handshake that ends in the transmission phase (proto.md, "Newstyle negotiation", option GO), with
// simple replies. It reads nothing beyond that, and bounds the time that a server takes. "" is the default export.
func Negotiate(conn net.Conn, export string) (Export, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return Export{}, err
	}
	e, err := handshake(conn, export)
	return e, errors.Join(err, conn.SetDeadline(time.Time{}))
}

func handshake(conn io.ReadWriter, name string) (Export, error) {
	var hello protocol.NegotiationNewstyleHeader
	if err := binary.Read(conn, binary.BigEndian, &hello); err != nil {
		return Export{}, fmt.Errorf("greeting: %w", err)
	}
	if hello.OldstyleMagic != wire.MagicOldstyle || hello.OptionMagic != wire.MagicOption || hello.HandshakeFlags&wire.FlagFixedNewstyle == 0 {
		return Export{}, fmt.Errorf("%w: the server's greeting is %+v, expected that of fixed newstyle", ErrProtocol, hello)
	}
	answer := wire.ClientFlagFixedNewstyle
	if hello.HandshakeFlags&wire.FlagNoZeroes != 0 {
		answer |= wire.ClientFlagNoZeroes
	}
	out := binary.BigEndian.AppendUint32(nil, answer)
	out = binary.BigEndian.AppendUint64(out, wire.MagicOption)
	out = binary.BigEndian.AppendUint32(out, wire.OptGo)
	out = binary.BigEndian.AppendUint32(out, uint32(4+len(name)+2+2))
	out = binary.BigEndian.AppendUint32(out, uint32(len(name)))
	out = append(out, name...)
	out = binary.BigEndian.AppendUint16(out, 1)
	out = binary.BigEndian.AppendUint16(out, wire.InfoBlockSize)
	if _, err := conn.Write(out); err != nil {
		return Export{}, fmt.Errorf("choosing the export: %w", err)
	}
	return readReplies(conn)
}

func readReplies(r io.Reader) (Export, error) {
	e := Export{SizeBytes: -1}
	for range maxReplies {
		var h protocol.NegotiationReplyHeader
		if err := binary.Read(r, binary.BigEndian, &h); err != nil {
			return e, fmt.Errorf("answer to the choice of the export: %w", err)
		}
		if h.ReplyMagic != wire.MagicOptionReply || h.ID != wire.OptGo || h.Length > maxReplyBytes {
			return e, fmt.Errorf("%w: answer of %d bytes with magic %#x to option %d is not one that NBD has here", ErrProtocol, h.Length, h.ReplyMagic, h.ID)
		}
		data := make([]byte, h.Length)
		if _, err := io.ReadFull(r, data); err != nil {
			return e, fmt.Errorf("answer to the choice of the export: %w", err)
		}
		switch h.Type {
		case wire.RepAck:
			if e.SizeBytes < 0 {
				return e, fmt.Errorf("%w: the server did not say how large the export is", ErrProtocol)
			}
			return e, nil
		case wire.RepInfo:
			if err := e.take(data); err != nil {
				return e, err
			}
		case wire.RepErrUnknown:
			return e, fmt.Errorf("the server refuses it: it has no such export (%q)", data)
		case wire.RepErrTLSRequired:
			return e, errors.New("the server refuses it: it wants TLS, which is not spoken here: use a unix socket or an export without it")
		default:
			return e, fmt.Errorf("the server refuses it: error %#x %q", h.Type, data)
		}
	}
	return e, fmt.Errorf("%w: more than %d answers", ErrProtocol, maxReplies)
}

// take reads an information item; unknown ones mean nothing to us.
func (e *Export) take(data []byte) error {
	if len(data) < 2 {
		return fmt.Errorf("%w: information without a type", ErrProtocol)
	}
	r := bytes.NewReader(data)
	switch binary.BigEndian.Uint16(data) {
	case wire.InfoExport:
		var info protocol.NegotiationReplyInfo
		if err := binary.Read(r, binary.BigEndian, &info); err != nil || info.Size > 1<<62 {
			return fmt.Errorf("%w: size of the export: %d bytes of information, %d bytes large", ErrProtocol, len(data), info.Size)
		}
		e.SizeBytes, e.Flags = int64(info.Size), info.TransmissionFlags
	case wire.InfoBlockSize:
		var info protocol.NegotiationReplyBlockSize
		if err := binary.Read(r, binary.BigEndian, &info); err != nil {
			return fmt.Errorf("%w: block size of the export: %d bytes of information", ErrProtocol, len(data))
		}
		e.MinBlockBytes = info.MinimumBlockSize
	}
	return nil
}
