// SPDX-License-Identifier: Apache-2.0

// Package ansible_test applies the role to a booted host, again and again, while a guest is served there.
package ansible_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/disttest"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestLint has ansible-lint find nothing in its strictest profile, and read all files.
func TestLint(t *testing.T) {
	testenv.Long(t)
	r := lint(t, ".", "example.yml", "roles/luksgate")
	if r.ExitCode != 0 || !strings.Contains(r.Stdout+r.Stderr, "0 failure(s), 0 warning(s)") {
		t.Errorf("%s", r)
	}
	dir := t.TempDir()
	testenv.WriteFile(t, filepath.Join(dir, "bad.yml"), []byte("---\n- hosts: all\n  tasks:\n    - shell: true\n"))
	if r := lint(t, dir, "bad.yml"); r.ExitCode == 0 {
		t.Errorf("the linter finds nothing in a bad file either:\n%s", r)
	}
}

func lint(t *testing.T, dir string, files ...string) testenv.Result {
	t.Helper()
	args := []string{"--nocolor", "--offline", "--strict", "--profile", "production"}
	cmd := exec.Command(testenv.Tool(t, "ansible-lint"), append(args, files...)...)
	cmd.Dir = dir
	return testenv.RunCmd(t, cmd)
}

// A fleet is one host to which the role is applied, and the role's variables.
type fleet struct {
	*disttest.Host
	t         *testing.T
	dir       string // of this machine, with the playbook
	variables map[string]any
	secrets   []string // what must not be said
}

// newFleet boots a host that Ansible can reach: by its connection for chroots, with an entry of ours, because no sshd
// listens in a machine that shares this one's network.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	d := disttest.Find(t)
	f := &fleet{Host: disttest.NewHost(t, disttest.HostSuite, d), t: t, dir: t.TempDir()}
	role, err := filepath.Abs("roles")
	if err != nil {
		t.Fatal(err)
	}
	var enter strings.Builder
	enter.WriteString("#!/bin/sh\n# enter ROOT COMMAND...\nshift\nexec")
	for _, arg := range f.Command("env").Args {
		enter.WriteString(" '" + arg + "'")
	}
	enter.WriteString(` "$@"` + "\n")
	path := testenv.WriteFile(t, filepath.Join(f.dir, "enter"), []byte(enter.String()))
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	testenv.WriteFile(t, filepath.Join(f.dir, "hosts"), []byte(fmt.Sprintf(
		"[compute]\nhost1 ansible_connection=community.general.chroot ansible_host=%s ansible_chroot_exe=%s ansible_python_interpreter=/usr/bin/python3\n",
		f.Path("/"), path)))
	testenv.WriteFile(t, filepath.Join(f.dir, "ansible.cfg"), []byte("[defaults]\nroles_path = "+role+"\nnocows = true\npipelining = true\n"))
	testenv.WriteFile(t, filepath.Join(f.dir, "play.yml"), []byte("- hosts: compute\n  gather_facts: true\n  gather_subset: [\"!all\", apparmor, distribution]\n  roles:\n    - luksgate\n"))
	keyring := string(disttest.Keyring(t))
	f.variables = map[string]any{
		"luksgate_deb":          d.Deb("luksgate"),
		"luksgate_ceph_user":    disttest.CephUser,
		"luksgate_ceph_conf":    string(disttest.ClusterConf(t)),
		"luksgate_ceph_keyring": keyring,
		"luksgate_socket_users": []string{"nobody"},
	}
	f.secrets = []string{regexp.MustCompile(`key = (\S+)`).FindStringSubmatch(keyring)[1]}
	return f
}

// key adds a key file to the variables.
func (f *fleet) key(key map[string]string) {
	keys, _ := f.variables["luksgate_keys"].([]map[string]string)
	f.variables["luksgate_keys"] = append(keys, key)
}

// export adds an export to the variables.
func (f *fleet) export(name string, m *disttest.Image, key string) {
	exports, _ := f.variables["luksgate_exports"].([]any)
	f.variables["luksgate_exports"] = append(exports, map[string]any{
		"name": name, "image": "rbd:" + m.Spec, "key": map[string]string{"file": "/etc/luksgate/keys/" + key},
	})
	f.secrets = append(f.secrets, string(m.Key))
}

// try runs the playbook and says everything that it says.
func (f *fleet) try() testenv.Result {
	f.t.Helper()
	b, err := json.Marshal(f.variables)
	if err != nil {
		f.t.Fatal(err)
	}
	variables := testenv.WriteFile(f.t, filepath.Join(f.dir, "variables.json"), b)
	cmd := exec.Command(testenv.Tool(f.t, "ansible-playbook"), "-vv", "--diff", "-i", "hosts", "-e", "@"+variables, "play.yml")
	cmd.Dir = f.dir
	cmd.Env = append(os.Environ(), "ANSIBLE_CONFIG="+filepath.Join(f.dir, "ansible.cfg"), "ANSIBLE_NOCOLOR=1", "LC_ALL=C.UTF-8")
	// Half a minute is usual.
	r := testenv.RunWithin(f.t, 10*time.Minute, cmd)
	for _, secret := range f.secrets {
		if strings.Contains(r.Stdout+r.Stderr, secret) {
			f.t.Errorf("the play's output has a secret in it, %q", secret)
		}
	}
	return r
}

var recap = regexp.MustCompile(`host1 +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 `)

