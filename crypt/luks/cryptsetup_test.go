// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/xts"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// minted is an image that cryptsetup made.
func minted(t testing.TB, sizeBytes int64, passphrase string, args ...string) string {
	path := file(t, sizeBytes).Name()
	args = append([]string{"luksFormat", "--batch-mode", "--key-file", passFile(t, passphrase)}, append(args, path)...)
	testenv.Run(t, "cryptsetup", args...)
	return path
}

// readFile reads the header of a file; other errors than ErrUnsupported fail the test.
func readFile(t testing.TB, path string, opts luks.ReadOptions) (*luks.Header, *os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := luks.Read(f, info.Size(), opts)
	if err != nil && !errors.Is(err, luks.ErrUnsupported) {
		t.Fatal(err)
	}
	return h, f, err
}

// TestOpensWhatCryptsetupMakes goes through cryptsetup's options for headers.
func TestOpensWhatCryptsetupMakes(t *testing.T) {
	quick := []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	for name, args := range map[string][]string{
		"luks1 aes-256":    append(quick, "--type", "luks1", "--key-size", "512", "--hash", "sha512"),
		"luks1 aes-128":    append(quick, "--type", "luks1", "--key-size", "256", "--hash", "sha1"),
		"luks1 ripemd160":  append(quick, "--type", "luks1", "--hash", "ripemd160"),
		"luks1 whirlpool":  append(quick, "--type", "luks1", "--hash", "whirlpool"),
		"luks2 argon2id":   {"--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64", "--pbkdf-parallel", "2"},
		"luks2 argon2i":    {"--type", "luks2", "--pbkdf", "argon2i", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "100"},
		"luks2 sector 512": append(quick, "--type", "luks2", "--sector-size", "512", "--label", "a label", "--subsystem", "sub"),
		"luks2 aes-128":    append(quick, "--type", "luks2", "--key-size", "256", "--sector-size", "2048"),
		"luks2 sha384":     append(quick, "--type", "luks2", "--hash", "sha384"),
		"luks2 area cbc":   append(quick, "--type", "luks2", "--keyslot-cipher", "aes-cbc-essiv:sha256", "--keyslot-key-size", "256"),
		"luks2 area cbc64": append(quick, "--type", "luks2", "--keyslot-cipher", "aes-cbc-plain64", "--keyslot-key-size", "128"),
		"luks2 area xts":   append(quick, "--type", "luks2", "--keyslot-cipher", "aes-xts-plain", "--keyslot-key-size", "256"),
		"luks2 metadata":   append(quick, "--type", "luks2", "--luks2-metadata-size", "64k", "--luks2-keyslots-size", "512k"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := minted(t, 20<<20, "pass", args...)
			h, f, err := readFile(t, path, luks.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			key, err := h.Unlock(context.Background(), f, mustSecret(t, "pass"), luks.UnlockOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer key.Release()
			dump := testenv.Run(t, "cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--key-file", passFile(t, "pass"), path)
			if got := dumpedKey(dump); got != hexOf(key.Key.Bytes()) {
				t.Errorf("volume key differs from that of cryptsetup")
			}
			if h.Label != "" && h.Label != "a label" || len(h.Warnings) != 0 {
				t.Errorf("label %q, warnings %q", h.Label, h.Warnings)
			}
		})
	}
}

// dumpedKey collects the hex digits of "MK dump:" or "Volume key:" from luksDump.
func dumpedKey(dump string) string {
	_, after, ok := strings.Cut(dump, "MK dump:")
	if !ok {
		return dump
	}
	return strings.NewReplacer(" ", "", "\t", "", "\n", "").Replace(after)
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	for _, c := range b {
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

// TestRefusesByName mints what we do not open.
func TestRefusesByName(t *testing.T) {
	quick := []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	for want, args := range map[string][]string{
		"aes-cbc-essiv:sha256": append(quick, "--type", "luks2", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"),
		"aes-xts-plain\"":      append(quick, "--type", "luks1", "--cipher", "aes-xts-plain"),
		"aes-cbc-plain64":      append(quick, "--type", "luks1", "--cipher", "aes-cbc-plain64", "--key-size", "256"),
	} {
		t.Run(want, func(t *testing.T) {
			path := minted(t, 20<<20, "pass", args...)
			h, f, err := readFile(t, path, luks.ReadOptions{})
			if !errors.Is(err, luks.ErrUnsupported) || !strings.Contains(err.Error(), want) {
				t.Fatalf("error %v, expected a refusal that names %s", err, want)
			}
			if h == nil || h.Unsupported == "" || len(h.Keyslots) != 1 {
				t.Errorf("no header to show: %+v", h)
			}
			if _, err := h.Unlock(context.Background(), f, mustSecret(t, "pass"), luks.UnlockOptions{}); !errors.Is(err, luks.ErrUnsupported) {
				t.Errorf("unlock: %v", err)
			}
			if _, err := h.RemoveKey(f, 0, true); !errors.Is(err, luks.ErrUnsupported) {
				t.Errorf("remove: %v", err)
			}
		})
	}
}

// TestDecryptsWhatCryptsetupEncrypted has cryptsetup encrypt a payload.
func TestDecryptsWhatCryptsetupEncrypted(t *testing.T) {
	plain := bytes.Repeat([]byte("what storage engineers point to\n"), 64<<10/32)
	for _, opts := range []testenv.LUKSOptions{
		{KeyBits: 512, SectorBytes: 4096}, {KeyBits: 256, SectorBytes: 512},
	} {
		opts.Plaintext, opts.Passphrase = plain, []byte("pass")
		img := testenv.NewLUKSFile(t, opts)
		h, f, err := readFile(t, img.Path, luks.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		key, err := h.Unlock(context.Background(), f, mustSecret(t, "pass"), luks.UnlockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer key.Release()
		c, err := xts.New(key.Key.Bytes(), h.SectorBytes)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		got := make([]byte, len(plain))
		if _, err := f.ReadAt(got, h.DataOffsetBytes); err != nil {
			t.Fatal(err)
		}
		c.Decrypt(got, got, h.IVOffset)
		if !bytes.Equal(got, plain) {
			t.Errorf("%d bit, sectors of %d: plaintext differs", opts.KeyBits, opts.SectorBytes)
		}
	}
}

// TestReencryptionUnderWayIsRefused stops an online reencryption before its first step.
func TestReencryptionUnderWayIsRefused(t *testing.T) {
	path := minted(t, 40<<20, "pass", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	testenv.Run(t, "cryptsetup", "reencrypt", "--init-only", "--batch-mode", "--key-file", passFile(t, "pass"), "--pbkdf",
		"pbkdf2", "--pbkdf-force-iterations", "1000", path)
	_, _, err := readFile(t, path, luks.ReadOptions{})
	if !errors.Is(err, luks.ErrUnsupported) || !strings.Contains(err.Error(), "reencryption") {
		t.Errorf("error %v", err)
	}
}

func TestDetachedHeaders(t *testing.T) {
	for _, version := range []string{"luks1", "luks2"} {
		t.Run(version, func(t *testing.T) {
			header := filepath.Join(t.TempDir(), "header")
			minted(t, 20<<20, "pass", "--type", version, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--header", header)
			h, f, err := readFile(t, header, luks.ReadOptions{Detached: true})
			if err != nil {
				t.Fatal(err)
			}
			if h.DataOffsetBytes != 0 || !h.Detached {
				t.Errorf("data at %d, detached %v", h.DataOffsetBytes, h.Detached)
			}
			key, err := h.Unlock(context.Background(), f, mustSecret(t, "pass"), luks.UnlockOptions{})
			if err != nil {
				t.Fatal(err)
			}
			key.Release()
			if _, _, err := readFile(t, header, luks.ReadOptions{}); !errors.Is(err, luks.ErrUnsupported) {
				t.Errorf("as an image: %v", err)
			}
		})
	}
}

// TestDamagedCopies spoils the copies of a header in turn and compares with what cryptsetup says of the same file.
func TestDamagedCopies(t *testing.T) {
	path := minted(t, 20<<20, "pass", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		spoil   func(b []byte)
		opens   bool
		warning string
	}{
		"none":                     {func([]byte) {}, true, ""},
		"primary magic":            {func(b []byte) { b[0] = 'X' }, true, "primary LUKS2 header"},
		"primary zeroed":           {func(b []byte) { clear(b[:4096]) }, true, "primary LUKS2 header"},
		"primary metadata":         {func(b []byte) { b[4200] ^= 1 }, true, "primary LUKS2 header"},
		"primary length":           {func(b []byte) { b[8] = 0xff }, true, "primary LUKS2 header"},
		"secondary magic":          {func(b []byte) { b[16384] = 'X' }, true, "secondary LUKS2 header"},
		"secondary metadata":       {func(b []byte) { b[16384+4200] ^= 1 }, true, "secondary LUKS2 header"},
		"both":                     {func(b []byte) { b[4200] ^= 1; b[16384+4200] ^= 1 }, false, ""},
		"primary is a file system": {func(b []byte) { clear(b[:16384]); copy(b[0x438:], "\x53\xef"); b[0] = 1 }, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			img := bytes.Clone(good)
			tc.spoil(img)
			dev := &memory{data: img}
			h, err := luks.Read(dev, dev.size(), luks.ReadOptions{})
			if !tc.opens {
				if !errors.Is(err, luks.ErrDamaged) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := opens(t, dev, dev.size(), mustSecret(t, "pass"), nil); !ok {
				t.Error("does not open")
			}
			if all := strings.Join(h.Warnings, "\n"); !strings.Contains(all, tc.warning) || tc.warning != "" && !strings.Contains(all, "repair") ||
				tc.warning == "" && all != "" {
				t.Errorf("warnings %q", h.Warnings)
			}
			h, err = h.Repair(dev)
			if err != nil || len(h.Warnings) != 0 {
				t.Fatalf("repair: %v, %q", err, h.Warnings)
			}
			saved := dev.save(t)
			if !cryptsetupOpens(t, saved, "pass") {
				t.Error("cryptsetup does not open it after the repair")
			}
		})
	}
}

// TestCryptsetupRepairSilencesTheWarning has cryptsetup repair what we warn about: then we have nothing to say.
func TestCryptsetupRepairSilencesTheWarning(t *testing.T) {
	path := minted(t, 20<<20, "pass", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("X"), 4200); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if h, _, _ := readFile(t, path, luks.ReadOptions{}); len(h.Warnings) != 1 {
		t.Fatalf("warnings %q", h.Warnings)
	}
	testenv.Run(t, "cryptsetup", "repair", "--batch-mode", path)
	if h, _, _ := readFile(t, path, luks.ReadOptions{}); len(h.Warnings) != 0 {
		t.Errorf("warnings %q", h.Warnings)
	}
}
