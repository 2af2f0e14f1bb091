// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestKeyslotChangesAreJudgedByCryptsetup runs the life of a header, and after each step asks cryptsetup which passphrases
// open it.
func TestKeyslotChangesAreJudgedByCryptsetup(t *testing.T) {
	ctx := context.Background()
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint("luks", version), func(t *testing.T) {
			t.Parallel()
			dev, h, key := formatted(t, luks.FormatOptions{Version: version})
			judge := func(step string, open, shut []string) {
				t.Helper()
				path := dev.save(t)
				for _, p := range open {
					if !cryptsetupOpens(t, path, p) {
						t.Errorf("%s: cryptsetup does not open it with %q", step, p)
					}
				}
				for _, p := range shut {
					if cryptsetupOpens(t, path, p) {
						t.Errorf("%s: cryptsetup opens it with %q", step, p)
					}
				}
				testenv.Run(t, "cryptsetup", "repair", "--batch-mode", path)
				after, err := os.ReadFile(path)
				if err != nil || !bytes.Equal(after, dev.data) {
					t.Errorf("%s: cryptsetup repair changed the header (%v)", step, err)
				}
			}
			id, h, err := h.AddKey(ctx, dev, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fast})
			if err != nil || id != 1 {
				t.Fatalf("add: keyslot %d, %v", id, err)
			}
			judge("add", []string{"first", "second"}, []string{"third"})
			id, h, err = h.AddKey(ctx, dev, key, mustSecret(t, "third"), luks.KeyslotOptions{KDF: fast, Keyslot: new(5)})
			if err != nil || id != 5 {
				t.Fatalf("add: keyslot %d, %v", id, err)
			}
			judge("add at 5", []string{"first", "second", "third"}, nil)
			if h, err = h.RemoveKey(dev, 1, false); err != nil {
				t.Fatal(err)
			}
			judge("remove", []string{"first", "third"}, []string{"second"})
			id, h, err = h.ChangeKey(ctx, dev, key, mustSecret(t, "changed"), luks.KeyslotOptions{KDF: fast})
			if err != nil || version == 2 && id != 0 {
				t.Fatalf("change: keyslot %d, %v", id, err)
			}
			judge("change", []string{"changed", "third"}, []string{"first", "second"})
			if h, err = h.RemoveKey(dev, 5, false); err != nil {
				t.Fatal(err)
			}
			if _, err := h.RemoveKey(dev, id, false); !errors.Is(err, luks.ErrLastKeyslot) {
				t.Errorf("the last keyslot: %v", err)
			}
			judge("all but one", []string{"changed"}, []string{"third"})
			if h, err = h.RemoveKey(dev, id, true); err != nil || len(h.Keyslots) != 0 {
				t.Fatalf("forced: %v", err)
			}
			if _, err := h.Unlock(ctx, dev, mustSecret(t, "changed"), luks.UnlockOptions{}); !errors.Is(err, luks.ErrNoKeyslot) {
				t.Errorf("without keyslots: %v", err)
			}
		})
	}
}

