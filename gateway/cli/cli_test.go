// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// envRun makes the test binary be luksgate: its arguments are luksgate's. So the tests run the real program, with the
// race detector where they have it.
const envRun = "LUKSGATE_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(envRun) != "" {
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), envRun+"=1", "CEPH_CONF="+os.Getenv(testenv.EnvCephConf),
		"LIBVIRT_DEFAULT_URI=qemu+unix:///system?socket=/nonexistent") // what is printed must not depend on this machine
	return cmd
}

// luksgate runs a command to its end.
func luksgate(t *testing.T, args ...string) testenv.Result {
	t.Helper()
	return testenv.RunCmd(t, command(args...))
}

// A gate is a running export.
type gate struct {
	*testenv.Process
	uri, socket string
}

// export starts an export on a socket of its own and waits until it is ready.
func export(t *testing.T, args ...string) *gate {
	t.Helper()
	socket := filepath.Join(testenv.SocketDir(t), "s")
	p := testenv.StartCmd(t, command(append([]string{"export", "--socket", socket}, args...)...))
	return &gate{p, p.WaitLine("+unix:"), socket}
}

// stop ends the export and expects that it says it did so in order.
func (g *gate) stop(t *testing.T) {
	t.Helper()
	if code := g.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit code %d\n%s", code, g.Output())
	}
}

// TestExitCodes tries what the manual promises of each code and message.
func TestExitCodes(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20)})
	dir := t.TempDir()
	write := func(name, content string) string {
		return testenv.WriteFile(t, filepath.Join(dir, name), []byte(content))
	}
	wrong, newline := write("wrong", "not it"), write("newline", "correct horse\n")
	plain := write("plain.img", strings.Repeat("x", 8192))
	whole, err := os.ReadFile(luks.Path)
	if err != nil {
		t.Fatal(err)
	}
	truncated := write("truncated.img", string(whole[:5000]))
	s := []string{"--socket", filepath.Join(dir, "s")}
	for _, c := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"no command", nil, exitUsage, "command is missing"},
		{"unknown command", []string{"exprot"}, exitUsage, "exprot"},
		{"unknown flag", []string{"export", "--frobnicate"}, exitUsage, "frobnicate"},
		{"no image", append([]string{"export"}, s...), exitUsage, "arg"},
		{"no address", []string{"export", "file:" + luks.Path}, exitUsage, "--socket"},
		{"bad reference", append([]string{"export", "vm1"}, s...), exitUsage, "rbd:POOL/IMAGE"},
		{"bad engine", append([]string{"export", "--engine", "magic", "file:" + luks.Path}, s...), exitUsage, "magic"},
		{"no key", append([]string{"export", "file:" + luks.Path}, s...), exitUsage, "--key-file"},
		{"two keys", append([]string{"export", "file:" + luks.Path, "--key-file", wrong, "--key-fd", "0"}, s...), exitUsage, "exclude"},
		{"missing key file", append([]string{"export", "file:" + luks.Path, "--key-file", dir + "/none"}, s...), exitGeneral, dir + "/none"},
		{"wrong passphrase", append([]string{"export", "file:" + luks.Path, "--key-file", wrong}, s...), exitWrongPassphrase, "no keyslot opens"},
		{"newline too many", append([]string{"export", "file:" + luks.Path, "--key-file", newline}, s...), exitWrongPassphrase, "--key-trim-newline"},
		{"not LUKS", append([]string{"export", "file:" + plain}, s...), exitNotLUKS, "--plain"},
		{"truncated header", append([]string{"export", "file:" + truncated, "--key-file", wrong}, s...), exitNotLUKS, truncated},
		{"missing file", append([]string{"export", "file:" + dir + "/none.img"}, s...), exitUnreachable, dir + "/none.img"},
		{"inspect missing", []string{"inspect", "file:" + dir + "/none.img"}, exitUnreachable, dir + "/none.img"},
		{"disk without target", []string{"xml", "disk", "--socket", "/s"}, exitUsage, "target"},
		{"good", []string{"inspect", "file:" + luks.Path}, exitOK, "aes-xts-plain64"},
	} {
		r := luksgate(t, c.args...)
		if r.ExitCode != c.code || !strings.Contains(r.Stdout+r.Stderr, c.text) {
			t.Errorf("%s: want exit code %d and %q\n%s", c.name, c.code, c.text, r)
		}
		if strings.Contains(r.Stdout+r.Stderr, "not it") || strings.Contains(r.Stdout+r.Stderr, "horse") {
			t.Errorf("%s: the passphrase is printed\n%s", c.name, r)
		}
	}
}

