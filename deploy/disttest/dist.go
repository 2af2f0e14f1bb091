// SPDX-License-Identifier: Apache-2.0

// Package disttest is what the tests of packages, of the container and of the Ansible role have in common: the files that
// "make dist" has made, booted hosts to use them on, encrypted images of a real cluster, and guests that must not notice.
package disttest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// EnvDist is the environment variable that names the folder of the packages, where it is not dist/ of the repository.
const EnvDist = "LUKSGATE_TEST_DIST"

// Dist are the files that "make dist" has made.
type Dist struct{ Dir, Version string }

// Find finds the packages. It is for long tests: see [testenv.Long].
func Find(tb testing.TB) Dist {
	tb.Helper()
	testenv.Long(tb)
	dir := filepath.Join(testenv.Root(tb), "dist")
	if d := os.Getenv(EnvDist); d != "" {
		dir = d
	}
	found, err := filepath.Glob(filepath.Join(dir, "luksgate_*_amd64.deb"))
	if err != nil || len(found) != 1 {
		testenv.Missing(tb, "no packages in %s: make dist", dir)
	}
	_, version, _ := strings.Cut(strings.TrimSuffix(filepath.Base(found[0]), "_amd64.deb"), "_")
	return Dist{dir, version}
}

// Deb is the path of one of the two packages: luksgate or luksgate-bundle.
func (d Dist) Deb(name string) string {
	return filepath.Join(d.Dir, name+"_"+d.Version+"_amd64.deb")
}

// Tar is the path of the bundle's archive.
func (d Dist) Tar() string {
	return filepath.Join(d.Dir, "luksgate-bundle_"+d.Version+"_amd64.tar.zst")
}
