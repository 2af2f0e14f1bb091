// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// A tree is a machine's files. All of them belong to the user of the test, who is called luksgate in it; its group is kvm.
type tree struct {
	t    *testing.T
	root string
}

func newTree(t *testing.T) *tree {
	t.Helper()
	h := &tree{t, testenv.SocketDir(t)}
	// qemu is somebody else: what it may do it may do as a member of kvm.
	h.write("/etc/passwd", fmt.Sprintf("luksgate:x:%d:%d::/:/bin/false\nlibvirt-qemu:x:4000000:%[2]d::/:/bin/false\n", os.Getuid(), os.Getgid()))
	h.write("/etc/group", fmt.Sprintf("kvm:x:%d:\n", os.Getgid()))
	h.write("/sys/module/apparmor/parameters/enabled", "Y\n")
	h.write(abstraction, "  #include <abstractions/base>\n  /etc/pki/libvirt{,-spice,-vnc}/** r,\n  #include <local/abstractions/libvirt-qemu>\n")
	h.dir("/run/luksgate", 0o750)
	return h
}

func (h *tree) dir(name string, mode os.FileMode) {
	h.t.Helper()
	path := filepath.Join(h.root, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		h.t.Fatal(err)
	}
}

func (h *tree) write(name, content string) {
	h.t.Helper()
	path := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	testenv.WriteFile(h.t, path, []byte(content))
	h.chmod(name, 0o640)
}

func (h *tree) chmod(name string, mode os.FileMode) {
	h.t.Helper()
	if err := os.Chmod(filepath.Join(h.root, name), mode); err != nil {
		h.t.Fatal(err)
	}
}

func (h *tree) socket(name string, mode os.FileMode) {
	h.t.Helper()
	l, err := net.Listen("unix", filepath.Join(h.root, name))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	h.chmod(name, mode)
}

func (h *tree) run(opts Options) []Finding {
	opts.Root, opts.NoCeph = h.root, true
	return Run(h.t.Context(), opts)
}

// expect fails unless there is a finding of a check with a status and all texts in what was found or advised.
func expect(t *testing.T, all []Finding, check string, status Status, texts ...string) {
	t.Helper()
	for _, f := range all {
		ok := f.Check == check && f.Status == status
		for _, text := range texts {
			ok = ok && strings.Contains(f.Found+"\n"+f.Advice+"\n"+strings.Join(f.Commands, "\n"), text)
		}
		if ok {
			return
		}
	}
	t.Errorf("want %s: %s %q, got %+v", check, status, texts, all)
}

func TestGoodHost(t *testing.T) {
	h := newTree(t)
	h.write(localAbstraction, "# luksgate\n/run/luksgate/*.sock rw,\n")
	h.socket("/run/luksgate/vm1.sock", 0o660)
	h.socket("/run/luksgate/admin.sock", 0o600)
	all := h.run(Options{})
	for _, f := range all {
		if f.Status == Error {
			t.Errorf("%+v", f)
		}
	}
	if !Healthy(all) {
		t.Error("not healthy")
	}
	expect(t, all, "socket-dir", OK, "0750 luksgate:kvm")
	expect(t, all, "sockets", OK, "one socket")
	expect(t, all, "apparmor", OK, localAbstraction)
	expect(t, all, "tls", Skipped)
	expect(t, all, "libvirt", Skipped)
	expect(t, all, "librbd", Skipped)
	expect(t, all, "cluster", Skipped)
}

