// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/attach/bridge"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestMigrationByLibvirt does with virsh what docs/migration.md says, between two libvirtd of this machine's version. One
// older than 7.9 does not take XML with luks2, not even for another host: there a hook of the other host has to do it, and
// libvirt runs hooks for root's libvirtd only.
func TestMigrationByLibvirt(t *testing.T) {
	testenv.Long(t)
	testenv.CephConf(t)
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: libvirt migrates between hosts of different names only, which takes root to have here")
	}
	m := newRBDImage(t, 48, "luks2", "aes-256").cheapKDF(t)
	here := testenv.Here(t)
	h := &virshHop{t: t, m: m, dir: here.Dir, old: testenv.NewLibvirtdOf(t, here), upgraded: testenv.NewLibvirtdOf(t, here)}
	guest := testenv.NewGuest(t, h.dir)
	h.defineSecrets()

	// The domain as the upgraded host has it, and from it that of the old host and the exports of its gateway.
	h.exports = filepath.Join(h.dir, "exports.yaml")
	librbd := testenv.WriteFile(t, filepath.Join(h.dir, "guest.xml"), []byte(h.domain(guest)))
	moved := h.bridge("to-gateway", read(t, librbd))
	e := h.export()
	gate := testenv.StartCmd(t, command("export", e.Image, "--key-file", m.key, "--socket", e.Socket, "--name", e.Name))
	uri := gate.WaitLine("nbd+unix:")
	h.old.Own(t, e.Socket)
	h.old.Own(t, h.dir) // where the guests' sockets are

	h.old.Virsh(t, "define", testenv.WriteFile(t, filepath.Join(h.dir, "moved.xml"), []byte(moved)))
	h.old.Virsh(t, "start", "guest")
	h.busy(h.old, "READY")
	h.move(h.old, h.upgraded, "to-librbd", "protocol='rbd'")
	c := h.move(h.upgraded, h.old, "to-gateway", "protocol='nbd'")
	c.Say(t, "stop")
	digest, _, _ := strings.Cut(c.Wait(t, "DIGEST", nil), " ")

	copied := filepath.Join(t.TempDir(), "copy")
	testenv.Run(t, "nbdcopy", uri, copied)
	(&hop{t: t}).expect("through the gateway", copied, digest)
	if code := gate.Stop(); code != 0 {
		t.Errorf("gateway: exit code %d\n%s", code, gate.Output())
	}
	testenv.Run(t, "qemu-img", append(append([]string{"convert", "-O", "raw"}, m.librbd(m.spec)...), copied)...)
	(&hop{t: t}).expect("through librbd", copied, digest)
}

// A virshHop takes a guest from one libvirt to the other.
type virshHop struct {
	t             *testing.T
	m             *rbdImage
	dir, exports  string
	old, upgraded *testenv.Libvirtd
	count         int
}

// Secrets of the test; on real hosts each has the same UUID everywhere.
const (
	cephSecret = "0a81f5b2-8403-4b23-a2de-0e5b2d9b7f1c"
	luksSecret = "7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c"
)

// console is the guest's serial line on a host. The host that it leaves removes its own.
func console(on *testenv.Libvirtd) string { return filepath.Join(on.Dir, "tty") }

func (h *virshHop) domain(g testenv.Guest) string {
	h.t.Helper()
	var dump struct {
		Mons []struct {
			PublicAddrs struct {
				Addrvec []struct{ Type, Addr string }
			} `json:"public_addrs"`
		}
	}
	if err := json.Unmarshal([]byte(testenv.Ceph(h.t, "mon", "dump", "--format", "json")), &dump); err != nil || len(dump.Mons) == 0 {
		h.t.Fatalf("mon dump: %v", err)
	}
	host, port, err := net.SplitHostPort(dump.Mons[0].PublicAddrs.Addrvec[0].Addr)
	if err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf(`<domain type='qemu'><name>guest</name><memory unit='MiB'>160</memory>
<os><type arch='x86_64' machine='%s'>hvm</type><kernel>%s</kernel><initrd>%s</initrd><cmdline>console=ttyS0 quiet panic=-1</cmdline></os>
<features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='usb' model='none'/><memballoon model='none'/>
<serial type='unix'><source mode='bind' path='%s'/><target port='0'/></serial>
<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>
<source protocol='rbd' name='%s'><host name='%s' port='%s'/>
<auth username='admin'><secret type='ceph' uuid='%s'/></auth>
<encryption format='luks2' engine='librbd'><secret type='passphrase' uuid='%s'/></encryption></source>
<target dev='vda' bus='virtio'/></disk></devices></domain>
`, machineType, g.Kernel, g.Initrd, console(h.old), h.m.spec, host, port, cephSecret, luksSecret)
}

