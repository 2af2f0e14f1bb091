// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// certificates makes a directory with an authority and certificates of a server and a client, as gnutls programs want it.
func certificates(t *testing.T, serverName string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(template, parent *x509.Certificate, public *ecdsa.PrivateKey, signer *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &public.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	template := func(n int64, name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true}
	}
	caKey, ca := key(), template(1, "test authority")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	write("ca-cert.pem", "CERTIFICATE", sign(ca, ca, caKey, caKey))
	for i, name := range []string{"server", "client"} {
		k, c := key(), template(int64(i+2), name)
		c.KeyUsage = x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		c.DNSNames = []string{serverName}
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"-key.pem", "PRIVATE KEY", der)
		write(name+"-cert.pem", "CERTIFICATE", sign(c, ca, k, caKey))
	}
	return dir
}

// The lines for TLS work with qemu, over TCP and, for a qemu that can, over a unix socket with the name of the server.
func TestQemuOpensLinesWithTLS(t *testing.T) {
	qemuIO := testenv.Tool(t, "qemu-io")
	dir := certificates(t, "gw1.example.org")
	tls := []string{"--tls", "require", "--tls-certificates", dir, "--tls-verify-peer"}
	port := testenv.FreePort(t)
	startNbdkit(t, func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, append(tls, "--ipaddr", "127.0.0.1", "--port", strconv.Itoa(port))...)
	for name, opts := range map[string]DiskOptions{
		"tcp":  {URI: URI{Host: "127.0.0.1", Port: port, TLS: true, Export: "e"}},
		"unix": {URI: URI{Socket: serveMemory(t, t.TempDir(), tls...), TLS: true, Export: "e"}, TLSHostname: "gw1.example.org", Qemu: Version{7, 0, 0}},
	} {
		opts.Target, opts.TLSDir = "vda", dir
		blockdev, err := QemuBlockdev(opts)
		if err != nil {
			t.Fatal(err)
		}
		drive, err := QemuDrive(opts)
		if err != nil {
			t.Fatal(err)
		}
		for form, image := range map[string][]string{
			"blockdev": {"json:" + argAfter(t, blockdev, "-blockdev")},
			"drive":    {"--image-opts", nodeOptions(argAfter(t, drive, "-drive"))},
		} {
			args := append([]string{"--object", argAfter(t, blockdev, "-object"), "-c", "read -v 0 512"}, image...)
			out, err := exec.Command(qemuIO, args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "luksgate") {
				t.Errorf("%s, %s: %v\n%s", name, form, err, out)
			}
		}
	}
}
