// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"

	"github.com/luksgate/luksgate/nbdserver/wire"
	"golang.org/x/sys/unix"
)

// TLSOptions switch TLS on.
type TLSOptions struct {
	// Required refuses everything but STARTTLS and ABORT in plaintext.
	Required bool
	// Config is asked for each handshake, so that certificates can change while the server runs (see Certificates).
	Config func() (*tls.Config, error)
}

// startTLS handles STARTTLS. Everything negotiated in plaintext is forgotten, and a client that sent more plaintext
// before it had the answer is dropped (CVE-2021-3716).
func (h *handshake) startTLS(data []byte) error {
	id := wire.OptStartTLS
	switch {
	case len(data) != 0:
		return h.replyError(id, wire.RepErrInvalid, "option takes no data")
	case h.endpoint.TLS == nil:
		return h.replyError(id, wire.RepErrUnsupported, "TLS is not configured")
	case h.tlsOn:
		return h.replyError(id, wire.RepErrInvalid, "TLS is on already")
	}
	config, err := h.endpoint.TLS.Config()
	if err != nil {
		h.server.log.Error("TLS is not available", "error", err)
		return h.replyError(id, wire.RepErrPlatform, "TLS is not available now")
	}
	h.closeOpened()
	h.negotiated = negotiated{}
	if pending(h.plain) {
		return failHandshake(reasonTLS, "client sent plaintext behind STARTTLS")
	}
	if err := h.reply(id, wire.RepAck, nil); err != nil {
		return err
	}
	t := tls.Server(h.plain, config)
	if err := t.HandshakeContext(h.ctx); err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return h.ioError(err)
		}
		return failHandshake(reasonTLS, "TLS: %w", err)
	}
	state := t.ConnectionState()
	secured := *h.peer
	secured.TLS = &state
	h.conn, h.peer, h.tlsOn = t, &secured, true
	return nil
}

// pending says whether bytes wait to be received. The handshake reads exactly what it needs, so they are in the socket.
func pending(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	var n int
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && n > 0
}
