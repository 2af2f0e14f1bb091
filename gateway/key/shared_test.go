// SPDX-License-Identifier: Apache-2.0

package key_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/gateway/key"
)

// TestSharedFD reads a file twice and a pipe once.
func TestSharedFD(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		b, err := key.SharedFD(f.Fd()).Passphrase(context.Background())
		if err != nil || string(b.Bytes()) != "from a file" {
			t.Fatal(err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("from a pipe"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	b, err := key.SharedFD(r.Fd()).Passphrase(context.Background())
	if err != nil || string(b.Bytes()) != "from a pipe" {
		t.Fatal(err)
	}
	if _, err := key.SharedFD(r.Fd()).Passphrase(context.Background()); err == nil || !strings.Contains(err.Error(), "only once") {
		t.Errorf("a pipe for the second time: %v", err)
	}
	if _, err := key.SharedFD(9999).Passphrase(context.Background()); err == nil || !strings.Contains(err.Error(), "bad file descriptor") {
		t.Errorf("no descriptor: %v", err)
	}
}

func TestCredential(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := key.Credential("x").Passphrase(context.Background()); err == nil || !strings.Contains(err.Error(), "LoadCredential=x") {
		t.Errorf("no credentials: %v", err)
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("correct horse"), 0o400); err != nil {
		t.Fatal(err)
	}
	if b, err := key.Credential("x").Passphrase(context.Background()); err != nil || string(b.Bytes()) != "correct horse" {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"y", "../x", "..", "."} {
		if _, err := key.Credential(name).Passphrase(context.Background()); err == nil {
			t.Errorf("%q was read", name)
		}
	}
}
