// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestMigrationByLibvirt does what docs/migration.md says, by the commands that are written there: a guest whose disk is never
// idle goes from a libvirt with the gateway to one with librbd's engine, and back. The old side is libvirt 7.0 with qemu
// 5.2, where a hook of the other host has to change the XML, and then this machine's libvirt, which does it itself.
func TestMigrationByLibvirt(t *testing.T) {
	testenv.Long(t)
	t.Parallel() // beside clones, whose tests wait much
	testenv.CephConf(t)
	t.Run("from-7.0", func(t *testing.T) { newVirshHop(t, testenv.Chroot(t, "bullseye")).roundTrip(true) })
	t.Run("from-9.0", func(t *testing.T) { newVirshHop(t, testenv.Here(t)).roundTrip(false) })
}

// A virshHop takes a guest from one libvirt to the other.
type virshHop struct {
	t             *testing.T
	m             *rbdImage
	page          *runbook
	words         *strings.Replacer // of the page, and what they are here
	old, upgraded virtHost
	gate          *server
	gateConf      string // of the gateway, without exports
}

// A virtHost is one side: its libvirt, a working folder for the commands, and their environment.
type virtHost struct {
	*testenv.Libvirtd
	home string
	env  []string
}

// Secrets of the test; on real hosts each has the same UUID everywhere.
const (
	cephSecret = "0a81f5b2-8403-4b23-a2de-0e5b2d9b7f1c"
	luksSecret = "7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c"
)

// guestConsole is the guest's serial line, in a folder that each host has its own of.
const guestConsole = "/run/libvirt/vm1.tty"

func newVirshHop(t *testing.T, old testenv.System) *virshHop {
	h := &virshHop{t: t, m: newRBDImage(t, 48, "luks2", "aes-256").cheapKDF(t), page: readRunbook(t, "migration.md")}
	here := testenv.Here(t)
	here.Dir = old.Dir // where both sides can reach it
	migrate := filepath.Join(old.Dir, "migrate")
	if err := os.Mkdir(migrate, 0o700); err != nil {
		t.Fatal(err)
	}
	hook := h.page.blocks(t, "From an older libvirt", 4)[0]
	h.old.Libvirtd = testenv.NewLibvirtHost(t, old, "")
	h.upgraded.Libvirtd = testenv.NewLibvirtHost(t, here, strings.ReplaceAll(hook, "/etc/luksgate/migrate", migrate))

	user := strings.ToLower(testenv.UniqueName(t)[:12] + filepath.Base(old.Dir))
	testenv.Ceph(t, "auth", "get-or-create", "client."+user, "mon", "profile rbd", "osd", "profile rbd pool="+testenv.Pool)
	t.Cleanup(func() { testenv.Ceph(t, "auth", "rm", "client."+user) })
	h.gateConf = fmt.Sprintf("libvirt: {socket: %s}\n", h.old.Socket)
	h.gate = serveDaemon(t, h.gateConf)
	h.words = strings.NewReplacer("/etc/luksgate/luksgate.conf", h.gate.config, "/etc/luksgate/migrate", migrate,
		"/run/luksgate/", old.Dir+"/", "vms/web1", h.m.spec, "192.0.2.1:6789", monitor(t), "client.libvirt", "client."+user, "user: libvirt", "user: "+user,
		"qemu+ssh://upgraded/system", h.upgraded.URI, "qemu+ssh://old/system", h.old.URI, "upgraded:", "")
	for _, host := range []*virtHost{&h.old, &h.upgraded} {
		h.settle(host, testenv.Ceph(t, "auth", "get-key", "client."+user))
	}
	return h
}