// TestBusy exports one image, and one socket, twice.
func TestBusy(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20)})
	g := export(t, "file:"+luks.Path, "--key-file", luks.PassphrasePath)
	r := luksgate(t, "export", "file:"+luks.Path, "--key-file", luks.PassphrasePath, "--socket", g.socket+"2")
	if r.ExitCode != exitBusy || !strings.Contains(r.Stderr, "in use") {
		t.Errorf("image in use: want exit code %d\n%s", exitBusy, r)
	}
	r = luksgate(t, "export", "mem:1M", "--socket", g.socket)
	if r.ExitCode != exitBusy || !strings.Contains(r.Stderr, "another process") {
		t.Errorf("socket in use: want exit code %d\n%s", exitBusy, r)
	}
	g.Signal(os.Kill)
	g.Wait()
	// The dead process left its socket; the image is free again.
	again := testenv.StartCmd(t, command("export", "file:"+luks.Path, "--key-file", luks.PassphrasePath, "--socket", g.socket))
	again.WaitLine("nbd+unix:")
	if code := again.Stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, again.Output())
	}
	if _, err := os.Stat(g.socket); err == nil {
		t.Error("the socket is still there after the end")
	}
}

// TestOnce serves one client and ends by itself; one that only asks for a list is not the one.
func TestOnce(t *testing.T) {
	g := export(t, "mem:1M", "--once", "--name", "first")
	testenv.Run(t, "nbdinfo", "--list", g.uri)
	testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write 0 4k")
	if code := g.Wait(); code != 0 {
		t.Errorf("exit code %d\n%s", code, g.Output())
	}
}

// TestListen serves on TCP, on a port that the system chose.
func TestListen(t *testing.T) {
	p := testenv.StartCmd(t, command("export", "mem:4M", "--listen", "127.0.0.1:0", "--name", "a b"))
	uri := p.WaitLine("nbd://")
	if size := strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", uri)); size != "4194304" {
		t.Errorf("size %s", size)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Output())
	}
}

// TestSecretsStayInside looks where a passphrase could get out: arguments, environment, core dumps, output.
func TestSecretsStayInside(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20), Passphrase: []byte("hunter2hunter2")})
	g := export(t, "file:"+luks.Path, "--key-file", luks.PassphrasePath, "-v")
	testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write 0 4k")
	limits, err := os.ReadFile("/proc/" + pidText(g) + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if strings.HasPrefix(line, "Max core file size") && strings.Fields(line)[4] != "0" {
			t.Errorf("core dumps are allowed: %s", line)
		}
	}
	g.stop(t)
	if strings.Contains(g.Output(), "hunter2") {
		t.Error("the passphrase is in the log")
	}
}

// TestTerminalOutput keeps what scripts rely on: the URI is the only thing on standard output.
func TestStdoutIsTheURI(t *testing.T) {
	cmd := command("export", "mem:1M", "--once", "--socket", filepath.Join(testenv.SocketDir(t), "s"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(testenv.CommandTimeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	uri := strings.TrimSuffix(string(buf[:n]), "\n")
	testenv.Run(t, "nbdcopy", uri, "null:")
	rest, _ := out.Read(buf)
	if err := cmd.Wait(); err != nil || rest != 0 || strings.ContainsAny(uri, " \n") {
		t.Errorf("standard output is %q and then %q, %v", uri, buf[:rest], err)
	}
}
