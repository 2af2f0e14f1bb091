// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

var own = nbdserver.SocketOptions{UID: -1, GID: -1}

func TestListenUnixSetsOwnerAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	o := nbdserver.SocketOptions{Mode: 0o640, UID: os.Getuid(), GID: os.Getgid()}
	if os.Getuid() == 0 {
		o.UID, o.GID = 12345, 54321
	}
	l, err := nbdserver.ListenUnix(path, o)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	if info.Mode() != os.ModeSocket|0o640 || int(stat.Uid) != o.UID || int(stat.Gid) != o.GID {
		t.Errorf("socket is %v %d:%d", info.Mode(), stat.Uid, stat.Gid)
	}
	if _, err := nbdserver.ListenUnix(path, own); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second server on the same path: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestStaleSocketIsReplacedAndOtherFilesAreNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	_ = old.Close()
	l, err := nbdserver.ListenUnix(path, own)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := nbdserver.ListenUnix(path, own); err == nil {
		t.Error("a file was taken for a stale socket")
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is gone:", err)
	}
	if _, err := nbdserver.ListenUnix(filepath.Join(t.TempDir(), strings.Repeat("x", 108)), own); err == nil {
		t.Error("a path that no client can use was accepted")
	}
}

func TestClosedListenerLeavesItsSuccessorAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := nbdserver.ListenUnix(path, own)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := nbdserver.ListenUnix(path, own)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	_ = first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Error("the old listener removed the new one's socket")
	}
}

// TestPeerCredentialsReachTheCatalog also proves that the decision comes before anything is opened.
func TestPeerCredentialsReachTheCatalog(t *testing.T) {
	var peer *nbdserver.Peer
	c := one(memdevice.New(1 << 20))
	c.opens = func(_ string, p *nbdserver.Peer) { peer = p }
	s := newServer(t, nbdserver.Options{Catalog: c})
	dial(t, s, "simple").disconnect()
	if !peer.HasCredentials || int(peer.UID) != os.Getuid() || int(peer.GID) != os.Getgid() || int(peer.PID) != os.Getpid() {
		t.Errorf("peer %+v", peer)
	}
	if peer.CertificateName() != "" || len(peer.CertificateNames()) != 0 {
		t.Error("certificate without TLS")
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	all := peer.AllGroups()
	for _, g := range append(groups, os.Getgid()) {
		if !slices.Contains(all, uint32(g)) {
			t.Errorf("groups %v of the client lack %d", all, g)
		}
	}
	if len(all) > len(groups)+1 || all[0] != peer.GID {
		t.Errorf("groups %v, want %v", all, groups)
	}
}

// TestSocketActivation passes a listening socket by number, as systemd does.
func TestSocketActivation(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	passed, err := nbdserver.ActivationFrom(fd, 1, []string{"disk"})
	if err != nil || len(passed["disk"]) != 1 {
		t.Fatalf("%v, %v", passed, err)
	}
	s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, passed["disk"][0])
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if _, err := conn.Read(b); err != nil || string(b) != "NBDMAGIC" {
		t.Errorf("%q, %v", b, err)
	}
	_ = conn.Close()
	cancel()
	<-done
}

func TestActivationRefusesWhatDoesNotListen(t *testing.T) {
	near, far := socketPair(t)
	defer func() { _, _ = near.Close(), far.Close() }()
	f, err := near.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	passed, err := unix.Dup(int(f.Fd()))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{passed, 1 << 20} {
		if _, err := nbdserver.ActivationFrom(fd, 1, nil); err == nil || !strings.Contains(err.Error(), "no listening socket") {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
	// One that is left open is closed by the garbage collector some time later, when it is somebody else's.
	if _, err := unix.FcntlInt(uintptr(passed), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("descriptor %d is still open (%v)", passed, err)
	}
}

func TestActivationIsForTheProcessThatIsMeant(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	l, err := nbdserver.ActivationListeners()
	if err != nil || len(l) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	if os.Getenv("LISTEN_FDS") != "" {
		t.Error("children would take the sockets for theirs")
	}
}

// TestStdioOverPipesAndOverASocket serves one client over what a program's standard input and output may be.
func TestStdioOverPipesAndOverASocket(t *testing.T) {
	for _, kind := range []string{"pipes", "socket"} {
		s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
		c := &client{t: t, mode: "simple", served: make(chan struct{})}
		var in, out *os.File
		if kind == "pipes" {
			r1, w1, err1 := os.Pipe()
			r2, w2, err2 := os.Pipe()
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			in, out = r1, w2
			near, err := nbdserver.StdioConn(r2, w1)
			if err != nil {
				t.Fatal(err)
			}
			c.c = near
		} else {
			near, far := socketPair(t)
			var err1, err2 error
			in, err1 = far.(*net.UnixConn).File()
			out, err2 = far.(*net.UnixConn).File()
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			_ = far.Close()
			c.c = near
		}
		conn, err := nbdserver.StdioConn(in, out)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(c.served)
			s.ServeConn(context.Background(), conn)
		}()
		c.read(wire.GreetingBytes)
		c.write([]byte{0, 0, 0, 3})
		c.negotiate("structured")
		c.goExport("")
		for _, n := range []uint64{512, 1 << 20} {
			data := noise(n, int(n))
			c.do(wire.CmdWrite, 0, 0, n, data)
			if r := c.do(wire.CmdRead, 0, 0, n, nil); r.errno != 0 || string(r.data) != string(data) {
				t.Errorf("%s: error %d or other bytes", kind, r.errno)
			}
		}
		c.disconnect()
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nbdserver.StdioConn(f, f); err == nil {
		t.Error("/dev/null was accepted")
	}
}
