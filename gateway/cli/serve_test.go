// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// A server is a running `luksgate serve` on sockets of its own.
type server struct {
	*testenv.Process
	t           *testing.T
	dir, config string
	client      *api.Client
}

// serveDaemon starts a daemon. In the configuration DIR is its folder, where the admin socket is added.
func serveDaemon(t *testing.T, conf string) *server {
	t.Helper()
	return serveProgram(t, os.Args[0], conf)
}

// serveProgram is serveDaemon for this program under another name.
func serveProgram(t *testing.T, program, conf string) *server {
	t.Helper()
	d := newServer(t, testenv.SocketDir(t))
	d.write(conf)
	cmd := command("serve", "--config", d.config)
	cmd.Path, cmd.Args[0] = program, program
	d.Process = testenv.StartCmd(t, cmd)
	d.waitAnswer()
	return d
}

// newServer is a daemon in a folder, before it starts.
func newServer(t *testing.T, dir string) *server {
	return &server{t: t, dir: dir, config: filepath.Join(dir, "luksgate.conf"), client: api.NewClient(filepath.Join(dir, "admin.sock"))}
}

// waitAnswer waits until the daemon answers.
func (d *server) waitAnswer() {
	d.t.Helper()
	d.wait("the daemon answers", func() bool {
		if !d.Running() {
			d.t.Fatalf("the daemon is gone:\n%s", d.Output())
		}
		_, err := d.client.Version(context.Background())
		return err == nil
	})
}

func (d *server) write(conf string) {
	d.t.Helper()
	conf = "admin: {socket: DIR/admin.sock}\n" + conf
	testenv.WriteFile(d.t, d.config, []byte(strings.ReplaceAll(conf, "DIR", d.dir)))
}

// wait waits until something is so.
func (d *server) wait(what string, is func() bool) {
	d.t.Helper()
	waitUntil(d.t, d.Process, what, is)
}

// waitUntil waits until something is so that a process has to do with.
func waitUntil(t *testing.T, p *testenv.Process, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(testenv.CommandTimeout); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s\n%s", what, p.Output())
		}
	}
}

func (d *server) socket(name string) string { return filepath.Join(d.dir, name) }

func (d *server) uri(export, socket string) string {
	return "nbd+unix:///" + export + "?socket=" + d.socket(socket)
}

// run runs a verb against the daemon.
func (d *server) run(args ...string) testenv.Result {
	d.t.Helper()
	return luksgate(d.t, append(args, "--admin", d.socket("admin.sock"))...)
}

func (d *server) must(args ...string) string {
	d.t.Helper()
	r := d.run(args...)
	if r.ExitCode != 0 {
		d.t.Fatalf("%s\n%s", r, d.Output())
	}
	return r.Stdout
}

// export is the state of one export.
func (d *server) export(name string) api.Export {
	d.t.Helper()
	e, err := d.client.Export(context.Background(), name)
	if err != nil {
		d.t.Fatal(err)
	}
	return e
}

