// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A troubled is a cluster of a test's own, to be mistreated.
type troubled struct {
	t         *testing.T
	dir, conf string
}

func newTroubled(t *testing.T, options ...string) *troubled {
	t.Helper()
	testenv.CephConf(t) // where tests may use Ceph at all
	c := &troubled{t: t, dir: testenv.SocketDir(t)}
	c.conf = filepath.Join(c.dir, "ceph.conf")
	c.script("start", options...)
	t.Cleanup(func() { c.script("stop", "--wipe") })
	return c
}

func (c *troubled) script(verb string, options ...string) {
	c.t.Helper()
	script := filepath.Join(testenv.Root(c.t), "deploy/devcluster/devcluster")
	testenv.Run(c.t, script, append([]string{verb, c.dir}, options...)...)
}

func (c *troubled) rbd(args ...string) string {
	c.t.Helper()
	return testenv.Run(c.t, "rbd", append([]string{"--conf", c.conf}, args...)...)
}

func (c *troubled) ceph(args ...string) string {
	c.t.Helper()
	return testenv.Run(c.t, "ceph", append([]string{"--conf", c.conf, "--connect-timeout", "60"}, args...)...)
}

func (c *troubled) signalOSD(s syscall.Signal) {
	c.t.Helper()
	c.signal("osd.0", s)
}

func (c *troubled) signal(daemon string, s syscall.Signal) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, daemon+".pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = syscall.Kill(pid, s)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if s == syscall.SIGSTOP { // its threads go on until one of them sees the signal
		state := "/proc/" + strings.TrimSpace(string(text)) + "/stat"
		for end := time.Now().Add(testenv.CommandTimeout); !strings.Contains(read(c.t, state), ") T "); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				c.t.Fatalf("%s does not stop", daemon)
			}
		}
	}
}

func (c *troubled) export(args ...string) *gate {
	c.t.Helper()
	return export(c.t, append(args, "--ceph-conf", c.conf)...)
}

// wait waits until something is so.
func (g *gate) wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	waitUntil(t, g.Process, what, is)
}

// waitOutput waits until the process has said text.
func (g *gate) waitOutput(t *testing.T, text string) {
	t.Helper()
	g.wait(t, fmt.Sprintf("it says %q", text), func() bool { return strings.Contains(g.Output(), text) })
}

// TestNetworkCut runs a cluster and a gateway in a network namespace of their own and takes its only interface down for a
// while: requests wait, and go on.
func TestNetworkCut(t *testing.T) {
	t.Parallel() // it has a cluster of its own, and waits most of the time
	testenv.CephConf(t)
	ns := strings.ToLower("lg" + testenv.UniqueName(t)[len("TestNetworkCut-"):])
	testenv.Run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { testenv.Run(t, "ip", "netns", "del", ns) })
	inside := func(args ...string) []string { return append([]string{"netns", "exec", ns}, args...) }
	loopback := func(state string) { testenv.Run(t, "ip", inside("ip", "link", "set", "lo", state)...) }
	loopback("up")
	dir := testenv.SocketDir(t)
	script := filepath.Join(testenv.Root(t), "deploy/devcluster/devcluster")
	testenv.Run(t, "ip", inside(script, "start", dir)...)
	t.Cleanup(func() { testenv.Run(t, "ip", inside(script, "stop", dir, "--wipe")...) })
	conf := filepath.Join(dir, "ceph.conf")
	testenv.Run(t, "ip", inside("rbd", "--conf", conf, "create", "--size", "16M", "rbd/disk")...)

	self := command("export", "rbd:rbd/disk", "--plain", "--ceph-conf", conf, "--socket", filepath.Join(dir, "s"))
	cmd := exec.Command(testenv.Tool(t, "ip"), inside(self.Args...)...)
	cmd.Env = self.Env
	g := testenv.StartCmd(t, cmd)
	uri := g.WaitLine("nbd+unix:")
	testenv.Run(t, "qemu-io", "-f", "raw", uri, "-c", "write -P 1 0 1M")
	loopback("down")
	timer := time.AfterFunc(4*time.Second, func() { loopback("up") })
	defer timer.Stop()
	start := time.Now()
	out := testenv.Run(t, "qemu-io", "-f", "raw", uri, "-c", "write -P 2 1M 1M", "-c", "flush", "-c", "read -P 1 0 1M", "-c", "read -P 2 1M 1M")
	if strings.Contains(out, "failed") {
		t.Errorf("a cut of the network is an error for the guest: %s", out)
	}
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("it took %v: the network was never cut", took)
	}
	if code := g.Stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, g.Output())
	}
}

