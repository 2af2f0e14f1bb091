// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

func tlsFiles(a *testenv.Authority) nbdserver.TLSFiles {
	return nbdserver.TLSFiles{Certificate: a.Path("server-cert.pem"), Key: a.Path("server-key.pem"), ClientCA: a.Path("ca-cert.pem")}
}

// clientConfig is what a client with that certificate, or none, uses.
func clientConfig(t testing.TB, a *testenv.Authority, name string, version uint16) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MaxVersion: version}
	config.RootCAs.AddCert(a.Certificate)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(a.Path(name+"-cert.pem"), a.Path(name+"-key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// secureServer returns a server with TLS and what its catalog saw.
func secureServer(t testing.TB, required bool) (*nbdserver.Server, *testenv.Authority, *nbdserver.Certificates, chan *nbdserver.Peer) {
	t.Helper()
	a := testenv.NewAuthority(t)
	a.Issue("server", 2)
	a.Issue("client", 3)
	certificates, err := nbdserver.LoadCertificates(tlsFiles(a), nil)
	if err != nil {
		t.Fatal(err)
	}
	peers := make(chan *nbdserver.Peer, 100)
	c := one(memdevice.New(4 << 20))
	c.opens = func(_ string, p *nbdserver.Peer) { peers <- p }
	s := newServer(t, nbdserver.Options{Catalog: c, TLS: &nbdserver.TLSOptions{Required: required, Config: certificates.Config}})
	return s, a, certificates, peers
}

// startTLS makes c's connection an encrypted one.
func (c *client) startTLS(config *tls.Config) error {
	c.t.Helper()
	c.expect(wire.OptStartTLS, nil, wire.RepAck)
	secure := tls.Client(c.c, config)
	if err := secure.Handshake(); err != nil {
		return err
	}
	c.c = secure
	return nil
}

func TestTLSVersions(t *testing.T) {
	s, a, _, peers := secureServer(t, true)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, mode := range modes {
			c := hello(t, s, bothFlags)
			if err := c.startTLS(clientConfig(t, a, "client", version)); err != nil {
				t.Fatal(err)
			}
			c.expect(wire.OptStartTLS, nil, wire.RepErrInvalid)
			c.negotiate(mode)
			c.goExport("")
			if p := <-peers; p.CertificateName() != "client" || p.TLS.Version != version {
				t.Errorf("catalog sees %q, TLS %x", p.CertificateName(), p.TLS.Version)
			}
			data := noise(5, 2<<20)
			if r := c.do(wire.CmdWrite, 0, 100, 2<<20, data); r.errno != 0 {
				t.Errorf("write: error %d", r.errno)
			}
			for _, n := range []uint64{1, 4096, 100000, 2 << 20} {
				if r := c.do(wire.CmdRead, 0, 100, n, nil); r.errno != 0 || !bytes.Equal(r.data, data[:n]) {
					t.Errorf("read of %d bytes: error %d or other bytes", n, r.errno)
				}
			}
			c.send(wire.CmdDisc, 0, 0, 0, nil)
			c.gone()
		}
	}
}

func TestTLSRequired(t *testing.T) {
	s, a, _, peers := secureServer(t, true)
	c := hello(t, s, bothFlags)
	for _, id := range []uint32{wire.OptList, wire.OptStructuredReply, wire.OptExtendedHeaders, 99} {
		c.expect(id, nil, wire.RepErrTLSRequired)
	}
	c.expect(wire.OptGo, infoData(""), wire.RepErrTLSRequired)
	c.expect(wire.OptInfo, infoData(""), wire.RepErrTLSRequired)
	c.expect(wire.OptStartTLS, []byte{1}, wire.RepErrInvalid)
	if err := c.startTLS(clientConfig(t, a, "client", 0)); err != nil {
		t.Fatal(err)
	}
	c.goExport("")
	c = hello(t, s, bothFlags)
	c.write(option(wire.OptExportName, nil))
	c.expectEnd()
	if len(peers) != 1 {
		t.Errorf("%d exports were opened, want the one behind TLS", len(peers))
	}
}

func TestTLSOptional(t *testing.T) {
	s, a, _, _ := secureServer(t, false)
	dial(t, s, "structured").disconnect()
	c := hello(t, s, bothFlags)
	if err := c.startTLS(clientConfig(t, a, "client", 0)); err != nil {
		t.Fatal(err)
	}
	c.goExport("")
}

func TestClientWithoutCertificateIsRefused(t *testing.T) {
	s, a, _, peers := secureServer(t, true)
	stranger := testenv.NewAuthority(t)
	stranger.Issue("client", 9)
	foreign := clientConfig(t, stranger, "client", tls.VersionTLS12)
	foreign.RootCAs = clientConfig(t, a, "", 0).RootCAs
	for _, config := range []*tls.Config{clientConfig(t, a, "", tls.VersionTLS12), foreign} {
		c := hello(t, s, bothFlags)
		if err := c.startTLS(config); err == nil {
			t.Error("TLS came up")
		}
		c.gone()
	}
	if len(peers) != 0 {
		t.Error("an export was opened")
	}
}

// TestTLSForgetsEarlierState is about CVE-2021-3716: nothing negotiated in plaintext counts afterwards.
func TestTLSForgetsEarlierState(t *testing.T) {
	s, a, _, _ := secureServer(t, false)
	c := hello(t, s, bothFlags)
	c.negotiate("structured")
	c.setContexts("", "base:allocation")
	if err := c.startTLS(clientConfig(t, a, "client", 0)); err != nil {
		t.Fatal(err)
	}
	c.expect(wire.OptSetMetaContext, contextData("", "base:allocation"), wire.RepErrInvalid)
	c.mode = "simple"
	c.goExport("")
	if r := c.do(wire.CmdRead, 0, 0, 10, nil); r.errno != 0 { // the client insists on a simple reply
		t.Errorf("error %d", r.errno)
	}
	if r := c.do(wire.CmdBlockStatus, 0, 0, 10, nil); r.errno != wire.ErrInvalid {
		t.Errorf("block status: error %d", r.errno)
	}
}

// TestPlaintextBehindSTARTTLSEndsTheConnection is about CVE-2021-3716 too: an attacker's injected options.
func TestPlaintextBehindSTARTTLSEndsTheConnection(t *testing.T) {
	s, _, _, _ := secureServer(t, false)
	c := hello(t, s, bothFlags)
	c.write(append(option(wire.OptStartTLS, nil), option(wire.OptStructuredReply, nil)...))
	c.expectEnd() // without an ACK
}

func TestCertificatesReload(t *testing.T) {
	s, a, certificates, _ := secureServer(t, true)
	serial := func() int64 {
		c := hello(t, s, bothFlags)
		if err := c.startTLS(clientConfig(t, a, "client", 0)); err != nil {
			t.Fatal(err)
		}
		return c.c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if n := serial(); n != 2 {
		t.Fatalf("serial %d", n)
	}
	a.Issue("server", 44)
	later := time.Now().Add(time.Minute) // in case the file system's clock is coarse
	for _, name := range []string{"server-cert.pem", "server-key.pem"} {
		if err := os.Chtimes(filepath.Join(a.Dir, name), later, later); err != nil {
			t.Fatal(err)
		}
	}
	if n := serial(); n != 44 {
		t.Errorf("serial %d after the change, want 44", n)
	}
	if err := os.WriteFile(filepath.Join(a.Dir, "server-cert.pem"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := serial(); n != 44 {
		t.Errorf("serial %d with a damaged file, want the earlier 44", n)
	}
	if err := certificates.Reload(); err == nil {
		t.Error("reload of a damaged file is no error")
	}
}

func TestTLSHandshakeHasADeadline(t *testing.T) {
	a := testenv.NewAuthority(t)
	a.Issue("server", 2)
	certificates, err := nbdserver.LoadCertificates(tlsFiles(a), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, nbdserver.Options{
		Catalog: one(memdevice.New(1 << 20)),
		TLS:     &nbdserver.TLSOptions{Config: certificates.Config},
		Limits:  nbdserver.Limits{Handshake: 50 * time.Millisecond},
	})
	c := hello(t, s, bothFlags)
	c.expect(wire.OptStartTLS, nil, wire.RepAck)
	c.gone()
}
