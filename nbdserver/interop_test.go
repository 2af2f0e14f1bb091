// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
	gonbdbackend "github.com/pojntfx/go-nbd/pkg/backend"
	gonbd "github.com/pojntfx/go-nbd/pkg/client"
	gonbdserver "github.com/pojntfx/go-nbd/pkg/server"
)

// listen serves a catalog on a unix socket and returns its path.
func listen(t *testing.T, o nbdserver.Options) string {
	t.Helper()
	return listenIn(t, testenv.SocketDir(t), o)
}

// listenIn is listen with the socket in a folder.
func listenIn(t *testing.T, dir string, o nbdserver.Options) string {
	t.Helper()
	path := filepath.Join(dir, "s")
	l, err := nbdserver.ListenUnix(path, nbdserver.SocketOptions{UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		_ = s.Shutdown(context.Background())
		if err := <-done; !errors.Is(err, nbdserver.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

func uri(socket string) string { return "nbd+unix:///?socket=" + socket }

// run runs somebody else's tool and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, testenv.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// bothKinds runs a test with a device that answers at once and with one that does not.
func bothKinds(t *testing.T, sizeBytes int64, f func(t *testing.T, d *memdevice.Device)) {
	t.Run("immediate", func(t *testing.T) { f(t, memdevice.New(sizeBytes)) })
	t.Run("deferred", func(t *testing.T) { f(t, deferred(sizeBytes)) })
}

func expectAll(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in:\n%s", w, out)
		}
	}
}

func TestNbdinfo(t *testing.T) {
	testenv.Tool(t, "nbdinfo")
	d := memdevice.New(64 << 20)
	if err := d.WriteAt([]byte("data"), 32<<20, false); err != nil {
		t.Fatal(err)
	}
	ro := memdevice.New(1 << 20).With(func(p *nbdserver.Properties) { p.ReadOnly, p.Rotational = true, true })
	socket := listen(t, nbdserver.Options{Catalog: &catalog{devices: map[string]nbdserver.Device{"": d, "ro": ro}}})
	expectAll(t, run(t, "nbdinfo", uri(socket)), "newstyle-fixed without TLS, using structured packets", "export-size: 67108864",
		"description: about", "base:allocation", "can_cache: true", "can_df: true", "can_fast_zero: true", "can_flush: true",
		"can_fua: true", "can_multi_conn: true", "can_trim: true", "can_zero: true", "is_read_only: false",
		"block_size_maximum: 33554432")
	if out := strings.TrimSpace(run(t, "nbdinfo", "--size", uri(socket))); out != "67108864" {
		t.Errorf("size %q", out)
	}
	expectAll(t, run(t, "nbdinfo", "--map", uri(socket)), "0    33554432    3  hole,zero", "33554432        4096    0  data")
	expectAll(t, run(t, "nbdinfo", "--map", "--totals", uri(socket)), "4096", "67104768")
	expectAll(t, run(t, "nbdinfo", "--json", uri(socket)), `"export-size": 67108864`)
	expectAll(t, run(t, "nbdinfo", "--list", uri(socket)), `export=""`, `export="ro"`)
	expectAll(t, run(t, "nbdinfo", "--list", "--json", uri(socket)), `"export-name": "ro"`, `"description": "about ro"`)
	expectAll(t, run(t, "nbdinfo", "--size", "--json", uri(socket)), "67108864")
	expectAll(t, run(t, "nbdinfo", "--map=base:allocation", "--json", uri(socket)), `"description": "hole,zero"`)
	expectAll(t, run(t, "nbdinfo", "--content", uri(socket)), "content:")
	for _, no := range [][]string{{"--can", "write"}, {"--can", "trim"}, {"--can", "zero"}, {"--is", "tls"}} {
		r := testenv.Try(t, "nbdinfo", append(no, "nbd+unix:///ro?socket="+socket)...)
		if r.ExitCode != 2 { // "no", where 1 is a failure
			t.Errorf("%v of a read-only export without TLS: %s", no, r)
		}
	}
	run(t, "nbdinfo", "--is", "read-only", "nbd+unix:///ro?socket="+socket)
	run(t, "nbdinfo", "--is", "rotational", "nbd+unix:///ro?socket="+socket)
	for _, can := range []string{"cache", "connect", "df", "fast-zero", "flush", "fua", "multi-conn", "trim", "write", "zero", "structured-reply"} {
		run(t, "nbdinfo", "--can", can, uri(socket))
	}
}

func TestNbdcopyWithManyRequestsAndConnections(t *testing.T) {
	testenv.Tool(t, "nbdcopy")
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	data := noise(11, 24<<20)
	clear(data[5<<20 : 15<<20])
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	bothKinds(t, int64(len(data)), func(t *testing.T, d *memdevice.Device) {
		socket := listen(t, nbdserver.Options{Catalog: one(d)})
		for _, flags := range [][]string{
			{"--connections=4", "--requests=64", "--flush"},
			{"--connections=1", "--requests=64", "--request-size=4096"},
			{"--connections=2", "--requests=8", "--request-size=33554432"},
			{"--synchronous"},
		} {
			run(t, "nbdcopy", append(flags, in, uri(socket))...)
			run(t, "nbdcopy", append(flags, uri(socket), out)...)
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%v: another content came back (%v)", flags, err)
			}
			_ = os.Remove(out)
		}
	})
}

// TestQemuTools has the qemu of this machine, and that of Debian 11 where there is a chroot of it, judge.
func TestQemuTools(t *testing.T) {
	t.Run("here", func(t *testing.T) {
		bothKinds(t, 16<<20, func(t *testing.T, d *memdevice.Device) { qemuTools(t, testenv.Here(t), d) })
	})
	t.Run("qemu-5.2", func(t *testing.T) { qemuTools(t, testenv.Chroot(t, "bullseye"), deferred(16<<20)) })
}

// qemuTools does with qemu's tools what they can do over NBD. d is empty, of 16 MiB.
func qemuTools(t *testing.T, s testenv.System, d *memdevice.Device) {
	tool := func(name string, args ...string) string {
		t.Helper()
		r := testenv.RunCmd(t, s.Command(t, name, args...))
		if r.ExitCode != 0 {
			t.Fatal(r)
		}
		return r.Stdout + r.Stderr
	}
	u := uri(listenIn(t, s.Dir, nbdserver.Options{Catalog: one(d)}))
	in, out := filepath.Join(s.Dir, "in"), filepath.Join(s.Dir, "out")
	content := noise(12, 16<<20)
	clear(content[5<<20 : 9<<20])
	if err := os.WriteFile(in, content, 0o644); err != nil {
		t.Fatal(err)
	}
	tool("qemu-img", "convert", "-n", "-W", "-f", "raw", "-O", "raw", in, u)
	expectAll(t, tool("qemu-img", "compare", "-f", "raw", "-F", "raw", in, u), "Images are identical")
	expectAll(t, tool("qemu-img", "map", "--output=json", "-f", "raw", u), `{ "start": 5242880, "length": 4194304, "depth": 0, `, `"zero": true, "data": false`)
	tool("qemu-img", "convert", "-f", "raw", "-O", "raw", u, out)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, content) {
		t.Errorf("another content came back (%v)", err)
	}
	said := tool("qemu-io", "-f", "raw", "-c", "write -P 7 4097 70000", "-c", "read -P 7 4097 70000",
		"-c", "write -f -P 8 1M 4k", "-c", "read -P 8 1M 4k", "-c", "write -z 2M 1M", "-c", "read -P 0 2M 1M",
		"-c", "write -z -u 4M 1M", "-c", "read -P 0 4M 1M", "-c", "discard 6M 1M", "-c", "flush",
		"-c", "aio_write -P 9 8M 4M", "-c", "aio_write -P 10 12M 64k", "-c", "aio_flush", "-c", "read -P 9 8M 4M",
		"-c", "read -P 10 12M 64k", u)
	if strings.Contains(said, "failed") || strings.Contains(said, "error") {
		t.Error(said)
	}
	expectAll(t, tool("qemu-img", "bench", "-c", "500", "-d", "16", "-f", "raw", u), "Run completed")
	expectAll(t, tool("qemu-img", "bench", "-w", "--flush-interval=50", "-c", "200", "-d", "16", "-s", "64k", "-f", "raw", u), "Run completed")
}