func TestSocketDir(t *testing.T) {
	h := newTree(t)
	for _, c := range []struct {
		mode   os.FileMode
		status Status
		text   string
	}{{0o700, Error, "cannot enter"}, {0o740, Error, "cannot enter"}, {0o751, OK, "the mode of each socket decides"}, {0o752, Error, "own"}, {0o710, OK, "0710 "}} {
		h.dir("/run/luksgate", c.mode)
		expect(t, h.run(Options{}), "socket-dir", c.status, c.text)
	}
	expect(t, h.run(Options{SocketDir: "/run/none"}), "socket-dir", Error, "missing", "install -d -m 0750", "/run/none")
	expect(t, h.run(Options{SocketDir: "/etc/passwd"}), "socket-dir", Error, "no directory")
	expect(t, h.run(Options{SocketDir: "/run/" + strings.Repeat("x", 50)}), "socket-dir", Error, "107")
	h.write("/etc/passwd", "")
	expect(t, h.run(Options{}), "socket-dir", Warning, "no user libvirt-qemu")
	h.write("/etc/libvirt/qemu.conf", "# user = \"a\"\nuser = \"qemu\"\n")
	expect(t, h.run(Options{}), "socket-dir", Warning, "no user qemu")
}

// The group may come from qemu.conf or from the members of a group, too.
func TestQemuGroups(t *testing.T) {
	h := newTree(t)
	h.write("/etc/passwd", "libvirt-qemu:x:4000000:4000001::/:/bin/false\n")
	expect(t, h.run(Options{}), "socket-dir", Error, "cannot enter")
	h.write("/etc/libvirt/qemu.conf", "group = \"kvm\"\n")
	expect(t, h.run(Options{}), "socket-dir", OK)
	h.write("/etc/libvirt/qemu.conf", "")
	h.write("/etc/group", fmt.Sprintf("kvm:x:%d:a,libvirt-qemu\n", os.Getgid()))
	expect(t, h.run(Options{}), "socket-dir", OK)
}

func TestSockets(t *testing.T) {
	h := newTree(t)
	h.socket("/run/luksgate/a.sock", 0o600)
	h.socket("/run/luksgate/b.sock", 0o666)
	h.socket("/run/luksgate/c.sock", 0o660)
	all := h.run(Options{})
	expect(t, all, "sockets", Error, "/run/luksgate/a.sock", "cannot connect", "chmod 0660")
	expect(t, all, "sockets", Error, "/run/luksgate/b.sock", "every user")
	if Healthy(all) {
		t.Error("healthy with errors")
	}
}

func TestAppArmor(t *testing.T) {
	const rule = "\t/{,var/}run/luksgate/** rw,\n"
	h := newTree(t)
	expect(t, h.run(Options{}), "apparmor", Error, localAbstraction, "echo '/run/luksgate/*.sock rw,' >> "+localAbstraction)
	h.write(localAbstraction, "#/run/luksgate/*.sock rw,\n/run/luksgate/*.sock r,\n/run/luksgate/*/x.sock rw,\n")
	expect(t, h.run(Options{}), "apparmor", Error)
	h.write(localAbstraction, rule)
	expect(t, h.run(Options{}), "apparmor", OK, localAbstraction)
	// A file that the abstraction does not include is no rule.
	h.write(abstraction, "#include <abstractions/base>\n")
	expect(t, h.run(Options{}), "apparmor", Error, "to "+abstraction)
	h.write(abstraction, "include if exists <abstractions/libvirt-qemu.d>\n")
	expect(t, h.run(Options{}), "apparmor", Error, abstractionDir+"/luksgate")
	shipped, err := os.ReadFile("../../deploy/apparmor/luksgate")
	if err != nil {
		t.Fatal(err)
	}
	h.write(abstractionDir+"/luksgate", string(shipped))
	expect(t, h.run(Options{}), "apparmor", OK, abstractionDir+"/luksgate")
	expect(t, h.run(Options{SocketDir: "/run/other"}), "apparmor", Error)
	h.write("/etc/libvirt/qemu.conf", "security_driver = \"none\"\n")
	expect(t, h.run(Options{SocketDir: "/run/other"}), "apparmor", OK, "security_driver")
	h.write("/sys/module/apparmor/parameters/enabled", "N\n")
	expect(t, h.run(Options{}), "apparmor", OK, "off")
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"/run/*.sock", "/run/a.sock", true}, {"/run/*.sock", "/run/a/b.sock", false}, {"/run/**", "/run/a/b.sock", true},
		{"/run/a?.sock", "/run/ab.sock", true}, {"/run/a?b", "/run/a/b", false}, {"/{run,tmp}/x", "/tmp/x", true},
		{"/{run,tmp}/x", "/var/x", false}, {"/{,var/}run/x", "/var/run/x", true}, {"/{run/x", "/run/x", false}, {"*", "", true},
	} {
		if got := globMatch(c.glob, c.path); got != c.want {
			t.Errorf("%s on %s: %v", c.glob, c.path, got)
		}
	}
}

