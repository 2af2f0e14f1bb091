// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/xts"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// deviations lists the vectors that cryptsetup opens (or calls valid) and we refuse on purpose: the text that the refusal
// must contain and the reason for it.
var deviations = map[string]struct{ text, reason string }{
	"cryptsetup-upstream/compatimage2.img.xz":                        {"aes-cbc-essiv:sha256", "only aes-xts-plain64 is decrypted"},
	"cryptsetup-upstream/luks2_invalid_cipher.img.xz":                {"capi:xts(ecb(aes", "only aes-xts-plain64 is decrypted"},
	"cryptsetup-upstream/luks1_aes-xts-essiv-wp256-whirlpool.img.xz": {"aes-xts-essiv:wp256", "only aes-xts-plain64 is decrypted"},
	"cryptsetup-upstream/luks1_serpent-xts-plain64-sha256.img.xz":    {"serpent-xts-plain64", "only AES is decrypted"},
	"cryptsetup-upstream/luks1_twofish-xts-plain64-sha1.img.xz":      {"twofish-xts-plain64", "only AES is decrypted"},
	"cryptsetup-upstream/luks1_twofish-xts-plain64-sha256.img.xz":    {"twofish-xts-plain64", "only AES is decrypted"},
	"cryptsetup-upstream/luks1_twofish-xts-plain64-whirlpool.img.xz": {"twofish-xts-plain64", "only AES is decrypted"},
	"made-here/l2-two-crypt-segments.img.xz":                         {"2 data segments", "one segment is all that cryptsetup and librbd make"},
	"cryptsetup-generators/luks2-segment-unknown-type.img.xz":        {`segment type "some_type"`, "a valid header whose data nobody here can read"},
	"cryptsetup-generators/luks2-uint64-max-segment-size.img.xz":     {"segment of 18446744073709551104 bytes", "a valid header whose data is larger than the image"},
}

type vector struct {
	name, version, cipher, passphrase, keyslot, expected, volumeKey, sum string
	sectorBytes                                                          int
	dataOffsetBytes                                                      int64
	ivOffset                                                             uint64
}

// vectors reads the table of images that others made.
func vectors(t *testing.T) []vector {
	table, err := os.ReadFile(testenv.Vectors(t, "luks", "vectors.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	var out []vector
	for _, line := range strings.Split(strings.TrimSpace(string(table)), "\n")[1:] {
		f := strings.Split(line, "\t")
		if len(f) < 11 {
			t.Fatalf("row with %d columns: %q", len(f), line)
		}
		v := vector{name: f[0], version: f[1], cipher: f[2], passphrase: f[6], keyslot: f[7], expected: f[8], volumeKey: f[9], sum: f[10]}
		v.sectorBytes, _ = strconv.Atoi(f[3])
		v.dataOffsetBytes, _ = strconv.ParseInt(f[4], 10, 64)
		v.ivOffset, _ = strconv.ParseUint(f[5], 10, 64)
		out = append(out, v)
	}
	return out
}

// unpacked keeps the memory of images that are done with: there are many, of 16 MiB each.
var unpacked = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// image unpacks a vector; the result is good until the test ends.
func (v *vector) image(t *testing.T) []byte {
	path := testenv.Vectors(t, "luks", filepath.FromSlash(v.name))
	buf := unpacked.Get().(*bytes.Buffer)
	buf.Reset()
	t.Cleanup(func() { unpacked.Put(buf) })
	cmd := exec.Command(testenv.Tool(t, "xz"), "-dc", path)
	cmd.Stdout = buf
	if err := cmd.Run(); err != nil {
		t.Fatalf("unpack %s: %v", path, err)
	}
	return buf.Bytes()
}

// secretOf decodes the passphrase column; ok is false where the table refers to a file that is not there.
func (v *vector) secretOf(t *testing.T) (s *secret.Bytes, ok bool) {
	text := v.passphrase
	if strings.HasPrefix(text, "binary key file") {
		return nil, false
	}
	if i := strings.Index(text, " ("); i >= 0 {
		text = text[:i]
	}
	text = strings.NewReplacer(`\x00`, "\x00", `\n`, "\n", `\t`, "\t").Replace(text)
	return mustSecret(t, text), true
}

func mustSecret(t testing.TB, text string) *secret.Bytes {
	s, err := secret.Copy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Release)
	return s
}

func TestVectors(t *testing.T) {
	seen := 0
	for _, v := range vectors(t) {
		seen++
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			testVector(t, &v)
		})
	}
	if seen < 90 {
		t.Errorf("only %d vectors", seen)
	}
}

