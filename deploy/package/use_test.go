// SPDX-License-Identifier: Apache-2.0

package package_test

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/disttest"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// A host is what disttest has booted, with what only tests of packages do to it.
type host struct {
	*disttest.Host
	t *testing.T
}

var sharedURI = disttest.URI("disk")

// TestPackages installs the package on a booted Debian 11, serves an image of a real cluster to its qemu 5.2, upgrades below
// a running guest, changes to the package with a librbd of its own and back, and purges.
func TestPackages(t *testing.T) {
	d := disttest.Find(t)
	m := disttest.NewImage(t, 64)
	h := &host{disttest.NewHost(t, disttest.HostSuite, d), t}
	before := h.files()

	h.Install(d.Deb("luksgate"))
	for _, unit := range []string{"luksgate.service", "luksgate.socket"} {
		h.Run(t, "systemctl", "is-active", unit)
		h.Run(t, "systemctl", "is-enabled", unit)
	}
	if r := h.Try(t, "systemd-analyze", "--man=no", "verify", "luksgate.service", "luksgate.socket", "luksgate@x.service"); r.ExitCode != 0 || strings.Contains(r.Stderr, "luksgate") {
		t.Errorf("%s", r)
	}
	web := h.startInstance(disttest.NewImage(t, 64))
	h.Configure(map[string]*disttest.Image{"disk": m})
	if v := h.Run(t, "luksgate", "version"); !strings.Contains(squash(d.Version), squash(strings.Fields(v)[1])) || !strings.Contains(v, "librbd   1.12") {
		t.Errorf("version of %s: %s", d.Version, v)
	}

	t.Log("known bytes, both ways")
	h.IO(sharedURI, "write -P 165 1M 1M", "write -P 77 2M 64k", "flush", "read -P 165 1M 1M")
	m.IO(t, "read -P 165 1M 1M", "read -P 77 2M 64k", "write -P 90 5M 100k", "flush")
	h.IO(sharedURI, "read -P 90 5M 100k", "read -P 0 8M 64k")

	if log := h.Journal(); strings.Contains(log, "cannot lock") || strings.Contains(log, "level=ERROR") {
		t.Errorf("the daemon complains:\n%s", log)
	}

	g := h.NewGuest(sharedURI)
	h.upgrade(newer(t, d, "luksgate"), "")
	h.checkInstance(web)
	h.upgrade(newer(t, d, "luksgate-bundle"), "18.2")
	h.Run(t, "dpkg", "--purge", "luksgate") // what is left of it, below the other
	h.Run(t, "test", "-e", "/etc/luksgate/keys/disk.0", "-a", "-e", "/etc/luksgate/luksgate.conf", "-a", "-S", "/run/luksgate/nbd.sock")
	h.IO(sharedURI, "read -P 165 1M 1M")
	g.Finish()
	m.IO(t, "read -P 165 1M 1M", "read -P 90 5M 100k")

	h.purge(before)
}

// An instance is a luksgate@web that runs, which an upgrade must not forget.
type instance struct{ uri, pid string }

// startInstance starts one, has it serve an image, and changes its configuration.
func (h *host) startInstance(m *disttest.Image) instance {
	h.t.Helper()
	h.t.Log("a daemon of its own for /etc/luksgate/web.conf")
	i := instance{uri: "nbd+unix:///web?socket=" + h.Instance("web", map[string]*disttest.Image{"web": m})}
	h.IO(i.uri, "write -P 33 1M 1M", "flush", "read -P 33 1M 1M")
	h.Run(h.t, "systemctl", "reload", "luksgate@web")
	if list := h.Run(h.t, "luksgate", "ls", "--admin", disttest.InstanceAdmin("web")); !strings.Contains(list, m.Spec) {
		h.t.Errorf("luksgate@web has not the export:\n%s", list)
	}
	i.pid = h.PropertyOf("luksgate@web", "MainPID")
	return i
}

// checkInstance makes sure that it runs the new program and serves as before.
func (h *host) checkInstance(old instance) {
	h.t.Helper()
	pid, state := h.PropertyOf("luksgate@web", "MainPID"), h.PropertyOf("luksgate@web", "ActiveState")
	if pid == old.pid || state != "active" {
		h.t.Errorf("luksgate@web is %s with process %s, which was %s before the upgrade\n%s", state, pid, old.pid, h.Journal())
	}
	h.IO(old.uri, "read -P 33 1M 1M", "write -P 34 3M 4k", "flush")
}

// squash leaves of a version what git and Debian write alike.
func squash(version string) string {
	return strings.NewReplacer("-", "", "+", "", "~", "", ".", "", "v", "").Replace(version)
}

// newer packs a package again with a greater version.
func newer(t *testing.T, d disttest.Dist, name string) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	testenv.Run(t, "dpkg-deb", "--raw-extract", d.Deb(name), root)
	testenv.Run(t, "sed", "-i", "s/^Version: .*/&+newer/", filepath.Join(root, "DEBIAN/control"))
	deb := filepath.Join(dir, "newer.deb")
	testenv.Run(t, "dpkg-deb", "--root-owner-group", "-Zxz", "-z0", "--build", root, deb)
	return deb
}

// upgrade installs a package over what is there: another process with the new program serves, which the running guest
// does not notice, and systemd knows it.
func (h *host) upgrade(deb, librbd string) {
	h.t.Helper()
	inside := h.CopyIn(deb)
	old := h.Property("MainPID")
	said := h.Install(inside)
	pid := h.Property("MainPID")
	if pid == old || h.Property("NRestarts") != "0" || h.Property("ActiveState") != "active" || !strings.Contains(said, "process "+pid+" serves 1 connections") {
		h.t.Fatalf("process %s was not succeeded by %s:\n%s\n%s", old, pid, said, h.Journal())
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
	names := h.Try(h.t, "sh", "-c", "cat /proc/[0-9]*/comm").Stdout
	if !strings.Contains(names, "systemd\n") || strings.Contains(names, "luksgate\n") {
		h.t.Errorf("a daemon still runs:\n%s", names)
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
