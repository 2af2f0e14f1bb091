// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// A systemd speaks systemd's side of sd_notify(3) and sd_listen_fds(3): it listens at a notify socket, keeps descriptors
// as a service manager does, and passes them to the next process.
type systemd struct {
	t      *testing.T
	socket string
	conn   *net.UnixConn

	mu     sync.Mutex
	said   []string
	stored []storedFD
}

type storedFD struct {
	name string
	f    *os.File
}

func newSystemd(t *testing.T) *systemd {
	t.Helper()
	s := &systemd{t: t, socket: filepath.Join(testenv.SocketDir(t), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.receive()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
		for _, fd := range s.stored {
			_ = fd.f.Close()
		}
	})
	return s
}

func (s *systemd) receive() {
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(253*4))
	for {
		n, oobn, _, _, err := s.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		var fds []int
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range messages {
			rights, _ := unix.ParseUnixRights(&m)
			fds = append(fds, rights...)
		}
		s.take(string(b[:n]), fds)
	}
}

func (s *systemd) take(message string, fds []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, message)
	_, name, _ := strings.Cut(message, "FDNAME=")
	name, _, _ = strings.Cut(name, "\n")
	switch {
	case strings.Contains(message, "FDSTORE=1"):
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), name)
			if slices.ContainsFunc(s.stored, func(o storedFD) bool { return isSameFile(o.f, f) }) {
				_ = f.Close() // as systemd does
				continue
			}
			s.stored = append(s.stored, storedFD{name, f})
		}
	case strings.Contains(message, "FDSTOREREMOVE=1"):
		s.stored = slices.DeleteFunc(s.stored, func(fd storedFD) bool {
			if fd.name == name {
				_ = fd.f.Close()
			}
			return fd.name == name
		})
	default: // of BARRIER=1 too
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
}

func isSameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// has tells how many descriptors are kept whose name begins so.
func (s *systemd) has(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, fd := range s.stored {
		if strings.HasPrefix(fd.name, name) {
			n++
		}
	}
	return n
}

// heard are the messages that begin with a text.
func (s *systemd) heard(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, m := range s.said {
		if strings.HasPrefix(m, text) {
			n++
		}
	}
	return n
}

// start starts a daemon as a service with all that is kept. Descriptors are passed in another order than they came.
func (s *systemd) start(config string, env ...string) *testenv.Process {
	s.t.Helper()
	inner := command("serve", "--config", config)
	cmd := command()
	cmd.Path, cmd.Args = testenv.Tool(s.t, "sh"), append([]string{"sh", "-c", `export LISTEN_PID=$$; exec "$0" "$@"`}, inner.Args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for i := len(s.stored) - 1; i >= 0; i-- {
		names = append(names, s.stored[i].name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.stored[i].f)
	}
	cmd.Env = append(append(cmd.Env, "NOTIFY_SOCKET="+s.socket, "LISTEN_FDS="+strconv.Itoa(len(names)),
		"LISTEN_FDNAMES="+strings.Join(names, ":")), env...)
	s.said = nil
	return testenv.StartCmd(s.t, cmd)
}

// serve is serveDaemon with a systemd.
func (s *systemd) serve(conf string, env ...string) *server {
	s.t.Helper()
	return s.serveIn(testenv.SocketDir(s.t), conf, env...)
}

func (s *systemd) serveIn(dir, conf string, env ...string) *server {
	s.t.Helper()
	d := &server{t: s.t, dir: dir}
	d.config = filepath.Join(d.dir, "luksgate.conf")
	d.client = api.NewClient(filepath.Join(d.dir, "admin.sock"))
	d.write(conf)
	d.Process = s.start(d.config, env...)
	d.wait("READY=1", func() bool { return s.heard("READY=1") > 0 })
	return d
}

// TestSystemdRestart restarts the daemon below busy clients, none of which sees an error or an end; one that comes while
// there is no daemon waits.
func TestSystemdRestart(t *testing.T) {
	s := newSystemd(t)
	var conf strings.Builder
	conf.WriteString("exports:\n")
	for _, name := range []string{"a", "b"} {
		luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 2<<20)})
		fmt.Fprintf(&conf, "  - {name: %s, image: \"file:%s\", socket: DIR/%s.sock, key: {file: %s}}\n", name, luks.Path, name, luks.PassphrasePath)
	}
	conf.WriteString("  - {name: ram, image: \"mem:1M\", socket: DIR/ram.sock}\n")
	d := s.serve(conf.String())
	d.must("add", "file:"+testenv.WriteFile(t, filepath.Join(t.TempDir(), "plain"), make([]byte, 1<<20)), "--plain", "--name", "later",
		"--socket", d.socket("later.sock"))
	if n := s.has("luksgate-listener-"); n != 5 { // of four exports, and the admin socket
		t.Errorf("%d listening sockets are kept", n)
	}
	var stop atomic.Bool
	var clients sync.WaitGroup
	for i, name := range []string{"a", "a", "b", "later"} {
		r := dial(t, d.socket(name+".sock"))
		clients.Go(func() {
			base := uint64(i%2) * (512 << 10)
			if took, err := hammer(r, uint64(i), base, &stop); err != nil || len(took) < 10 {
				t.Errorf("client %d of %s: %d requests, %v", i, name, len(took), err)
			}
		})
	}
	ram := dial(t, d.socket("ram.sock"))
	for range 2 {
		time.Sleep(100 * time.Millisecond)
		d.stop()
		if n, m := s.has("luksgate-session"), s.has("luksgate-state"); n != 4 || m != 1 {
			t.Fatalf("%d connections and %d states are kept\n%s", n, m, d.Output())
		}
		if _, err := ram.c.Read(make([]byte, 1)); err == nil {
			t.Error("a client of memory that is gone was kept")
		}
		early := make(chan struct{})
		go func() {
			defer close(early)
			_ = dial(t, d.socket("a.sock")).c.Close() // nobody accepts it yet
		}()
		d.Process = s.start(d.config)
		<-early
		d.wait("all clients are there again", func() bool {
			v, err := d.client.Exports(context.Background())
			n := 0
			for _, e := range v {
				n += e.Clients
			}
			return err == nil && n == 4
		})
		if n := s.has("luksgate-session") + s.has("luksgate-state"); n != 0 {
			t.Errorf("%d connections stay in the store", n)
		}
		ram = dial(t, d.socket("ram.sock"))
	}
	stop.Store(true)
	clients.Wait()
	d.must("rm", "later", "--disconnect")
	if n := s.has("luksgate-listener-"); n != 4 {
		t.Errorf("%d listening sockets are kept, one of them of an export that was removed", n)
	}
	d.stop()
}

