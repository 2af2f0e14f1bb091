// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"encoding/json"
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
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// rawBytes is the size of an image as the cluster has it.
func rawBytes(t *testing.T, spec string) int64 {
	t.Helper()
	var info struct {
		Size int64 `json:"size"`
	}
	if err := json.Unmarshal([]byte(testenv.RBD(t, "info", "--format", "json", spec)), &info); err != nil {
		t.Fatal(err)
	}
	return info.Size
}

// reads compares what an image shows with a model, through an export of its own.
func (l level) reads(t *testing.T, args ...string) {
	t.Helper()
	e := export(t, append(append(l.args(), "--read-only"), args...)...)
	sameAs(t, l.spec, e.uri, l.model)
	e.stop(t)
}

// TestResizeVerb changes the size of images of each kind, and asks for what cannot be.
func TestResizeVerb(t *testing.T) {
	testenv.CephConf(t)
	testenv.Tool(t, "nbdcopy")
	for format, headerMiB := range map[string]int64{"": 0, "luks1": 4, "luks2": 16} {
		t.Run(format, func(t *testing.T) {
			g := newGolden(t, format, 24, 24-headerMiB)
			img, extra := "rbd:"+g.spec, plainWithout(g.keys)
			resize := func(size string, args ...string) []string {
				return append(append([]string{"resize", img, size}, extra...), args...)
			}
			want := fmt.Sprintf("40 MiB (41943040 bytes) of data, before %d MiB", 24-headerMiB)
			if out := good(t, resize("40M")...); !strings.Contains(out, want) || rawBytes(t, g.spec) != (40+headerMiB)<<20 {
				t.Errorf("want %q, the image has %d bytes\n%s", want, rawBytes(t, g.spec), out)
			}
			grown := g.level
			grown.model = append(append([]byte{}, g.model...), make([]byte, 40<<20-len(g.model))...)
			grown.reads(t, extra...)
			bad(t, exitUsage, "beyond byte 7340032 would be lost: --allow-shrink", resize("7M")...)
			if format != "" {
				bad(t, exitUsage, " would be", resize("7000001")...)
				bad(t, exitNotLUKS, "for an image that is not encrypted give --plain", "resize", "rbd:"+testenv.NewImage(t, 8), "20M")
			}
			out := good(t, resize("7M", "--allow-shrink", "--json")...)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			var last api.Event
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || !strings.Contains(string(last.Result), `"size":7340032`) {
				t.Errorf("%v\n%s", err, out)
			}
			shrunk := g.level
			shrunk.model = g.model[:7<<20]
			shrunk.reads(t, extra...)
			bad(t, exitUsage, "is a snapshot", append([]string{"resize", img + "@s", "40M"}, extra...)...)
			bad(t, exitUsage, "size \"many\"", resize("many")...)
		})
	}
	bad(t, exitUsage, "rbd: images only", "resize", "file:/nowhere", "1M")
	bad(t, exitUnreachable, "no such image", "resize", "rbd:"+testenv.Pool+"/none", "1M")
	bad(t, exitUnreachable, "no such image", "flatten", "rbd:"+testenv.Pool+"/none")
}

