// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command blockdev is all that runs in the guest of the test of `luksgate attach --device`: few machines that run tests have
// the kernel's NBD driver, and none should have a broken server below a device of its own.
//
// It serves /luks.img with /luksgate to its own kernel, uses the device as one does, and prints OK for each thing that was as
// expected and ERROR for the first that was not. At the end it copies the image to the disk /dev/vda and prints
//
//	DIGEST SHA256    of the plaintext that the image must have
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/deploy/guest/boot"
)

const (
	device = "/dev/nbd0"
	admin  = "/run/admin.sock"
	socket = "/run/disk.sock"
	uri    = "nbd+unix:///disk?socket=" + socket
	// exitLost and exitBusy are luksgate's (luksgate(1), EXIT STATUS).
	exitLost, exitBusy = 5, 6
)

func main() { boot.Run(run) }

func run() error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"use", use}, {"one", one}, {"lost", lost}, {"read-only", readOnly}, {"copy", copyImage},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Println("OK", step.name)
	}
	fmt.Println("DIGEST", model.digest())
	return nil
}

// A child is a luksgate that runs, and the first line that it printed.
type child struct {
	*exec.Cmd
	line   string
	stderr strings.Builder
}

func start(args ...string) (*child, error) {
	c := &child{Cmd: exec.Command("/luksgate", args...)}
	c.Stderr = &c.stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(out)
	if c.line, err = r.ReadString('\n'); err != nil {
		_ = c.Wait()
		return nil, fmt.Errorf("luksgate %v: %w: %s", args, err, c.stderr.String())
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return c, nil
}

// serve starts the daemon, with a configuration that has no exports.
func serve() (*child, error) {
	if err := os.WriteFile("/run/conf", []byte("admin: {socket: "+admin+"}\ndefaults: {close_after: 0s}\n"), 0o600); err != nil {
		return nil, err
	}
	c := &child{Cmd: exec.Command("/luksgate", "serve", "--config", "/run/conf")}
	c.Stderr = &c.stderr
	if err := c.Start(); err != nil {
		return nil, err
	}
	for range 500 {
		if exec.Command("/luksgate", "ls", "--admin", admin).Run() == nil {
			return c, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	return nil, fmt.Errorf("the daemon does not answer: %s", c.stderr.String())
}

// end waits for a child's end and checks its exit code.
func (c *child) end(want int) error {
	_ = c.Wait()
	if got := c.ProcessState.ExitCode(); got != want {
		return fmt.Errorf("%v: exit code %d, want %d: %s", c.Args, got, want, c.stderr.String())
	}
	return nil
}

func (c *child) stop() error {
	_ = c.Process.Signal(unix.SIGTERM)
	return c.end(0)
}

// expect runs luksgate to its end and checks its exit code and what it says.
func expect(code int, text string, args ...string) error {
	cmd := exec.Command("/luksgate", args...)
	out, _ := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(string(out), text) {
		return fmt.Errorf("%v: exit code %d, want %d and %q: %s", args, got, code, text, out)
	}
	return nil
}
