// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// must runs a command of the gateway inside, which has to succeed.
func (r *reef) must(t *testing.T, args ...string) string {
	t.Helper()
	got := r.luksgate(t, append(args, "--ceph-conf", r.conf)...)
	if got.ExitCode != exitOK {
		t.Fatalf("%s", got)
	}
	return got.Stdout
}

// ownClone is a clone of an encrypted image which librbd has formatted with another key and another header size.
func (r *reef) ownClone(t *testing.T, seed uint64, options ...string) (parent, clone level) {
	t.Helper()
	golden := level{spec: testenv.Pool + "/" + testenv.UniqueName(t), model: randomBytes(40<<20, seed)}
	clear(golden.model[17<<20 : 22<<20])
	r.rbd(t, "create", "--size", "44M", golden.spec)
	golden.keys = []string{r.key(t, "golden")}
	r.format(t, golden.spec, "luks1", golden.keys[0])
	uri, stop := r.export(t, golden.args()...)
	testenv.Run(t, "nbdcopy", testenv.WriteFile(t, filepath.Join(t.TempDir(), "model"), golden.model), uri)
	stop()
	clone = r.child(t, golden, "luks2", r.key(t, "own"), 28, 28, options...)
	return golden, clone
}

// extend is what a level reads as after it was cut to cutBytes, if that is less, and made larger to sizeBytes.
func (l *level) extend(cutBytes, sizeBytes int) {
	clear(l.model[min(cutBytes, len(l.model)):])
	l.model = append(l.model, make([]byte, max(0, sizeBytes-len(l.model)))...)[:sizeBytes]
}

// reefSizes makes a clone with a key of its own larger and smaller, by itself and while the daemon serves it with each
// engine: what was cut is zeros afterwards and not the parent's, also where the cut goes through an object of the parent.
func reefSizes(t *testing.T, r *reef) {
	_, l := r.ownClone(t, 31)
	r.write(t, l, 32)
	shrink := func(cut int) []string {
		return append(append([]string{"resize", "--allow-shrink"}, l.args()...), fmt.Sprint(cut))
	}
	r.must(t, "resize", "rbd:"+l.spec, "34M")
	l.extend(len(l.model), 34<<20)
	r.check(t, l)
	cut := 25<<20 + 3*4096
	r.must(t, shrink(cut)...)
	r.must(t, "resize", "rbd:"+l.spec, "31M")
	l.extend(cut, 31<<20)
	r.check(t, l)
	for i, engine := range []string{"native", "librbd"} {
		d := r.serve(t, l, engine)
		uri := d.uri("a", "a.sock")
		qemuWrites(t, []string{"-f", "raw", uri}, l.model, 12, 1, uint64(40+i))
		cut := 21<<20 - (i+1)*5*4096 - i*(4<<20)
		d.must(append(shrink(cut), "--ceph-conf", r.conf)...)
		d.must("resize", "rbd:"+l.spec, "30M", "--ceph-conf", r.conf)
		l.extend(cut, 30<<20)
		sameAs(t, "served by "+engine, uri, l.model)
		d.kill()
		r.check(t, l)
	}
}

