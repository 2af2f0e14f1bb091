// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// nbdsh runs a script in libnbd's shell; program and args are in it as the list "gate".
func nbdsh(t *testing.T, script string, args ...string) testenv.Result {
	t.Helper()
	var list strings.Builder
	for _, a := range append([]string{os.Args[0]}, args...) {
		fmt.Fprintf(&list, "%q, ", a)
	}
	cmd := exec.Command(testenv.Tool(t, "nbdsh"), "-n", "-c", "import nbd\nh = nbd.NBD()\ngate = ["+list.String()+"]\n"+script)
	// The distribution's Python has libnbd's module; another one may come first in PATH.
	cmd.Env = append(command().Env, "PATH=/usr/bin:/bin:"+os.Getenv("PATH"))
	return testenv.RunCmd(t, cmd)
}

// TestStdio has libnbd start an export and speak to it on its standard input and output.
func TestStdio(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: bytes.Repeat([]byte{0x5a}, 1<<20)})
	code := filepath.Join(t.TempDir(), "code")
	const script = `
h.connect_command(["sh", "-c", '"$@"; echo $? >` + "%s" + `', "sh"] + gate)
assert h.get_size() == 1 << 20
assert h.pread(4096, 8192) == bytearray([0x5a]) * 4096
h.pwrite(b"x" * 1000, 100, nbd.CMD_FLAG_FUA)
assert h.pread(1000, 100) == bytearray(b"x" * 1000)
h.shutdown()
del h # waits for the program
`
	r := nbdsh(t, fmt.Sprintf(script, code), "export", "--stdio", "file:"+luks.Path, "--key-file", luks.PassphrasePath)
	if r.ExitCode != 0 {
		t.Fatal(r)
	}
	if b, err := os.ReadFile(code); err != nil || string(b) != "0\n" {
		t.Errorf("exit code %q, %v\n%s", b, err, r)
	}
	// The passphrase may come from any descriptor but those two; nothing but NBD is on standard output.
	r = nbdsh(t, `h.connect_command(["sh", "-c", 'exec "$@" 3<`+luks.PassphrasePath+`', "sh"] + gate)
assert h.pread(4, 100) == bytearray(b"xxxx")
`, "export", "--stdio", "file:"+luks.Path, "--key-fd", "3", "--verbose")
	if r.ExitCode != 0 {
		t.Error(r)
	}
}

// TestStdioKeepsMessagesOutOfTheData has standard error be the client's connection, as inetd and systemd may arrange it.
func TestStdioKeepsMessagesOutOfTheData(t *testing.T) {
	r := nbdsh(t, `h.connect_command(["sh", "-c", 'exec "$@" 2>&1', "sh"] + gate)`, "export", "--stdio", "mem:1M")
	if r.ExitCode == 0 || strings.Contains(r.Stderr, "client connected") {
		t.Errorf("messages were sent to the client: %s", r)
	}
}

// TestStdioOverPipes is for programs that start servers with pipes.
func TestStdioOverPipes(t *testing.T) {
	cmd := command("export", "--stdio", "mem:1M")
	cmd.Stdin = strings.NewReader("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x02\x00\x00\x00\x00") // NBD_OPT_ABORT
	r := testenv.RunCmd(t, cmd)
	if r.ExitCode != 0 || !strings.HasPrefix(r.Stdout, "NBDMAGICIHAVEOPT\x00\x03\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x02\x00\x00\x00\x01") {
		t.Errorf("%q\n%s", r.Stdout, r)
	}
}

// TestExportUsage tries combinations of flags that make no sense.
func TestExportUsage(t *testing.T) {
	for _, c := range []struct{ args, text string }{
		{"--stdio --socket /s", "one of"},
		{"--listen :0 --socket /s", "one of"},
		{"--stdio --key-fd 0", "--key-fd 0"},
		{"--stdio --key-fd 1", "--key-fd 1"},
		{"--stdio --key-file /dev/stdin", "--key-file"},
		{"--listen :0 --socket-mode 0660", "need --socket"},
		{"--socket /s --socket-mode 999", "octal"},
		{"--socket /s --tls sometimes", "sometimes"},
		{"--socket /s --tls required", "--tls-cert"},
		{"--socket /s --tls-cert c", "--tls-key"},
		{"--socket /s --tls off --tls-cert c --tls-key k", "--tls off"},
		{"--socket /s --allow-user no-such-user", "no user"},
		{"--socket /s --allow-group no-such-group", "no group"},
		{"--socket /s --allow-certificate a", "--tls-ca"},
		{"--listen :0 --allow-user root", "--allow-certificate"},
		{"--socket /s --in-flight -1", "--in-flight"},
		{"--socket /s --request-size 1G", "--request-size"},
		{"--socket /s --request-size much", "no size"},
		{"--socket /s --handshake 5", "no duration"},
		{"--socket /s --poll 2ms", "--poll"},
	} {
		r := luksgate(t, append([]string{"export", "mem:1M"}, strings.Fields(c.args)...)...)
		if r.ExitCode != exitUsage || !strings.Contains(r.Stderr, c.text) || r.Stdout != "" {
			t.Errorf("%s: want exit code %d and %q\n%s", c.args, exitUsage, c.text, r)
		}
	}
}