// get gets a page of the admin socket.
func (d *server) get(path string) (int, string) {
	d.t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.socket("admin.sock"))
	}
	c := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	res, err := c.Get("http://x" + path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func (d *server) stop() {
	d.t.Helper()
	if code := d.Stop(); code != 0 {
		d.t.Fatalf("SIGTERM: exit code %d\n%s", code, d.Output())
	}
}

// TestServe goes through the life of exports: opened by the first client, shared, closed after the last; one that cannot
// be opened is its own trouble.
func TestServe(t *testing.T) {
	qemuIO := testenv.Tool(t, "qemu-io")
	content := bytes.Repeat([]byte{0x5a}, 4<<20)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: content})
	d := serveDaemon(t, fmt.Sprintf(`
defaults: {close_after: 300ms}
exports:
  - {name: good, image: "file:%s", socket: DIR/good.sock, key: {file: %s}}
  - {name: bad, image: "file:%s", socket: DIR/bad.sock, key: {file: DIR/none}}
  - {name: ram, image: "mem:8M", socket: DIR/ram.sock, open: start}
`, luks.Path, luks.PassphrasePath, luks.Path))
	if e := d.export("good"); e.State != api.StateClosed || e.URIs[0] != d.uri("good", "good.sock") && !strings.Contains(e.URIs[0], "good.sock") {
		t.Errorf("before the first client: %+v", e)
	}
	d.wait("ram is open from the start", func() bool { return d.export("ram").State == api.StateOpen })

	bad := testenv.Try(t, "qemu-io", "-f", "raw", "-c", "read 0 4k", d.uri("bad", "bad.sock"))
	if bad.ExitCode == 0 {
		t.Errorf("an export without its key was opened: %s", bad)
	}
	if e := d.export("bad"); e.State != api.StateFailed || !strings.Contains(e.Error, "none") {
		t.Errorf("bad: %+v", e)
	}
	testenv.Run(t, qemuIO, "-f", "raw", "-c", "read -P 0x5a 0 4M", "-c", "write -P 7 1M 64k", "-c", "flush", d.uri("good", "good.sock"))
	if e := d.export("good"); e.State != api.StateOpen && e.State != api.StateClosed {
		t.Errorf("good: %+v", e)
	}
	d.wait("good closes after its grace", func() bool { return d.export("good").State == api.StateClosed })
	testenv.Run(t, qemuIO, "-f", "raw", "-c", "read -P 7 1M 64k", d.uri("good", "good.sock"))

	out := d.must("ls")
	for _, want := range []string{"good", "failed", "mem:8388608", "NAME"} {
		if !strings.Contains(out, want) && !strings.Contains(out, "mem:8M") {
			t.Errorf("ls has no %q:\n%s", want, out)
		}
	}
	stats := d.must("stats")
	if !strings.Contains(stats, "good") || !strings.Contains(stats, "write") {
		t.Errorf("stats:\n%s", stats)
	}
	d.stop()
	for _, want := range []string{"read_bytes=", "write_bytes=65536", "errors=0", "peer.pid="} {
		if !strings.Contains(d.Output(), want) {
			t.Errorf("the log says nothing of %q", want)
		}
	}
}

// TestReload changes a file below clients that must not notice.
func TestReload(t *testing.T) {
	const both = `
exports:
  - {name: a, image: "mem:4M", socket: DIR/a.sock, close_after: 1h}
  - {name: b, image: "mem:4M", socket: DIR/b.sock, close_after: 1h}
`
	d := serveDaemon(t, both)
	a, b := dial(t, d.socket("a.sock")), dial(t, d.socket("b.sock"))
	check := func(r *rawClient, name string) {
		t.Helper()
		r.writeHeader(1, 0, 4)
		r.write([]byte(name))
		if _, errno := r.reply(); errno != 0 {
			t.Errorf("%s: error %d after a reload", name, errno)
		}
	}
	d.write(strings.Replace(both, "b.sock, close_after: 1h", "b2.sock, close_after: 1h, description: new", 1) +
		"  - {name: c, image: \"mem:1M\", socket: DIR/c.sock}\n")
	out := d.must("reload")
	if !strings.Contains(out, "added: c") || !strings.Contains(out, "changed: b") || !strings.Contains(out, "unchanged: 1") {
		t.Errorf("reload: %s", out)
	}
	check(a, "aaaa")
	check(b, "bbbb")
	if e := d.export("b"); !e.Pending || e.Clients != 1 {
		t.Errorf("b is changed and in use: %+v", e)
	}
	if c, err := net.Dial("unix", d.socket("b.sock")); err == nil {
		c.Close()
		t.Error("the old socket of b still accepts clients")
	}
	dial(t, d.socket("b2.sock"))

	d.write("exports:\n  - {name: a, image: \"mem:4M\", sokcet: DIR/a.sock}\n")
	if r := d.run("reload"); r.ExitCode != exitUsage || !strings.Contains(r.Stderr, "line 3") || !strings.Contains(r.Stderr, `"socket"`) {
		t.Errorf("reload of a wrong file: %s", r)
	}
	check(a, "aaaa")
	d.write("exports:\n  - {name: c, image: \"mem:1M\", socket: DIR/c.sock}\n")
	d.Signal(syscall.SIGHUP)
	d.wait("a is being removed", func() bool { return d.export("a").Removed })
	check(a, "aaaa")
	a.c.Close()
	d.wait("a is gone", func() bool {
		_, err := d.client.Export(context.Background(), "a")
		return errors.Is(err, api.ErrNotFound)
	})
	b.c.Close()
	d.stop()
}

