// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Machine is a chroot that has been booted: systemd runs in it, with units, users and sockets of its own. It shares the
// network with this machine. What it writes is thrown away when the test ends.
type Machine struct {
	// Dir is a folder that has the same path inside and outside.
	Dir    string
	name   string
	leader int // the process id of its init
}

// NewMachine boots a chroot that deploy/chroot has made with systemd in it. binds are paths that it sees, read only, at the
// same places. It skips the test, or fails it where everything is required, where there is no such chroot or it does not
// boot.
func NewMachine(tb testing.TB, suite string, binds ...string) *Machine {
	tb.Helper()
	nspawn := Tool(tb, "systemd-nspawn")
	out, err := exec.Command(filepath.Join(Root(tb), "deploy", "chroot", "chroot"), "run-dir").Output()
	if err != nil {
		Missing(tb, "no chroots here: %v", err)
	}
	runDir := strings.TrimSpace(string(out))
	root := filepath.Join(filepath.Dir(runDir), suite)
	if _, err := os.Stat(filepath.Join(root, "lib", "systemd", "systemd")); err != nil || os.Geteuid() != 0 {
		Missing(tb, "no chroot %s with systemd, or no right to boot it: deploy/chroot/chroot make %s systemd systemd-sysv dbus", suite, suite)
	}
	dir, err := os.MkdirTemp(runDir, "m")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	m := &Machine{Dir: dir, name: "luksgate-" + strings.ToLower(rand.Text()[:8])}
	args := []string{
		"--directory=" + root, "--machine=" + m.name, "--volatile=overlay", "--register=no", "--keep-unit", "--boot", "--console=pipe",
		"--resolv-conf=copy-host", "--bind=" + dir,
		// nspawn takes mlock from what runs in it; a machine of its own would not.
		"--system-call-filter=@memlock",
	}
	for _, path := range binds {
		args = append(args, "--bind-ro="+path)
	}
	m.boot(tb, exec.Command(nspawn, args...))
	// Packages start their daemons, other than in a chroot.
	m.Run(tb, "rm", "-f", "/usr/sbin/policy-rc.d")
	return m
}

// bootTimeout is how long a machine may take to start. Five seconds are usual.
const bootTimeout = 3 * time.Minute

func (m *Machine) boot(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	p := StartCmd(tb, cmd)
	tb.Cleanup(func() { m.powerOff(p) })
	for deadline := time.Now().Add(bootTimeout); ; time.Sleep(100 * time.Millisecond) {
		// nspawn has short-lived children before its init.
		if _, err := os.Stat(m.Path("/")); m.leader == 0 || err != nil {
			m.leader = firstChild(p.PID())
		}
		if m.leader != 0 {
			state := m.Try(tb, "systemctl", "is-system-running")
			if s := strings.TrimSpace(state.Stdout); s == "running" || s == "degraded" {
				return
			}
		}
		if !p.Running() {
			Missing(tb, "a machine does not boot here:\n%s", p.Output())
		}
		if time.Now().After(deadline) {
			tb.Fatalf("a machine does not get ready:\n%s\n%s", m.Try(tb, "systemctl", "list-jobs"), m.Try(tb, "systemctl", "list-units", "--failed"))
		}
	}
}

// powerOff ends a machine as its power button does, and by force if need be.
func (m *Machine) powerOff(p *Process) {
	const sigRTMin, powerOff = 34, 4
	if m.leader != 0 {
		_ = syscall.Kill(m.leader, syscall.Signal(sigRTMin+powerOff))
	}
	for deadline := time.Now().Add(20 * time.Second); p.Running() && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if p.Running() && m.leader != 0 {
		_ = syscall.Kill(m.leader, syscall.SIGKILL)
	}
}

// firstChild is a child of a process, or 0.
func firstChild(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	first, _, _ := strings.Cut(string(b), " ")
	n, _ := strconv.Atoi(first)
	return n
}

// Path is where a file of the machine is outside.
func (m *Machine) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(m.leader), "root", inside)
}

// Command is a command line to be run inside, by root, with a clean environment.
func (m *Machine) Command(name string, args ...string) *exec.Cmd {
	line := []string{
		"--target", strconv.Itoa(m.leader), "--all", "env", "-i", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", name,
	}
	return exec.Command("nsenter", append(line, args...)...)
}

// Try runs a program inside to its end.
func (m *Machine) Try(tb testing.TB, name string, args ...string) Result {
	tb.Helper()
	return RunCmd(tb, m.Command(name, args...))
}

// Run runs a program inside and returns its standard output; the test fails if it fails.
func (m *Machine) Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	r := m.Try(tb, name, args...)
	if r.ExitCode != 0 {
		tb.Fatalf("inside the machine:\n%s", r)
	}
	return r.Stdout
}

// Start runs a program beside the test, as [Start] does.
func (m *Machine) Start(tb testing.TB, name string, args ...string) *Process {
	tb.Helper()
	return StartCmd(tb, m.Command(name, args...))
}

// Write writes a file inside, with an owner, such as root:luksgate, and a mode, such as 640.
func (m *Machine) Write(tb testing.TB, path, owner, mode string, content []byte) {
	tb.Helper()
	script := `mkdir -p "$(dirname "$1")" && (umask 077 && cat >"$1") && chown "$2" "$1" && chmod "$3" "$1"`
	cmd := m.Command("sh", "-c", script, "sh", path, owner, mode)
	cmd.Stdin = bytes.NewReader(content)
	if r := RunCmd(tb, cmd); r.ExitCode != 0 {
		tb.Fatalf("writing %s inside the machine:\n%s", path, r)
	}
}