// settle prepares a host for commands, and gives it the secrets as the page says.
func (h *virshHop) settle(host *virtHost, cephKey string) {
	h.t.Helper()
	host.home = filepath.Join(host.Dir, "home")
	if err := os.Mkdir(host.home, 0o700); err != nil {
		h.t.Fatal(err)
	}
	host.env = append(host.Client(h.t), "LUKS="+luksSecret, "CEPH="+cephSecret, envAdmin+"="+h.gate.socket("admin.sock"))
	testenv.WriteProgram(h.t, host.Dir+"/bin/luksgate", fmt.Sprintf("#!/bin/sh\n%s=1 exec %s \"$@\"\n", envRun, os.Args[0]))
	testenv.WriteProgram(h.t, host.Dir+"/bin/scp", "#!/bin/sh\nexec cp \"$@\"\n")
	testenv.WriteFile(h.t, filepath.Join(host.home, "web1.key"), []byte(read(h.t, h.m.key)))
	testenv.WriteFile(h.t, filepath.Join(host.home, "ceph.key"), []byte(cephKey+"\n"))
	h.on(*host, h.page.blocks(h.t, "Once, on both hosts", 2)[0])
}

// monitor is where the test cluster is reached.
func monitor(t *testing.T) string {
	t.Helper()
	var dump struct {
		Mons []struct {
			PublicAddrs struct {
				Addrvec []struct{ Type, Addr string }
			} `json:"public_addrs"`
		}
	}
	if err := json.Unmarshal([]byte(testenv.Ceph(t, "mon", "dump", "--format", "json")), &dump); err != nil || len(dump.Mons) == 0 {
		t.Fatalf("mon dump: %v", err)
	}
	addr := dump.Mons[0].PublicAddrs.Addrvec[0].Addr
	if _, _, err := net.SplitHostPort(addr); err != nil {
		t.Fatal(err)
	}
	return addr
}

// on runs commands of the page on a host.
func (h *virshHop) on(host virtHost, block string) string {
	h.t.Helper()
	r := shell(h.t, host.home, host.env, h.words.Replace(block))
	if r.ExitCode != 0 {
		h.t.Fatalf("%s", r)
	}
	return r.Stdout
}

// refused tries what an older libvirt refuses, and what a hook that fails does: the guest stays where it is and goes on.
func (h *virshHop) refused(c *testenv.Console, migrate string) {
	h.t.Helper()
	try := func(block, want string) {
		h.t.Helper()
		if r := shell(h.t, h.old.home, h.old.env, h.words.Replace(block)); r.ExitCode == 0 || !strings.Contains(r.Stderr, want) {
			h.t.Fatalf("want it refused with %q\n%s", want, r)
		}
	}
	try(h.page.blocks(h.t, "From libvirt 7.9 or newer", 1)[0], "unknown volume encryption format type luks2")
	empty := testenv.WriteFile(h.t, h.words.Replace("/etc/luksgate/migrate/vm1.yaml"), []byte("exports: []\n"))
	_, last, _ := strings.Cut(migrate, "\nvirsh migrate")
	try("virsh migrate"+last, "no disk to move")
	if err := os.Remove(empty); err != nil {
		h.t.Fatal(err)
	}
	c.GoesOn(h.t)
}

// roundTrip is the whole page.
func (h *virshHop) roundTrip(hook bool) {
	t := h.t
	h.export(h.words.Replace(h.page.blocks(t, "Once, on both hosts", 2)[1]))
	h.old.Define(t, h.domain())
	h.old.Virsh(t, "start", "vm1")
	c := h.busy(h.old, "READY")

	if hook {
		blocks := h.page.blocks(t, "From an older libvirt", 4)
		h.refused(c, blocks[1])
		h.on(h.old, blocks[1])
		h.on(h.upgraded, blocks[2])
		h.on(h.old, blocks[3])
		testenv.Run(t, "cp", h.old.home+"/vm1.yaml", h.upgraded.home)
	} else {
		h.on(h.old, h.page.blocks(t, "From libvirt 7.9 or newer", 1)[0])
		testenv.Run(t, "cp", h.old.home+"/vm1.yaml", h.upgraded.home)
	}
	h.arrived(h.old, h.upgraded, "protocol='rbd'")
	h.export("")
	h.on(h.old, h.page.blocks(t, "Afterwards", 1)[0])
	h.gate.wait("the export is gone", func() bool { return !strings.Contains(h.gate.must("ls"), "vm1-vda") })

	blocks := h.page.blocks(t, "Back to the old host", 3)
	h.on(h.upgraded, blocks[0])
	h.gate.write(h.gateConf + read(t, h.upgraded.home+"/vm1.yaml"))
	if all := h.on(h.old, blocks[1]); !strings.Contains(all, "vm1-vda") {
		t.Errorf("the export is not there:\n%s", all)
	}
	h.on(h.upgraded, blocks[2])
	c = h.arrived(h.upgraded, h.old, "protocol='nbd'")
	c.Say(t, "stop")
	digest, _, _ := strings.Cut(c.Wait(t, "DIGEST", nil), " ")
	h.verify(digest)
}

