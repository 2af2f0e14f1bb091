// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestPriorityOrder gives two keyslots the same passphrase and looks which one is taken.
func TestPriorityOrder(t *testing.T) {
	ctx := context.Background()
	dev, h, key := formatted(t, luks.FormatOptions{})
	same := mustSecret(t, "first")
	_, h, err := h.AddKey(ctx, dev, key, same, luks.KeyslotOptions{KDF: fast})
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := opens(t, dev, dev.size(), same, key.Key); !ok || id != 0 {
		t.Errorf("of two normal keyslots number %d", id)
	}
	if _, h, err = h.AddKey(ctx, dev, key, same, luks.KeyslotOptions{KDF: fast, Keyslot: new(7), Priority: new(luks.PriorityPrefer)}); err != nil {
		t.Fatal(err)
	}
	if id, ok := opens(t, dev, dev.size(), same, key.Key); !ok || id != 7 {
		t.Errorf("with a preferred keyslot number %d", id)
	}
	got, err := h.Unlock(ctx, dev, same, luks.UnlockOptions{Keyslot: new(1)})
	if err != nil || got.Keyslot != 1 {
		t.Fatalf("named keyslot: %+v, %v", got, err)
	}
	got.Release()
	got.Release()
	var none *luks.VolumeKey
	none.Release()
}