func TestNbdClientLists(t *testing.T) {
	testenv.Tool(t, "nbd-client")
	devices := map[string]nbdserver.Device{"alpha": memdevice.New(1 << 20), "beta": memdevice.New(1 << 20)}
	socket := listen(t, nbdserver.Options{Catalog: &catalog{devices: devices}})
	expectAll(t, run(t, "nbd-client", "-l", "-unix", socket), "alpha", "beta")
}

// TestGoNbdClient has go-nbd's client list an export, which is all it does without a kernel block device. It takes what
// follows the name for one more, so the export has no description.
func TestGoNbdClient(t *testing.T) {
	c := &plainList{catalog{devices: map[string]nbdserver.Device{"disk": memdevice.New(1 << 20)}}}
	socket := listen(t, nbdserver.Options{Catalog: c})
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	names, err := gonbd.List(conn)
	if err != nil || len(names) != 1 || names[0] != "disk" {
		t.Errorf("%q, %v", names, err)
	}
}

// TestGoNbdServerAnswersTheSame sends the same requests to go-nbd's server and to ours: that they mean the same does not
// rest on our own client alone.
func TestGoNbdServerAnswersTheSame(t *testing.T) {
	const size = 1 << 20
	near, far := socketPair(t)
	theirs := &client{t: t, c: near, mode: "simple", served: make(chan struct{})}
	go func() {
		defer close(theirs.served)
		defer func() { _ = far.Close() }()
		exports := []*gonbdserver.Export{{Name: "disk", Backend: gonbdbackend.NewMemoryBackend(make([]byte, size))}}
		_ = gonbdserver.Handle(far, exports, &gonbdserver.Options{MinimumBlockSize: 1, PreferredBlockSize: 4096, MaximumBlockSize: 1 << 20})
	}()
	t.Cleanup(func() { _ = near.Close() })
	_ = near.SetDeadline(time.Now().Add(patience))
	theirs.read(wire.GreetingBytes)
	theirs.write(binary.BigEndian.AppendUint32(nil, wire.ClientFlagFixedNewstyle))
	theirs.goExport("disk")
	s := newServer(t, nbdserver.Options{Catalog: &catalog{devices: map[string]nbdserver.Device{"disk": memdevice.New(size)}}})
	ours := hello(t, s, wire.ClientFlagFixedNewstyle)
	ours.goExport("disk")
	if theirs.size != ours.size || theirs.size != size {
		t.Errorf("sizes %d and %d", theirs.size, ours.size)
	}
	both := func(command uint16, offset, length uint64, payload []byte) {
		t.Helper()
		a := theirs.do(command, 0, offset, length, bytes.Clone(payload))
		b := ours.do(command, 0, offset, length, bytes.Clone(payload))
		if a.errno != b.errno || !bytes.Equal(a.data, b.data) {
			t.Errorf("command %d at %d of %d bytes: errors %d and %d, or other bytes", command, offset, length, a.errno, b.errno)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		offset := uint64(random.IntN(size - 70000))
		length := uint64(1 + random.IntN(70000))
		if i%2 == 0 {
			both(wire.CmdWrite, offset, length, noise(uint64(i), int(length)))
		}
		both(wire.CmdRead, offset, length, nil)
	}
	both(wire.CmdRead, 0, size, nil)
	both(0x7f, 0, 0, nil) // no command of the protocol
	both(wire.CmdRead, 4096, 512, nil)
	theirs.disconnect()
	ours.disconnect()
}

type plainList struct{ catalog }

func (p *plainList) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	return []nbdserver.ExportInfo{{Name: "disk"}}, nil
}