// export has the gateway serve what the configuration text says.
func (h *virshHop) export(text string) {
	h.t.Helper()
	h.gate.write(h.gateConf + text)
	h.gate.must("reload")
}

// domain is the guest on the old host, with the disk that luksgate prints for its export.
func (h *virshHop) domain() string {
	h.t.Helper()
	disk := h.on(h.old, "luksgate xml disk --socket /run/luksgate/vm1-vda.sock --name vm1-vda --target vda --serial web1")
	dir := filepath.Dir(h.old.Dir) // both sides see it
	g := testenv.NewGuest(h.t, dir)
	return fmt.Sprintf(`<domain type='qemu'><name>vm1</name><memory unit='MiB'>160</memory>
<os><type arch='x86_64' machine='%s'>hvm</type><kernel>%s</kernel><initrd>%s</initrd><cmdline>console=ttyS0 quiet panic=-1</cmdline></os>
<features><acpi/></features><devices><emulator>%s</emulator>
<controller type='usb' model='none'/><memballoon model='none'/>
<serial type='unix'><source mode='bind' path='%s'/><target port='0'/></serial>
%s</devices></domain>
`, machineType, g.Kernel, g.Initrd, testenv.Emulator(h.t, dir), guestConsole, disk)
}

// arrived checks that a guest has moved, as the page says.
func (h *virshHop) arrived(from, to virtHost, source string) *testenv.Console {
	h.t.Helper()
	for _, flag := range []string{"--migratable", "--inactive"} {
		if xml := to.Virsh(h.t, "dumpxml", "vm1", flag); !strings.Contains(xml, source) || !strings.Contains(xml, "<serial>web1</serial>") {
			h.t.Errorf("want %s and the serial number in\n%s", source, xml)
		}
	}
	if left := strings.TrimSpace(from.Virsh(h.t, "list", "--all", "--name")); left != "" {
		h.t.Errorf("the guest is still on the host that it left: %s", left)
	}
	c := h.busy(to, "OPS")
	for _, is := range []struct{ want, got string }{
		{"running (migrated)", to.Virsh(h.t, "domstate", "vm1", "--reason")},
		{"No errors found", to.Virsh(h.t, "domblkerror", "vm1")},
		{"There is 1 exclusive lock", testenv.RBD(h.t, "lock", "ls", h.m.spec)},
	} {
		if !strings.Contains(is.got, is.want) {
			h.t.Errorf("want %q, got %q", is.want, is.got)
		}
	}
	return c
}

// busy connects to the guest and waits until it has said a word, and has done requests since.
func (h *virshHop) busy(on virtHost, word string) *testenv.Console {
	h.t.Helper()
	c := testenv.DialConsole(h.t, on.Dir+guestConsole)
	c.Wait(h.t, word, nil)
	c.GoesOn(h.t)
	return c
}

// verify compares what the guest remembers with what both sides read, and looks at what the gateway has said.
func (h *virshHop) verify(digest string) {
	h.t.Helper()
	copied := filepath.Join(h.t.TempDir(), "copy")
	testenv.Run(h.t, "nbdcopy", "nbd+unix:///vm1-vda?socket="+filepath.Dir(h.old.Dir)+"/vm1-vda.sock", copied)
	(&hop{t: h.t}).expect("through the gateway", copied, digest)
	if code := h.gate.Stop(); code != 0 {
		h.t.Errorf("gateway: exit code %d\n%s", code, h.gate.Output())
	}
	testenv.Run(h.t, "qemu-img", append(append([]string{"convert", "-O", "raw"}, h.m.librbd(h.m.spec)...), copied)...)
	(&hop{t: h.t}).expect("through librbd", copied, digest)
	checkGateLog(h.t, h.gate.Process)
}
