// SPDX-License-Identifier: Apache-2.0

package blockdev

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

// An export is what a server says of itself at the end of the handshake.
type export struct {
	sizeBytes     int64
	flags         uint16
	minBlockBytes uint32
}

// What a server may take and send in a handshake.
const (
	handshakeTimeout = 30 * time.Second
	maxReplyBytes    = 64 << 10
	maxReplies       = 1000
)

// negotiate does a handshake that ends in the transmission phase (proto.md, "Newstyle negotiation", option GO), with
// simple replies, which are all that kernels read.
func negotiate(conn net.Conn, name string) (export, error) {
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	defer func() { _ = conn.SetDeadline(time.Time{}) }()
	e, err := handshake(conn, name)
	if err != nil {
		return e, fmt.Errorf("blockdev: export %q: %w", name, err)
	}
	return e, nil
}

func handshake(conn net.Conn, name string) (export, error) {
	var hello protocol.NegotiationNewstyleHeader
	if err := binary.Read(conn, binary.BigEndian, &hello); err != nil {
		return export{}, fmt.Errorf("greeting: %w", err)
	}
	if hello.OldstyleMagic != wire.MagicOldstyle || hello.OptionMagic != wire.MagicOption || hello.HandshakeFlags&wire.FlagFixedNewstyle == 0 {
		return export{}, errors.New("the server does not speak the fixed newstyle protocol of NBD")
	}
	out := binary.BigEndian.AppendUint32(nil, wire.ClientFlagFixedNewstyle)
	out = binary.BigEndian.AppendUint64(out, wire.MagicOption)
	out = binary.BigEndian.AppendUint32(out, wire.OptGo)
	out = binary.BigEndian.AppendUint32(out, uint32(4+len(name)+2+2))
	out = binary.BigEndian.AppendUint32(out, uint32(len(name)))
	out = append(out, name...)
	out = binary.BigEndian.AppendUint16(out, 1)
	out = binary.BigEndian.AppendUint16(out, wire.InfoBlockSize)
	if _, err := conn.Write(out); err != nil {
		return export{}, fmt.Errorf("option: %w", err)
	}
	return readReplies(conn)
}

func readReplies(r io.Reader) (export, error) {
	e := export{sizeBytes: -1}
	for range maxReplies {
		var h protocol.NegotiationReplyHeader
		if err := binary.Read(r, binary.BigEndian, &h); err != nil {
			return e, fmt.Errorf("reply: %w", err)
		}
		if h.ReplyMagic != wire.MagicOptionReply || h.ID != wire.OptGo || h.Length > maxReplyBytes {
			return e, fmt.Errorf("reply of %d bytes with magic %#x to option %d: not one that NBD has here", h.Length, h.ReplyMagic, h.ID)
		}
		data := make([]byte, h.Length)
		if _, err := io.ReadFull(r, data); err != nil {
			return e, fmt.Errorf("reply: %w", err)
		}
		switch h.Type {
		case wire.RepAck:
			if e.sizeBytes < 0 {
				return e, errors.New("the server did not say how large it is")
			}
			return e, nil
		case wire.RepInfo:
			if err := e.take(data); err != nil {
				return e, err
			}
		case wire.RepErrUnknown:
			return e, fmt.Errorf("the server has no such export (%q)", data)
		case wire.RepErrTLSRequired:
			return e, errors.New("the server wants TLS, which the kernel cannot speak: use a unix socket or an export without it")
		default:
			return e, fmt.Errorf("the server refuses it: reply %#x (%q)", h.Type, data)
		}
	}
	return e, fmt.Errorf("more than %d replies", maxReplies)
}

// take reads an information item; unknown ones mean nothing to us.
func (e *export) take(data []byte) error {
	if len(data) < 2 {
		return errors.New("information without a type")
	}
	r := bytes.NewReader(data)
	switch binary.BigEndian.Uint16(data) {
	case wire.InfoExport:
		var info protocol.NegotiationReplyInfo
		if err := binary.Read(r, binary.BigEndian, &info); err != nil || info.Size > 1<<62 {
			return fmt.Errorf("size of the export: %d bytes of information, %d bytes large", len(data), info.Size)
		}
		e.sizeBytes, e.flags = int64(info.Size), info.TransmissionFlags
	case wire.InfoBlockSize:
		var info protocol.NegotiationReplyBlockSize
		if err := binary.Read(r, binary.BigEndian, &info); err != nil {
			return fmt.Errorf("block size of the export: %d bytes of information", len(data))
		}
		e.minBlockBytes = info.MinimumBlockSize
	}
	return nil
}

// blockBytes is the block size for the device: what was asked for, if the export allows it and is a multiple of it.
func (e export) blockBytes(asked int) (int, error) {
	if asked == 0 {
		asked = MinBlockBytes
	}
	switch {
	case asked < MinBlockBytes || asked > MaxBlockBytes || asked&(asked-1) != 0:
		return 0, fmt.Errorf("blockdev: block size %d: expected a power of two from %d to %d", asked, MinBlockBytes, MaxBlockBytes)
	case int64(asked) < int64(e.minBlockBytes):
		return 0, fmt.Errorf("blockdev: block size %d: the export takes no request below %d bytes", asked, e.minBlockBytes)
	case e.sizeBytes%int64(asked) != 0:
		return 0, fmt.Errorf("blockdev: block size %d: the export has %d bytes, which is no multiple of it", asked, e.sizeBytes)
	}
	return asked, nil
}