// TestCryptsetupAddsToOurHeader goes the other way round.
func TestCryptsetupChangesOurHeader(t *testing.T) {
	for _, version := range []int{1, 2} {
		dev, _, key := formatted(t, luks.FormatOptions{Version: version})
		path := dev.save(t)
		testenv.Run(t, "cryptsetup", "luksAddKey", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
			"--key-file", passFile(t, "first"), path, passFile(t, "second"))
		testenv.Run(t, "cryptsetup", "luksRemoveKey", "--batch-mode", path, passFile(t, "first"))
		_, f, err := readFile(t, path, luks.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := opens(t, f, dev.size(), mustSecret(t, "second"), key.Key); !ok {
			t.Errorf("luks%d: does not open", version)
		}
		if _, ok := opens(t, f, dev.size(), mustSecret(t, "first"), key.Key); ok {
			t.Errorf("luks%d: opens with what was removed", version)
		}
	}
}

// TestOtherPeoplesMetadataSurvives adds a token and flags with cryptsetup, then changes keyslots.
func TestOtherPeoplesMetadataSurvives(t *testing.T) {
	dev, _, key := formatted(t, luks.FormatOptions{})
	path := dev.save(t)
	token := testenv.WriteFile(t, filepath.Join(t.TempDir(), "token"), []byte(`{"type":"my-kms","keyslots":["0"],"note":"<a & b>","n":12345678901234567890}`))
	testenv.Run(t, "cryptsetup", "token", "import", "--json-file", token, path)
	testenv.Run(t, "cryptsetup", "config", "--priority", "prefer", "--key-slot", "0", path)
	h, f, err := readFile(t, path, luks.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Tokens) != 1 || h.Tokens[0].Type != "my-kms" || h.Keyslots[0].Priority != luks.PriorityPrefer {
		t.Fatalf("tokens %+v, keyslots %+v", h.Tokens, h.Keyslots)
	}
	before := testenv.Run(t, "cryptsetup", "token", "export", "--token-id", "0", path)
	if _, h, err = h.ChangeKey(context.Background(), f, key, mustSecret(t, "new"), luks.KeyslotOptions{KDF: fast}); err != nil {
		t.Fatal(err)
	}
	after := testenv.Run(t, "cryptsetup", "token", "export", "--token-id", "0", path)
	if len(after) < 40 || !sameJSON(t, before, after) {
		t.Errorf("token before: %s after: %s", before, after)
	}
	if h.Keyslots[0].Priority != luks.PriorityPrefer || len(h.Tokens[0].Keyslots) != 1 {
		t.Errorf("priority %d, token of %v", h.Keyslots[0].Priority, h.Tokens[0].Keyslots)
	}
	if _, h, err = h.AddKey(context.Background(), f, key, mustSecret(t, "more"), luks.KeyslotOptions{KDF: fast, Priority: new(luks.PriorityIgnore)}); err != nil {
		t.Fatal(err)
	}
	if _, ok := opens(t, f, dev.size(), mustSecret(t, "more"), nil); ok {
		t.Error("a keyslot to be ignored was tried")
	}
	if h, err = h.RemoveKey(f, 0, false); err != nil || len(h.Tokens) != 1 || len(h.Tokens[0].Keyslots) != 0 {
		t.Errorf("the token of a removed keyslot: %+v, %v", h, err)
	}
}

func TestKeyslotMistakes(t *testing.T) {
	ctx := context.Background()
	for _, version := range []int{1, 2} {
		dev, h, key := formatted(t, luks.FormatOptions{Version: version})
		p := mustSecret(t, "p")
		wrong := &luks.VolumeKey{Key: mustSecret(t, string(make([]byte, 64)))}
		if _, _, err := h.AddKey(ctx, dev, wrong, p, luks.KeyslotOptions{KDF: fast}); !errors.Is(err, luks.ErrWrongPassphrase) {
			t.Errorf("another volume key: %v", err)
		}
		if _, _, err := h.AddKey(ctx, dev, key, p, luks.KeyslotOptions{KDF: fast, Keyslot: new(0)}); !errors.Is(err, luks.ErrInUse) {
			t.Errorf("a keyslot in use: %v", err)
		}
		if _, _, err := h.AddKey(ctx, dev, key, p, luks.KeyslotOptions{KDF: fast, Keyslot: new(99)}); !errors.Is(err, luks.ErrNoKeyslot) {
			t.Errorf("keyslot 99: %v", err)
		}
		if _, err := h.RemoveKey(dev, 3, true); !errors.Is(err, luks.ErrNoKeyslot) {
			t.Errorf("remove what is not there: %v", err)
		}
		if _, err := h.Unlock(ctx, dev, p, luks.UnlockOptions{Keyslot: new(3)}); !errors.Is(err, luks.ErrNoKeyslot) {
			t.Errorf("unlock with a keyslot that is not there: %v", err)
		}
		if len(dev.log) == 0 {
			t.Fatal("no log")
		}
		dev.log = nil
		_, fresh, err := h.AddKey(ctx, dev, key, p, luks.KeyslotOptions{KDF: fast})
		if err != nil {
			t.Fatal(err)
		}
		dev.log = nil
		if _, _, err := h.AddKey(ctx, dev, key, p, luks.KeyslotOptions{KDF: fast}); !errors.Is(err, luks.ErrChanged) || len(dev.log) != 0 {
			t.Errorf("with a header that is out of date: %v, %d writes", err, len(dev.log))
		}
		for i := 0; ; i++ {
			if _, fresh, err = fresh.AddKey(ctx, dev, key, p, luks.KeyslotOptions{KDF: fast}); err != nil {
				if !errors.Is(err, luks.ErrNoSpace) || i < 2 {
					t.Errorf("luks%d: full after %d more: %v", version, i, err)
				}
				break
			}
		}
	}
}

// TestRemovedKeyIsGone looks for the old area in the image.
func TestRemovedKeyIsGone(t *testing.T) {
	for _, version := range []int{1, 2} {
		dev, h, key := formatted(t, luks.FormatOptions{Version: version})
		k := h.Keyslots[0]
		old := bytes.Clone(dev.data[k.AreaOffsetBytes : k.AreaOffsetBytes+512])
		if _, _, err := h.ChangeKey(context.Background(), dev, key, mustSecret(t, "new"), luks.KeyslotOptions{KDF: fast}); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(dev.data, old) {
			t.Errorf("luks%d: the first sector of the old area is still there", version)
		}
	}
}
