// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// domains are those that the bridge itself is tested with.
func domains(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../../attach/bridge/testdata/domains/*.xml")
	if err != nil || len(paths) < 7 {
		t.Fatalf("%d domains, %v", len(paths), err)
	}
	return paths
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestBridgeThereAndBack moves domains to the gateway and back through files, and has libvirt's schema judge all of them.
func TestBridgeThereAndBack(t *testing.T) {
	printed := map[string]string{}
	exports := filepath.Join(t.TempDir(), "exports.yaml")
	for _, path := range domains(t) {
		name := filepath.Base(path)
		there := luksgate(t, "xml", "to-gateway", path, "--config-out", exports, "--socket-dir", "/run/lg")
		if there.ExitCode != 0 || !strings.Contains(there.Stdout, "/run/lg/") || strings.Contains(there.Stdout, "luksgate: note") {
			t.Fatalf("%s", there)
		}
		if st, err := os.Stat(exports); err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v; want a file for its owner only", st, err)
		}
		moved := testenv.WriteFile(t, filepath.Join(t.TempDir(), name), []byte(there.Stdout))
		cmd := command("xml", "to-librbd", "-", "--config", exports, "--config-out", exports)
		cmd.Stdin = strings.NewReader(there.Stdout)
		back := testenv.RunCmd(t, cmd)
		if back.ExitCode != 0 || back.Stdout != read(t, path) {
			t.Fatalf("%s: there and back is another domain\n%s", name, back)
		}
		again := luksgate(t, "xml", "to-gateway", path, "--config", exports, "--config-out", exports)
		if again.ExitCode != 0 || again.Stdout != read(t, moved) {
			t.Fatalf("%s: there once more is another domain\n%s", name, again)
		}
		printed["gateway-"+name] = there.Stdout
		if !strings.HasPrefix(name, "layered") && !strings.Contains(back.Stdout, "luks-any") {
			// Several secrets for one disk and luks-any are newer (libvirt 9.3) than the schema of the reference machine.
			printed["librbd-"+name] = back.Stdout
		}
	}
	testenv.Here(t).ValidateXML(t, "domain.rng", printed)
}

// TestBridgeKeepsOtherExports adds a domain's exports to those of another one.
func TestBridgeKeepsOtherExports(t *testing.T) {
	exports := filepath.Join(t.TempDir(), "exports.yaml")
	const first = "../../attach/bridge/testdata/domains/luks2.xml"
	one := luksgate(t, "xml", "to-gateway", first, "--config-out", exports)
	before := read(t, exports)
	two := luksgate(t, "xml", "to-gateway", "../../attach/bridge/testdata/domains/mixed.xml", "--config", exports, "--config-out", exports)
	if one.ExitCode != 0 || two.ExitCode != 0 {
		t.Fatalf("%s\n%s", one, two)
	}
	if after := read(t, exports); !strings.HasPrefix(after, before) || len(after) == len(before) {
		t.Errorf("exports were\n%s\nbecame\n%s", before, after)
	}
	back := luksgate(t, "xml", "to-librbd", testenv.WriteFile(t, filepath.Join(t.TempDir(), "d"), []byte(one.Stdout)), "--config", exports)
	if back.Stdout != read(t, first) {
		t.Errorf("the way back is another domain\n%s", back)
	}
}

// TestBridgeWithDaemon gives the daemon's own configuration to the bridge, and what the bridge writes to the daemon.
func TestBridgeWithDaemon(t *testing.T) {
	dir := t.TempDir()
	conf := testenv.WriteFile(t, filepath.Join(dir, "luksgate.conf"), []byte(`log: {level: debug}
exports:
- name: first
  image: rbd:vms/web1
  socket: /run/luksgate/first.sock
  close_after: 1m
  ceph: {user: libvirt, mon_hosts: ["10.0.0.1:6789"], key: {libvirt_secret: {uuid: 0a81f5b2-8403-4b23-a2de-0e5b2d9b7f1c}}}
  key: {libvirt_secret: {uuid: 7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c}}
`))
	const domain = "../../attach/bridge/testdata/domains/luks2.xml"
	out := filepath.Join(dir, "out.yaml")
	there := luksgate(t, "xml", "to-gateway", domain, "--config", conf, "--config-out", out)
	if there.ExitCode != 0 || !strings.Contains(there.Stdout, "/run/luksgate/first.sock") {
		t.Fatalf("the daemon's export of the image is not used\n%s", there)
	}
	for _, path := range []string{conf, out} {
		if r := luksgate(t, "config", "check", "--config", path); r.ExitCode != 0 {
			t.Errorf("%s", r)
		}
	}
	moved := testenv.WriteFile(t, filepath.Join(dir, "moved.xml"), []byte(there.Stdout))
	if r := luksgate(t, "xml", "to-librbd", moved, "--config", out); r.Stdout != read(t, domain) {
		t.Errorf("the way back is another domain\n%s", r)
	}
	r := luksgate(t, "xml", "to-librbd", moved, "--config", conf, "--format", "luks2")
	if r.ExitCode != 0 || !strings.Contains(r.Stdout, `uuid="7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c"`) &&
		!strings.Contains(r.Stdout, "uuid='7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c'") {
		t.Errorf("the way back with the daemon's configuration\n%s", r)
	}
	before := read(t, conf)
	r = luksgate(t, "xml", "to-gateway", domain, "--config", conf, "--config-out", conf)
	if r.ExitCode != exitUsage || read(t, conf) != before {
		t.Errorf("luksgate.conf was written over\n%s", r)
	}
}

func TestBridgeMistakes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string { return testenv.WriteFile(t, filepath.Join(dir, name), []byte(text)) }
	const good = "../../attach/bridge/testdata/domains/luks2.xml"
	out := filepath.Join(dir, "exports.yaml")
	for _, c := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"no place for exports", []string{"to-gateway", good}, exitUsage, "--config-out"},
		{"no domain", []string{"to-gateway", "--config-out", out}, exitUsage, "arg"},
		{"no exports", []string{"to-librbd", good}, exitUsage, "--config"},
		{"missing domain", []string{"to-gateway", dir + "/none.xml", "--config-out", out}, exitGeneral, dir + "/none.xml"},
		{"missing exports", []string{"to-librbd", good, "--config", dir + "/none"}, exitGeneral, dir + "/none"},
		{"bad exports", []string{"to-librbd", good, "--config", write("c", "exports:\n- nam: x\n")}, exitGeneral, "line 2"},
		{"not XML", []string{"to-gateway", write("x", "<domain>\n<name>"), "--config-out", out}, exitGeneral, "line 2"},
		{"nothing to move", []string{"to-gateway", write("e", "<domain><name>x</name></domain>"), "--config-out", out}, exitGeneral, "no disk to move"},
		{"no such disk", []string{"to-gateway", good, "--target", "vdz", "--config-out", out}, exitGeneral, `no disk "vdz"`},
		{"no such version", []string{"to-gateway", good, "--libvirt", "new", "--config-out", out}, exitUsage, "--libvirt"},
		{"no such libvirt", []string{"to-gateway", good, "--connect", "qemu+ssh://h/system", "--config-out", out}, exitGeneral, "another host"},
		{"unwritable", []string{"to-gateway", good, "--config-out", dir + "/no/such"}, exitGeneral, dir + "/no"},
	} {
		r := luksgate(t, append([]string{"xml"}, c.args...)...)
		if r.ExitCode != c.code || !strings.Contains(r.Stderr, c.text) || r.Stdout != "" {
			t.Errorf("%s: want exit code %d, %q and no output\n%s", c.name, c.code, c.text, r)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a refused domain has written exports")
	}
}

// TestVersionsOfRunningLibvirt writes for the libvirt that runs, unless it is told otherwise.
func TestVersionsOfRunningLibvirt(t *testing.T) {
	d := testenv.NewLibvirtd(t)
	args := []string{"xml", "disk", "--socket", "/s", "--target", "vda", "--iothread", "1"} // refused for qemu 4.2
	if r := luksgate(t, args...); r.ExitCode != exitUsage {
		t.Errorf("without libvirt the output is not for the oldest qemu\n%s", r)
	}
	r := luksgate(t, append(args, "--connect", d.URI)...)
	if r.ExitCode != 0 || !strings.Contains(r.Stdout, "iothread") {
		t.Errorf("the running libvirt was not asked\n%s", r)
	}
	if r := luksgate(t, append(args, "--connect", d.URI, "--qemu", "4.2")...); r.ExitCode != exitUsage {
		t.Errorf("--qemu does not go over the running one\n%s", r)
	}
}