// TestExportLimits has clients run into limits that flags set.
func TestExportLimits(t *testing.T) {
	g := export(t, "mem:8M", "--request-size", "1M", "--connections", "1", "--option-size", "1K")
	if out := testenv.Run(t, "nbdinfo", g.uri); !strings.Contains(out, "block_size_maximum: 1048576") {
		t.Errorf("--request-size: %s", out)
	}
	c := dial(t, g.socket)
	if r := testenv.Try(t, "nbdinfo", g.uri); r.ExitCode == 0 {
		t.Errorf("--connections: %s", r)
	}
	c.c.Close()
	for end := time.Now().Add(testenv.CommandTimeout); testenv.Try(t, "nbdinfo", g.uri).ExitCode != 0; {
		if time.Now().After(end) {
			t.Fatalf("no connection after the first had gone:\n%s", g.Output())
		}
	}
	g.stop(t)

	ended := func(c net.Conn) {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(testenv.CommandTimeout))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("the connection was not closed: %v", err)
		}
	}
	g = export(t, "mem:8M", "--handshake", "1s", "--idle", "50ms", "--handshake-options", "4")
	silent, err := net.Dial("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ended(dial(t, g.socket).c)
	ended(silent)
	g.stop(t)
	for _, want := range []string{"client asked for nothing for 50ms", "negotiation took longer than 1s"} {
		if !strings.Contains(g.Output(), want) {
			t.Errorf("the log does not say %q:\n%s", want, g.Output())
		}
	}
}

// TestSocketActivation has libnbd and systemd's own tool pass a listening socket.
func TestSocketActivation(t *testing.T) {
	r := nbdsh(t, `
h.connect_systemd_socket_activation(gate)
assert h.get_size() == 2 << 20
h.pwrite(b"y" * 512, 0)
assert h.pread(512, 0) == bytearray(b"y" * 512)
`, "export", "mem:2M")
	if r.ExitCode != 0 {
		t.Error(r)
	}
	if r := nbdsh(t, `h.connect_systemd_socket_activation(gate)`, "export", "mem:2M", "--stdio"); !strings.Contains(r.Stderr, "leave out") {
		t.Errorf("a passed socket and --stdio: %s", r)
	}
	cmd := command("export", "mem:3M")
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_PID=1")
	if r := testenv.RunCmd(t, cmd); r.ExitCode != exitUsage || !strings.Contains(r.Stderr, "one of") {
		t.Errorf("somebody else's LISTEN_FDS: %s", r)
	}

	// Two sockets of systemd, which keeps them afterwards.
	dir := testenv.SocketDir(t)
	sockets := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	p := testenv.Start(t, testenv.Tool(t, "systemd-socket-activate"), "--setenv="+envRun+"=1", "--listen="+sockets[0],
		"--listen="+sockets[1], os.Args[0], "export", "mem:4M", "--name", "disk")
	for end := time.Now().Add(testenv.CommandTimeout); !strings.Contains(p.Output(), "Listening on "+sockets[1]); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) || !p.Running() {
			t.Fatal(p.Output())
		}
	}
	for _, socket := range sockets {
		if size := testenv.Run(t, "nbdinfo", "--size", "nbd+unix:///disk?socket="+socket); strings.TrimSpace(size) != "4194304" {
			t.Errorf("socket %s: size %s", socket, size)
		}
	}
	if code := p.Stop(); code != 0 || !strings.Contains(p.Output(), "?socket="+sockets[1]) {
		t.Errorf("exit code %d\n%s", code, p.Output())
	}
	for _, socket := range sockets {
		if _, err := os.Stat(socket); err != nil {
			t.Errorf("a socket that is systemd's was removed: %v", err)
		}
	}
}
