// SPDX-License-Identifier: Apache-2.0

package package_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A host is a booted Debian 11 that can reach the test cluster as a user of its own.
type host struct {
	*testenv.Machine
	t *testing.T
}

const cephUser = "luksgate-test"

func newHost(t *testing.T, suite string, p packages) *host {
	t.Helper()
	h := &host{testenv.NewMachine(t, suite, p.dir), t}
	h.Write(t, "/etc/ceph/ceph.conf", "root:root", "644", clusterConf(t, testenv.CephConf(t)))
	return h
}

var monHost = regexp.MustCompile(`(?m)^(fsid|mon_host) = .*$`)

// clusterConf is what a client's ceph.conf says of a cluster: no path of its daemons.
func clusterConf(t *testing.T, conf string) []byte {
	t.Helper()
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	lines := monHost.FindAllString(string(b), -1)
	if len(lines) != 2 {
		t.Fatalf("no fsid and mon_host in %s", conf)
	}
	return []byte("[global]\n" + strings.Join(lines, "\n") + "\n")
}

// install installs packages as dpkg does, and says what it said.
func (h *host) install(debs ...string) string {
	h.t.Helper()
	r := h.Try(h.t, "dpkg", append([]string{"-i"}, debs...)...)
	if r.ExitCode != 0 {
		h.t.Fatalf("%s\n%s", r, h.journal())
	}
	return r.Stdout + r.Stderr
}

// journal is what the daemon has logged, for messages.
func (h *host) journal() string {
	return h.Try(h.t, "journalctl", "--no-pager", "-u", "luksgate*").String()
}

// key gives the daemon a cephx user of its own.
func (h *host) cephUser() {
	h.t.Helper()
	keyring := testenv.Ceph(h.t, "auth", "get-or-create", "client."+cephUser, "mon", "profile rbd", "osd", "profile rbd")
	h.Write(h.t, "/etc/ceph/ceph.client."+cephUser+".keyring", "root:luksgate", "640", []byte(keyring))
}

// property is what systemd knows of the daemon.
func (h *host) property(name string) string {
	h.t.Helper()
	return strings.TrimSpace(h.Run(h.t, "systemctl", "show", "--property", name, "--value", "luksgate.service"))
}

// An image is a LUKS2 image that librbd has made, and its passphrase.
type image struct {
	spec string
	key  []byte
	file string // with key, outside
}

func newImage(t *testing.T, sizeMiB int64) *image {
	t.Helper()
	m := &image{spec: testenv.NewImage(t, sizeMiB), key: []byte("the passphrase of " + t.Name())}
	m.file = testenv.WriteFile(t, filepath.Join(t.TempDir(), "key"), m.key)
	testenv.RBD(t, "encryption", "format", m.spec, "luks2", m.file)
	return m
}

// io has this machine's qemu-io do something through librbd's own encryption engine.
func (m *image) io(t *testing.T, commands ...string) string {
	t.Helper()
	pool, name, _ := strings.Cut(m.spec, "/")
	args := []string{
		"--object", "secret,id=k,file=" + m.file, "--image-opts",
		fmt.Sprintf("driver=rbd,pool=%s,image=%s,conf=%s,encrypt.format=luks2,encrypt.key-secret=k", pool, name, testenv.CephConf(t)),
	}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return noErrors(t, testenv.Try(t, "qemu-io", args...))
}

// noErrors fails if qemu-io, whose exit code does not tell, met an error.
func noErrors(t *testing.T, r testenv.Result) string {
	t.Helper()
	if text := r.Stdout + r.Stderr; r.ExitCode != 0 || strings.Contains(text, "rror") || strings.Contains(text, "failed") {
		t.Fatalf("%s", r)
	}
	return r.Stdout
}

// asQemu is a command line that runs as libvirt's qemu does: another user, with the group kvm.
func asQemu(name string, args ...string) []string {
	return append([]string{"setpriv", "--reuid=nobody", "--regid=kvm", "--clear-groups", name}, args...)
}

// io has the host's old qemu-io do something through an export.
func (h *host) io(uri string, commands ...string) string {
	h.t.Helper()
	line := asQemu("qemu-io", "-f", "raw", uri)
	for _, c := range commands {
		line = append(line, "-c", c)
	}
	r := h.Try(h.t, line[0], line[1:]...)
	if r.ExitCode != 0 {
		r.Stderr += h.journal()
	}
	return noErrors(h.t, r)
}

// A guest stands for a VM: a qemu-io of the host's that writes and reads until it is told to stop.
type guest struct {
	h     *host
	input *os.File
	p     *testenv.Process
	stop  chan struct{}
	done  chan int
}

// newGuest begins to write to the first MiB of an export and to read it back.
func (h *host) newGuest(uri string) *guest {
	h.t.Helper()
	line := asQemu("sh", "-c", `qemu-io -f raw "$1" 2>&1 | sed -u "s/qemu-io> //g"`, "sh", uri)
	cmd := h.Command(line[0], line[1:]...)
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd.Stdin = r
	g := &guest{h: h, input: w, stop: make(chan struct{}), done: make(chan int, 1)}
	g.p = testenv.StartCmd(h.t, cmd)
	_ = r.Close()
	go g.work()
	h.t.Cleanup(func() { _ = w.Close() })
	return g
}

// guestRequests is how many pairs of requests a guest makes a second at most; more would only be noise.
const guestRequests = 200

func (g *guest) work() {
	n := 0
	for {
		select {
		case <-g.stop:
			g.done <- n
			return
		case <-time.After(time.Second / guestRequests):
		}
		n++
		offset, pattern := n*4%1024, 1+n%250
		if _, err := io.WriteString(g.input, fmt.Sprintf("write -q -P %d %dk 4k\nread -q -P %d %dk 4k\n", pattern, offset, pattern, offset)); err != nil {
			g.done <- -1
			return
		}
	}
}

// finish ends it: every request must have gone well.
func (g *guest) finish() {
	g.h.t.Helper()
	close(g.stop)
	n := <-g.done
	if _, err := io.WriteString(g.input, "read -P 77 2M 64k\nquit\n"); err != nil {
		g.h.t.Errorf("the guest is gone: %v", err)
	}
	code := g.p.Wait()
	out := g.p.Output()
	if code != 0 || n < 10 || strings.Contains(out, "rror") || strings.Contains(out, "failed") || !strings.Contains(out, "read 65536/65536 bytes at offset 2097152") {
		g.h.t.Errorf("a guest with %d requests (exit code %d) was not served without an error:\n%s\n%s", n, code, out, g.h.journal())
	}
	g.h.t.Logf("a guest wrote and read %d times", n)
}
