// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// ownKeyClone makes a clone of a plaintext image, with a key of its own and options of "rbd clone".
func ownKeyClone(t *testing.T, options ...string) (spec, key string, model []byte) {
	t.Helper()
	golden := randomBytes(20<<20, 71)
	parent := testenv.Pool + "/" + testenv.UniqueName(t)
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "golden"), golden)
	testenv.RBD(t, "import", "--no-progress", file, parent)
	testenv.OwnImage(t, parent)
	testenv.RBD(t, "snap", "create", "--no-progress", parent+"@s")
	spec = testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, append([]string{"clone", "--rbd-default-clone-format", "2", parent + "@s", spec}, options...)...)
	testenv.OwnImage(t, spec)
	key = testenv.WriteFile(t, filepath.Join(t.TempDir(), "key"), []byte("correct horse"))
	if r := luksgate(t, "format", "rbd:"+spec, "--type", "luks1", "--key-file", key, "--kdf-iterations", "1000", "--yes"); r.ExitCode != 0 {
		t.Fatalf("format: %s", r)
	}
	return spec, key, golden[:16<<20]
}

// TestCloneHandOver has two gateways write one clone in turn, through clients that stay connected: each sees at once what
// the other one wrote into objects that it has seen to be the parent's.
func TestCloneHandOver(t *testing.T) {
	testenv.CephConf(t)
	spec, key, model := ownKeyClone(t)
	var gates []*gate
	var disks []*disk
	for range 2 {
		g := export(t, "rbd:"+spec, "--key-file", key, "--engine", "native")
		d, err := openDisk(g.socket)
		if err != nil {
			t.Fatal(err)
		}
		gates, disks = append(gates, g), append(disks, d)
	}
	all := make([]byte, len(model))
	for i := range 12 {
		d := disks[i%2]
		// Reading all of it leaves this gateway with knowledge of every object, where it may remember.
		if err := d.do(nbdRead, 0, 0, int64(len(all)), nil, all); err != nil {
			t.Fatal(err)
		}
		if err := sameBytes(all, model, 0); err != nil {
			t.Fatalf("turn %d: %v", i, err)
		}
		for j := range 3 {
			at := (i*3+j)*397_001%(len(model)-5000) + j
			next := randomBytes(5000, uint64(100*i+j))
			copy(model[at:], next)
			if err := d.do(nbdWrite, 0, int64(at), 5000, next, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, g := range gates {
		sameAs(t, "at the end", g.uri, model)
		g.stop(t)
	}
}

// TestCloneRefused tries to write clones that cannot be written object by object.
func TestCloneRefused(t *testing.T) {
	testenv.CephConf(t)
	for _, c := range []struct {
		name    string
		options []string
		after   []string // an rbd command, whose last argument is the image
		text    string
	}{
		{"without a lock", []string{"--image-feature", "layering"}, nil, "exclusive-lock"},
		{"with a journal", []string{"--image-feature", "layering,exclusive-lock,journaling"}, nil, "journaling"},
		{"with a cache", nil, []string{"image-meta", "set", "IMAGE", "conf_rbd_cache", "true"}, "rbd_cache"},
		{"striped", []string{"--stripe-unit", "65536", "--stripe-count", "2"}, nil, "striped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec, key, _ := ownKeyClone(t, c.options...)
			for i, a := range c.after {
				if a == "IMAGE" {
					c.after[i] = spec
				}
			}
			if c.after != nil {
				testenv.RBD(t, c.after...)
			}
			socket := filepath.Join(testenv.SocketDir(t), "s")
			r := luksgate(t, "export", "rbd:"+spec, "--key-file", key, "--engine", "native", "--socket", socket)
			if r.ExitCode != exitNotLUKS || !strings.Contains(r.Stderr, c.text) {
				t.Errorf("want exit code %d and %q\n%s", exitNotLUKS, c.text, r)
			}
		})
	}
}
