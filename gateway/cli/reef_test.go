// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestReef is what is done with Ceph 18, in one cluster for all of it, since a cluster takes half a minute.
func TestReef(t *testing.T) {
	testenv.Long(t)
	t.Parallel() // it has a cluster of its own, and waits most of the time
	testenv.Tool(t, "nbdcopy")
	r := newReef(t)
	for name, f := range map[string]func(*testing.T, *reef){
		"chain": reefChain, "keys": reefKeys, "sizes": reefSizes, "flatten": reefFlatten, "erasure-coded": reefErasureCoded, "soak": reefSoak,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, r)
		})
	}
}

// A reef is a Ceph 18 cluster in a chroot, with that Ceph's tools, librbd and qemu. The gateway that runs inside is the
// one that was built outside, with older headers. Its pool for erasure-coded data is reefDataPool.
type reef struct {
	testenv.System
	conf, gateway string
}

const reefDataPool = "ec"

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
	r.run(t, "env", script, "start", filepath.Dir(r.conf), "--store", "bluestore", "--osds", "3", "--ec-pool", reefDataPool,
		"--conf", "rbd_sparse_read_threshold_bytes = 1")
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

// spawn starts a command of the gateway inside.
func (r *reef) spawn(t *testing.T, args ...string) (p *testenv.Process, kill func(syscall.Signal)) {
	t.Helper()
	p = testenv.StartCmd(t, r.Command(t, "sh", append([]string{"-c", `echo "pid $$"; exec env "$@"`, "sh", envRun + "=1", r.gateway}, args...)...))
	pid, err := strconv.Atoi(strings.TrimPrefix(p.WaitLine("pid "), "pid "))
	if err != nil {
		t.Fatal(err)
	}
	return p, func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(); s == syscall.SIGTERM && code != 0 {
			t.Fatalf("exit code %d\n%s", code, p.Output())
		}
	}
}

// dir makes a folder that has the same path inside.
func (r *reef) dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(r.Dir, "s")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// start exports inside, on a socket that is the same outside.
func (r *reef) start(t *testing.T, args ...string) (p *testenv.Process, uri string, kill func(syscall.Signal)) {
	t.Helper()
	p, kill = r.spawn(t, append([]string{"export", "--socket", filepath.Join(r.dir(t), "s"), "--ceph-conf", r.conf}, args...)...)
	return p, p.WaitLine("nbd+unix:"), kill
}

// export is start for one that ends in order.
func (r *reef) export(t *testing.T, args ...string) (uri string, stop func()) {
	t.Helper()
	_, uri, kill := r.start(t, args...)
	return uri, func() { t.Helper(); kill(syscall.SIGTERM) }
}

// A reefServer is a daemon inside.
type reefServer struct {
	*server
	kill func()
}

// serve starts the daemon inside, with one export, a, at the socket a.sock.
func (r *reef) serve(t *testing.T, l level, engine string) reefServer {
	t.Helper()
	d := newServer(t, r.dir(t))
	var keys []string
	for _, k := range l.keys {
		keys = append(keys, "{file: "+k+"}")
	}
	d.write(fmt.Sprintf(`defaults: {ceph: {conf: %s}}
exports:
  - {name: a, image: "rbd:%s", socket: DIR/a.sock, keys: [%s], engine: %s}
`, r.conf, l.spec, strings.Join(keys, ", "), engine))
	p, kill := r.spawn(t, "serve", "--config", d.config)
	d.Process = p
	d.waitAnswer()
	return reefServer{d, func() { t.Helper(); kill(syscall.SIGTERM) }}
}

// key makes a key file that has the same path inside.
func (r *reef) key(t *testing.T, name string) string {
	t.Helper()
	return testenv.WriteFile(t, filepath.Join(r.Dir, testenv.UniqueName(t)), []byte("the passphrase "+name))
}

// qemuRead copies the plaintext through qemu and librbd's engine, inside.
func (r *reef) qemuRead(t *testing.T, l level) string {
	t.Helper()
	opts, secrets := r.qemuOptions(l)
	out := filepath.Join(r.Dir, testenv.UniqueName(t))
	t.Cleanup(func() { _ = os.Remove(out) })
	r.run(t, "qemu-img", append(append([]string{"dd"}, secrets...), "--image-opts", "-O", "raw", "bs=2M", "if="+opts, "of="+out)...)
	return out
}

// qemuOptions are those for qemu and librbd's engine, inside, and the secrets that they name.
func (r *reef) qemuOptions(l level) (opts string, secrets []string) {
	pool, name, _ := strings.Cut(l.spec, "/")
	opts = fmt.Sprintf("driver=rbd,pool=%s,image=%s,conf=%s", pool, name, r.conf)
	for i, k := range l.keys {
		secrets = append(secrets, "--object", fmt.Sprintf("secret,id=k%d,file=%s", i, k))
		prefix := "encrypt." + strings.Repeat("parent.", i)
		opts += fmt.Sprintf(",%sformat=luks-any,%skey-secret=k%d", prefix, prefix, i)
	}
	return opts, secrets
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

// golden makes a plaintext image, the first of a chain, with zeros in it.
func (r *reef) golden(t *testing.T, sizeMiB int, seed uint64, options ...string) level {
	t.Helper()
	l := level{spec: testenv.Pool + "/" + testenv.UniqueName(t), model: randomBytes(sizeMiB<<20, seed)}
	clear(l.model[9<<20 : min(sizeMiB, 15)<<20])
	file := testenv.WriteFile(t, filepath.Join(r.Dir, testenv.UniqueName(t)), l.model)
	r.rbd(t, append([]string{"import", "--no-progress", file, l.spec}, options...)...)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	return l
}

// child clones l at a new snapshot, with a header of its own unless format is "". dataMiB is the size of its plaintext,
// overlapMiB how much of l's plaintext can be seen through it, options are of rbd clone.
func (r *reef) child(t *testing.T, l level, format, key string, dataMiB, overlapMiB int, options ...string) level {
	t.Helper()
	c := level{spec: testenv.Pool + "/" + testenv.UniqueName(t), keys: append([]string{key}, l.keys...), model: make([]byte, dataMiB<<20)}
	copy(c.model, l.model[:overlapMiB<<20])
	r.rbd(t, "snap", "create", "--no-progress", l.spec+"@s")
	r.rbd(t, append([]string{"clone", "--rbd-default-clone-format", "2", l.spec + "@s", c.spec}, options...)...)
	if format != "" {
		r.format(t, c.spec, format, key)
	}
	return c
}

// format has librbd format an image. What its key derivation costs is known, and would be paid by every open.
func (r *reef) format(t *testing.T, spec, format, key string) {
	t.Helper()
	r.rbd(t, "encryption", "format", spec, format, key)
	args := []string{"key", "change", "rbd:" + spec, "--key-file", key, "--new-key-file", key, "--ceph-conf", r.conf}
	if got := r.luksgate(t, append(args, cheap...)...); got.ExitCode != exitOK {
		t.Fatalf("%s", got)
	}
}
