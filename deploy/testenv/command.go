// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// CommandTimeout ends every command that [Run] and [Try] start. It is far above what one takes, so that it means
// "hangs" even on a loaded machine.
const CommandTimeout = 2 * time.Minute

// A Result is what a finished command left behind.
type Result struct {
	// Command is the command line, for messages.
	Command        string
	Stdout, Stderr string
	// ExitCode is -1 if a signal ended the command.
	ExitCode int
}

// String is the whole result for a failure message.
func (r Result) String() string {
	text := "$ " + r.Command + "\n" + r.Stdout + r.Stderr
	if r.ExitCode != 0 {
		text += "exit code " + strconv.Itoa(r.ExitCode) + "\n"
	}
	return text
}

// Run runs a program to its end and returns its standard output. The test fails, with all output, where the program is
// missing (see [Tool]), exits other than 0 or hangs.
func Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	result := Try(tb, name, args...)
	if result.ExitCode != 0 {
		tb.Fatalf("command failed:\n%s", result)
	}
	return result.Stdout
}

// Try runs a program to its end and returns the result whatever its exit code is. The test fails where the program is
// missing, cannot be started or hangs.
func Try(tb testing.TB, name string, args ...string) Result {
	tb.Helper()
	return RunCmd(tb, exec.Command(Tool(tb, name), args...))
}

// RunCmd is [Try] for a command with an environment, folder or standard input of its own. It sets Stdout and Stderr.
func RunCmd(tb testing.TB, cmd *exec.Cmd) Result {
	tb.Helper()
	return RunWithin(tb, CommandTimeout, cmd)
}

// RunWithin is [RunCmd] for a command that may take longer than [CommandTimeout].
func RunWithin(tb testing.TB, timeout time.Duration, cmd *exec.Cmd) Result {
	tb.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	ownGroup(cmd)
	result := Result{Command: strings.Join(cmd.Args, " ")}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("cannot start %s: %v", result.Command, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { killGroup(cmd) })
	defer stop()
	err := cmd.Wait()
	result.Stdout, result.Stderr = stdout.String(), stderr.String()
	result.ExitCode = cmd.ProcessState.ExitCode()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		tb.Fatalf("still running after %v, killed:\n%s", timeout, result)
	case err != nil && !errors.As(err, &exit):
		tb.Fatalf("%s: %v\n%s", result.Command, err, result)
	}
	return result
}

// WriteFile writes a file for a test, readable by its owner only, and returns its path.
func WriteFile(tb testing.TB, path string, content []byte) string {
	tb.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