// TestResizeOfImageInUse is refused while another client has the image, and goes through the daemon while that has it.
func TestResizeOfImageInUse(t *testing.T) {
	testenv.CephConf(t)
	m := newFormatted(t, 24, "luks1", nil)
	for _, engine := range []string{"native", "librbd"} {
		g := export(t, "rbd:"+m.spec, "--key-file", m.key, "--engine", engine)
		bad(t, exitBusy, "open for writing by client.", "resize", "rbd:"+m.spec, "40M", "--admin", filepath.Join(t.TempDir(), "none"))
		bad(t, exitBusy, "open for writing by client.", "flatten", "rbd:"+m.spec, "--admin", filepath.Join(t.TempDir(), "none"))
		g.stop(t)

		d := serveDaemon(t, fmt.Sprintf(`exports:
  - {name: a, image: "rbd:%s", socket: DIR/a.sock, key: {file: %s}, engine: %s, close_after: 0s}
  - {name: other, image: "mem:1M", plain: true, socket: DIR/b.sock}
`, m.spec, m.key, engine))
		p := nbdshStart(t, d.uri("a", "a.sock"), "print('size', h.get_size(), flush=True); import time; time.sleep(1000)")
		before := p.WaitLine("size ")
		e := d.export("a")
		if e.Cluster != strings.TrimSpace(testenv.Ceph(t, "fsid")) {
			t.Errorf("the cluster is %q", e.Cluster)
		}
		dataMiB := (rawBytes(t, m.spec)>>20 - 4) * 2
		if before != fmt.Sprintf("size %d", dataMiB<<19) {
			t.Errorf("%s: the client sees %q, want half of %d MiB", engine, before, dataMiB)
		}
		d.must("resize", "rbd:"+m.spec, strconv.FormatInt(dataMiB, 10)+"M")
		if got := rawBytes(t, m.spec); got != (dataMiB+4)<<20 {
			t.Errorf("%s: the image has %d bytes", engine, got)
		}
		if size := strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", d.uri("a", "a.sock"))); size != strconv.FormatInt(dataMiB<<20, 10) {
			t.Errorf("%s: a new client sees %s bytes, want %d MiB", engine, size, dataMiB)
		}
		r := d.run("resize", "rbd:"+m.spec, "1M")
		if r.ExitCode != exitUsage || !strings.Contains(r.Stderr, "--allow-shrink") {
			t.Errorf("%s", r)
		}
		if status, text := d.post("/v1/exports/a/resize", `{"size": 1, "unknown": 2}`); status != 400 || !strings.Contains(text, "unknown") {
			t.Errorf("%d %s", status, text)
		}
		if status, text := d.post("/v1/exports/none/flatten", ""); status != 404 {
			t.Errorf("%d %s", status, text)
		}
		if status, text := d.post("/v1/exports/other/flatten", ""); status != 400 || !strings.Contains(text, "rbd: images only") {
			t.Errorf("%d %s", status, text)
		}
		p.Signal(syscall.SIGTERM)
		p.Wait()
		d.stop()
	}
}

// nbdshStart starts libnbd's shell with a script, connected as h.
func nbdshStart(t *testing.T, uri, script string) *testenv.Process {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "nbdsh"), "-u", uri, "-c", script)
	// The distribution's Python has libnbd's module; another one may come first in PATH.
	cmd.Env = append(command().Env, "PATH=/usr/bin:/bin:"+os.Getenv("PATH"))
	return testenv.StartCmd(t, cmd)
}

// post sends a request to the admin socket.
func (d *server) post(path, body string) (int, string) {
	d.t.Helper()
	out := testenv.Run(d.t, "curl", "-s", "-X", "POST", "--data", body, "-w", "\n%{http_code}", "--unix-socket", d.socket("admin.sock"), "http://x"+path)
	text, status, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if i := strings.LastIndex(out, "\n"); i >= 0 {
		text, status = out[:i], strings.TrimSpace(out[i:])
	}
	n, err := strconv.Atoi(status)
	if err != nil {
		d.t.Fatal(err)
	}
	return n, text
}

// remove removes the snapshot and the image that a clone was made of, which fails if anything needs them.
func (g golden) remove(t *testing.T) {
	t.Helper()
	testenv.RBD(t, "snap", "rm", "--no-progress", g.spec+"@s")
	testenv.RBD(t, "rm", "--no-progress", g.spec)
}

