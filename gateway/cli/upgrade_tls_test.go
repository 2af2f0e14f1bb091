// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestUpgradeRelaysTLS replaces the daemon twice below clients with TLS: the first process stays as a relay until
// they leave, and the image is open in the last process only. With --cut clients are disconnected instead.
func TestUpgradeRelaysTLS(t *testing.T) {
	a := testenv.NewAuthority(t)
	a.Issue("server", 2)
	a.Issue("client", 3)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 8<<20)})
	port := testenv.FreePort(t)
	d := serveDaemon(t, fmt.Sprintf(`
listen:
  - {address: "127.0.0.1:%d", tls: {certificate: %s, key: %s, client_ca: %s}}
exports:
  - {name: a, image: "file:%s", key: {file: %s}}
`, port, a.Path("server-cert.pem"), a.Path("server-key.pem"), a.Path("ca-cert.pem"), luks.Path, luks.PassphrasePath))
	address := fmt.Sprintf("127.0.0.1:%d", port)
	var stop atomic.Bool
	var clients sync.WaitGroup
	for i, r := range []*rawClient{dialTLS(t, address, a), dialTLS(t, address, a)} {
		clients.Go(func() {
			if took, err := hammer(r, uint64(i), uint64(i)*(512<<10), &stop); err != nil || len(took) < 10 {
				t.Errorf("client %d: %d requests, %v", i, len(took), err)
			}
			_ = r.c.Close()
		})
	}
	d.wait("clients work", func() bool { return d.requests("a") > 100 })
	var between int // the process between the two that stay
	for i := range 2 {
		u, err := d.client.Upgrade(context.Background(), false)
		if err != nil {
			t.Fatalf("%v\n%s", err, d.Output())
		}
		t.Cleanup(func() { _ = syscall.Kill(u.PID, syscall.SIGKILL) }) // no child of ours
		// The second hands over the socket of the relay.
		if u.Connections != 2 || u.Relayed != 2*(1-i) || u.Cut != 0 {
			t.Errorf("upgrade %d: %+v", i, u)
		}
		d.waitPID(u.PID)
		before := d.requests("a")
		d.wait("clients go on", func() bool { return d.requests("a") > before+100 })
		if ended(d.PID()) {
			t.Fatalf("the process that has the TLS session is gone")
		}
		if i == 0 {
			between = u.PID
		}
	}
	d.wait("its successor, which has ended, is no zombie", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", between))
		return err != nil
	})
	stop.Store(true)
	clients.Wait()
	d.wait("the relay ends", func() bool { return ended(d.PID()) })
	d.upgradesWithCut(dialTLS(t, address, a))
}

// upgradesWithCut disconnects the one client, and ends the daemon.
func (d *server) upgradesWithCut(other *rawClient) {
	d.t.Helper()
	u, err := d.client.Upgrade(context.Background(), true)
	if err != nil || u.Cut != 1 || u.Connections != 0 {
		d.t.Errorf("upgrade --cut: %+v, %v", u, err)
	}
	d.t.Cleanup(func() { _ = syscall.Kill(u.PID, syscall.SIGKILL) })
	d.waitPID(u.PID)
	if _, err := other.c.Read(make([]byte, 1)); err == nil {
		d.t.Error("a client that was cut is still connected")
	}
	_ = syscall.Kill(u.PID, syscall.SIGTERM)
	d.wait("the last process ends", func() bool { return ended(u.PID) })
}

// dialTLS negotiates the default export behind TLS.
func dialTLS(t *testing.T, address string, a *testenv.Authority) *rawClient {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(a.Path("client-cert.pem"), a.Path("client-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := &rawClient{t, c}
	r.read(18)
	r.write(u32(3), []byte("IHAVEOPT"), u32(5), u32(0)) // NBD_OPT_STARTTLS
	if head := r.read(20); binary.BigEndian.Uint32(head[12:]) != 1 {
		t.Fatalf("reply to NBD_OPT_STARTTLS: %x", head)
	}
	// Who the server is does not matter here.
	r.c = tls.Client(c, &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true})
	r.goDefault()
	return r
}

// waitPID waits until a process answers at the admin socket.
func (d *server) waitPID(pid int) {
	d.t.Helper()
	d.wait("the new process answers", func() bool {
		v, err := d.client.Version(context.Background())
		return err == nil && v.PID == pid
	})
}

// requests is what an export has answered since its process began.
func (d *server) requests(name string) uint64 {
	d.t.Helper()
	s, err := d.client.Stats(context.Background())
	if err != nil {
		d.t.Fatal(err)
	}
	var n uint64
	for _, e := range s.Exports {
		for _, o := range e.Ops {
			if e.Export == name {
				n += o.Requests
			}
		}
	}
	return n
}

// ended tells that a process has ended, even if whoever it was left to does not care.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}
