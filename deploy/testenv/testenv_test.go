// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTryKeepsStreamsAndExitCode(t *testing.T) {
	got := Try(t, "sh", "-c", "echo out; echo err >&2; exit 3")
	if got.Stdout != "out\n" || got.Stderr != "err\n" || got.ExitCode != 3 {
		t.Fatalf("got %+v", got)
	}
}

func TestRunCmdUsesGivenInputAndFolder(t *testing.T) {
	cmd := exec.Command(Tool(t, "sh"), "-c", "pwd; cat")
	cmd.Dir, cmd.Stdin = "/", strings.NewReader("input")
	if got := RunCmd(t, cmd); got.Stdout != "/\ninput" {
		t.Fatalf("got %q", got.Stdout)
	}
}

func TestProcessLinesAndStop(t *testing.T) {
	p := Start(t, "sh", "-c", `trap 'exit 7' TERM; echo starting; sleep 0.1; echo ready at 5; while :; do sleep 0.05; done`)
	if line := p.WaitLine("ready"); line != "ready at 5" {
		t.Fatalf("got %q", line)
	}
	if line := p.WaitLine("start"); line != "starting" {
		t.Fatalf("an earlier line must be found too, got %q", line)
	}
	if code := p.Stop(); code != 7 {
		t.Fatalf("exit code %d", code)
	}
}

func TestProcessIsKilledWithItsChildren(t *testing.T) {
	var child string
	t.Run("inner", func(t *testing.T) {
		p := Start(t, "sh", "-c", "sleep 600 & echo child $!; wait")
		child = strings.TrimPrefix(p.WaitLine("child"), "child ")
	})
	// A killed process is gone when it has next run, not at once.
	var state []byte
	for range 1000 {
		var err error
		if state, err = os.ReadFile("/proc/" + child + "/stat"); err != nil || bytes.Contains(state, []byte(") Z ")) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("child %s survived: %s", child, state)
}

func TestProcessWaitSeesASignal(t *testing.T) {
	p := Start(t, "sleep", "600")
	p.Signal(syscall.SIGKILL)
	if code := p.Wait(); code != -1 {
		t.Fatalf("exit code %d", code)
	}
}

func TestSocketDirIsShort(t *testing.T) {
	t.Setenv("TMPDIR", "/tmp/"+strings.Repeat("x", 100))
	if dir := SocketDir(t); len(dir) > 70 {
		t.Fatalf("%d bytes: %s", len(dir), dir)
	}
}

func TestNewLUKSFileGeometry(t *testing.T) {
	plaintext := make([]byte, 1<<20)
	_, _ = rand.Read(plaintext)
	file := NewLUKSFile(t, LUKSOptions{KeyBits: 256, SectorBytes: 2048, Plaintext: plaintext})
	dump := Run(t, "cryptsetup", "luksDump", file.Path)
	for _, want := range []string{"Version:       \t2", "offset: 16777216 [bytes]", "sector: 2048 [bytes]", "Key:        256 bits"} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump has no %q:\n%s", want, dump)
		}
	}
	image, err := os.ReadFile(file.Path)
	if err != nil {
		t.Fatal(err)
	}
	if payload := image[file.DataOffsetBytes:]; len(payload) != len(plaintext) || bytes.Equal(payload, plaintext) {
		t.Errorf("payload of %d bytes, want %d bytes of ciphertext", len(payload), len(plaintext))
	}
}

func TestNewLUKSFileVersion1ReadsBack(t *testing.T) {
	plaintext := make([]byte, 1<<20)
	_, _ = rand.Read(plaintext)
	file := NewLUKSFile(t, LUKSOptions{Version: 1, KeyBits: 256, Plaintext: plaintext})
	Run(t, "qemu-img", "compare", "--object", "secret,id=s0,file="+file.PassphrasePath, "--image-opts",
		"driver=luks,file.filename="+file.Path+",key-secret=s0", "driver=raw,file.filename="+file.PlaintextPath)
}

func TestImagesOfATestAreRemoved(t *testing.T) {
	var names []string
	t.Run("inner", func(t *testing.T) {
		parent := NewImage(t, 8)
		RBD(t, "snap", "create", "--no-progress", parent+"@s")
		RBD(t, "snap", "protect", parent+"@s")
		clone := Pool + "/" + UniqueName(t)
		RBD(t, "clone", parent+"@s", clone)
		OwnImage(t, clone)
		names = append(names, parent, clone)
	})
	if len(names) != 2 {
		t.Skip("the inner test was skipped")
	}
	list := RBD(t, "ls", Pool)
	for _, name := range names {
		if strings.Contains(list, strings.TrimPrefix(name, Pool+"/")) {
			t.Errorf("%s is left over", name)
		}
	}
}
