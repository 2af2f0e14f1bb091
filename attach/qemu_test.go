// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

func TestQemuGolden(t *testing.T) {
	for name, opts := range documented {
		if opts.URI.TLS {
			opts.TLSDir = "/etc/pki/qemu"
		}
		opts.Address = ""
		tune := opts.IOTune
		opts.IOTune = IOTune{}
		blockdev, err := QemuBlockdev(opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		opts.IOTune = tune
		drive, err := QemuDrive(opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden(t, "qemu-"+name+".txt", ShellLine(blockdev)+"\n"+ShellLine(drive)+"\n")
	}
}

func TestQemuRefuses(t *testing.T) {
	opts := DiskOptions{URI: URI{Host: "h", TLS: true}, Target: "vda"}
	for name, f := range map[string]func(DiskOptions) ([]string, error){"blockdev": QemuBlockdev, "drive": QemuDrive} {
		if _, err := f(opts); err == nil || !strings.Contains(err.Error(), "--tls-dir") {
			t.Errorf("%s: got %v, want an error that names --tls-dir", name, err)
		}
		withAddress := DiskOptions{URI: socketURI, Target: "vda", Address: "pci:0000:00:07.0"}
		if _, err := f(withAddress); err == nil || !strings.Contains(err.Error(), "--address") {
			t.Errorf("%s: got %v, want an error that names --address", name, err)
		}
		// What libvirt 6.0 cannot say, qemu 4.2 itself can.
		if args, err := f(DiskOptions{URI: socketURI, Target: "vda", ReconnectDelaySeconds: 7}); err != nil ||
			!strings.Contains(strings.Join(args, " "), "reconnect-delay") {
			t.Errorf("%s: got %q, %v; want a reconnect-delay", name, args, err)
		}
	}
	if _, err := QemuBlockdev(DiskOptions{URI: socketURI, Target: "vda",
		IOTune: IOTune{Ops: Limits{Total: 5}}}); err == nil || !strings.Contains(err.Error(), "--iotune") {
		t.Errorf("got %v, want an error that names --iotune", err)
	}
}

// serveMemory starts nbdkit on a unix socket in dir and returns the socket.
func serveMemory(t *testing.T, dir string, args ...string) string {
	t.Helper()
	socket := filepath.Join(dir, "s, a'b.sock") // every quoting rule at once
	startNbdkit(t, func() bool {
		info, err := os.Stat(socket)
		return err == nil && info.Mode()&os.ModeSocket != 0
	}, append(args, "--unix", socket)...)
	return socket
}

// startNbdkit serves a disk of 1 MiB that begins with "luksgate", and waits until it is ready.
func startNbdkit(t *testing.T, ready func() bool, args ...string) {
	t.Helper()
	nbdkit := testenv.Tool(t, "nbdkit")
	cmd := exec.Command(nbdkit, append(args, "--foreground", "--exit-with-parent", "data", `data=( "luksgate" @1048568 0 )`)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("nbdkit said:\n%s", out.String())
		}
	})
	for range 500 {
		if ready() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("nbdkit did not get ready")
}

// The real qemu opens what the lines say, reads, writes, trims and flushes through it.
func TestQemuOpensLines(t *testing.T) {
	systems(t, func(t *testing.T, s testenv.System) {
		export := `a,b"c'd` // no server of nbdkit's plugin cares for the name, but qemu must send it in one piece
		socket := serveMemory(t, s.Dir, "--exportname", export)
		opts := DiskOptions{URI: URI{Socket: socket, Export: export}, Target: "vda", ReconnectDelaySeconds: 3,
			DetectZeroes: "unmap"}
		blockdev, err := QemuBlockdev(opts)
		if err != nil {
			t.Fatal(err)
		}
		drive, err := QemuDrive(opts)
		if err != nil {
			t.Fatal(err)
		}
		for name, image := range map[string][]string{
			"blockdev": {"json:" + argAfter(t, blockdev, "-blockdev")},
			"drive":    {"--image-opts", nodeOptions(argAfter(t, drive, "-drive"))},
		} {
			args := append([]string{"-c", "read -v 0 512", "-c", "write -P 7 4096 4096", "-c", "flush",
				"-c", "read -P 7 4096 4096", "-c", "discard 65536 65536"}, image...)
			result := testenv.RunCmd(t, s.Command(t, "qemu-io", args...))
			if result.ExitCode != 0 || !strings.Contains(result.Stdout, "luksgate") || strings.Contains(result.String(), "ailed") {
				t.Errorf("%s:\n%s", name, result)
			}
		}
	})
}

func argAfter(t *testing.T, args []string, name string) string {
	t.Helper()
	for i, arg := range args {
		if arg == name {
			return args[i+1]
		}
	}
	t.Fatalf("no %s in %q", name, args)
	return ""
}

// nodeOptions turns a -drive value into the options of its nbd node, for programs that have no drives.
func nodeOptions(drive string) string {
	var out []string
	drive = strings.ReplaceAll(drive, ",,", "\x00")
	for option := range strings.SplitSeq(drive, ",") {
		if rest, ok := strings.CutPrefix(option, "file."); ok {
			out = append(out, strings.ReplaceAll(rest, "\x00", ",,"))
		}
	}
	return strings.Join(out, ",")
}

// qemu-storage-daemon takes the very -blockdev argument, node names and all.
func TestStorageDaemonTakesBlockdev(t *testing.T) {
	daemon := testenv.Tool(t, "qemu-storage-daemon")
	opts := DiskOptions{URI: URI{Socket: serveMemory(t, t.TempDir(), "--exportname", "x"), Export: "x"}, Target: "vda"}
	args, err := QemuBlockdev(opts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--blockdev", argAfter(t, args, "-blockdev"), "--chardev", "stdio,id=m", "--monitor", "chardev=m")
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"query-named-block-nodes"}{"execute":"quit"}`)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "luksgate-vda") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The two forms of a disk agree.
func TestQemuFormsAgree(t *testing.T) {
	for i, opts := range matrix() {
		opts.IOTune = IOTune{}
		if opts.URI.TLS {
			opts.TLSDir = "/etc/pki/qemu"
		}
		blockdev, err := QemuBlockdev(opts)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		drive, err := QemuDrive(opts)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		var node struct {
			Export string
			Server struct{ Type, Path, Host, Port string }
		}
		if err := json.Unmarshal([]byte(argAfter(t, blockdev, "-blockdev")), &node); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		options := "," + argAfter(t, drive, "-drive") + ","
		for key, value := range map[string]string{"file.export": node.Export, "file.server.path": node.Server.Path,
			"file.server.host": node.Server.Host, "file.server.port": node.Server.Port} {
			want := "," + key + "=" + strings.ReplaceAll(value, ",", ",,") + ","
			if value != "" && !strings.Contains(options, want) || value == "" && strings.Contains(options, ","+key+"=") {
				t.Errorf("%d: %s is %q in blockdev, not in drive %s", i, key, value, options)
			}
		}
	}
}

func TestShellLine(t *testing.T) {
	args := []string{"plain", "", "a b", "it's", `"$x"`, "`id`", "\\", "a;b", "*", "~", "päth", "new\nline", "{a,b}"}
	out, err := exec.Command(testenv.Tool(t, "sh"), "-c", "for a in "+ShellLine(args)+`; do printf '%s\0' "$a"; done`).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(args, "\x00") + "\x00"; string(out) != want {
		t.Errorf("got %s, want %s", strconv.Quote(string(out)), strconv.Quote(want))
	}
}
