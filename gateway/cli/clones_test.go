// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

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

// reefChain makes a chain of clones with Ceph 18: an image with a key of its own over a plaintext one, another with
// another key and header over that, and one with the inherited key; it writes each and reads all, and their snapshots.
func reefChain(t *testing.T, r *reef) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	k1, k2 := r.key(t, "k1"), r.key(t, "k2")
	golden := r.golden(t, 48, seed)

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

// reefKeys opens a clone of a clone of a plaintext image with keys that do not fit.
func reefKeys(t *testing.T, r *reef) {
	k1, k2 := r.key(t, "k1"), r.key(t, "k2")
	golden := r.golden(t, 24, 5)
	a := r.child(t, golden, "luks2", k1, 8, 8)
	b := r.child(t, a, "luks1", k2, 20, 8)
	for _, c := range []struct {
		name string
		keys []string
		code int
		text string
	}{
		{"only the clone's", []string{k2}, exitWrongPassphrase, "its parent rbd:" + a.spec + "@s"},
		{"in the wrong order", []string{k1, k2}, exitWrongPassphrase, "rbd:" + b.spec + ": "},
		{"one for a plaintext image", []string{k2, k1, k1}, exitNotLUKS, "its parent rbd:" + golden.spec + "@s"},
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
