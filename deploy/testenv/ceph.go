// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"crypto/rand"
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// Pool is the pool that every test cluster has. Tests share it, under names from [UniqueName].
const Pool = "rbd"

// UniqueName returns a name that no other test uses, for an image, a pool or a namespace.
func UniqueName(tb testing.TB) string {
	tb.Helper()
	name := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, tb.Name())
	return name[:min(len(name), 40)] + "-" + strings.ToLower(rand.Text()[:8])
}

// RBD runs the rbd tool on the test cluster and returns its standard output; the test fails if it fails.
func RBD(tb testing.TB, args ...string) string {
	tb.Helper()
	return Run(tb, "rbd", append([]string{"--conf", CephConf(tb)}, args...)...)
}

// Ceph runs the ceph tool on the test cluster and returns its standard output; the test fails if it fails.
func Ceph(tb testing.TB, args ...string) string {
	tb.Helper()
	return Run(tb, "ceph", append([]string{"--conf", CephConf(tb), "--connect-timeout", "60"}, args...)...)
}

// NewPool makes a pool for RBD on the test cluster, removes it when the test ends, and returns its name. It takes
// about a second; most tests do with [Pool].
func NewPool(tb testing.TB) string {
	tb.Helper()
	pool := UniqueName(tb)
	Ceph(tb, "osd", "pool", "create", pool, "4")
	tb.Cleanup(func() { Ceph(tb, "osd", "pool", "rm", pool, pool, "--yes-i-really-really-mean-it") })
	RBD(tb, "pool", "init", pool)
	return pool
}

// NewImage makes an empty image of whole MiB in [Pool], with more options of "rbd create" if wanted, and returns its
// "pool/name". See [OwnImage] for its end.
func NewImage(tb testing.TB, sizeMiB int64, options ...string) string {
	tb.Helper()
	spec := Pool + "/" + UniqueName(tb)
	RBD(tb, append([]string{"create", "--size", strconv.FormatInt(sizeMiB, 10) + "M", spec}, options...)...)
	OwnImage(tb, spec)
	return spec
}

// OwnImage has an image, for example a clone, removed with its snapshots when the test ends. Ends come in reverse
// order, so a clone that was owned after its parent goes before it.
func OwnImage(tb testing.TB, spec string) {
	tb.Helper()
	conf := CephConf(tb)
	tb.Cleanup(func() {
		rbd := func(args ...string) Result {
			return RunCmd(tb, exec.Command(Tool(tb, "rbd"), append([]string{"--conf", conf}, args...)...))
		}
		var snapshots []struct {
			Name      string `json:"name"`
			Protected string `json:"protected"`
		}
		// A test may have removed its image: then there is nothing to list and nothing to do.
		if list := rbd("snap", "ls", "--format", "json", spec); list.ExitCode != 0 {
			return
		} else if err := json.Unmarshal([]byte(list.Stdout), &snapshots); err != nil {
			tb.Errorf("cannot read the snapshots of %s: %v", spec, err)
		}
		for _, snapshot := range snapshots {
			if snapshot.Protected == "true" {
				rbd("snap", "unprotect", spec+"@"+snapshot.Name)
			}
			rbd("snap", "rm", "--no-progress", spec+"@"+snapshot.Name)
		}
		if removed := rbd("rm", "--no-progress", spec); removed.ExitCode != 0 {
			tb.Errorf("image is left over:\n%s", removed)
		}
	})
}