// apply runs the playbook, which must go well, and says how much it has changed.
func (f *fleet) apply() (changed int, output string) {
	f.t.Helper()
	r := f.try()
	m := recap.FindStringSubmatch(r.Stdout)
	if r.ExitCode != 0 || m == nil {
		f.t.Fatalf("%s\n%s", r, f.Journal())
	}
	changed, err := strconv.Atoi(m[1])
	if err != nil {
		f.t.Fatal(err)
	}
	return changed, r.Stdout
}

// again applies it once more, which must change nothing.
func (f *fleet) again() {
	f.t.Helper()
	if changed, output := f.apply(); changed != 0 {
		f.t.Fatalf("the same once more changes %d:\n%s", changed, output)
	}
}

// mode holds the owner and mode of a file against what they must be.
func (f *fleet) mode(path, want string) {
	f.t.Helper()
	if got := strings.TrimSpace(f.Run(f.t, "stat", "--format", "%U:%G %a", path)); got != want {
		f.t.Errorf("%s: %s, want %s", path, got, want)
	}
}

// oldAbstraction is how libvirt 6.0 has guests get further rules.
const oldAbstraction = "  # Site-specific additions and overrides. See local/README for details.\n  #include <local/abstractions/libvirt-qemu>\n"

// TestRole installs the package by the role and serves an image, then changes things below a running guest.
func TestRole(t *testing.T) {
	f := newFleet(t)
	f.Write(t, "/etc/apparmor.d/abstractions/libvirt-qemu", "root:root", "644", []byte(oldAbstraction))
	one, two := disttest.NewImage(t, 32), disttest.NewImage(t, 32)
	f.key(map[string]string{"name": "one", "content": string(one.Key)})
	f.export("one", one, "one")
	if changed, output := f.apply(); changed < 5 {
		t.Fatalf("a new host has changed %d:\n%s", changed, output)
	}
	f.again()
	f.mode("/etc/luksgate/keys/one", "root:luksgate 640")
	f.mode("/etc/luksgate/luksgate.conf", "root:luksgate 640")
	f.mode("/etc/ceph/ceph.client."+disttest.CephUser+".keyring", "root:luksgate 640")
	if rule := f.Run(t, "cat", "/etc/apparmor.d/local/abstractions/libvirt-qemu"); strings.Count(rule, "\n/run/luksgate/*.sock rw,\n") != 1 {
		t.Errorf("no rule for guests:\n%s", rule)
	}
	if groups := f.Run(t, "id", "-Gn", "nobody"); !strings.Contains(groups, "kvm") {
		t.Errorf("a user is not in the group of the sockets: %s", groups)
	}
	f.IO(disttest.URI("one"), "write -P 77 2M 64k", "flush", "read -P 77 2M 64k")

	g := f.NewGuest(disttest.URI("one"))
	t.Run("another-export", func(t *testing.T) {
		f.key(map[string]string{"name": "two", "src": two.KeyFile})
		f.key(map[string]string{"name": "gone", "state": "absent"})
		f.Write(t, "/etc/luksgate/keys/gone", "root:luksgate", "640", []byte("x"))
		f.export("two", two, "two")
		f.apply()
		f.again()
		f.IO(disttest.URI("two"), "write -P 90 1M 64k", "flush")
		f.Run(t, "test", "!", "-e", "/etc/luksgate/keys/gone")
	})
	t.Run("a-mistake-is-not-installed", f.mistake)
	t.Run("groups", func(t *testing.T) {
		f.variables["luksgate_service_groups"] = []string{"adm"}
		f.apply()
		f.again()
		if n := f.groups(); n != 2 {
			t.Errorf("the daemon has %d further groups, want kvm and adm", n)
		}
		f.variables["luksgate_service_groups"] = []string{}
		f.apply()
		if n := f.groups(); n != 1 {
			t.Errorf("the daemon has %d further groups, want kvm alone", n)
		}
	})
	t.Run("bundle", func(t *testing.T) {
		f.variables["luksgate_deb"] = disttest.Find(t).Deb("luksgate-bundle")
		f.apply()
		f.again()
		if v := f.Run(t, "luksgate", "version"); !strings.Contains(v, "librbd   1.18") {
			t.Errorf("not the bundle: %s", v)
		}
	})
	g.Finish()
	f.Run(t, "systemctl", "stop", "luksgate.socket", "luksgate.service") // it would keep the images open for a while
	one.IO(t, "read -P 77 2M 64k")
	two.IO(t, "read -P 90 1M 64k")
}

// groups counts the daemon's groups besides its own.
func (f *fleet) groups() int {
	f.t.Helper()
	line := strings.Fields(f.Run(f.t, "grep", "^Groups:", "/proc/"+f.Property("MainPID")+"/status"))
	own := strings.TrimSpace(f.Run(f.t, "id", "-g", "luksgate"))
	return len(slices.DeleteFunc(line[1:], func(group string) bool { return group == own }))
}

// mistake has the role refuse a configuration that the program does not understand: nothing changes.
func (f *fleet) mistake(t *testing.T) {
	good := f.variables["luksgate_exports"]
	before := f.Run(t, "sha256sum", "/etc/luksgate/luksgate.conf")
	f.variables["luksgate_exports"] = []any{map[string]any{"name": "one", "image": "rbd:x/y", "colour": "blue"}}
	if r := f.try(); r.ExitCode == 0 || !strings.Contains(r.Stdout, "colour") {
		t.Errorf("a mistake was accepted, or is not said:\n%s", r)
	}
	if after := f.Run(t, "sha256sum", "/etc/luksgate/luksgate.conf"); after != before {
		t.Error("the configuration has changed")
	}
	f.variables["luksgate_exports"] = good
	f.again()
}
