// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A typist sits at a terminal where luksgate runs.
type typist struct {
	t        *testing.T
	keyboard *os.File
	screen   strings.Builder
	mu       sync.Mutex
	done     chan error
	pid      int
}

const terminalColumns = 80

// atTerminal runs luksgate with all its streams at a terminal of its own.
func atTerminal(t *testing.T, args ...string) *typist {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		testenv.Missing(t, "no pseudo-terminals: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		testenv.Missing(t, "no pseudo-terminals: %v", err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: terminalColumns}); err != nil {
		t.Fatal(err)
	}
	cmd := command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	p := &typist{t: t, keyboard: master, done: make(chan error, 1), pid: cmd.Process.Pid}
	go func() {
		b := make([]byte, 1024)
		for {
			n, err := master.Read(b)
			p.mu.Lock()
			p.screen.Write(b[:n])
			p.mu.Unlock()
			if err != nil { // EIO: the last process has gone
				p.done <- cmd.Wait()
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		master.Close()
	})
	return p
}

// after waits for a text on the screen, then types a line.
func (p *typist) after(text, line string) {
	p.t.Helper()
	for end := time.Now().Add(testenv.CommandTimeout); !strings.Contains(p.seen(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("never asks %q:\n%s", text, p.seen())
		}
	}
	// The question comes just before the terminal falls silent; a line typed between the two would be seen, as anywhere.
	p.silent(strings.Contains(text, "assphrase") || strings.Contains(text, "again"))
	if _, err := p.keyboard.WriteString(line); err != nil {
		p.t.Fatal(err)
	}
}

// silent waits until the terminal shows nothing that is typed.
func (p *typist) silent(want bool) {
	p.t.Helper()
	for end := time.Now().Add(testenv.CommandTimeout); ; time.Sleep(time.Millisecond) {
		state, err := unix.IoctlGetTermios(int(p.keyboard.Fd()), unix.TCGETS)
		if err != nil || time.Now().After(end) {
			p.t.Fatalf("the terminal is not silent (%v):\n%s", err, p.seen())
		}
		if (state.Lflag&unix.ECHO == 0) == want {
			return
		}
	}
}

func (p *typist) seen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.screen.String()
}

// ends waits for the exit code and returns all that was to be seen.
func (p *typist) ends(code int) string {
	p.t.Helper()
	select {
	case err := <-p.done:
		got := 0
		if err != nil {
			got = -1
			var exit interface{ ExitCode() int }
			if errors.As(err, &exit) {
				got = exit.ExitCode()
			}
		}
		if got != code {
			p.t.Errorf("exit code %d, want %d:\n%s", got, code, p.seen())
		}
	case <-time.After(testenv.CommandTimeout):
		p.t.Fatalf("it does not end:\n%s", p.seen())
	}
	return p.seen()
}

// TestTerminal asks before it formats, asks twice for what is new, and shows no passphrase.
func TestTerminal(t *testing.T) {
	w := newWorkbench(t, 17<<20)
	img := "file:" + w.image
	format := append([]string{"format", img, "--type", "luks2"}, cheap...)

	p := atTerminal(t, format...)
	p.after("Type yes", "no\n")
	if out := p.ends(exitGeneral); !strings.Contains(out, "nothing was changed") {
		t.Errorf("%s", out)
	}
	bad(t, exitNotLUKS, "no LUKS header", "key", "list", img)

	p = atTerminal(t, format...)
	p.after("Type yes", "yes\n")
	p.after("New passphrase of "+img+":", "hunter2\n")
	p.after("again:", "hunter3\n")
	if out := p.ends(exitGeneral); !strings.Contains(out, "differ") {
		t.Errorf("%s", out)
	}
	bad(t, exitNotLUKS, "no LUKS header", "key", "list", img)

	p = atTerminal(t, append(format, "--yes")...)
	p.after("New passphrase of "+img+":", "hunter2\n")
	p.after("passphrase of "+img+", again:", "hunter2\n")
	if out := p.ends(exitOK); strings.Contains(out, "hunter") {
		t.Errorf("the passphrase is on the screen:\n%s", out)
	}
	w.opens("hunter2", true)

	p = atTerminal(t, append([]string{"key", "change", img}, cheap...)...)
	p.after("Passphrase of "+img+":", "hunter2\n")
	p.after("New passphrase of "+img+":", "second\n")
	p.after("passphrase of "+img+", again:", "second\n")
	if out := p.ends(exitOK); !strings.Contains(out, "keyslot 0") || strings.Contains(out, "second") {
		t.Errorf("%s", out)
	}
	w.opens("second", true)

	p = atTerminal(t, "key", "remove", img, "--keyslot", "0")
	p.after("This removes keyslot 0 of "+img, "\x03") // Ctrl-C
	p.ends(exitGeneral)
	w.opens("second", true)
	p = atTerminal(t, "key", "remove", img, "--keyslot", "0", "--force")
	p.ends(exitOK)
	w.opens("second", false)
}

// TestTerminalIsGivenBack ends the program by a signal while a passphrase is typed: the terminal shows again what is typed.
func TestTerminalIsGivenBack(t *testing.T) {
	w := newWorkbench(t, 17<<20).format(2)
	p := atTerminal(t, "export", "file:"+w.image, "--socket", w.dir+"/s")
	p.after("Passphrase of", "half")
	if err := syscall.Kill(p.pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	p.silent(false)
	p.ends(exitGeneral)
}
