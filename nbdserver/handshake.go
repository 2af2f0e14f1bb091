// SPDX-License-Identifier: Apache-2.0

package nbdserver

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

// handshake is a connection that still negotiates. It reads exactly what it decodes, so that nothing that came in
// plaintext is left over when TLS starts.
//
//  1. greeting and client flags
//  2. options, one after the other (negotiate)
//  3. EXPORT_NAME or GO ends it with a session
type handshake struct {
	server   *Server
	endpoint Endpoint
	ctx      context.Context
	conn     net.Conn // TLS once that is up
	plain    net.Conn
	peer     *Peer

	noZeroes bool
	tlsOn    bool
	options  int
	// refusal is the reason why the client was last refused the export refusedName, or "".
	refusal, refusedName string

	negotiated
}

// negotiated is everything that STARTTLS throws away (CVE-2021-3716).
type negotiated struct {
	mode mode
	// opened is the export that INFO, GO or the metadata options named last, kept open for the GO that follows.
	opened *openedExport
	// contexts were chosen by SET_META_CONTEXT for the export contextsFor.
	contexts    []contextID
	contextsFor string
	hasContexts bool
}

type openedExport struct {
	asked  string // name in the request; the export's own may differ for the default export
	info   ExportInfo
	device Device
	props  Properties
}

// Reasons of a failed handshake, for Metrics.
const (
	reasonLimit    = "limit"
	reasonTimeout  = "timeout"
	reasonTLS      = "tls"
	reasonPolicy   = "policy"
	reasonUnknown  = "unknown_export"
	reasonOpen     = "unavailable"
	reasonProtocol = "protocol"
	reasonClosed   = "closed"
)

// handshakeError ends a handshake; reason is one of the constants.
type handshakeError struct {
	reason string
	err    error
}