// reefFlatten makes clones with keys of their own independent, each in another way. They and their snapshots read as before
// with one key, and the parent can be removed.
func reefFlatten(t *testing.T, r *reef) {
	noMap := []string{"--image-feature", "layering,exclusive-lock,deep-flatten"}
	for name, c := range map[string]struct {
		engine  string // of the daemon that serves it meanwhile; "" is none
		options []string
	}{
		"alone": {"", nil}, "served natively": {"native", nil}, "served by librbd": {"librbd", noMap},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent, l := r.ownClone(t, uint64(len(name)), c.options...)
			r.write(t, l, 51)
			snapshot := level{spec: l.spec + "@n", model: bytes.Clone(l.model)}
			r.rbd(t, "snap", "create", "--no-progress", snapshot.spec)
			r.write(t, l, 52)
			if c.engine == "" {
				r.must(t, append([]string{"flatten"}, l.args()...)...)
			} else {
				d := r.serve(t, l, c.engine)
				client := []string{"-f", "raw", d.uri("a", "a.sock")}
				qemuWrites(t, client, l.model, 8, 1, 53) // has the daemon open it
				d.must("flatten", "rbd:"+l.spec, "--ceph-conf", r.conf)
				qemuWrites(t, client, l.model, 8, 1, 54)
				d.kill()
			}
			r.rbd(t, "snap", "rm", "--no-progress", parent.spec+"@s")
			r.rbd(t, "rm", "--no-progress", parent.spec)
			l.keys = l.keys[:1]
			r.check(t, l)
			snapshot.keys = l.keys
			uri, stop := r.export(t, append(snapshot.args(), "--engine", "native")...)
			sameAs(t, "its snapshot", uri, snapshot.model)
			stop()
		})
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		_, l := r.ownClone(t, 61)
		d := r.serve(t, l, "librbd")
		sameAs(t, "served by librbd", d.uri("a", "a.sock"), l.model)
		got := d.run("flatten", "rbd:"+l.spec, "--ceph-conf", r.conf)
		if got.ExitCode == exitOK || !strings.Contains(got.Stderr, "an object map that may be wrong after a crash; end the export") {
			t.Errorf("%s", got)
		}
		d.kill()
		r.check(t, l)
	})
}

// reefErasureCoded has the data of clones with keys of their own, made by librbd and by luksgate, in a pool from which librbd's
// engine reads noise where there are holes: engine auto is the native one there, and right.
func reefErasureCoded(t *testing.T, r *reef) {
	pool := []string{"--data-pool", reefDataPool}
	for name, format := range map[string]func(t *testing.T, spec, key string){
		"formatted by librbd":   func(t *testing.T, spec, key string) { r.format(t, spec, "luks2", key) },
		"formatted by luksgate": func(t *testing.T, spec, key string) { r.must(t, formatClone(spec, "luks2", key)...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden := r.golden(t, 48, 71, pool...)
			l := r.child(t, golden, "", "", 32, 32, pool...)
			l.keys = []string{r.key(t, "own")}
			format(t, l.spec, l.keys[0])
			if got := r.engine(t, l); got != "native" {
				t.Fatalf("auto is %s", got)
			}
			r.write(t, l, 72)
			r.must(t, append(append([]string{"resize", "--allow-shrink"}, l.args()...), fmt.Sprint(27<<20+4096))...)
			r.must(t, "resize", "rbd:"+l.spec, "30M")
			l.extend(27<<20+4096, 30<<20)
			r.write(t, l, 73)
			r.checkNative(t, l)
			r.must(t, append([]string{"flatten"}, l.args()...)...)
			r.checkNative(t, l)
			// The librbd engine is there for who insists, with a warning.
			if got := r.engine(t, l, "--engine", "librbd"); got != "librbd, warned" {
				t.Errorf("librbd is %s", got)
			}
		})
	}
	t.Run("replicated", func(t *testing.T) {
		t.Parallel()
		golden := r.golden(t, 24, 74)
		if got := r.engine(t, r.child(t, golden, "luks1", r.key(t, "own"), 20, 20)); got != "librbd" {
			t.Errorf("auto is %s", got)
		}
	})
}

// checkNative compares what the native engine reads, with the librbd inside and with the one outside.
func (r *reef) checkNative(t *testing.T, l level) {
	t.Helper()
	uri, stop := r.export(t, append(l.args(), "--read-only")...)
	sameAs(t, l.spec+", inside", uri, l.model)
	stop()
	g := export(t, append(l.args(), "--read-only", "--engine", "native", "--ceph-conf", r.conf)...)
	sameAs(t, l.spec+", outside", g.uri, l.model)
	g.stop(t)
}

// engine is the one that serves a clone with a key of its own: the native one alone knows how deep in the chain data are.
// Librbd's has a warning where the data are erasure-coded.
func (r *reef) engine(t *testing.T, l level, args ...string) string {
	t.Helper()
	p, uri, kill := r.start(t, append(append(l.args(), "--read-only"), args...)...)
	defer kill(syscall.SIGTERM)
	name := "librbd"
	if tellsDepth(t, uri) {
		name = "native"
	}
	if strings.Contains(p.Output(), "erasure-coded pool") {
		name += ", warned"
	}
	return name
}