// TestFlushSurvivesDeath kills the gateway and the OSD after a flush and after a FUA write: both must be there again.
func TestFlushSurvivesDeath(t *testing.T) {
	t.Parallel() // it has a cluster of its own, and waits most of the time
	c := newTroubled(t, "--store", "bluestore", "--size", "2G")
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: randomBytes(8<<20, 21)})
	c.rbd("import", "--no-progress", luks.Path, "rbd/disk")
	g := c.export("rbd:rbd/disk", "--key-file", luks.PassphrasePath)
	testenv.Run(t, "qemu-io", "-f", "raw", g.uri,
		"-c", "write -P 0x11 0 1M", "-c", "write -P 0x12 1234567 4321", "-c", "flush", "-c", "write -f -P 0x13 3M 12345")
	g.Signal(syscall.SIGKILL)
	c.signalOSD(syscall.SIGKILL)
	g.Wait()
	c.script("stop")
	c.script("start", "--store", "bluestore")
	g = c.export("rbd:rbd/disk", "--key-file", luks.PassphrasePath)
	out := testenv.Run(t, "qemu-io", "-r", "-f", "raw", g.uri,
		"-c", "read -P 0x11 0 1M", "-c", "read -P 0x12 1234567 4321", "-c", "read -P 0x13 3M 12345")
	if strings.Contains(out, "erification failed") {
		t.Errorf("what was flushed is gone: %s", out)
	}
	c.loseDaemons(g)
	g.stop(t)
}

// loseDaemons has the OSD die and come back below an open export, and the monitor be away: requests wait, or need it not.
func (c *troubled) loseDaemons(g *gate) {
	c.t.Helper()
	c.signalOSD(syscall.SIGKILL)
	timer := time.AfterFunc(2*time.Second, func() {
		if r := testenv.Try(c.t, "ceph-osd", "-c", c.conf, "-i", "0"); r.ExitCode != 0 {
			c.t.Errorf("the OSD does not come back: %s", r)
		}
	})
	defer timer.Stop()
	start := time.Now()
	requests := func(pattern int) string {
		return testenv.Run(c.t, "qemu-io", "-f", "raw", g.uri, "-c", fmt.Sprintf("write -P %d 5M 1M", pattern),
			"-c", "flush", "-c", fmt.Sprintf("read -P %d 5M 1M", pattern), "-c", "read -P 0x11 0 1M")
	}
	if out := requests(0x21); strings.Contains(out, "failed") {
		c.t.Errorf("an OSD that dies and comes back is an error for the guest: %s", out)
	}
	if took := time.Since(start); took < 2*time.Second {
		c.t.Errorf("it took %v: the OSD was never away", took)
	}
	c.signal("mon.a", syscall.SIGSTOP)
	defer c.signal("mon.a", syscall.SIGCONT)
	if out := requests(0x22); strings.Contains(out, "failed") {
		c.t.Errorf("a monitor that is away is an error for the guest: %s", out)
	}
}

// TestErasureCodedPool has the data in a pool whose objects librbd cannot read sparsely, and objects with holes in them.
func TestErasureCodedPool(t *testing.T) {
	t.Parallel() // it has a cluster of its own, and waits most of the time
	c := newTroubled(t, "--store", "bluestore", "--size", "2G", "--osds", "3", "--ec-pool", "ec")
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20)})
	c.rbd("create", "--size", "28M", "--data-pool", "ec", "rbd/disk")
	g := c.export("rbd:rbd/disk", "--plain")
	testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -s "+luks.Path+" 0 16M")
	g.stop(t)
	model := make([]byte, 12<<20)
	g = c.export("rbd:rbd/disk", "--key-file", luks.PassphrasePath)
	for i, at := range []int{5 << 20, 9<<20 + 12345} { // the first object stays absent, the others get holes
		testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", fmt.Sprintf("write -P %d %d 10000", i+1, at))
		copy(model[at:], bytes.Repeat([]byte{byte(i + 1)}, 10000))
	}
	qemuWrites(t, []string{"-f", "raw", g.uri}, model[:2<<20], 20, 1, 61)
	got := filepath.Join(t.TempDir(), "copy")
	testenv.Run(t, "nbdcopy", g.uri, got)
	if b, err := os.ReadFile(got); err != nil || !bytes.Equal(b, model) {
		t.Errorf("the native engine reads something else (%v)", err)
	}
	g.stop(t)
	g = c.export("rbd:rbd/disk", "--key-file", luks.PassphrasePath, "--engine", "librbd")
	g.waitOutput(t, "erasure-coded pool")
	out := testenv.Run(t, "qemu-io", "-r", "-f", "raw", g.uri, "-c", "read -P 1 5M 8k")
	if strings.Contains(out, "erification failed") {
		t.Errorf("librbd's engine reads something else: %s", out)
	}
	g.stop(t)
}

