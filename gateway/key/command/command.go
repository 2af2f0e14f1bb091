// SPDX-License-Identifier: Apache-2.0

// Package command gets passphrases from a program of the operator's.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway/key"
)

// maxBytes is the longest passphrase that a program may print.
const maxBytes = 1 << 20

// exitTemporary is the exit code by which a program says "try again" (sysexits.h, EX_TEMPFAIL).
const exitTemporary = 75

// A Source runs a program, without a shell, and takes its standard output, to the byte, as the passphrase. What the
// program says on standard error is dropped, because it may be what should not be read.
type Source []string

// String implements key.Source. Arguments are left out: an operator may have put into one what should not be there.
func (s Source) String() string { return "key command " + s[0] }

// Passphrase implements key.Source. When ctx ends the program and what it started are killed.
func (s Source) Passphrase(ctx context.Context) (*secret.Bytes, error) {
	if len(s) == 0 {
		return nil, errors.New("key command: it is empty")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	defer func() { _ = r.Close() }()
	cmd := exec.CommandContext(ctx, s[0], s[1:]...)
	cmd.Env = environment(os.Environ())
	cmd.Stdout = w // the file itself, so that no copy goes through our heap
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, bare(err))
	}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b, readErr := secret.ReadAll(r, maxBytes)
	if readErr != nil {
		_ = cmd.Cancel() // it may wait for somebody to read
	}
	if err := s.ended(ctx, cmd.Wait(), readErr); err != nil {
		if b != nil {
			b.Release()
		}
		return nil, err
	}
	if b.Len() == 0 {
		b.Release()
		return nil, fmt.Errorf("%s: it printed nothing", s)
	}
	return b, nil
}

// ended is what went wrong, if anything did.
func (s Source) ended(ctx context.Context, err, readErr error) error {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: it did not end in time", s, key.ErrUnavailable)
	case errors.As(err, &exit) && exit.ExitCode() == exitTemporary:
		return fmt.Errorf("%s: %w: %w", s, key.ErrUnavailable, exit)
	case err != nil && readErr == nil:
		return fmt.Errorf("%s: %w; run it by hand, as the daemon's user, to see what it says", s, err)
	case readErr != nil && !errors.Is(readErr, io.EOF):
		return fmt.Errorf("%s: its output: %w", s, readErr)
	}
	return nil
}

// environment is what the program gets of ours: not what is meant for this process alone.
func environment(env []string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_") ||
			strings.HasPrefix(name, "LUKSGATE_") {
			continue
		}
		out = append(out, e)
	}
	return out
}

// bare leaves out the program's name, which is said already.
func bare(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}
