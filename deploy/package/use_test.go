// SPDX-License-Identifier: Apache-2.0

package package_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

const sharedURI = "nbd+unix:///disk?socket=/run/luksgate/nbd.sock"

// configure has the daemon export an image at the shared socket.
func (h *host) configure(m *image) {
	h.t.Helper()
	h.cephUser()
	h.Write(h.t, "/etc/luksgate/keys/disk", "root:luksgate", "640", m.key)
	b, err := os.ReadFile(h.Path("/etc/luksgate/luksgate.conf"))
	if err != nil {
		h.t.Fatal(err)
	}
	conf := strings.Replace(string(b), "user: luksgate\n", "user: "+cephUser+"\n", 1)
	conf = strings.Replace(conf, "exports: []\n", "exports:\n  - name: disk\n    image: rbd:"+m.spec+"\n    key:\n      file: /etc/luksgate/keys/disk\n", 1)
	h.Write(h.t, "/etc/luksgate/luksgate.conf", "root:luksgate", "640", []byte(conf))
	h.Run(h.t, "luksgate", "config", "check")
	h.Run(h.t, "systemctl", "reload", "luksgate")
}

// TestPackages installs the package on a booted Debian 11, serves an image of a real cluster to its qemu 5.2, upgrades below
// a running guest, changes to the package with a librbd of its own and back, and purges.
func TestPackages(t *testing.T) {
	p := dist(t)
	m := newImage(t, 64)
	h := newHost(t, hostSuite, p)
	before := h.files()

	h.install(p.deb("luksgate"))
	for _, unit := range []string{"luksgate.service", "luksgate.socket"} {
		h.Run(t, "systemctl", "is-active", unit)
		h.Run(t, "systemctl", "is-enabled", unit)
	}
	if r := h.Try(t, "systemd-analyze", "--man=no", "verify", "luksgate.service", "luksgate.socket", "luksgate@x.service"); r.ExitCode != 0 || strings.Contains(r.Stderr, "luksgate") {
		t.Errorf("%s", r)
	}
	h.configure(m)
	if v := h.Run(t, "luksgate", "version"); !strings.Contains(squash(p.version), squash(strings.Fields(v)[1])) || !strings.Contains(v, "librbd   1.12") {
		t.Errorf("version of %s: %s", p.version, v)
	}

	t.Log("known bytes, both ways")
	h.io(sharedURI, "write -P 165 1M 1M", "write -P 77 2M 64k", "flush", "read -P 165 1M 1M")
	m.io(t, "read -P 165 1M 1M", "read -P 77 2M 64k", "write -P 90 5M 100k", "flush")
	h.io(sharedURI, "read -P 90 5M 100k", "read -P 0 8M 64k")

	if log := h.journal(); strings.Contains(log, "cannot lock") || strings.Contains(log, "level=ERROR") {
		t.Errorf("the daemon complains:\n%s", log)
	}

	g := h.newGuest(sharedURI)
	h.upgrade(p.newer(t, "luksgate"), "")
	h.upgrade(p.newer(t, "luksgate-bundle"), "18.2")
	h.Run(t, "dpkg", "--purge", "luksgate") // what is left of it, below the other
	h.Run(t, "test", "-e", "/etc/luksgate/keys/disk", "-a", "-e", "/etc/luksgate/luksgate.conf", "-a", "-S", "/run/luksgate/nbd.sock")
	h.io(sharedURI, "read -P 165 1M 1M")
	g.finish()
	m.io(t, "read -P 165 1M 1M", "read -P 90 5M 100k")

	h.purge(before)
}

// squash leaves of a version what git and Debian write alike.
func squash(version string) string {
	return strings.NewReplacer("-", "", "+", "", "~", "", ".", "", "v", "").Replace(version)
}

// newer packs a package again with a greater version.
func (p packages) newer(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	testenv.Run(t, "dpkg-deb", "--raw-extract", p.deb(name), root)
	testenv.Run(t, "sed", "-i", "s/^Version: .*/&+newer/", filepath.Join(root, "DEBIAN/control"))
	deb := filepath.Join(dir, "newer.deb")
	testenv.Run(t, "dpkg-deb", "--root-owner-group", "-Zxz", "-z0", "--build", root, deb)
	return deb
}

// upgrade installs a package over what is there: another process with the new program serves, which the running guest
// does not notice, and systemd knows it.
func (h *host) upgrade(deb, librbd string) {
	h.t.Helper()
	b, err := os.ReadFile(deb)
	if err != nil {
		h.t.Fatal(err)
	}
	inside := filepath.Join(h.Dir, "new.deb")
	testenv.WriteFile(h.t, inside, b)
	old := h.property("MainPID")
	said := h.install(inside)
	pid := h.property("MainPID")
	if pid == old || h.property("NRestarts") != "0" || h.property("ActiveState") != "active" || !strings.Contains(said, "process "+pid+" serves 1 connections") {
		h.t.Fatalf("process %s was not succeeded by %s:\n%s\n%s", old, pid, said, h.journal())
	}
	program := strings.TrimSpace(h.Run(h.t, "readlink", "/proc/"+pid+"/exe"))
	if program != "/usr/bin/luksgate" {
		h.t.Errorf("the successor runs %s", program)
	}
	if librbd != "" {
		maps := h.Run(h.t, "grep", "-F", "librbd.so.1", "/proc/"+pid+"/maps")
		if !strings.Contains(maps, "/usr/lib/luksgate/librbd.so.1") || !strings.Contains(h.Run(h.t, "luksgate", "version"), "librbd   1.18") {
			h.t.Errorf("not a librbd of its own:\n%s", maps)
		}
	}
	h.Run(h.t, "luksgate", "ls")
}

// purge removes everything, and nothing may be left but what was there before and traces in dpkg's and systemd's own logs.
func (h *host) purge(before map[string]bool) {
	h.t.Helper()
	h.Run(h.t, "systemctl", "enable", "luksgate@web")
	r := h.Try(h.t, "dpkg", "--purge", "luksgate-bundle")
	if r.ExitCode != 0 || strings.Contains(r.Stderr, "warning") {
		h.t.Errorf("%s", r)
	}
	if passwd := h.Run(h.t, "cat", "/etc/passwd", "/etc/group"); strings.Contains(passwd, "luksgate") {
		h.t.Errorf("a user is left:\n%s", passwd)
	}
	if h.Try(h.t, "systemctl", "cat", "luksgate.service").ExitCode == 0 {
		h.t.Error("systemd still has the unit")
	}
	for path := range h.files() {
		known := before[path]
		for _, log := range []string{"/var/log/", "/var/lib/dpkg/", "/var/cache/", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/ceph"} {
			known = known || strings.HasPrefix(path, log)
		}
		if !known && (strings.Contains(path, "luksgate") || strings.HasPrefix(path, "/etc/")) {
			h.t.Errorf("left over: %s", path)
		}
	}
}

// files are all paths of the host, without what the kernel makes up.
func (h *host) files() map[string]bool {
	h.t.Helper()
	out := map[string]bool{}
	root := h.Path("/")
	for _, top := range []string{"etc", "usr", "lib", "var", "opt", "root", "home", "run/luksgate", "srv", "tmp"} {
		err := filepath.WalkDir(filepath.Join(root, top)+"/", func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				out[filepath.Clean(strings.TrimPrefix(path, root))] = true
			}
			return nil
		})
		if err != nil {
			h.t.Fatal(fmt.Errorf("walking the host's files: %w", err))
		}
	}
	return out
}
