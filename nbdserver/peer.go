// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
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
	// Groups are the client's supplementary groups at that time (SO_PEERGROUPS), which may repeat GID.
	Groups []uint32 `json:",omitempty"`
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

// CertificateNames are the common name and the DNS names of the client's verified certificate, or none.
func (p *Peer) CertificateNames() []string {
	if p.TLS == nil || len(p.TLS.VerifiedChains) == 0 {
		return nil
	}
	var names []string
	leaf := p.TLS.VerifiedChains[0][0]
	for _, name := range append([]string{leaf.Subject.CommonName}, leaf.DNSNames...) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// AllGroups are the groups of a client with credentials, its own first.
func (p *Peer) AllGroups() []uint32 {
	if !p.HasCredentials {
		return nil
	}
	all := []uint32{p.GID}
	for _, g := range p.Groups {
		if g != p.GID {
			all = append(all, g)
		}
	}
	return all
}

// LogValue implements slog.LogValuer.
func (p *Peer) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("network", p.Network)}
	if p.Address != "" && p.Address != "@" {
		attrs = append(attrs, slog.String("address", p.Address))
	}
	if p.HasCredentials {
		attrs = append(attrs, slog.Int("pid", int(p.PID)), slog.Uint64("uid", uint64(p.UID)),
			slog.Uint64("gid", uint64(p.GID)))
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
			p.Groups = peerGroups(fd)
		}
		if label, err := unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_PEERSEC); err == nil {
			p.SecurityLabel = strings.TrimRight(label, "\x00\n")
		}
	})
	return p
}