// defineSecrets gives the upgraded host what it opens the image with, by the commands that luksgate prints.
func (h *virshHop) defineSecrets() {
	h.t.Helper()
	key := testenv.WriteFile(h.t, filepath.Join(h.t.TempDir(), "ceph.key"), []byte(testenv.Ceph(h.t, "auth", "get-key", "client.admin")))
	for _, s := range []struct{ kind, usage, uuid, value string }{
		{"ceph", "client.admin secret", cephSecret, key}, {"passphrase", "/rbd/" + h.m.spec, luksSecret, h.m.key},
	} {
		args := []string{"xml", "secret", "--kind", s.kind, "--usage", s.usage, "--uuid", s.uuid}
		xml := luksgate(h.t, args...)
		file := testenv.WriteFile(h.t, filepath.Join(h.t.TempDir(), "secret.xml"), []byte(xml.Stdout))
		lines := luksgate(h.t, append(args, "--commands", "--xml-file", file, "--value-file", s.value)...)
		script := "set -e; virsh() { command virsh -q -c '" + h.upgraded.URI + "' \"$@\"; }\n" + lines.Stdout
		if r := testenv.Try(h.t, "bash", "-c", script); r.ExitCode != 0 {
			h.t.Fatalf("%s\n%s", lines, r)
		}
	}
}

// bridge runs a domain through `luksgate xml`.
func (h *virshHop) bridge(verb, xml string) string {
	h.t.Helper()
	args := []string{"xml", verb, "-", "--config-out", h.exports}
	if verb == "to-gateway" {
		args = append(args, "--socket-dir", h.dir)
	}
	if _, err := os.Stat(h.exports); err == nil {
		args = append(args, "--config", h.exports)
	}
	cmd := command(args...)
	cmd.Stdin = strings.NewReader(xml)
	r := testenv.RunCmd(h.t, cmd)
	if r.ExitCode != 0 {
		h.t.Fatalf("%s", r)
	}
	return r.Stdout
}

// export is the only one that the bridge has written.
func (h *virshHop) export() bridge.Export {
	h.t.Helper()
	config, err := bridge.ParseConfig([]byte(read(h.t, h.exports)))
	if err != nil || len(config.Exports) != 1 {
		h.t.Fatalf("%+v, %v", config, err)
	}
	return config.Exports[0]
}

// move migrates the running guest and its configuration.
func (h *virshHop) move(from, to *testenv.Libvirtd, verb, want string) *testenv.Console {
	h.t.Helper()
	h.count++
	file := func(name, xml string) string {
		xml = strings.ReplaceAll(h.bridge(verb, xml), console(from), console(to))
		return testenv.WriteFile(h.t, filepath.Join(h.t.TempDir(), name), []byte(xml))
	}
	live := file("live.xml", from.Virsh(h.t, "dumpxml", "guest", "--migratable"))
	inactive := file("inactive.xml", from.Virsh(h.t, "dumpxml", "guest", "--migratable", "--inactive"))
	from.Virsh(h.t, "migrate", "guest", to.URI, "--live", "--persistent", "--undefinesource", "--xml", live, "--persistent-xml", inactive,
		"--migrateuri", "unix://"+filepath.Join(h.dir, "m"+strconv.Itoa(h.count)))
	for _, flag := range []string{"--migratable", "--inactive"} {
		if xml := to.Virsh(h.t, "dumpxml", "guest", flag); !strings.Contains(xml, want) {
			h.t.Errorf("%s: want %s in\n%s", verb, want, xml)
		}
	}
	if left := strings.TrimSpace(from.Virsh(h.t, "list", "--all", "--name")); left != "" {
		h.t.Errorf("the guest is still on the host that it left: %s", left)
	}
	return h.busy(to, "OPS")
}

// busy connects to the guest and waits until it has said a word, and has done requests since.
func (h *virshHop) busy(on *testenv.Libvirtd, word string) *testenv.Console {
	h.t.Helper()
	c := testenv.DialConsole(h.t, console(on))
	c.Wait(h.t, word, nil)
	for range 2 {
		seen := len(c.All())
		c.Wait(h.t, "OPS", func(string) bool { return len(c.All()) > seen+2 })
	}
	return c
}
