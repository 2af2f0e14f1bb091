// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// unprivilegedUID is the user that a libvirtd of a test runs as where the test is root: only as another user does
// libvirtd keep to folders of its own.
const unprivilegedUID = 65534

// A Libvirtd is a libvirt daemon of a test's own.
type Libvirtd struct {
	// URI is what clients connect to.
	URI string
	// Socket is where it listens.
	Socket string
	// Dir is a folder that it and its guests may use. It is short enough for sockets.
	Dir    string
	system System
}

// NewLibvirtd starts this machine's libvirtd in session mode. It ends, with its domains, when the test does.
func NewLibvirtd(tb testing.TB) *Libvirtd {
	tb.Helper()
	s := Here(tb)
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	l := &Libvirtd{Dir: s.Dir, Socket: filepath.Join(s.Dir, "libvirt", "libvirt-sock"), system: s}
	l.URI = "qemu+unix:///session?socket=" + l.Socket
	l.Own(tb, l.Dir)
	line := []string{"HOME=" + l.Dir, "XDG_RUNTIME_DIR=" + l.Dir, "XDG_CONFIG_HOME=" + l.Dir + "/config",
		"XDG_CACHE_HOME=" + l.Dir + "/cache", "XDG_DATA_HOME=" + l.Dir + "/data"}
	if os.Geteuid() == 0 {
		id := strconv.Itoa(unprivilegedUID)
		line = append(line, "setpriv", "--reuid", id, "--regid", id, "--clear-groups")
	}
	s.mustHave(tb, "/usr/sbin/libvirtd", "/usr/bin/qemu-system-x86_64")
	l.start(tb, s.Command(tb, "env", append(line, "/usr/sbin/libvirtd")...))
	return l
}

// start runs the daemon and waits until it listens.
func (l *Libvirtd) start(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	virsh := Tool(tb, "virsh")
	p := StartCmd(tb, cmd)
	for deadline := time.Now().Add(CommandTimeout); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("unix", l.Socket)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) || !p.Running() {
			tb.Fatalf("libvirtd does not listen on %s: %v\n%s", l.Socket, err, p.Output())
		}
	}
	tb.Cleanup(func() { l.destroyAll(tb, virsh) })
}

func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// destroyAll ends the guests, which would outlive libvirtd.
func (l *Libvirtd) destroyAll(tb testing.TB, virsh string) {
	// One may end by itself between the list and its end: what counts is that none is left.
	script := `for d in $("$1" -q -c "$2" list --uuid); do "$1" -q -c "$2" destroy "$d"; done; test -z "$("$1" -q -c "$2" list --uuid)"`
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
