// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// unprivilegedUID is the user that a libvirtd of a test runs as where the test is root: only as another user does
// libvirtd keep to folders of its own.
const unprivilegedUID = 65534

// A Libvirtd is a libvirt daemon of a test's own, in session mode.
type Libvirtd struct {
	// URI is what clients connect to.
	URI string
	// Dir is a folder that it and its guests may use. It is short enough for sockets.
	Dir string
}

// NewLibvirtd starts libvirtd, which ends, with its domains, when the test does.
func NewLibvirtd(tb testing.TB) *Libvirtd {
	tb.Helper()
	path, err := exec.LookPath("libvirtd")
	if err != nil {
		path = Tool(tb, "/usr/sbin/libvirtd")
	}
	virsh := Tool(tb, "virsh")
	l := &Libvirtd{Dir: SocketDir(tb)}
	socket := filepath.Join(l.Dir, "libvirt", "libvirt-sock")
	l.URI = "qemu+unix:///session?socket=" + socket
	l.Own(tb, l.Dir)
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "HOME="+l.Dir, "XDG_RUNTIME_DIR="+l.Dir, "XDG_CONFIG_HOME="+l.Dir+"/config",
		"XDG_CACHE_HOME="+l.Dir+"/cache", "XDG_DATA_HOME="+l.Dir+"/data")
	cmd.Dir = l.Dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: unprivilegedUID, Gid: unprivilegedUID}}
	}
	p := StartCmd(tb, cmd)
	for deadline := time.Now().Add(CommandTimeout); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) || !p.Running() {
			tb.Fatalf("libvirtd does not listen on %s: %v\n%s", socket, err, p.Output())
		}
	}
	tb.Cleanup(func() { l.destroyAll(tb, virsh) })
	return l
}

// destroyAll ends the guests, which would outlive libvirtd.
func (l *Libvirtd) destroyAll(tb testing.TB, virsh string) {
	script := `for d in $("$1" -q -c "$2" list --uuid); do "$1" -q -c "$2" destroy "$d"; done`
	if r := RunCmd(tb, exec.Command("sh", "-c", script, "sh", virsh, l.URI)); r.ExitCode != 0 {
		tb.Errorf("guests are left over:\n%s", r)
	}
}

// Own gives a file to the user that the daemon and its guests run as.
func (l *Libvirtd) Own(tb testing.TB, path string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, unprivilegedUID, unprivilegedUID); err != nil {
		tb.Fatal(err)
	}
}

// Virsh runs virsh on the daemon and returns what it printed; the test fails if it fails.
func (l *Libvirtd) Virsh(tb testing.TB, args ...string) string {
	tb.Helper()
	return Run(tb, "virsh", append([]string{"-q", "-c", l.URI}, args...)...)
}

// Domain defines a small domain without an operating system, emulated by qemu. more goes into its <devices>.
func (l *Libvirtd) Domain(tb testing.TB, name, more string) {
	tb.Helper()
	l.Define(tb, fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>
<controller type='usb' model='none'/><memballoon model='none'/>%s</devices></domain>`, name, more))
}

// Define defines a domain from XML.
func (l *Libvirtd) Define(tb testing.TB, xml string) {
	tb.Helper()
	Tool(tb, "qemu-system-x86_64")
	l.Virsh(tb, "define", WriteFile(tb, filepath.Join(tb.TempDir(), "domain.xml"), []byte(xml)))
}
