// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A site is a cluster with a gateway beside it.
type site interface {
	rbd(t *testing.T, args ...string) string
	try(t *testing.T, rbdArgs ...string) testenv.Result
	luksgate(t *testing.T, args ...string) testenv.Result
	// serve runs an export; kill ends it with a signal.
	serve(t *testing.T, args ...string) (socket string, kill func(syscall.Signal))
	// own has an image removed at the end; key writes the file of a passphrase.
	own(t *testing.T, spec string)
	key(t *testing.T, name string) string
	// judge compares an image, by its keys, with a model, by other means than the gateway's native engine.
	judge(t *testing.T, l level, layered bool)
	// librbd tells whether the gateway can use librbd's engine there.
	librbd(layered bool) bool
	// librbdWritesResizedClones tells whether that engine can write to a clone that was resized.
	librbdWritesResizedClones() bool
}

// here is the cluster of the tests, with the librbd of this system. holes tells whether its store knows them: elsewhere
// librbd's engine decrypts them to noise, and cannot be a judge.
type here struct {
	dir   string
	holes bool
}

func newHere(t *testing.T) here {
	t.Helper()
	h := here{t.TempDir(), strings.Contains(testenv.Ceph(t, "osd", "metadata", "0"), `"osd_objectstore": "bluestore"`)}
	if !h.holes {
		t.Log("NOT RUN: librbd's own engine on (a) and (b): the cluster's store knows no holes (devcluster --store bluestore does)")
	}
	return h
}

func (here) rbd(t *testing.T, args ...string) string { t.Helper(); return testenv.RBD(t, args...) }
func (here) own(t *testing.T, spec string)           { t.Helper(); testenv.OwnImage(t, spec) }
func (h here) librbd(layered bool) bool              { return h.holes && !layered }

// librbdWritesResizedClones is false: librbd 16 refuses a write that begins or ends inside a sector where the clone is
// longer than what it shows of its parent (EINVAL, from qemu's driver too).
func (here) librbdWritesResizedClones() bool { return false }

func (here) try(t *testing.T, args ...string) testenv.Result {
	t.Helper()
	return testenv.Try(t, "rbd", append([]string{"--conf", testenv.CephConf(t)}, args...)...)
}

func (here) luksgate(t *testing.T, args ...string) testenv.Result {
	t.Helper()
	return luksgate(t, args...)
}

func (h here) key(t *testing.T, name string) string {
	t.Helper()
	return testenv.WriteFile(t, filepath.Join(h.dir, name), []byte("the passphrase "+name))
}

func (here) serve(t *testing.T, args ...string) (string, func(syscall.Signal)) {
	t.Helper()
	g := export(t, args...)
	return g.socket, func(s syscall.Signal) {
		t.Helper()
		g.Signal(s)
		if code := g.Wait(); s == syscall.SIGTERM && code != 0 {
			t.Fatalf("exit code %d\n%s", code, g.Output())
		}
	}
}

func (h here) judge(t *testing.T, l level, layered bool) {
	t.Helper()
	if !h.librbd(layered) {
		return // this librbd knows nothing of layered images
	}
	g := export(t, append(l.args(), "--read-only", "--engine", "librbd")...)
	sameAs(t, l.spec+", librbd", g.uri, l.model)
	g.stop(t)
}

// inside is a cluster of Ceph 18, with its librbd.
type inside struct{ *reef }

func (inside) librbd(bool) bool { return true }

func (inside) librbdWritesResizedClones() bool { return true }

func (r inside) own(*testing.T, string) {} // the cluster goes away in whole

func (r inside) try(t *testing.T, args ...string) testenv.Result {
	t.Helper()
	return testenv.RunCmd(t, r.Command(t, "rbd", append([]string{"--conf", r.conf}, args...)...))
}

func (r inside) luksgate(t *testing.T, args ...string) testenv.Result {
	t.Helper()
	return r.reef.luksgate(t, append(args, "--ceph-conf", r.conf)...)
}

func (r inside) serve(t *testing.T, args ...string) (string, func(syscall.Signal)) {
	t.Helper()
	_, uri, kill := r.start(t, args...)
	_, socket, _ := strings.Cut(uri, "socket=")
	return socket, kill
}

func (r inside) judge(t *testing.T, l level, _ bool) {
	t.Helper()
	uri, stop := r.export(t, append(l.args(), "--read-only", "--engine", "librbd")...)
	sameAs(t, l.spec+", inside, engine librbd", uri, l.model)
	stop()
	if !strings.Contains(l.spec, "@") {
		differs(t, l.spec+", qemu", r.qemuRead(t, l), l.model)
	}
	g := export(t, append(l.args(), "--read-only", "--engine", "native", "--ceph-conf", r.conf)...)
	sameAs(t, l.spec+", outside", g.uri, l.model)
	g.stop(t)
}
