// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Peer is who is on the other end of a connection. It does not change once a Catalog sees it.
type Peer struct {
	// Network is "unix", "tcp" or another name of package net; Address is the remote address ("" or "@" for unix).
	Network, Address string

	// Credentials of a unix socket's client at the time it connected (SO_PEERCRED). HasCredentials says that they
	// are known.
	HasCredentials bool
	PID            int32
	UID, GID       uint32
	// SecurityLabel is the client's label (SO_PEERSEC), such as AppArmor's "libvirt-<uuid> (enforce)"; "" if none.
	SecurityLabel string

	// TLS is the state of an encrypted connection, else nil.
	TLS *tls.ConnectionState
}

// CertificateName is the subject's common name of the client's verified certificate, or "".
func (p *Peer) CertificateName() string {
	if p.TLS == nil || len(p.TLS.VerifiedChains) == 0 {
		return ""
	}
	return p.TLS.VerifiedChains[0][0].Subject.CommonName
}

// LogValue implements slog.LogValuer.
func (p *Peer) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("network", p.Network)}
	if p.Address != "" && p.Address != "@" {
		attrs = append(attrs, slog.String("address", p.Address))
	}
	if p.HasCredentials {
		attrs = append(attrs, slog.Int("pid", int(p.PID)), slog.Uint64("uid", uint64(p.UID)))
	}
	if p.SecurityLabel != "" {
		attrs = append(attrs, slog.String("label", p.SecurityLabel))
	}
	if name := p.CertificateName(); name != "" {
		attrs = append(attrs, slog.String("certificate", name))
	}
	return slog.GroupValue(attrs...)
}

// peerOf finds out who is on the other end of c.
func peerOf(c net.Conn) *Peer {
	p := &Peer{}
	if addr := c.RemoteAddr(); addr != nil {
		p.Network, p.Address = addr.Network(), addr.String()
	}
	sc, ok := c.(syscall.Conn)
	if !ok || !strings.HasPrefix(p.Network, "unix") {
		return p
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return p
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			p.HasCredentials, p.PID, p.UID, p.GID = true, cred.Pid, cred.Uid, cred.Gid
		}
		if label, err := unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_PEERSEC); err == nil {
			p.SecurityLabel = strings.TrimRight(label, "\x00\n")
		}
	})
	return p
}