func testVector(t *testing.T, v *vector) {
	img := v.image(t)
	hdr, err := luks.Read(bytes.NewReader(img), int64(len(img)), luks.ReadOptions{})
	if d, ok := deviations[v.name]; ok {
		if err == nil || !strings.Contains(err.Error(), d.text) {
			t.Fatalf("deviation not in effect: %v, expected a refusal with %q (%s)", err, d.text, d.reason)
		}
		return
	}
	headerOnly := v.passphrase == "-"
	refuse := strings.Contains(v.expected, "REFUSE") && !strings.HasPrefix(v.expected, "OPEN")
	switch {
	case headerOnly && refuse:
		if err == nil {
			t.Fatalf("accepted, expected %q", v.expected)
		}
		if !errors.Is(err, luks.ErrDamaged) && !errors.Is(err, luks.ErrUnsupported) && !errors.Is(err, luks.ErrNotLUKS) {
			t.Errorf("unexpected kind of error: %v", err)
		}
		t.Log(err)
		return
	case headerOnly:
		if err != nil {
			t.Fatalf("refused: %v, expected %q", err, v.expected)
		}
		return
	case refuse:
		refuseToUnlock(t, v, img, hdr, err)
		return
	case err != nil:
		t.Fatal(err)
	}
	checkInfo(t, v, hdr)
	unlockAndDecrypt(t, v, img, hdr)
}

// refuseToUnlock expects a refusal by Read or by Unlock that is not about the passphrase.
func refuseToUnlock(t *testing.T, v *vector, img []byte, hdr *luks.Header, err error) {
	if err == nil {
		pass, _ := v.secretOf(t)
		var key *luks.VolumeKey
		if key, err = hdr.Unlock(context.Background(), bytes.NewReader(img), pass, luks.UnlockOptions{}); err == nil {
			key.Release()
			t.Fatalf("opened, expected %q", v.expected)
		}
	}
	if !errors.Is(err, luks.ErrUnsupported) && !errors.Is(err, luks.ErrLimit) {
		t.Errorf("expected a refusal by name, got: %v", err)
	}
	t.Log(err)
}

func checkInfo(t *testing.T, v *vector, hdr *luks.Header) {
	if got := strconv.Itoa(hdr.Version); got != v.version {
		t.Errorf("version %s, expected %s", got, v.version)
	}
	if got := hdr.Cipher + "-" + hdr.Mode; got != v.cipher {
		t.Errorf("cipher %s, expected %s", got, v.cipher)
	}
	if hdr.SectorBytes != v.sectorBytes || hdr.DataOffsetBytes != v.dataOffsetBytes || hdr.IVOffset != v.ivOffset {
		t.Errorf("sector %d, offset %d, iv %d; expected %d, %d, %d", hdr.SectorBytes, hdr.DataOffsetBytes, hdr.IVOffset,
			v.sectorBytes, v.dataOffsetBytes, v.ivOffset)
	}
	if v.name == "made-here/l2-secondary-newer.img.xz" && hdr.Label != "new-secondary" {
		t.Errorf("label %q is not that of the newer copy", hdr.Label)
	}
}

func unlockAndDecrypt(t *testing.T, v *vector, img []byte, hdr *luks.Header) {
	ctx := context.Background()
	wantKey, err := hex.DecodeString(v.volumeKey)
	if err != nil {
		t.Fatal(err)
	}
	key := mustSecret(t, string(wantKey))
	pass, ok := v.secretOf(t)
	if ok {
		opts := luks.UnlockOptions{}
		if n, err := strconv.Atoi(v.keyslot); err == nil {
			if _, err := hdr.Unlock(ctx, bytes.NewReader(img), pass, opts); err == nil {
				t.Errorf("keyslot %d has priority ignore, but was tried", n)
			}
			opts.Keyslot = &n
		}
		got, err := hdr.Unlock(ctx, bytes.NewReader(img), pass, opts)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Release()
		if !got.Key.Equal(key) {
			t.Fatal("another volume key")
		}
		wrong := mustSecret(t, "wrong")
		if _, err := hdr.Unlock(ctx, bytes.NewReader(img), wrong, opts); !errors.Is(err, luks.ErrWrongPassphrase) {
			t.Errorf("wrong passphrase: %v", err)
		}
	} else if ok, err := hdr.Verify(ctx, key); err != nil || !ok {
		t.Fatalf("volume key not verified: %v, %v", ok, err)
	}
	c, err := xts.New(key.Bytes(), hdr.SectorBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	data := make([]byte, 64<<10)
	copy(data, img[hdr.DataOffsetBytes:])
	c.Decrypt(data, data, hdr.IVOffset)
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != v.sum {
		t.Errorf("plaintext has sha256 %x, expected %s", sum, v.sum)
	}
}
