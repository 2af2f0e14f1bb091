// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An Authority signs certificates for as long as a test runs.
type Authority struct {
	// Dir has ca-cert.pem and what Issue writes, with the names that libnbd and libvirt expect.
	Dir string
	// Certificate is the authority's own.
	Certificate *x509.Certificate

	tb  testing.TB
	key *ecdsa.PrivateKey
}

// NewAuthority makes an authority with a folder of its own.
func NewAuthority(tb testing.TB) *Authority {
	tb.Helper()
	a := &Authority{tb: tb, Dir: tb.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	key, der := a.sign(template, template)
	var err error
	if a.Certificate, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	a.key = key
	a.save("ca-cert.pem", "CERTIFICATE", der)
	return a
}

// Issue writes NAME-cert.pem and NAME-key.pem for a server or client with that common name, for localhost and the DNS
// names.
func (a *Authority) Issue(name string, serial int64, dnsNames ...string) {
	a.tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: append(dnsNames, "localhost"),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	key, der := a.sign(template, a.Certificate)
	a.save(name+"-cert.pem", "CERTIFICATE", der)
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	a.save(name+"-key.pem", "PRIVATE KEY", b)
}

// sign makes a key and a certificate of it, signed with the authority's key, or with itself as long as there is none.
func (a *Authority) sign(template, parent *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.tb.Fatal(err)
	}
	return key, der
}

func (a *Authority) save(name, kind string, der []byte) {
	a.tb.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(filepath.Join(a.Dir, name), b, 0o600); err != nil {
		a.tb.Fatal(err)
	}
}

// Path is the path of a file of the authority's.
func (a *Authority) Path(name string) string { return filepath.Join(a.Dir, name) }
