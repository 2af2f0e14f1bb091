// SPDX-License-Identifier: Apache-2.0

package key

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t *testing.T, content string) File {
	path := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return File(path)
}

func TestSources(t *testing.T) {
	fd := func(content string) FD {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.WriteString(content)
		w.Close()
		dup, err := syscall.Dup(int(r.Fd())) // the source closes it
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		return FD(dup)
	}
	for _, c := range []struct {
		source Source
		want   string // "" means an error
	}{
		{write(t, "secret\n"), "secret\n"},
		{TrimNewline{write(t, "secret\n")}, "secret"},
		{TrimNewline{write(t, "secret\n\n")}, "secret\n"},
		{TrimNewline{write(t, "secret")}, "secret"},
		{write(t, "\x00\xff"), "\x00\xff"},
		{write(t, ""), ""},
		{TrimNewline{write(t, "\n")}, ""},
		{File("/nonexistent"), ""},
		{fd("by pipe"), "by pipe"},
		{fd(""), ""},
		{FD(9999), ""},
	} {
		b, err := c.source.Passphrase(t.Context())
		if c.want == "" {
			if err == nil || !strings.Contains(err.Error(), c.source.String()) {
				t.Errorf("%s: got %v, want an error that names the source", c.source, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.source, err)
			continue
		}
		if string(b.Bytes()) != c.want {
			t.Errorf("%s: got %q, want %q", c.source, b.Bytes(), c.want)
		}
		b.Release()
	}
}