func (e *handshakeError) Error() string { return e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

func failHandshake(reason, format string, args ...any) error {
	return &handshakeError{reason, fmt.Errorf(format, args...)}
}

// run negotiates. It returns the session and the connection to go on with.
func (h *handshake) run() (session, net.Conn, error) {
	_ = h.conn.SetDeadline(time.Now().Add(h.server.limits.Handshake))
	sess, err := h.negotiate()
	if err != nil {
		h.closeOpened()
		return session{}, nil, err
	}
	_ = h.conn.SetDeadline(time.Time{})
	return sess, h.conn, nil
}

func (h *handshake) negotiate() (session, error) {
	greeting := wire.AppendGreeting(nil, wire.FlagFixedNewstyle|wire.FlagNoZeroes)
	if err := h.write(greeting); err != nil {
		return session{}, err
	}
	flags, err := h.read(4)
	if err != nil {
		return session{}, err
	}
	f := binary.BigEndian.Uint32(flags)
	// A client without the first flag may know no option but EXPORT_NAME, or may be go-nbd's, which never sets it.
	if f&^(wire.ClientFlagFixedNewstyle|wire.ClientFlagNoZeroes) != 0 {
		return session{}, failHandshake(reasonProtocol, "unknown client flags %#x", f)
	}
	h.noZeroes = f&wire.ClientFlagNoZeroes != 0
	for {
		id, data, err := h.readOption()
		if err != nil {
			return session{}, err
		}
		sess, done, err := h.option(id, data)
		if err != nil || done {
			return sess, err
		}
	}
}

// readOption reads one option. What is too large is skipped and refused by returning nil data with its id, as long as
// skipping is cheap.
func (h *handshake) readOption() (uint32, []byte, error) {
	if h.options++; h.options > h.server.limits.HandshakeOptions {
		return 0, nil, failHandshake(reasonLimit, "more than %d options", h.server.limits.HandshakeOptions)
	}
	b, err := h.read(wire.OptionHeaderBytes)
	if err != nil {
		return 0, nil, err
	}
	header, err := wire.Option(b)
	if err != nil {
		return 0, nil, &handshakeError{reasonProtocol, err}
	}
	if header.Length > uint32(h.server.limits.OptionBytes) {
		return 0, nil, failHandshake(reasonLimit, "option %d has %d bytes, at most %d allowed", header.ID, header.Length,
			h.server.limits.OptionBytes)
	}
	data, err := h.read(int(header.Length))
	return header.ID, data, err
}

// option answers one option. It returns true when the session is complete.
func (h *handshake) option(id uint32, data []byte) (session, bool, error) {
	t := h.endpoint.TLS
	if t != nil && t.Required && !h.tlsOn && id != wire.OptStartTLS && id != wire.OptAbort {
		if id == wire.OptExportName { // has no error reply
			return session{}, false, failHandshake(reasonTLS, "client asks for an export without TLS")
		}
		return session{}, false, h.replyError(id, wire.RepErrTLSRequired, "TLS is required: send STARTTLS first")
	}
	switch id {
	case wire.OptExportName:
		sess, err := h.exportName(data)
		return sess, err == nil, err
	case wire.OptGo, wire.OptInfo:
		return h.infoOrGo(id, data)
	case wire.OptAbort:
		_ = h.reply(id, wire.RepAck, nil) // the client may be gone
		return session{}, false, &handshakeError{reasonClosed, errAborted}
	case wire.OptList:
		return session{}, false, h.list(data)
	case wire.OptStartTLS:
		return session{}, false, h.startTLS(data)
	case wire.OptStructuredReply, wire.OptExtendedHeaders:
		return session{}, false, h.replyForm(id, data)
	case wire.OptListMetaContext, wire.OptSetMetaContext:
		return session{}, false, h.metaContext(id, data)
	}
	return session{}, false, h.replyError(id, wire.RepErrUnsupported, "unknown option")
}

var errAborted = errors.New("client ended the negotiation")

// replyForm handles STRUCTURED_REPLY and EXTENDED_HEADERS.
func (h *handshake) replyForm(id uint32, data []byte) error {
	wanted := modeStructured
	if id == wire.OptExtendedHeaders {
		wanted = modeExtended
	}
	switch {
	case len(data) != 0:
		return h.replyError(id, wire.RepErrInvalid, "option takes no data")
	case h.mode == modeExtended && wanted == modeStructured:
		return h.replyError(id, wire.RepErrExtendedNeeded, "extended headers are in use already")
	case h.mode == wanted:
		return h.replyError(id, wire.RepErrInvalid, "negotiated already")
	}
	h.mode = wanted
	h.clearContexts()
	return h.reply(id, wire.RepAck, nil)
}

// list handles LIST.
func (h *handshake) list(data []byte) error {
	if len(data) != 0 {
		return h.replyError(wire.OptList, wire.RepErrInvalid, "option takes no data")
	}
	exports, err := h.endpoint.Catalog.List(h.ctx, h.peer)
	if errors.Is(err, ErrDenied) {
		h.refused(reasonPolicy, "", err)
		return h.replyError(wire.OptList, wire.RepErrPolicy, "listing is not allowed")
	}
	if err != nil {
		h.server.log.Error("cannot list exports", "peer", h.peer, "error", err)
		return h.replyError(wire.OptList, wire.RepErrPlatform, "exports cannot be listed now")
	}
	var out []byte
	for _, e := range exports {
		if len(e.Name) > wire.MaxStringBytes {
			continue
		}
		description := cut(e.Description, wire.MaxStringBytes)
		out = wire.AppendOptionReply(out, wire.OptList, wire.RepServer, wire.AppendServer(nil, e.Name, description))
	}
	return h.write(wire.AppendOptionReply(out, wire.OptList, wire.RepAck, nil))
}

// read reads exactly n bytes.
func (h *handshake) read(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(h.conn, b); err != nil {
		return nil, h.ioError(err)
	}
	return b, nil
}

func (h *handshake) write(b []byte) error {
	if _, err := h.conn.Write(b); err != nil {
		return h.ioError(err)
	}
	return nil
}

func (h *handshake) ioError(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return &handshakeError{reasonTimeout, fmt.Errorf("negotiation took longer than %v: %w", h.server.limits.Handshake, err)}
	}
	return &handshakeError{reasonClosed, err}
}

func (h *handshake) reply(option, reply uint32, data []byte) error {
	return h.write(wire.AppendOptionReply(nil, option, reply, data))
}

func (h *handshake) replyError(option, reply uint32, text string) error {
	return h.reply(option, reply, []byte(text))
}

// cut shortens s to n bytes.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
