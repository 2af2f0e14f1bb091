// SPDX-License-Identifier: Apache-2.0

// Package package_test builds on what "make dist" has made: it has others judge the packages, and uses them on booted
// systems.
package package_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/disttest"
	"github.com/luksgate/luksgate/deploy/testenv"
)

var both = []string{"luksgate", "luksgate-bundle"}

// TestLintian has Debian's checker find nothing that is not explained in an override.
func TestLintian(t *testing.T) {
	d := disttest.Find(t)
	for _, name := range both {
		r := testenv.Try(t, "lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", d.Deb(name))
		if r.ExitCode != 0 || strings.TrimSpace(r.Stdout) != "" {
			t.Errorf("%s", r)
		}
	}
}

// TestSums has the files be those that SHA256SUMS names.
func TestSums(t *testing.T) {
	d := disttest.Find(t)
	cmd := exec.Command(testenv.Tool(t, "sha256sum"), "--check", "--strict", "SHA256SUMS")
	cmd.Dir = d.Dir
	r := testenv.RunCmd(t, cmd)
	if r.ExitCode != 0 || strings.Count(r.Stdout, ": OK\n") != 5 {
		t.Errorf("%s", r)
	}
}

// TestNoPathsOfTheBuilder looks for folders of this machine in what users get.
func TestNoPathsOfTheBuilder(t *testing.T) {
	d := disttest.Find(t)
	for _, name := range both {
		root := unpack(t, d.Deb(name))
		b, err := os.ReadFile(filepath.Join(root, "usr/bin/luksgate"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{testenv.Root(t), "/luksgate/run/", "/pkg/mod/"} {
			if strings.Contains(string(b), path) {
				t.Errorf("%s: the program has %q in it", name, path)
			}
		}
	}
}

// unpack unpacks a package.
func unpack(t *testing.T, deb string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	testenv.Run(t, "dpkg-deb", "--extract", deb, root)
	return root
}

// TestAppArmor has the parsers of Debian 12 and Debian 11 read the profile. That it is enough for the daemon nothing shows
// here but the list in its test below: no kernel of the tests enforces it.
func TestAppArmor(t *testing.T) {
	d := disttest.Find(t)
	root := unpack(t, d.Deb("luksgate"))
	testenv.Run(t, "apparmor_parser", "--skip-kernel-load", "--skip-cache", "--debug", filepath.Join(root, "etc/apparmor.d/luksgate"))
	m := testenv.NewMachine(t, disttest.HostSuite, d.Dir)
	m.Run(t, "dpkg", "-i", d.Deb("luksgate"))
	m.Run(t, "apparmor_parser", "--skip-kernel-load", "--skip-cache", "--debug", "/etc/apparmor.d/luksgate")
}