// TestClusterTrouble has the OSD pause, the pool full, and the gateway's client blocked.
func TestClusterTrouble(t *testing.T) {
	t.Parallel() // it has a cluster of its own, and waits most of the time
	c := newTroubled(t)
	c.rbd("create", "--size", "64M", "rbd/disk")
	g := c.export("rbd:rbd/disk", "--plain")

	c.signalOSD(syscall.SIGSTOP)
	timer := time.AfterFunc(13*time.Second, func() { c.signalOSD(syscall.SIGCONT) })
	defer timer.Stop()
	out := testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 7 0 1M", "-c", "read -P 7 0 1M", "-c", "flush")
	if strings.Contains(out, "failed") {
		t.Errorf("a pause of the OSD is an error for the guest: %s", out)
	}
	g.waitOutput(t, "the cluster does not answer")
	g.waitOutput(t, "the cluster answers again")

	c.ceph("osd", "pool", "set-quota", "rbd", "max_bytes", "1000000")
	for end := time.Now().Add(testenv.CommandTimeout); !strings.Contains(c.ceph("health", "detail"), "POOL_FULL"); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the pool never gets full")
		}
	}
	r := testenv.Try(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 7 8M 1M")
	if !strings.Contains(r.Stdout+r.Stderr, "No space left") {
		t.Errorf("a full pool is not ENOSPC: %s", r)
	}
	c.ceph("osd", "pool", "set-quota", "rbd", "max_bytes", "0")

	c.timeOut()
	_, watchers, _ := strings.Cut(c.rbd("status", "rbd/disk"), "watcher=")
	address, _, _ := strings.Cut(watchers, " ")
	c.ceph("osd", "blocklist", "add", address)
	if code := g.Wait(); code != exitUnreachable || !strings.Contains(g.Output(), "blocked this client") {
		t.Errorf("blocked: exit code %d, want %d\n%s", code, exitUnreachable, g.Output())
	}
}

// TestWatchIsRenewed has the cluster forget a gateway that was stopped for too long, and the image resized meanwhile: when it
// goes on it watches the image again, and knows what it missed and what comes.
func TestWatchIsRenewed(t *testing.T) {
	t.Parallel() // it has a cluster of its own, and waits most of the time
	c := newTroubled(t)
	c.ceph("config", "set", "osd", "osd_client_watch_timeout", "10")
	c.rbd("create", "--size", "16M", "rbd/disk")
	g := c.export("rbd:rbd/disk", "--plain")
	watched := func() bool { return strings.Contains(c.rbd("status", "rbd/disk"), "watcher=") }
	resize := func(mib int) { c.rbd("resize", "--no-progress", "--size", fmt.Sprintf("%dM", mib), "rbd/disk") }
	hasSize := func(mib int) func() bool {
		want := strconv.Itoa(mib << 20)
		return func() bool { return strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", g.uri)) == want }
	}
	testenv.Run(t, "qemu-io", "-r", "-f", "raw", g.uri, "-c", "read -P 0 0 1M")
	if !watched() {
		t.Fatal("the export does not watch its image")
	}
	g.Signal(syscall.SIGSTOP)
	g.wait(t, "the cluster has forgotten the gateway", func() bool { return !watched() })
	resize(32)
	g.Signal(syscall.SIGCONT)
	g.wait(t, "it watches again", watched)
	g.wait(t, "it knows the size of while it was away", hasSize(32))
	resize(48)
	g.wait(t, "it is told of the next size", hasSize(48))
	out := testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 5 40M 1M", "-c", "flush", "-c", "read -P 5 40M 1M")
	if strings.Contains(out, "failed") {
		t.Errorf("it does not work any more: %s", out)
	}
	g.stop(t)
}

// timeOut pauses the OSD below an export that was told to wait for it no longer than 5 s.
func (c *troubled) timeOut() {
	c.t.Helper()
	c.rbd("create", "--size", "8M", "rbd/timed")
	g := c.export("rbd:rbd/timed", "--plain", "--ceph-option", "rados_osd_op_timeout=5")
	testenv.Run(c.t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 1 0 4k")
	c.signalOSD(syscall.SIGSTOP)
	r := testenv.Try(c.t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 2 0 4k")
	c.signalOSD(syscall.SIGCONT)
	if !strings.Contains(r.Stdout+r.Stderr, "Input/output error") {
		c.t.Errorf("with a timeout set, an OSD that does not answer is no error: %s", r)
	}
	testenv.Run(c.t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 3 0 4k", "-c", "read -P 3 0 4k")
	g.stop(c.t)
}