// TestUnlockLimits has a keyslot over a limit alone, and beside one that can be tried.
func TestUnlockLimits(t *testing.T) {
	ctx := context.Background()
	dev, h, key := formatted(t, luks.FormatOptions{KDF: luks.KDFOptions{TimeCost: 1, MemoryKiB: 4096, Threads: 1}})
	first := mustSecret(t, "first")
	low := luks.UnlockOptions{KDFMemoryLimitBytes: 1 << 20}
	if _, err := h.Unlock(ctx, dev, first, low); !errors.Is(err, luks.ErrLimit) || errors.Is(err, luks.ErrWrongPassphrase) ||
		!strings.Contains(err.Error(), "keyslot 0") {
		t.Errorf("over the limit: %v", err)
	}
	got, err := h.Unlock(ctx, dev, first, luks.UnlockOptions{KDFMemoryLimitBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	got.Release()
	_, h, err = h.AddKey(ctx, dev, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fast})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unlock(ctx, dev, first, low); !errors.Is(err, luks.ErrWrongPassphrase) || !strings.Contains(err.Error(), "not tried: keyslot 0") {
		t.Errorf("wrong for one, over the limit for the other: %v", err)
	}
	if got, err = h.Unlock(ctx, dev, mustSecret(t, "second"), low); err != nil || got.Keyslot != 1 {
		t.Fatalf("behind one over the limit: %v", err)
	}
	got.Release()
}

// TestUnlockWaitsAtTheGate has many unlock at once through a gate for one.
func TestUnlockWaitsAtTheGate(t *testing.T) {
	dev, h, key := formatted(t, luks.FormatOptions{KDF: fastArgon2})
	gate := kdf.NewGate(64<<10, 1)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			got, err := h.Unlock(context.Background(), dev, mustSecret(t, "first"), luks.UnlockOptions{Gate: gate})
			if err != nil || !got.Key.Equal(key.Key) {
				t.Errorf("unlock: %v", err)
			}
			got.Release()
		})
	}
	all.Wait()
	release, err := gate.Acquire(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.Unlock(ctx, dev, mustSecret(t, "first"), luks.UnlockOptions{Gate: gate}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestUnboundKeyslot has cryptsetup add a keyslot whose key belongs to nothing.
func TestUnboundKeyslot(t *testing.T) {
	dev, _, key := formatted(t, luks.FormatOptions{})
	path := dev.save(t)
	testenv.Run(t, "cryptsetup", "luksAddKey", "--batch-mode", "--unbound", "--key-size", "256", "--pbkdf", "pbkdf2",
		"--pbkdf-force-iterations", "1000", "--key-slot", "3", path, passFile(t, "unbound"))
	h, f, err := readFile(t, path, luks.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k, ok := h.Keyslot(3)
	if !ok || k.Bound || k.KeyBytes != 32 || h.KeyBytes != 64 {
		t.Errorf("keyslot %+v", k)
	}
	unbound := mustSecret(t, "unbound")
	if _, err := h.Unlock(context.Background(), f, unbound, luks.UnlockOptions{}); !errors.Is(err, luks.ErrWrongPassphrase) {
		t.Errorf("unlock: %v", err)
	}
	_, err = h.Unlock(context.Background(), f, unbound, luks.UnlockOptions{Keyslot: new(3)})
	if !errors.Is(err, luks.ErrUnsupported) || !strings.Contains(err.Error(), "unbound") {
		t.Errorf("unlock by number: %v", err)
	}
	if _, err := h.RemoveKey(f, 0, false); !errors.Is(err, luks.ErrLastKeyslot) {
		t.Errorf("the last bound keyslot: %v", err)
	}
	if h, err = h.RemoveKey(f, 3, false); err != nil || len(h.Keyslots) != 1 {
		t.Errorf("remove: %v", err)
	}
	if _, ok := opens(t, f, dev.size(), mustSecret(t, "first"), key.Key); !ok {
		t.Error("does not open")
	}
}

// TestLongAndBinaryPassphrases compares with cryptsetup where tools like to differ.
func TestLongAndBinaryPassphrases(t *testing.T) {
	for _, text := range []string{"\x00", "a\x00b\n", strings.Repeat("x", 4096), "\xff\xfe\r\n"} {
		path := minted(t, 20<<20, text, "--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32")
		_, f, err := readFile(t, path, luks.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := opens(t, f, 20<<20, mustSecret(t, text), nil); !ok {
			t.Errorf("%.10q does not open", text)
		}
	}
}

// TestNoSecretInErrors looks for the passphrase and the key in every error that this test can provoke.
func TestNoSecretInErrors(t *testing.T) {
	const canary = "canary-passphrase"
	dev, h, key := formatted(t, luks.FormatOptions{Passphrase: mustSecret(t, canary)})
	pass := mustSecret(t, canary)
	var texts []string
	note := func(err error) {
		if err == nil {
			t.Fatal("no error")
		}
		texts = append(texts, err.Error())
	}
	clear(dev.data[h.Keyslots[0].AreaOffsetBytes:][:4096])
	_, err := h.Unlock(context.Background(), dev, pass, luks.UnlockOptions{})
	note(err)
	dev.failAt = dev.writes + 1
	_, _, err = h.AddKey(context.Background(), dev, key, pass, luks.KeyslotOptions{KDF: fast})
	note(err)
	short := &memory{data: dev.data[:40000]}
	_, err = h.Unlock(context.Background(), short, pass, luks.UnlockOptions{})
	note(err)
	_, _, err = luks.Format(context.Background(), dev, dev.size(), luks.FormatOptions{Passphrase: pass})
	note(err)
	for _, text := range texts {
		if !strings.HasPrefix(text, "luks: ") || strings.Count(text, "luks: ") != 1 {
			t.Errorf("prefix of %q", text)
		}
		for _, leak := range []string{canary, hexOf([]byte(canary)), hexOf(key.Key.Bytes())} {
			if strings.Contains(text, leak) {
				t.Errorf("a secret in %q", text)
			}
		}
	}
}

// TestSmallImages reads images too short for any header.
func TestSmallImages(t *testing.T) {
	whole, _, _ := formatted(t, luks.FormatOptions{})
	for _, n := range []int{0, 1, 6, 511, 592, 4096, 16384, 32768, 300000} {
		for _, img := range [][]byte{make([]byte, n), whole.data[:n]} {
			_, err := luks.Read(bytes.NewReader(img), int64(n), luks.ReadOptions{})
			if !errors.Is(err, luks.ErrNotLUKS) && !errors.Is(err, luks.ErrDamaged) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
	tail := filepath.Join(t.TempDir(), "tail")
	testenv.WriteFile(t, tail, whole.data[:3<<19])
	h, _, err := readFile(t, tail, luks.ReadOptions{})
	if err != nil || h.DataOffsetBytes != 3<<19 {
		t.Errorf("a header and no data: %v", err)
	}
}

var _ luks.Device = (*memory)(nil)

// TestReleasedPassphraseIsWrong: a caller's mistake gives an error, not a crash.
func TestReleasedPassphraseIsWrong(t *testing.T) {
	dev, h, _ := formatted(t, luks.FormatOptions{})
	s, err := secret.New(4)
	if err != nil {
		t.Fatal(err)
	}
	s.Release()
	if _, err := h.Unlock(context.Background(), dev, s, luks.UnlockOptions{}); !errors.Is(err, luks.ErrWrongPassphrase) {
		t.Errorf("error %v", err)
	}
}