// TestAddDrainRemove changes the exports of a running daemon.
func TestAddDrainRemove(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20)})
	d := serveDaemon(t, "")
	out := d.must("add", "file:"+luks.Path, "--name", "x", "--socket", d.socket("x.sock"), "--key-file", luks.PassphrasePath)
	if !strings.Contains(out, "nbd+unix:///x?socket=") {
		t.Errorf("add printed %q", out)
	}
	d.must("add", "file:"+luks.Path, "--name", "x", "--socket", d.socket("x.sock"), "--key-file", luks.PassphrasePath)
	for _, c := range []struct {
		code int
		text string
		args []string
	}{
		{exitBusy, "another configuration", []string{"add", "mem:1M", "--name", "x", "--socket", d.socket("x.sock")}},
		{exitUsage, "that of", []string{"add", "mem:1M", "--name", "y", "--socket", d.socket("x.sock")}},
		{exitBusy, "no socket is there", []string{"add", "mem:1M", "--name", "y", "--socket", d.config}},
		{exitGeneral, "no such export", []string{"rm", "y"}},
		{exitGeneral, "no such export", []string{"drain", "y"}},
	} {
		if r := d.run(c.args...); r.ExitCode != c.code || !strings.Contains(r.Stderr, c.text) {
			t.Errorf("%v: want exit code %d and %q\n%s", c.args, c.code, c.text, r)
		}
	}
	c := dial(t, d.socket("x.sock"))
	if r := d.run("rm", "x"); r.ExitCode != exitBusy || !strings.Contains(r.Stderr, "1 clients") {
		t.Errorf("rm below a client: %s", r)
	}
	d.must("drain", "x")
	if _, err := os.Stat(d.socket("x.sock")); err != nil {
		t.Errorf("a drained export lost its socket: %v", err)
	}
	if r := testenv.RunCmd(t, exec.Command(testenv.Tool(t, "nbdinfo"), d.uri("x", "x.sock"))); r.ExitCode == 0 {
		t.Errorf("a drained export took a new client: %s", r)
	}
	c.writeHeader(1, 0, 4)
	c.write([]byte("abcd"))
	if _, errno := c.reply(); errno != 0 {
		t.Errorf("a client that was there before the drain got error %d", errno)
	}
	d.must("drain", "x", "--undo")
	dial(t, d.socket("x.sock"))
	d.must("drain", "x", "--disconnect", "--wait")
	if e := d.export("x"); e.Clients != 0 || e.SizeBytes != 0 {
		t.Errorf("after the drain: %+v", e)
	}
	d.must("rm", "x")
	if _, err := os.Stat(d.socket("x.sock")); err == nil {
		t.Error("the socket of a removed export is still there")
	}
	d.stop()
}

// TestSharedListener has several exports on one socket, of which its section names some.
func TestSharedListener(t *testing.T) {
	d := serveDaemon(t, `
listen: [{socket: DIR/all.sock, exports: ["pub-*"]}]
exports:
  - {name: pub-1, image: "mem:1M"}
  - {name: pub-2, image: "mem:2M", socket: DIR/2.sock}
  - {name: private, image: "mem:4M", socket: DIR/p.sock}
`)
	nbdinfo := testenv.Tool(t, "nbdinfo")
	list := testenv.Run(t, nbdinfo, "--list", "nbd+unix://?socket="+d.socket("all.sock"))
	if !strings.Contains(list, `export="pub-1"`) || !strings.Contains(list, `export="pub-2"`) || strings.Contains(list, "private") {
		t.Errorf("list:\n%s", list)
	}
	if got := testenv.Run(t, nbdinfo, "--size", d.uri("pub-2", "all.sock")); strings.TrimSpace(got) != "2097152" {
		t.Errorf("size of pub-2: %s", got)
	}
	if r := testenv.Try(t, nbdinfo, d.uri("private", "all.sock")); r.ExitCode == 0 {
		t.Errorf("an export that the listener does not name was served: %s", r)
	}
	if r := testenv.Try(t, nbdinfo, d.uri("pub-1", "p.sock")); r.ExitCode == 0 {
		t.Errorf("another export than its own was served on p.sock: %s", r)
	}
	if got := testenv.Run(t, nbdinfo, "--size", d.uri("", "p.sock")); strings.TrimSpace(got) != "4194304" {
		t.Errorf("the default export of p.sock has size %s", got)
	}
	d.stop()
}

