// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A reef is a Ceph 18 cluster in a chroot, with that Ceph's tools, librbd and qemu. The gateway that runs inside is the
// one that was built outside, with older headers.
type reef struct {
	testenv.System
	conf, gateway string
}

func newReef(t *testing.T) *reef {
	t.Helper()
	s := testenv.Chroot(t, "trixie")
	r := &reef{System: s, conf: filepath.Join(s.Dir, "c", "ceph.conf"), gateway: filepath.Join(s.Dir, "luksgate")}
	script := filepath.Join(testenv.Root(t), "deploy/devcluster/devcluster")
	// The script lies in the repository, which is bound into the chroot at the same path.
	t.Cleanup(func() {
		testenv.RunCmd(t, s.Command(t, "env", script, "stop", filepath.Dir(r.conf), "--wipe"))
	})
	// A store that knows holes, and clients that ask for them: elsewhere librbd's engine decrypts the holes that its own
	// copy-up leaves in an object.
	r.run(t, "env", script, "start", filepath.Dir(r.conf), "--store", "bluestore", "--conf", "rbd_sparse_read_threshold_bytes = 1")
	in, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(r.gateway, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return r
}

// run runs a program inside.
func (r *reef) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	got := testenv.RunCmd(t, r.Command(t, name, args...))
	if got.ExitCode != 0 {
		t.Fatalf("inside the chroot:\n%s", got)
	}
	return got.Stdout
}

func (r *reef) rbd(t *testing.T, args ...string) string {
	t.Helper()
	return r.run(t, "rbd", append([]string{"--conf", r.conf}, args...)...)
}

// luksgate runs a command of the gateway inside.
func (r *reef) luksgate(t *testing.T, args ...string) testenv.Result {
	t.Helper()
	return testenv.RunCmd(t, r.Command(t, "env", append([]string{envRun + "=1", r.gateway}, args...)...))
}

// start runs the gateway inside, on a socket that is the same outside.
func (r *reef) start(t *testing.T, args ...string) (uri string, kill func(syscall.Signal)) {
	t.Helper()
	dir, err := os.MkdirTemp(r.Dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	script := `echo "pid $$"; exec env "$@"`
	line := []string{"-c", script, "sh", envRun + "=1", r.gateway, "export", "--socket", filepath.Join(dir, "s"), "--ceph-conf", r.conf}
	p := testenv.StartCmd(t, r.Command(t, "sh", append(line, args...)...))
	pid, err := strconv.Atoi(strings.TrimPrefix(p.WaitLine("pid "), "pid "))
	if err != nil {
		t.Fatal(err)
	}
	uri = p.WaitLine("nbd+unix:")
	return uri, func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(); s == syscall.SIGTERM && code != 0 {
			t.Fatalf("exit code %d\n%s", code, p.Output())
		}
	}
}

// export is start for one that ends in order.
func (r *reef) export(t *testing.T, args ...string) (uri string, stop func()) {
	t.Helper()
	uri, kill := r.start(t, args...)
	return uri, func() { t.Helper(); kill(syscall.SIGTERM) }
}

// key makes a key file that has the same path inside.
func (r *reef) key(t *testing.T, name string) string {
	t.Helper()
	return testenv.WriteFile(t, filepath.Join(r.Dir, name), []byte("the passphrase "+name))
}

// sameAs compares what an export shows with a model.
func sameAs(t *testing.T, what, uri string, model []byte) {
	t.Helper()
	if size := strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", uri)); size != strconv.Itoa(len(model)) {
		t.Fatalf("%s: size %s, want %d", what, size, len(model))
	}
	file := filepath.Join(t.TempDir(), "copy")
	testenv.Run(t, "nbdcopy", uri, file)
	differs(t, what, file, model)
}

// differs fails if a file is not the model.
func differs(t *testing.T, what, file string, model []byte) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(model) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(model))
	}
	for i := range got {
		if got[i] != model[i] {
			t.Fatalf("%s: byte %d (%d MiB + %d) is %#x, want %#x", what, i, i>>20, i&(1<<20-1), got[i], model[i])
		}
	}
}

// A level is one image of a chain and what it reads as.
type level struct {
	spec  string
	keys  []string // the files, as they are to be given
	model []byte
}

func (l level) args() []string {
	args := []string{"rbd:" + l.spec}
	for _, k := range l.keys {
		args = append(args, "--key-file", k)
	}
	return args
}

// qemuRead copies the plaintext through qemu and librbd's engine, inside.
func (r *reef) qemuRead(t *testing.T, l level) string {
	t.Helper()
	pool, name, _ := strings.Cut(l.spec, "/")
	opts := fmt.Sprintf("driver=rbd,pool=%s,image=%s,conf=%s", pool, name, r.conf)
	args := []string{"dd"}
	for i, k := range l.keys {
		args = append(args, "--object", fmt.Sprintf("secret,id=k%d,file=%s", i, k))
		prefix := "encrypt." + strings.Repeat("parent.", i)
		opts += fmt.Sprintf(",%sformat=luks-any,%skey-secret=k%d", prefix, prefix, i)
	}
	out := filepath.Join(r.Dir, "qemu-copy")
	r.run(t, "qemu-img", append(args, "--image-opts", "-O", "raw", "bs=2M", "if="+opts, "of="+out)...)
	return out
}

