// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Process is a program that runs beside a test. Its methods may be called by several goroutines.
type Process struct {
	tb  testing.TB
	cmd *exec.Cmd

	done chan struct{} // closed when the process is gone and all output has been read

	mu      sync.Mutex
	changed *sync.Cond // output grew or ended
	stdout  []string
	all     strings.Builder
	readers int // output streams still open
}

// Start starts a program; when the test ends it is killed with its children if it still runs, and a failed test logs
// what the program said.
func Start(tb testing.TB, name string, args ...string) *Process {
	tb.Helper()
	return StartCmd(tb, exec.Command(Tool(tb, name), args...))
}

// StartCmd is [Start] for a command with an environment, folder or standard input of its own.
func StartCmd(tb testing.TB, cmd *exec.Cmd) *Process {
	tb.Helper()
	p := &Process{tb: tb, cmd: cmd, done: make(chan struct{}), readers: 2}
	p.changed = sync.NewCond(&p.mu)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		tb.Fatalf("cannot start %s: %v", strings.Join(cmd.Args, " "), err)
	}
	var streams sync.WaitGroup
	streams.Go(func() { p.collect(stdout, true) })
	streams.Go(func() { p.collect(stderr, false) })
	go func() {
		streams.Wait()
		_ = cmd.Wait() // the exit code is in ProcessState
		close(p.done)
	}()
	tb.Cleanup(func() {
		select {
		case <-p.done: // gone: its id may be another's by now
		default:
			killGroup(cmd)
			<-p.done
		}
		if tb.Failed() {
			tb.Logf("output of %s:\n%s", strings.Join(cmd.Args, " "), p.Output())
		}
	})
	return p
}

func (p *Process) collect(r io.Reader, isStdout bool) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		p.mu.Lock()
		if line != "" {
			p.all.WriteString(line)
			if isStdout {
				p.stdout = append(p.stdout, strings.TrimRight(line, "\r\n"))
			}
		}
		if err != nil {
			p.readers--
		}
		p.changed.Broadcast()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// WaitLine returns the first line on standard output that contains text, waiting for it. The test fails, with all
// output, if the process ends or [CommandTimeout] passes before it.
func (p *Process) WaitLine(text string) string {
	p.tb.Helper()
	expired := false
	timer := time.AfterFunc(CommandTimeout, func() {
		p.mu.Lock()
		expired = true
		p.changed.Broadcast()
		p.mu.Unlock()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for next := 0; ; p.changed.Wait() {
		for ; next < len(p.stdout); next++ {
			if strings.Contains(p.stdout[next], text) {
				return p.stdout[next]
			}
		}
		if expired || p.readers == 0 {
			p.tb.Fatalf("%s never printed a line with %q:\n%s", strings.Join(p.cmd.Args, " "), text, p.all.String())
		}
	}
}

// Output is all that the process has said so far, on both streams.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// Running tells whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID is the process id. It stays the process's own until [Process.Wait] has returned.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process alone. That it is gone already is no error.
func (p *Process) Signal(signal os.Signal) { _ = p.cmd.Process.Signal(signal) }

// Wait waits for the end and returns the exit code, -1 after a signal. The test fails after [CommandTimeout].
func (p *Process) Wait() int {
	p.tb.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(CommandTimeout):
		p.tb.Fatalf("%s still runs after %v:\n%s", strings.Join(p.cmd.Args, " "), CommandTimeout, p.Output())
		return -1
	}
}

// Stop sends SIGTERM and returns the exit code, -1 if the signal ended the process.
func (p *Process) Stop() int {
	p.tb.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// ownGroup lets a command and its children be killed together, and keeps a Ctrl-C at the terminal from them.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

func killGroup(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