// TestFlattenVerb flattens clones of each kind: they and their snapshots read as before, without their parents; librbd, for
// which they are ordinary images afterwards, agrees.
func TestFlattenVerb(t *testing.T) {
	testenv.CephConf(t)
	testenv.Tool(t, "nbdcopy")
	for _, c := range []struct {
		parent, clone      string // formats; the clone's is "" if it has the parent's key
		parentMiB, dataMiB int64
		create             []string
	}{
		{"", "", 24, 24, nil},
		{"luks1", "", 20, 20, nil},
		{"luks2", "", 8, 8, []string{"--image-feature", "layering,exclusive-lock"}},
		{"", "luks1", 24, 20, nil},
		{"", "luks2", 24, 8, []string{"--image-feature", "layering,exclusive-lock"}},
		{"luks1", "luks2", 20, 8, nil},
		{"luks2", "luks1", 8, 20, []string{"--image-feature", "layering,exclusive-lock,object-map"}},
		{"luks1", "luks1", 22, 22, []string{"--object-size", "1M"}},
	} {
		t.Run(fmt.Sprintf("%q over %q", c.clone, c.parent), func(t *testing.T) {
			var create []string
			if c.create != nil && c.create[0] == "--object-size" {
				create = c.create
			}
			g := newGolden(t, c.parent, 24, c.parentMiB, create...)
			l := level{spec: g.clone(t, c.create...), keys: g.keys, model: g.model}
			if c.clone != "" {
				key := g.key(t, "own")
				good(t, formatClone(l.spec, c.clone, key)...)
				l = g.own(l.spec, key, c.dataMiB, min(c.parentMiB, c.dataMiB))
			}
			engine := plainWithout(l.keys)
			// Not where the parent has zeros: in the memory of this cluster librbd's engine reads noise from holes.
			l.scribble(t, 2<<20, engine...)
			testenv.RBD(t, "snap", "create", "--no-progress", l.spec+"@before")
			snapshot := level{spec: l.spec + "@before", keys: l.keys, model: bytes.Clone(l.model)}
			l.scribble(t, 1<<20, engine...)
			if c.clone != "" {
				bad(t, exitUsage, "name the passphrases of both", "flatten", "rbd:"+l.spec)
			}
			args := append([]string{"flatten"}, l.args()...)
			if c.clone == "" {
				args = append([]string{"flatten", "rbd:" + l.spec}, engine...) // without keys
			}
			if out := good(t, args...); !strings.Contains(out, "no longer needs rbd:"+g.spec+"@s") {
				t.Errorf("%s", out)
			}
			if out := good(t, args...); !strings.Contains(out, "there is nothing to do") {
				t.Errorf("%s", out)
			}
			flat := level{spec: l.spec, keys: l.keys[:min(1, len(l.keys))], model: l.model}
			flat.reads(t, engine...)
			if c.create == nil || strings.Contains(c.create[0], "object-size") { // deep-flatten: snapshots need no parent either
				g.remove(t)
				snapshot.keys = flat.keys
			}
			snapshot.reads(t, engine...)
			if c.clone != "" {
				m := rbdImage{spec: l.spec, key: l.keys[0], format: c.clone}
				file := filepath.Join(t.TempDir(), "librbd")
				m.librbdRead(t, l.spec, file)
				differs(t, "librbd", file, l.model)
			}
			if out := testenv.Try(t, "rbd", "--conf", os.Getenv(testenv.EnvCephConf), "object-map", "check", "--no-progress", l.spec); out.ExitCode != 0 && strings.Contains(strings.Join(c.create, " "), "object-map") {
				t.Errorf("%s", out)
			}
		})
	}
}

// scribble writes some bytes through an export and into the model.
func (l level) scribble(t *testing.T, at int, args ...string) {
	t.Helper()
	e := export(t, append(append(l.args(), "--engine", "native"), args...)...)
	out := testenv.Run(t, "qemu-io", "-f", "raw", e.uri, "-c", fmt.Sprintf("write -P %d %d 5000", at>>20+1, at), "-c", "flush")
	if strings.Contains(out, "failed") {
		t.Fatal(out)
	}
	e.stop(t)
	copy(l.model[at:], bytes.Repeat([]byte{byte(at>>20 + 1)}, 5000))
}

