// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A System is a place with other people's programs: this machine, or a chroot of another Debian.
type System struct {
	// Name is for messages and names of subtests.
	Name string
	// Dir is a folder that has the same path for the test and for the programs. It is short enough for sockets.
	Dir    string
	root   string   // where its files are, "" for this machine
	prefix []string // what comes before a command line
}

// Path is where a file of the system is for the test.
func (s System) Path(inside string) string { return filepath.Join(s.root, inside) }

// Here is this machine.
func Here(tb testing.TB) System {
	tb.Helper()
	return System{Name: "here", Dir: SocketDir(tb)}
}

// Chroot is a suite that deploy/chroot has made before; what is installed in it the caller finds out. It skips the test
// where there is none, even where everything else is required, because making one takes root and minutes.
func Chroot(tb testing.TB, suite string) System {
	tb.Helper()
	script := filepath.Join(Root(tb), "deploy", "chroot", "chroot")
	out, err := exec.Command(script, "run-dir").Output()
	if err != nil {
		tb.Skipf("no chroots here: %v", err)
	}
	runDir := strings.TrimSpace(string(out))
	root := filepath.Join(filepath.Dir(runDir), suite)
	if _, err := os.Stat(filepath.Join(root, "etc", "luksgate-bootstrapped")); err != nil || os.Geteuid() != 0 {
		tb.Skipf("NOT RUN: no chroot of %s, or no right to use it: make it as root with deploy/chroot/chroot make %s", suite, suite)
	}
	dir, err := os.MkdirTemp(runDir, "t")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return System{Name: suite, Dir: dir, root: root, prefix: []string{script, "run", suite}}
}

// Command is a command line to be run in the system.
func (s System) Command(tb testing.TB, name string, args ...string) *exec.Cmd {
	tb.Helper()
	if len(s.prefix) == 0 {
		return exec.Command(Tool(tb, name), args...)
	}
	if _, err := os.Stat(filepath.Join(s.root, "usr", "bin", name)); err != nil {
		tb.Skipf("NOT RUN: %s is not in the chroot of %s: deploy/chroot/chroot make %s PACKAGE", name, s.Name, s.Name)
	}
	line := append(append([]string{}, s.prefix...), name)
	return exec.Command(line[0], append(line[1:], args...)...)
}

// mustHave skips the test where the system lacks a program.
func (s System) mustHave(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, path := range programs {
		if _, err := os.Stat(filepath.Join(s.root, path)); err == nil {
			continue
		}
		if s.root != "" {
			tb.Skipf("NOT RUN: %s is not in the chroot of %s: deploy/chroot/chroot make %s PACKAGE", path, s.Name, s.Name)
		}
		Missing(tb, "%s is not installed (run deploy/install-deps)", path)
	}
}

// ValidateXML runs documents through a schema of the system's libvirt, such as domain.rng. Keys name the documents.
func (s System) ValidateXML(tb testing.TB, schema string, documents map[string]string) {
	tb.Helper()
	xmllint := Tool(tb, "xmllint")
	rng := filepath.Join(s.root, "/usr/share/libvirt/schemas", schema)
	if _, err := os.Stat(rng); errors.Is(err, fs.ErrNotExist) {
		if s.root != "" {
			tb.Skipf("NOT RUN: no libvirt in the chroot of %s: deploy/chroot/chroot make %s libvirt0", s.Name, s.Name)
		}
		Missing(tb, "no libvirt schema %s (it comes with libvirt0)", rng)
	}
	dir := tb.TempDir()
	args := []string{"--noout", "--relaxng", rng}
	for name, document := range documents {
		path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_")+".xml")
		args = append(args, WriteFile(tb, path, []byte(document)))
	}
	result := RunCmd(tb, exec.Command(xmllint, args...))
	if result.ExitCode != 0 || strings.Count(result.Stderr, " validates\n") != len(documents) {
		tb.Errorf("libvirt's %s of %s:\n%s", schema, s.Name, result)
	}
}

var domainName = regexp.MustCompile(`<name\s*>([^<']*)</name>`)

// Redefine has the parser of the system's libvirt read domains and write them anew. It uses libvirt's test driver, which
// needs no daemon. The domains must have different names, in one <name> element without quotes.
func (s System) Redefine(tb testing.TB, domains []string) []string {
	tb.Helper()
	var script strings.Builder
	for i, domain := range domains {
		path := WriteFile(tb, filepath.Join(s.Dir, fmt.Sprintf("%d.xml", i)), []byte(domain))
		name := domainName.FindStringSubmatch(domain)
		if name == nil {
			tb.Fatalf("domain without a name:\n%s", domain)
		}
		fmt.Fprintf(&script, "define %s; dumpxml '%s';", path, name[1])
	}
	line := s.Command(tb, "virsh", "-q", "-c", "test:///default", script.String()).Args[len(s.prefix):]
	// virsh keeps a history and looks for a configuration.
	env := []string{"HOME=" + s.Dir, "XDG_RUNTIME_DIR=" + s.Dir, "XDG_CACHE_HOME=" + s.Dir, "XDG_CONFIG_HOME=" + s.Dir}
	result := RunCmd(tb, s.Command(tb, "env", append(env, line...)...))
	written := strings.SplitAfter(strings.TrimSpace(result.Stdout), "</domain>")
	if result.ExitCode != 0 || len(written) != len(domains)+1 {
		tb.Fatalf("libvirt of %s wrote %d domains of %d:\n%s", s.Name, len(written)-1, len(domains), result)
	}
	return written[:len(domains)]
}