func TestFioVerifies(t *testing.T) {
	if !strings.Contains(run(t, "fio", "--enghelp"), "nbd") {
		testenv.Missing(t, "fio has no nbd engine")
	}
	bothKinds(t, 32<<20, func(t *testing.T, d *memdevice.Device) {
		socket := listen(t, nbdserver.Options{Catalog: one(d)})
		for _, block := range []string{"512", "4k", "64k", "512k"} {
			out := run(t, "fio", "--name=v", "--ioengine=nbd", "--uri="+uri(socket), "--rw=randrw", "--bs="+block,
				"--iodepth=16", "--size=4m", "--verify=crc32c", "--verify_fatal=1", "--randrepeat=0")
			if !strings.Contains(out, "err= 0") {
				t.Error(out)
			}
		}
	})
}

// TestTLSWithLibnbd uses certificates as libvirt and libnbd lay them out.
func TestTLSWithLibnbd(t *testing.T) {
	testenv.Tool(t, "nbdinfo")
	a := testenv.NewAuthority(t)
	a.Issue("server", 2)
	a.Issue("client", 3)
	certificates, err := nbdserver.LoadCertificates(tlsFiles(a), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(4 << 20)),
		TLS: &nbdserver.TLSOptions{Required: true, Config: certificates.Config}})
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, l)
	}()
	defer func() { cancel(); <-done }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	out := run(t, "nbdinfo", "nbds://localhost:"+port+"/?tls-certificates="+a.Dir)
	expectAll(t, out, "newstyle-fixed with TLS", "export-size: 4194304")
	run(t, "nbdinfo", "--is", "tls", "nbds://localhost:"+port+"/?tls-certificates="+a.Dir)
	source := filepath.Join(a.Dir, "data")
	if err := os.WriteFile(source, noise(1, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "nbdcopy", "--requests=16", source, "nbds://localhost:"+port+"/?tls-certificates="+a.Dir)
	back := filepath.Join(a.Dir, "back")
	run(t, "nbdcopy", "nbds://localhost:"+port+"/?tls-certificates="+a.Dir, back)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, noise(1, 4<<20)) {
		t.Errorf("another content came back (%v)", err)
	}
}