// check has every reader compare: the gateway inside with librbd's engine and with its own, the gateway outside, whose
// librbd is older, and qemu inside.
func (r *reef) check(t *testing.T, l level) {
	t.Helper()
	uri, stop := r.export(t, append(l.args(), "--read-only")...)
	sameAs(t, l.spec+", inside, engine auto", uri, l.model)
	stop()
	uri, stop = r.export(t, append(l.args(), "--read-only", "--engine", "native")...)
	sameAs(t, l.spec+", inside, engine native", uri, l.model)
	stop()
	g := export(t, append(l.args(), "--read-only", "--engine", "native", "--ceph-conf", r.conf)...)
	sameAs(t, l.spec+", outside", g.uri, l.model)
	g.stop(t)
	differs(t, l.spec+", qemu", r.qemuRead(t, l), l.model)
}

// write has the gateway inside write through the engine that it chooses.
func (r *reef) write(t *testing.T, l level, seed uint64) {
	t.Helper()
	uri, stop := r.export(t, l.args()...)
	qemuWrites(t, []string{"-f", "raw", uri}, l.model, 25, 1, seed)
	stop()
}

// child clones l at a new snapshot, with a header of its own unless format is "". dataMiB is the size of its plaintext,
// overlapMiB how much of l's plaintext can be seen through it.
func (r *reef) child(t *testing.T, l level, format, key string, dataMiB, overlapMiB int) level {
	t.Helper()
	c := level{spec: l.spec + "c", keys: append([]string{key}, l.keys...), model: make([]byte, dataMiB<<20)}
	copy(c.model, l.model[:overlapMiB<<20])
	r.rbd(t, "snap", "create", "--no-progress", l.spec+"@s")
	r.rbd(t, "clone", "--rbd-default-clone-format", "2", l.spec+"@s", c.spec)
	if format != "" {
		r.rbd(t, "encryption", "format", c.spec, format, key)
	}
	return c
}

// TestReefChain makes a chain of clones with Ceph 18: an image with a key of its own over a plaintext one, another with
// another key and header over that, and one with the inherited key; it writes each and reads all, and their snapshots.
func TestReefChain(t *testing.T) {
	testenv.Long(t)
	t.Parallel() // it has a cluster of its own, and waits most of the time
	testenv.Tool(t, "nbdcopy")
	r := newReef(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	k1, k2 := r.key(t, "k1"), r.key(t, "k2")
	golden := level{spec: "rbd/g", model: randomBytes(48<<20, seed)}
	clear(golden.model[9<<20 : 15<<20])
	r.rbd(t, "import", "--no-progress", testenv.WriteFile(t, filepath.Join(r.Dir, "golden"), golden.model), golden.spec)

	a := r.child(t, golden, "luks2", k1, 32, 32)
	r.write(t, a, seed+1)
	b := r.child(t, a, "luks1", k2, 44, 32)
	r.write(t, b, seed+2)
	c := r.child(t, b, "", k2, 44, 44)
	r.write(t, c, seed+3)
	for _, l := range []level{a, b, c} {
		r.check(t, l)
	}
	// Snapshots hold what was, whatever is written afterwards.
	snap := level{spec: b.spec + "@s", keys: b.keys, model: append([]byte{}, b.model...)}
	r.write(t, b, seed+4)
	g := export(t, append(snap.args(), "--ceph-conf", r.conf, "--engine", "native")...)
	sameAs(t, "snapshot", g.uri, snap.model)
	g.stop(t)
}

// TestReefKeys opens a clone of a clone of a plaintext image with keys that do not fit.
func TestReefKeys(t *testing.T) {
	testenv.Long(t)
	t.Parallel() // as above
	r := newReef(t)
	k1, k2 := r.key(t, "k1"), r.key(t, "k2")
	golden := level{spec: "rbd/g", model: make([]byte, 24<<20)}
	r.rbd(t, "create", "--size", "24M", golden.spec)
	b := r.child(t, r.child(t, golden, "luks2", k1, 8, 8), "luks1", k2, 20, 8)
	for _, c := range []struct {
		name string
		keys []string
		code int
		text string
	}{
		{"only the clone's", []string{k2}, exitWrongPassphrase, "its parent rbd:rbd/gc@s"},
		{"in the wrong order", []string{k1, k2}, exitWrongPassphrase, "rbd:rbd/gcc: "},
		{"one for a plaintext image", []string{k2, k1, k1}, exitNotLUKS, "its parent rbd:rbd/g@s"},
		{"too many", []string{k2, k1, k1, k1}, exitUsage, "3 images"},
	} {
		for _, engine := range []string{"native", "librbd"} {
			args := []string{"export", "rbd:" + b.spec, "--read-only", "--engine", engine, "--ceph-conf", r.conf, "--socket", r.Dir + "/none"}
			for _, k := range c.keys {
				args = append(args, "--key-file", k)
			}
			if got := r.luksgate(t, args...); got.ExitCode != c.code || !strings.Contains(got.Stderr, c.text) {
				t.Errorf("%s: want exit code %d and %q\n%s", c.name, c.code, c.text, got)
			}
		}
	}
	// Both engines write with the right ones.
	for _, engine := range []string{"native", "librbd"} {
		b.keys = []string{k2, k1}
		uri, stop := r.export(t, append(b.args(), "--engine", engine)...)
		qemuWrites(t, []string{"-f", "raw", uri}, b.model, 10, 1, 5)
		sameAs(t, engine, uri, b.model)
		stop()
	}
}
