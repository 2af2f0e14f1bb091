// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A plugTest is a daemon, a libvirt with a domain, and an encrypted image.
type plugTest struct {
	t       *testing.T
	daemon  *server
	libvirt *testenv.Libvirtd
	luks    *testenv.LUKSFile
}

func newPlugTest(t *testing.T) *plugTest {
	t.Helper()
	p := &plugTest{t: t, libvirt: testenv.NewLibvirtd(t)}
	p.daemon = serveDaemon(t, "defaults: {close_after: 0s, socket_access: {mode: \"0666\"}}\n")
	p.luks = testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 2<<20)})
	return p
}

func (p *plugTest) run(verb string, args ...string) testenv.Result {
	p.t.Helper()
	return p.daemon.run(append([]string{verb, "--domain", "guest", "--target", "vda", "--connect", p.libvirt.URI, "--socket-dir", p.libvirt.Dir}, args...)...)
}

func (p *plugTest) attach(args ...string) testenv.Result {
	p.t.Helper()
	return p.run("attach", append([]string{"--image", "file:" + p.luks.Path, "--key-file", p.luks.PassphrasePath}, args...)...)
}

// expect compares what the domain and the daemon have.
func (p *plugTest) expect(when string, live, config, export bool) {
	p.t.Helper()
	for flag, want := range map[string]bool{"": live, "--inactive": config} {
		args := []string{"domblklist", "guest"}
		if flag != "" {
			args = append(args, flag)
		}
		if got := strings.Contains(p.libvirt.Virsh(p.t, args...), "vda"); got != want {
			p.t.Errorf("%s: the domain has the disk (%s): %v, want %v", when, flag, got, want)
		}
	}
	all, err := p.daemon.client.Exports(p.t.Context())
	if err != nil || (len(all) == 1) != export {
		p.t.Errorf("%s: exports are %+v, %v; want one: %v", when, all, err, export)
	}
}

func want(t *testing.T, what string, r testenv.Result, code int, text string) {
	t.Helper()
	if r.ExitCode != code || !strings.Contains(r.Stdout+r.Stderr, text) {
		t.Errorf("%s: want exit code %d and %q\n%s", what, code, text, r)
	}
}

// TestAttachStopped plugs a disk into a domain that does not run.
func TestAttachStopped(t *testing.T) {
	p := newPlugTest(t)
	p.libvirt.Domain(t, "guest", "")
	want(t, "live", p.attach("--live"), exitGeneral, "does not run")
	p.expect("after --live", false, false, false)
	want(t, "attach", p.attach(), exitOK, "guest has nbd+unix:///guest-vda?socket="+p.libvirt.Dir+"/guest-vda.sock as vda\n")
	// virsh shows the same for both where the domain does not run.
	p.expect("attached", true, true, true)
	testenv.Run(t, "nbdinfo", "nbd+unix:///guest-vda?socket="+p.libvirt.Dir+"/guest-vda.sock")
	want(t, "attach again", p.attach(), exitOK, "nothing was to be done")
	want(t, "other image", p.run("attach", "--image", "mem:1M"), exitGeneral, "already")
	want(t, "other target", p.run("attach", "--image", "file:"+p.luks.Path, "--target", "vdb", "--name", "guest-vda"), exitGeneral, "as vda")
	want(t, "other name", p.attach("--name", "x"), exitGeneral, "another disk vda")
	p.expect("after refusals", true, true, true)
	want(t, "detach", p.run("detach"), exitOK, "guest has no disk vda\n")
	p.expect("detached", false, false, false)
	want(t, "detach again", p.run("detach"), exitOK, "nothing was to be done")

	local := testenv.WriteFile(t, filepath.Join(p.libvirt.Dir, "raw"), make([]byte, 1<<20))
	p.libvirt.Virsh(t, "attach-disk", "guest", local, "vda", "--config")
	want(t, "in the way", p.attach(), exitGeneral, "another disk vda")
	want(t, "not ours", p.run("detach"), exitGeneral, "none of the gateway's")
}

// TestAttachUndoes lets steps fail: no guest that takes the disk, a key that the daemon cannot read, a domain that is none.
func TestAttachUndoes(t *testing.T) {
	p := newPlugTest(t)
	want(t, "no domain", p.attach(), exitGeneral, `domain "guest"`)
	p.libvirt.Domain(t, "guest", "")
	p.libvirt.Virsh(t, "start", "guest")
	// A machine without a system never reads, and never lets go.
	want(t, "no system", p.attach("--wait", "1s"), exitGeneral, "has not read from vda")
	p.expect("no system", true, false, true) // what stays plugged in stays served
	p.libvirt.Virsh(t, "destroy", "guest")
	want(t, "detach", p.run("detach"), exitOK, "")
	p.expect("destroyed", false, false, false)

	p.libvirt.Virsh(t, "start", "guest")
	want(t, "no key", p.run("attach", "--image", "file:"+p.luks.Path, "--key-file", "/nonexistent"), exitGeneral, "")
	p.expect("no key", false, false, false)
	for name, args := range map[string][]string{
		"no image": {"attach", "--domain", "d", "--target", "vda"}, "no target": {"detach", "--domain", "d"},
		"two keys": {"attach", "--domain", "d", "--target", "vda", "--image", "mem:1M", "--key-file", "a", "--key-secret", "b"},
	} {
		want(t, name, luksgate(t, args...), exitUsage, "--")
	}
	want(t, "no daemon", luksgate(t, "attach", "--domain", "guest", "--target", "vda", "--connect", p.libvirt.URI, "--image", "mem:1M",
		"--socket-dir", p.libvirt.Dir, "--admin", "/nonexistent"), exitUnreachable, "luksgate serve")
	p.expect("no daemon", false, false, false)
}

// TestAttachRunning plugs a disk into a guest that runs, which uses it, and takes it away.
func TestAttachRunning(t *testing.T) {
	p := newPlugTest(t)
	guest := testenv.NewGuest(t, p.libvirt.Dir)
	console := filepath.Join(p.libvirt.Dir, "tty")
	p.libvirt.Define(t, fmt.Sprintf(`<domain type='qemu'><name>guest</name><memory unit='MiB'>160</memory>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s</kernel><initrd>%s</initrd><cmdline>console=ttyS0 quiet panic=-1</cmdline></os>
<features><acpi/></features><devices><controller type='usb' model='none'/><memballoon model='none'/>
<serial type='unix'><source mode='bind' path='%s'/><target port='0'/></serial></devices></domain>`, guest.Kernel, guest.Initrd, console))
	p.libvirt.Virsh(t, "start", "guest")
	c := testenv.DialConsole(t, console)
	c.Wait(t, "BOOTED", nil)
	want(t, "attach", p.attach(), exitOK, "as vda\n")
	p.expect("attached", true, true, true)
	if size := c.Wait(t, "READY", nil); strings.TrimSpace(size) != "2097152" {
		t.Errorf("the guest sees %s bytes", size)
	}
	want(t, "attach again", p.attach(), exitOK, "nothing was to be done")
	c.Say(t, "wait-gone")
	c.Wait(t, "IDLE", nil) // a guest's writes fail while its kernel takes the disk away
	want(t, "detach", p.run("detach"), exitOK, "guest has no disk vda\n")
	c.Wait(t, "GONE", nil)
	p.expect("detached", false, false, false)
	image, err := os.ReadFile(p.luks.Path)
	if err != nil || len(image) == 0 {
		t.Fatal(err)
	}
}
