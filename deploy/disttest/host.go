// SPDX-License-Identifier: Apache-2.0

package disttest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// The chroots that are booted: "make test-dist" makes them.
const (
	// HostSuite is a host with Ceph's libraries, qemu 5.2, AppArmor's parser and Python.
	HostSuite = "bullseye.machine"
	// NewSuite has nothing but systemd and apt.
	NewSuite = "bullseye.new"
)

// CephUser is who the daemon is in the cluster.
const CephUser = "luksgate-test"

// SharedSocket is the socket of luksgate.socket.
const SharedSocket = "/run/luksgate/nbd.sock"

// URI is where an export can be had at [SharedSocket].
func URI(export string) string { return "nbd+unix:///" + export + "?socket=" + SharedSocket }

// A Host is a booted Debian 11 that can reach the test cluster.
type Host struct {
	*testenv.Machine
	t *testing.T
}

// NewHost boots one of the suites above. It sees the packages at the same place as this machine.
func NewHost(t *testing.T, suite string, d Dist) *Host {
	t.Helper()
	h := &Host{testenv.NewMachine(t, suite, d.Dir), t}
	h.Write(t, "/etc/ceph/ceph.conf", "root:root", "644", ClusterConf(t))
	return h
}

var monHost = regexp.MustCompile(`(?m)^(fsid|mon_host) = .*$`)

// ClusterConf is what a client's ceph.conf says of the test cluster: no path of its daemons.
func ClusterConf(t *testing.T) []byte {
	t.Helper()
	conf := testenv.CephConf(t)
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	lines := monHost.FindAllString(string(b), -1)
	if len(lines) != 2 {
		t.Fatalf("no fsid and mon_host in %s", conf)
	}
	return []byte("[global]\n" + strings.Join(lines, "\n") + "\n")
}

// Keyring makes [CephUser] in the cluster, if need be, and is its keyring.
func Keyring(t *testing.T) []byte {
	t.Helper()
	return []byte(testenv.Ceph(t, "auth", "get-or-create", "client."+CephUser, "mon", "profile rbd", "osd", "profile rbd"))
}

// Install installs packages as dpkg does, and says what it said.
func (h *Host) Install(debs ...string) string {
	h.t.Helper()
	r := h.Try(h.t, "dpkg", append([]string{"-i"}, debs...)...)
	if r.ExitCode != 0 {
		h.t.Fatalf("%s\n%s", r, h.Journal())
	}
	return r.Stdout + r.Stderr
}

// Journal is what the daemons have logged, for messages.
func (h *Host) Journal() string {
	return h.Try(h.t, "journalctl", "--no-pager", "-u", "luksgate*").String()
}

// Property is what systemd knows of the daemon.
func (h *Host) Property(name string) string {
	h.t.Helper()
	return h.PropertyOf("luksgate.service", name)
}

// PropertyOf is what systemd knows of a unit.
func (h *Host) PropertyOf(unit, name string) string {
	h.t.Helper()
	return strings.TrimSpace(h.Run(h.t, "systemctl", "show", "--property", name, "--value", unit))
}

// Configure has the daemon export images at [SharedSocket], each by the name that it has in the map, with the packaged
// configuration changed as its comments say. It writes their key files, too.
func (h *Host) Configure(images map[string]*Image) {
	h.t.Helper()
	h.Write(h.t, "/etc/luksgate/luksgate.conf", "root:luksgate", "640", []byte(h.configuration(images)))
	h.Run(h.t, "luksgate", "config", "check")
	h.Run(h.t, "systemctl", "reload", "luksgate")
}

// Instance starts luksgate@name, which exports images at a socket of its own, as Configure does. It returns the socket.
func (h *Host) Instance(name string, images map[string]*Image) string {
	h.t.Helper()
	conf := strings.ReplaceAll(h.configuration(images), "/run/luksgate/admin.sock", InstanceAdmin(name))
	socket := "/run/luksgate/" + name + ".sock"
	conf = strings.ReplaceAll(conf, SharedSocket, socket)
	h.Write(h.t, "/etc/luksgate/"+name+".conf", "root:luksgate", "640", []byte(conf))
	if r := h.Try(h.t, "systemctl", "enable", "--now", "luksgate@"+name); r.ExitCode != 0 {
		h.t.Fatalf("%s\n%s", r, h.Journal())
	}
	return socket
}

// InstanceAdmin is the admin socket of luksgate@name.
func InstanceAdmin(name string) string { return "/run/luksgate/" + name + "-admin.sock" }

// configuration is the packaged one with exports of images. Their keys and that of the cluster are there then.
func (h *Host) configuration(images map[string]*Image) string {
	h.t.Helper()
	h.Write(h.t, "/etc/ceph/ceph.client."+CephUser+".keyring", "root:luksgate", "640", Keyring(h.t))
	b, err := os.ReadFile(h.Path("/etc/luksgate/luksgate.conf"))
	if err != nil {
		h.t.Fatal(err)
	}
	exports := "exports:\n"
	for name, m := range images {
		exports += m.export(h, name)
	}
	conf := strings.Replace(string(b), "user: luksgate\n", "user: "+CephUser+"\n", 1)
	return strings.Replace(conf, "exports: []\n", exports, 1)
}

// CopyIn puts a file of this machine into the host's folder and returns its path there.
func (h *Host) CopyIn(path string) string {
	h.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	inside := filepath.Join(h.Dir, filepath.Base(path))
	return testenv.WriteFile(h.t, inside, b)
}

// asQemu is a command line that runs as libvirt's qemu does: another user, with the group kvm.
func asQemu(name string, args ...string) []string {
	return append([]string{"setpriv", "--reuid=nobody", "--regid=kvm", "--clear-groups", name}, args...)
}

// IO has the host's old qemu-io do something through an export.
func (h *Host) IO(uri string, commands ...string) string {
	h.t.Helper()
	line := asQemu("qemu-io", "-f", "raw", uri)
	for _, c := range commands {
		line = append(line, "-c", c)
	}
	r := h.Try(h.t, line[0], line[1:]...)
	if r.ExitCode != 0 {
		r.Stderr += h.Journal()
	}
	return NoErrors(h.t, r)
}

// NoErrors fails if qemu-io, whose exit code does not tell, met an error.
func NoErrors(t *testing.T, r testenv.Result) string {
	t.Helper()
	if text := r.Stdout + r.Stderr; r.ExitCode != 0 || strings.Contains(text, "rror") || strings.Contains(text, "failed") {
		t.Fatalf("%s", r)
	}
	return r.Stdout
}