// TestMetrics has Prometheus's own tool judge the metrics, and looks at health.
func TestMetrics(t *testing.T) {
	promtool := testenv.Tool(t, "promtool")
	port := testenv.FreePort(t)
	d := serveDaemon(t, fmt.Sprintf(`
metrics: {address: "127.0.0.1:%d"}
exports:
  - {name: a, image: "mem:4M", socket: DIR/a.sock}
  - {name: broken, image: "file:DIR/none", socket: DIR/b.sock, plain: true, open: start}
`, port))
	c := dial(t, d.socket("a.sock"))
	c.writeHeader(1, 0, 4)
	c.write([]byte("abcd"))
	c.reply()
	testenv.Try(t, testenv.Tool(t, "nbdinfo"), d.uri("nothing", "a.sock"))
	d.wait("broken has failed", func() bool { return d.export("broken").State == api.StateFailed })
	if status, _ := d.get("/healthz"); status != 200 {
		t.Errorf("healthz: %d", status)
	}
	if status, body := d.get("/readyz"); status != 503 || !strings.Contains(body, "broken") {
		t.Errorf("readyz: %d %s", status, body)
	}
	_, text := d.get("/metrics")
	for _, want := range []string{
		`luksgate_build_info{`, `luksgate_request_bytes_total{export="a",op="write"} 4`,
		`luksgate_request_duration_seconds_count{export="a",op="write"} 1`, `luksgate_connections{export="a"} 1`,
		`luksgate_handshake_failures_total{reason="unknown_export"} 1`, `luksgate_export_opens_total{export="broken",result="error"}`,
		`luksgate_buffer_budget_bytes`, `process_resident_memory_bytes`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if r := testenv.RunCmd(t, cmd); r.ExitCode != 0 {
		t.Errorf("promtool check metrics: %s\n%s", r, text)
	}
	res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/v1/exports", port))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 404 {
		t.Errorf("the admin API answers on the network: %d", res.StatusCode)
	}
	d.stop()
}

// TestConfigVerbs checks files without a daemon, and asks a daemon that is not there.
func TestConfigVerbs(t *testing.T) {
	dir := t.TempDir()
	example := luksgate(t, "config", "example")
	file := testenv.WriteFile(t, filepath.Join(dir, "f"), []byte(example.Stdout))
	if r := luksgate(t, "config", "check", "--config", file); r.ExitCode != 0 || !strings.Contains(r.Stdout, "no mistakes") {
		t.Errorf("the example: %s", r)
	}
	wrong := testenv.WriteFile(t, filepath.Join(dir, "w"), []byte("exportz: []\nlog: {level: loud}\n"))
	if r := luksgate(t, "config", "check", "--config", wrong); r.ExitCode != exitUsage || !strings.Contains(r.Stderr, `did you mean "exports"`) {
		t.Errorf("a wrong file: %s", r)
	}
	if r := luksgate(t, "serve", "--config", wrong); r.ExitCode != exitUsage {
		t.Errorf("serve with a wrong file: %s", r)
	}
	if r := luksgate(t, "ls", "--admin", dir+"/none"); r.ExitCode != exitUnreachable || !strings.Contains(r.Stderr, "luksgate serve") {
		t.Errorf("ls without a daemon: %s", r)
	}
}