// TestSystemdCrash kills the daemon: connections end, and the listening sockets stay.
func TestSystemdCrash(t *testing.T) {
	s := newSystemd(t)
	d := s.serve("exports:\n  - {name: a, image: \"mem:1M\", socket: DIR/a.sock}\n")
	c := dial(t, d.socket("a.sock"))
	d.Signal(syscall.SIGKILL)
	d.Wait()
	if _, err := c.c.Read(make([]byte, 1)); err == nil {
		t.Error("a dead daemon's client is still connected")
	}
	came := make(chan struct{})
	go func() {
		defer close(came)
		dial(t, d.socket("a.sock"))
	}()
	d.Process = s.start(d.config)
	<-came
	d.stop()
}

// TestSystemdStates follows what the daemon says of itself.
func TestSystemdStates(t *testing.T) {
	s := newSystemd(t)
	const conf = "exports:\n  - {name: a, image: \"mem:1M\", socket: DIR/a.sock}\n"
	d := s.serve(conf, "WATCHDOG_USEC=300000")
	d.wait("WATCHDOG=1, again and again", func() bool { return s.heard("WATCHDOG=1") > 3 })
	d.Signal(syscall.SIGHUP)
	d.wait("RELOADING=1 and READY=1", func() bool {
		return s.heard("RELOADING=1\nMONOTONIC_USEC=") == 1 && s.heard("READY=1") == 2
	})
	// An admin socket that answers nobody: its name is another socket's.
	silent, err := net.Listen("unix", d.socket("silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := os.Rename(d.socket("silent"), d.socket("admin.sock")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // a beat that was under way
	before := s.heard("WATCHDOG=1")
	time.Sleep(500 * time.Millisecond)
	if n := s.heard("WATCHDOG=1"); n != before {
		t.Errorf("%d beats of a daemon that does not answer", n-before)
	}
	d.stop()
	if s.heard("STOPPING=1") != 1 {
		t.Error("no STOPPING=1")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := map[string]bool{}
	for _, m := range s.said {
		kind, _, _ := bytes.Cut([]byte(m), []byte("="))
		kinds[string(kind)] = true
	}
	if got := slices.Sorted(maps.Keys(kinds)); !slices.Equal(got, []string{"FDSTORE", "READY", "RELOADING", "STOPPING", "WATCHDOG"}) {
		t.Errorf("it said %v", got)
	}
}
