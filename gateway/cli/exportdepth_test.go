// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// numbers are the first three columns, without what versions of libnbd call them.
func numbers(text string) string {
	var out strings.Builder
	for line := range strings.Lines(strings.TrimSpace(text)) {
		out.WriteString(strings.Join(strings.Fields(line)[:3], " ") + "\n")
	}
	return out.String()
}

// TestAllocationDepth has libnbd ask for the layers of a clone with a key of its own: nothing, its own data, its parent's.
func TestAllocationDepth(t *testing.T) {
	testenv.CephConf(t)
	g := newGolden(t, "luks2", 40, 24) // 16 MiB are the header's; the second of six objects is empty
	l := g.own(g.clone(t), g.key(t, "own"), 24, 24)
	good(t, formatClone(l.spec, "luks2", l.keys[0])...)
	e := export(t, l.args()...)
	testenv.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 2 13M 1M", "-c", "write -z -u 20M 4M", e.uri)
	e.checkMaps(t, map[string]string{
		"qemu:allocation-depth": `
 0 4194304 2 backing depth 2
 4194304 4194304 0 unallocated
 8388608 4194304 2 backing depth 2
 12582912 4194304 1 local
 16777216 4194304 2 backing depth 2
 20971520 4194304 1 local
`,
		"base:allocation": `
 0 4194304 0 data
 4194304 4194304 3 hole,zero
 8388608 12582912 0 data
 20971520 4194304 3 hole,zero
`,
	})
	e.stop(t)
	// An image without layers does not offer them.
	e = export(t, g.args()...)
	if tellsDepth(t, e.uri) {
		t.Error("layers of an image that is no clone")
	}
	e.stop(t)
}

// tellsDepth tells whether an export offers the depth of what it holds.
func tellsDepth(t *testing.T, uri string) bool {
	t.Helper()
	return testenv.Try(t, "nbdinfo", "--map=qemu:allocation-depth", uri).ExitCode == 0
}

// checkMaps compares what nbdinfo says of metadata contexts.
func (g *gate) checkMaps(t *testing.T, maps map[string]string) {
	t.Helper()
	for context, want := range maps {
		if got := numbers(testenv.Run(t, "nbdinfo", "--map="+context, g.uri)); got != numbers(want) {
			t.Errorf("%s: got\n%swant%s", context, got, want)
		}
	}
}

// TestAllocationDepthOfOneKey does so for a clone of a clone that both have the key of the first image.
func TestAllocationDepthOfOneKey(t *testing.T) {
	testenv.CephConf(t)
	g := newGolden(t, "luks2", 40, 24)
	middle := level{spec: g.clone(t), keys: g.keys}
	e := export(t, middle.args()...)
	testenv.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 2 13M 1M", "-c", "write -P 3 17M 64k", e.uri)
	e.stop(t)
	testenv.RBD(t, "snap", "create", "--no-progress", middle.spec+"@s")
	top := level{spec: golden{level: level{spec: middle.spec}}.clone(t), keys: g.keys}
	e = export(t, top.args()...)
	testenv.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 4 16M 512", "-c", "write -z -u 20M 4M", e.uri)
	e.checkMaps(t, map[string]string{
		"qemu:allocation-depth": `
 0 4194304 3 backing depth 3
 4194304 4194304 0 unallocated
 8388608 4194304 3 backing depth 3
 12582912 4194304 2 backing depth 2
 16777216 8388608 1 local
`,
		// librbd calls zeros that hide a parent's data data.
		"base:allocation": `
 0 4194304 0 data
 4194304 4194304 3 hole,zero
 8388608 16777216 0 data
`,
	})
	e.stop(t)
	testenv.RBD(t, "flatten", "--no-progress", top.spec)
	e = export(t, top.args()...)
	if tellsDepth(t, e.uri) {
		t.Error("layers of an image that was flattened")
	}
	e.stop(t)
}
