// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A cloneKind is how images of a chain are made.
type cloneKind struct {
	name    string
	options []string // of rbd create and rbd clone
	sizeMiB int64
	refused string // what is said of a clone with its own key, "" if it is served
	long    bool   // left to make test-long
}

var cloneKinds = []cloneKind{
	{"objects of 4 KiB", []string{"--object-size", "4K"}, 5, "", true},
	{"objects of 64 KiB", []string{"--object-size", "64K"}, 12, "", false},
	{"objects of 32 MiB", []string{"--object-size", "32M"}, 72, "", true},
	{"striped", []string{"--object-size", "1M", "--stripe-unit", "64K", "--stripe-count", "3"}, 15, "striped over several objects", false},
	{"layering only", []string{"--image-feature", "layering"}, 24, "exclusive-lock", false},
	{"without object map", []string{"--image-feature", "layering,exclusive-lock"}, 24, "", true},
	{"without deep flatten", []string{"--image-feature", "layering,exclusive-lock,object-map,fast-diff"}, 24, "", true},
	{"without fast diff", []string{"--image-feature", "layering,exclusive-lock,object-map,deep-flatten"}, 24, "", true},
}

// TestCloneKinds writes, resizes and flattens clones of images of each kind, with the parent's key and with their own: they
// do what they should, or are refused with a reason and can be read all the same where that is right.
func TestCloneKinds(t *testing.T) {
	testenv.CephConf(t)
	testenv.Tool(t, "nbdcopy")
	for _, k := range cloneKinds {
		t.Run(k.name, func(t *testing.T) {
			if k.long {
				testenv.Long(t)
			}
			t.Parallel()
			k.try(t, testenv.Pool)
		})
	}
	t.Run("namespace", func(t *testing.T) {
		t.Parallel()
		namespace := testenv.Pool + "/" + testenv.UniqueName(t)
		testenv.RBD(t, "namespace", "create", namespace)
		t.Cleanup(func() { testenv.RBD(t, "namespace", "rm", namespace) })
		cloneKind{name: "namespace", sizeMiB: 24}.try(t, namespace)
	})
}

// TestCloneKindsErasureCoded does it with the data, the parent's and the clones', in an erasure-coded pool.
func TestCloneKindsErasureCoded(t *testing.T) {
	testenv.Long(t)
	c := newTroubled(t, "--store", "bluestore", "--size", "2G", "--osds", "3", "--ec-pool", "ec")
	t.Setenv(testenv.EnvCephConf, c.conf)
	t.Setenv("CEPH_CONF", c.conf)
	cloneKind{name: "erasure-coded", sizeMiB: 24, options: []string{"--data-pool", "ec"}}.try(t, testenv.Pool)
}

func (k cloneKind) try(t *testing.T, where string) {
	dir := t.TempDir()
	key := func(name string) string {
		return testenv.WriteFile(t, filepath.Join(dir, name), []byte("the passphrase "+name))
	}
	golden := where + "/" + testenv.UniqueName(t)
	testenv.RBD(t, append([]string{"create", "--size", fmt.Sprint(k.sizeMiB), golden}, k.options...)...)
	testenv.OwnImage(t, golden)
	parent := level{spec: golden, keys: []string{key("golden")}}
	good(t, formatClone(golden, "luks1", parent.keys[0])...)
	e := export(t, parent.args()...)
	size, err := strconv.Atoi(strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", e.uri)))
	if err != nil {
		t.Fatal(err)
	}
	parent.model = randomBytes(size, uint64(k.sizeMiB))
	testenv.Run(t, "nbdcopy", testenv.WriteFile(t, filepath.Join(dir, "model"), parent.model), e.uri)
	e.stop(t)
	testenv.RBD(t, "snap", "create", "--no-progress", golden+"@s")
	clone := func() string {
		spec := where + "/" + testenv.UniqueName(t)
		testenv.RBD(t, append([]string{"clone", "--rbd-default-clone-format", "2", golden + "@s", spec}, k.options...)...)
		testenv.OwnImage(t, spec)
		return spec
	}

	heir := level{spec: clone(), keys: parent.keys, model: bytes.Clone(parent.model)}
	heir.scribble(t, size/3)
	if k.name == "striped" {
		bad(t, exitNotLUKS, "disable it first (rbd feature disable", "flatten", "rbd:"+heir.spec)
		testenv.RBD(t, "feature", "disable", heir.spec, "object-map", "fast-diff")
	}
	good(t, "flatten", "rbd:"+heir.spec)
	heir.reads(t)

	own := level{spec: clone(), keys: []string{key("own"), parent.keys[0]}, model: bytes.Clone(parent.model)}
	good(t, formatClone(own.spec, "luks1", own.keys[0])...)
	if k.refused != "" {
		socket := filepath.Join(testenv.SocketDir(t), "s")
		bad(t, exitNotLUKS, k.refused, append(append([]string{"export"}, own.args()...), "--engine", "native", "--socket", socket)...)
		return
	}
	own.scribble(t, size/3)
	own.reads(t, "--engine", "native")
	grown := size>>20 + 8
	good(t, "resize", "rbd:"+own.spec, fmt.Sprintf("%dM", grown))
	own.model = append(own.model, make([]byte, int(grown)<<20-size)...)
	own.reads(t, "--engine", "native")
	// The cut goes through an object that shows the parent.
	cut := size / 2 / 4096 * 4096
	good(t, append([]string{"resize", "--allow-shrink"}, append(own.args(), fmt.Sprint(cut))...)...)
	good(t, "resize", "rbd:"+own.spec, fmt.Sprintf("%dM", grown))
	clear(own.model[cut:])
	own.reads(t, "--engine", "native")
	good(t, append([]string{"flatten"}, own.args()...)...)
	own.keys = own.keys[:1]
	own.reads(t, "--engine", "native")
	raw := filepath.Join(dir, "raw")
	testenv.RBD(t, "export", "--no-progress", own.spec, raw)
	if b, err := os.ReadFile(raw); err != nil || !bytes.HasPrefix(b, []byte("LUKS\xba\xbe")) {
		t.Errorf("it has the magic of a clone still (%v)", err)
	}
}
