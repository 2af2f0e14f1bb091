// SPDX-License-Identifier: Apache-2.0

package access_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/gateway/access"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/nbdserver"
)

// certified is a client with a certificate of these names, the common name first.
func certified(verified bool, names ...string) *nbdserver.Peer {
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names[1:]}
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if verified {
		state.VerifiedChains = [][]*x509.Certificate{{leaf}}
	}
	return &nbdserver.Peer{Network: "tcp", TLS: state}
}

func local(uid, gid uint32, groups ...uint32) *nbdserver.Peer {
	return &nbdserver.Peer{Network: "unix", HasCredentials: true, UID: uid, GID: gid, Groups: groups}
}

func TestPolicy(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules access.Rules
		peer  *nbdserver.Peer
		want  bool
	}{
		{"no rules", access.Rules{}, &nbdserver.Peer{}, true},
		{"user", access.Rules{Users: []string{"7", "root"}}, local(0, 9), true},
		{"other user", access.Rules{Users: []string{"7", "root"}}, local(8, 7, 0), false},
		{"no credentials", access.Rules{Users: []string{"root"}, Groups: []string{"root"}}, &nbdserver.Peer{}, false},
		{"nobody known", access.Rules{Users: []string{"0"}}, nil, false},
		{"group", access.Rules{Groups: []string{"7"}}, local(8, 7), true},
		{"supplementary group", access.Rules{Groups: []string{"7"}}, local(8, 8, 6, 7), true},
		{"other group", access.Rules{Groups: []string{"7"}}, local(7, 8, 6), false},
		{"one of the lists", access.Rules{Users: []string{"1"}, Groups: []string{"2"}, Certificates: []string{"a"}}, certified(true, "a"), true},
		{"common name", access.Rules{Certificates: []string{"vm host"}}, certified(true, "vm host"), true},
		{"DNS name", access.Rules{Certificates: []string{"b.example.com"}}, certified(true, "a", "c", "B.Example.com"), true},
		{"another name", access.Rules{Certificates: []string{"b.example.com"}}, certified(true, "ab.example.com"), false},
		{"not verified", access.Rules{Certificates: []string{"a"}}, certified(false, "a"), false},
		{"no name", access.Rules{Certificates: []string{"a"}}, certified(true, ""), false},
		{"wildcard", access.Rules{Certificates: []string{"*.example.com"}}, certified(true, "a.EXAMPLE.com"), true},
		{"wildcard for one label", access.Rules{Certificates: []string{"*.example.com"}}, certified(true, "a.b.example.com"), false},
		{"wildcard for a label", access.Rules{Certificates: []string{"*.example.com"}}, certified(true, "example.com", ".example.com"), false},
		{"suffix", access.Rules{Certificates: []string{"*.example.com"}}, certified(true, "a.badexample.com", "a.example.com.evil.org"), false},
		{"wildcard in the certificate", access.Rules{Certificates: []string{"a.example.com", "*.example.com"}}, certified(true, "*.example.com"), false},
	} {
		p, err := access.NewPolicy(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		err = p.Check(c.peer)
		if (err == nil) != c.want || err != nil && !errors.Is(err, nbdserver.ErrDenied) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestRulesThatNameNobody(t *testing.T) {
	for _, rules := range []access.Rules{
		{Users: []string{"no-such-user"}}, {Users: []string{""}}, {Users: []string{"-1"}}, {Users: []string{"4294967295"}},
		{Groups: []string{"no-such-group"}}, {Groups: []string{"1.5"}},
		{Certificates: []string{""}}, {Certificates: []string{"*"}}, {Certificates: []string{"*.com"}}, {Certificates: []string{"a*.example.com"}},
		{Certificates: []string{"*.*.example.com"}}, {Certificates: []string{strings.Repeat("a", 256)}},
	} {
		if p, err := access.NewPolicy(rules); err == nil {
			t.Errorf("%+v: %+v", rules, p)
		}
	}
}

// TestListen tries what the server's own tests do not: names of owners, changes, and who is in the way.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := access.ListenUnix(path, access.Socket{Mode: 0o600, Owner: strconv.Itoa(os.Getuid())})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := access.ListenUnix(path, access.Socket{Mode: 0o600}); !errors.Is(err, image.ErrBusy) {
		t.Errorf("a socket in use: %v", err)
	}
	if err := (access.Socket{Mode: 0o620, Group: strconv.Itoa(os.Getgid())}).Apply(path); err != nil {
		t.Error(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o620 || int(info.Sys().(*syscall.Stat_t).Gid) != os.Getgid() {
		t.Errorf("%v, %v", info, err)
	}
	if err := (access.Socket{Mode: 0o600, Owner: "no-such-user"}).Apply(path); err == nil {
		t.Error("an owner who does not exist")
	}
	tcp, err := access.ListenTCP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	if _, err := access.ListenTCP(tcp.Addr().String()); !errors.Is(err, image.ErrBusy) {
		t.Errorf("an address in use: %v", err)
	}
}
