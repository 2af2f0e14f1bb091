// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/gateway/key/command"
)

func TestOutputIsThePassphrase(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/x")
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"/bin/echo", "a b;$HOME"}, "a b;$HOME\n"}, // no shell looks at it
		{[]string{"/usr/bin/printf", `\000\377x`}, "\x00\xffx"},
		{[]string{"/bin/sh", "-c", `printf %s "${NOTIFY_SOCKET:-none}"`}, "none"},
		{[]string{"/bin/sh", "-c", "head -c 100000 /dev/zero"}, strings.Repeat("\x00", 100000)},
	} {
		b, err := command.Source(c.argv).Passphrase(context.Background())
		if err != nil {
			t.Errorf("%v: %v", c.argv, err)
			continue
		}
		if string(b.Bytes()) != c.want {
			t.Errorf("%v: got %d bytes", c.argv, b.Len())
		}
		b.Release()
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name        string
		argv        []string
		text        string
		unavailable bool
	}{
		{"not there", []string{"/nonexistent/x"}, "no such file", false},
		{"fails", []string{"/bin/sh", "-c", "echo hunter2; echo hunter2 >&2; exit 3"}, "exit status 3", false},
		{"temporary", []string{"/bin/sh", "-c", "exit 75"}, "does not answer", true},
		{"nothing", []string{"/bin/true"}, "printed nothing", false},
		{"too much", []string{"/bin/sh", "-c", "head -c 3000000 /dev/zero"}, "output", false},
		{"hangs", []string{"/bin/sh", "-c", "sleep 100 & sleep 100"}, "did not end in time", true},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if c.name == "hangs" {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
		}
		_, err := command.Source(c.argv).Passphrase(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.text) || errors.Is(err, key.ErrUnavailable) != c.unavailable {
			t.Errorf("%s: got %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: output is in the error: %v", c.name, err)
		}
	}
}