// TestFlattenIsInterrupted ends a flatten in the middle, by a signal and by force: the clone reads as before, and the next
// one goes on.
func TestFlattenIsInterrupted(t *testing.T) {
	testenv.Long(t) // the cluster takes half a minute to notice that a client is dead
	t.Parallel()
	testenv.CephConf(t)
	testenv.Tool(t, "nbdcopy")
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own key %v", own), func(t *testing.T) {
			t.Parallel()
			interruptFlatten(t, own)
		})
	}
}

func interruptFlatten(t *testing.T, own bool) {
	g := newGolden(t, "luks1", 68, 66, "--object-size", "64K")
	spec := g.clone(t, "--object-size", "64K")
	l := level{spec: spec, keys: g.keys, model: g.model}
	if own {
		key := g.key(t, "own")
		good(t, formatClone(spec, "luks1", key)...)
		data := (rawBytes(t, spec) - 2<<20) >> 20 // a header of 2 MiB with objects this small
		l = g.own(spec, key, data, data)
	}
	args := append([]string{"flatten", "--json"}, l.args()...)
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		p := testenv.StartCmd(t, command(args...))
		p.WaitLine(`"step"`)
		p.Signal(signal)
		code := p.Wait()
		if signal != syscall.SIGKILL && (code != exitGeneral || !strings.Contains(p.Output(), "signal received")) {
			t.Errorf("exit code %d\n%s", code, p.Output())
		}
		if !strings.Contains(testenv.RBD(t, "info", spec), "parent: "+g.spec+"@s") {
			t.Fatalf("%v: the parent is gone", signal)
		}
		l.reads(t)
	}
	// The cluster takes a while to notice that the last one is dead.
	for end := time.Now().Add(testenv.CommandTimeout); ; {
		r := luksgate(t, args...)
		if r.ExitCode == exitOK {
			break
		}
		if r.ExitCode != exitBusy || time.Now().After(end) {
			t.Fatalf("%s", r)
		}
		time.Sleep(time.Second)
	}
	g.remove(t)
	l.keys = l.keys[:1]
	l.reads(t)
}

// TestFlattenWhileExported has the daemon flatten a clone with a key of its own while a client writes.
func TestFlattenWhileExported(t *testing.T) {
	testenv.CephConf(t)
	testenv.Tool(t, "nbdcopy")
	g := newGolden(t, "luks1", 52, 50, "--object-size", "256K")
	key := g.key(t, "own")
	spec := g.clone(t, "--object-size", "256K")
	good(t, formatClone(spec, "luks1", key)...)
	dataMiB := rawBytes(t, spec)>>20 - 2
	l := g.own(spec, key, dataMiB, dataMiB)
	d := serveDaemon(t, fmt.Sprintf(`exports:
  - {name: a, image: "rbd:%s", socket: DIR/a.sock, keys: [{file: %s}, {file: %s}], engine: native}
`, spec, l.keys[0], l.keys[1]))
	p := nbdshStart(t, d.uri("a", "a.sock"), `
import itertools
print('writing', flush=True)
for i in itertools.count():
    at = (i * 7919 * 512) % (48 << 20)
    h.pwrite(b'w' * 512, at)
    if i > 1500: break
h.flush()
print('written', flush=True)
`)
	p.WaitLine("writing")
	out := d.must("flatten", "rbd:"+spec, "--json")
	if !strings.Contains(out, `"step":"copy up"`) || !strings.Contains(out, `"parent":"rbd:`+g.spec+`@s"`) {
		t.Errorf("%s", out)
	}
	p.WaitLine("written")
	for i := range 1502 {
		copy(l.model[i*7919*512%(48<<20):], bytes.Repeat([]byte{'w'}, 512))
	}
	sameAs(t, "while it is exported still", d.uri("a", "a.sock"), l.model)
	d.stop()
	g.remove(t)
	l.keys = l.keys[:1]
	l.reads(t)
}
