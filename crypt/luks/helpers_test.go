// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// fast are parameters that take no time: tests are not about the strength of passphrases.
var (
	fast       = luks.KDFOptions{Type: "pbkdf2", Iterations: 1000}
	fastest    = luks.KDFOptions{Type: "pbkdf2", Iterations: 1}
	fastArgon2 = luks.KDFOptions{TimeCost: 1, MemoryKiB: 64, Threads: 1}
)

// memory is a Device in memory that counts and can fail.
type memory struct {
	data   []byte
	writes int
	failAt int // the write that fails, counted from 1; 0 none
	log    []event
}

// event is a write, or a Sync when data is nil.
type event struct {
	offsetBytes int64
	data        []byte
}

var errInjected = errors.New("injected failure")

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(p, m.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.writes++
	if m.writes == m.failAt {
		return 0, errInjected
	}
	if off+int64(len(p)) > int64(len(m.data)) {
		return 0, fmt.Errorf("write of %d bytes at %d behind the end %d", len(p), off, len(m.data))
	}
	m.log = append(m.log, event{off, append([]byte{}, p...)})
	return copy(m.data[off:], p), nil
}

func (m *memory) Sync() error {
	m.log = append(m.log, event{})
	return nil
}

func (m *memory) size() int64 { return int64(len(m.data)) }

// formatted returns a small device with a fresh header, and its volume key.
func formatted(t testing.TB, opts luks.FormatOptions) (*memory, *luks.Header, *luks.VolumeKey) {
	if opts.Passphrase == nil {
		opts.Passphrase = mustSecret(t, "first")
	}
	if opts.KDF == (luks.KDFOptions{}) {
		opts.KDF = fast
	}
	if opts.DataOffsetBytes == 0 && !opts.Detached {
		opts.DataOffsetBytes = 3 << 19
		if opts.Version == 1 && opts.KeyBytes != 32 {
			opts.DataOffsetBytes = 2 << 20
		}
	}
	dev := &memory{data: make([]byte, 9<<18)}
	h, key, err := luks.Format(context.Background(), dev, dev.size(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Release)
	return dev, h, key
}

// opens tells which keyslot a passphrase opens; it fails the test for every error but a wrong passphrase.
func opens(t testing.TB, dev luks.Device, sizeBytes int64, passphrase *secret.Bytes, want *secret.Bytes) (int, bool) {
	t.Helper()
	h, err := luks.Read(dev, sizeBytes, luks.ReadOptions{})
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	key, err := h.Unlock(context.Background(), dev, passphrase, luks.UnlockOptions{})
	if errors.Is(err, luks.ErrWrongPassphrase) {
		return 0, false
	}
	if err != nil {
		t.Fatalf("unlock: %v", err)
	}
	defer key.Release()
	if want != nil && !key.Key.Equal(want) {
		t.Fatal("unlock gave another volume key")
	}
	return key.Keyslot, true
}

// file makes a sparse file of sizeBytes.
func file(t testing.TB, sizeBytes int64) *os.File {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(sizeBytes); err != nil {
		t.Fatal(err)
	}
	return f
}

// passFile writes a passphrase for a tool.
func passFile(t testing.TB, passphrase string) string {
	return testenv.WriteFile(t, filepath.Join(t.TempDir(), "pass"), []byte(passphrase))
}

// save writes the device to a file, for a tool.
func (m *memory) save(t testing.TB) string {
	return testenv.WriteFile(t, filepath.Join(t.TempDir(), "image"), m.data)
}

// cryptsetupOpens asks cryptsetup whether a passphrase opens the image at path.
func cryptsetupOpens(t testing.TB, path, passphrase string, more ...string) bool {
	t.Helper()
	args := append([]string{"open", "--test-passphrase", "--key-file", passFile(t, passphrase), path}, more...)
	r := testenv.Try(t, "cryptsetup", args...)
	if r.ExitCode != 0 && r.ExitCode != 2 {
		t.Fatalf("cryptsetup: %v", r)
	}
	return r.ExitCode == 0
}