func TestTLS(t *testing.T) {
	h := newTree(t)
	expect(t, h.run(Options{TLS: true}), "tls", Error, "Missing: ", "/etc/pki/qemu/client-key.pem.")
	h.write("/etc/libvirt/qemu.conf", "nbd_tls = 1\nnbd_tls_x509_cert_dir = \"/etc/pki/libvirt/nbd\"\n")
	for _, name := range []string{"ca-cert.pem", "client-cert.pem", "client-key.pem"} {
		expect(t, h.run(Options{}), "tls", Error, "/etc/pki/libvirt/nbd/"+name)
		h.write("/etc/pki/libvirt/nbd/"+name, "x")
	}
	expect(t, h.run(Options{}), "tls", OK, "/etc/pki/libvirt/nbd")
	h.chmod("/etc/pki/libvirt/nbd/client-key.pem", 0o600)
	expect(t, h.run(Options{}), "tls", Error, "cannot read")
	h.chmod("/etc/pki/libvirt/nbd/client-key.pem", 0o644)
	expect(t, h.run(Options{}), "tls", Error, "every user")
	// Where libvirt 6.0's own rules do not let a guest read.
	h.write("/etc/libvirt/qemu.conf", "nbd_tls = 1\ndefault_tls_x509_cert_dir = \"/etc/pki/other\"\n")
	expect(t, h.run(Options{}), "tls", Error, "AppArmor", "/etc/pki/libvirt/nbd")
	h.dir("/etc/pki/libvirt-nbd", 0o755)
	expect(t, h.run(Options{}), "tls", Error, "/etc/pki/libvirt-nbd/ca-cert.pem")
}

func TestVersions(t *testing.T) {
	h := newTree(t)
	v := func(major, minor int) attach.Version { return attach.Version{Major: major, Minor: minor} }
	for _, c := range []struct {
		lib, qemu attach.Version
		err       error
		status    Status
		text      string
	}{
		{v(6, 0), v(4, 2), nil, OK, "libvirt 6.0.0 and qemu 4.2.0."}, {v(9, 0), v(7, 2), nil, OK, "themselves"},
		{v(5, 9), v(4, 2), nil, Error, "Upgrade"}, {v(6, 0), v(4, 1), nil, Error, "Upgrade"},
		{v(0, 0), v(0, 0), errors.New("no daemon"), Warning, "no daemon"},
	} {
		all := h.run(Options{Versions: func(context.Context) (attach.Version, attach.Version, error) { return c.lib, c.qemu, c.err }})
		expect(t, all, "libvirt", c.status, c.text)
	}
}

func TestProcess(t *testing.T) {
	h := newTree(t)
	expect(t, h.run(Options{}), "hugepages", Skipped)
	h.write("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n")
	expect(t, h.run(Options{}), "hugepages", Warning, "madvise")
	h.write("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
	expect(t, h.run(Options{}), "hugepages", OK)
	all := h.run(Options{})
	for _, check := range []string{"aes", "memlock"} {
		found := false
		for _, f := range all {
			found = found || f.Check == check && f.Found != ""
		}
		if !found {
			t.Errorf("no finding of %s: %+v", check, all)
		}
	}
}
