// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/image"
)

// A frail store fails every write and flush after a number of them.
type frail struct {
	volume.Store
	left int
}

func (f *frail) fail() error {
	if f.left--; f.left < 0 {
		return syscall.EIO
	}
	return nil
}

func (f *frail) WriteAt(iov [][]byte, offsetBytes int64, fua bool) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.Store.WriteAt(iov, offsetBytes, fua)
}

func (f *frail) Flush() error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.Store.Flush()
}

// words is a key.Source.
type words string

func (w words) String() string                                    { return "the test" }
func (w words) Passphrase(context.Context) (*secret.Bytes, error) { return secret.Copy([]byte(w)) }

func passphrase(t *testing.T, text string) *secret.Bytes {
	t.Helper()
	b, err := secret.Copy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Release)
	return b
}

var cheapKDF = luks.KDFOptions{Type: "pbkdf2", Iterations: 1000}

func formatted(t *testing.T, version int) Config {
	t.Helper()
	path := testenv.WriteFile(t, filepath.Join(t.TempDir(), "image"), make([]byte, 17<<20))
	cfg := Config{Image: image.Ref{Scheme: image.File, Path: path}, Key: words("one")}
	h, drop, err := HoldForFormat(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer drop()
	if _, err := h.Format(t.Context(), luks.FormatOptions{Version: version, KDF: cheapKDF, Passphrase: passphrase(t, "one")}); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// opens tells whether a passphrase opens the image; cfg is used as it is.
func opens(t *testing.T, cfg Config, text string) bool {
	t.Helper()
	cfg.Key = words(text)
	h, err := Hold(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	vk, err := h.Unlock(t.Context(), nil)
	if err != nil && !errors.Is(err, luks.ErrWrongPassphrase) {
		t.Fatal(err)
	}
	vk.Release()
	return err == nil
}

// TestChangeFailsInTheMiddle has the store fail at each write and flush of a change in turn: the error is told, and the
// image still opens, with the old passphrase or the new one.
func TestChangeFailsInTheMiddle(t *testing.T) {
	for _, version := range []int{1, 2} {
		cfg := formatted(t, version)
		failures := 0
		for left := 0; ; left++ {
			if !opens(t, cfg, "one") {
				t.Fatalf("LUKS%d: after a failure at operation %d the old passphrase does not open", version, left-1)
			}
			h, err := Hold(cfg)
			if err != nil {
				t.Fatal(err)
			}
			h.src.store = &frail{h.src.store, left}
			h.read()
			vk, err := h.Unlock(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = h.AddKey(t.Context(), vk, passphrase(t, "two"), luks.KeyslotOptions{KDF: cheapKDF})
			vk.Release()
			if closeErr := h.Close(); closeErr != nil {
				t.Fatal(closeErr)
			}
			if err == nil {
				break
			}
			failures++
			if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), cfg.Image.String()) {
				t.Errorf("LUKS%d, operation %d: %v", version, left, err)
			}
			// A header that was written and not flushed may hold the new keyslot: start over.
			if h, err = Hold(cfg); err != nil {
				t.Fatal(err)
			}
			header, err := h.Header()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range header.Keyslots[1:] {
				if err := h.RemoveKey(k.ID, false); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if want := map[int]int{1: 4, 2: 6}[version]; failures != want || !opens(t, cfg, "two") {
			t.Errorf("LUKS%d: %d operations could fail, want %d; then the new passphrase opens: %v", version, failures, want, opens(t, cfg, "two"))
		}
	}
}

// TestHeaderDeviceKeepsInside refuses what would make a store grow.
func TestHeaderDeviceKeepsInside(t *testing.T) {
	h, err := Hold(formatted(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	size := h.sizeBytes()
	for _, c := range []struct {
		off  int64
		n    int
		good bool
	}{{0, 0, true}, {size, 0, true}, {size - 1, 1, true}, {size - 1, 2, false}, {size, 1, false}, {size + 1, 0, false}, {-1, 1, false}, {1<<63 - 1, 2, false}} {
		n, err := h.dev.WriteAt(make([]byte, c.n), c.off)
		if c.good && (err != nil || n != c.n) || !c.good && (!errors.Is(err, io.ErrShortWrite) || n != 0) {
			t.Errorf("%d bytes at %d: %d, %v", c.n, c.off, n, err)
		}
	}
}

// TestBackupSeesChanges changes the header between two reads of a backup.
func TestBackupSeesChanges(t *testing.T) {
	cfg := formatted(t, 2)
	src, err := openHeaderSource(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var good bytes.Buffer
	if err := backup(cfg, readerAt{src.store}, &good); err != nil {
		t.Fatal(err)
	}
	old := good.Bytes()
	if err := src.close(); err != nil {
		t.Fatal(err)
	}
	h, err := Hold(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	vk, err := h.Unlock(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer vk.Release()
	if _, err := h.AddKey(t.Context(), vk, passphrase(t, "two"), luks.KeyslotOptions{KDF: cheapKDF}); err != nil {
		t.Fatal(err)
	}
	// The first reads see the header before the change, the others the one after it.
	torn := &turncoat{Store: h.src.store, old: old, reads: 3}
	var bad bytes.Buffer
	if err := backup(cfg, readerAt{torn}, &bad); !errors.Is(err, luks.ErrChanged) || bad.Len() != 0 {
		t.Errorf("got %v and %d bytes", err, bad.Len())
	}
}

// A turncoat shows old content for some reads.
type turncoat struct {
	volume.Store
	old   []byte
	reads int
}

func (s *turncoat) ReadAt(iov [][]byte, offsetBytes int64) error {
	if s.reads--; s.reads < 0 || offsetBytes+int64(len(iov[0])) > int64(len(s.old)) {
		return s.Store.ReadAt(iov, offsetBytes)
	}
	copy(iov[0], s.old[offsetBytes:])
	return nil
}
