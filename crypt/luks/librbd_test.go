// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/xts"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// stripePeriodBytes is that of the images of testenv: 4 MiB objects, no striping.
const stripePeriodBytes = 4 << 20

// viaLibrbd is qemu's name for an image that librbd decrypts itself.
func viaLibrbd(t testing.TB, spec string, version int, passphrase string) (object, image string) {
	_, name, _ := strings.Cut(spec, "/")
	format := map[int]string{1: "luks", 2: "luks2"}[version]
	return "secret,id=s,file=" + passFile(t, passphrase),
		fmt.Sprintf("driver=rbd,pool=%s,image=%s,conf=%s,encrypt.format=%s,encrypt.key-secret=s", testenv.Pool, name,
			testenv.CephConf(t), format)
}

// TestLibrbdOpensWhatWeFormat formats, changes keyslots, encrypts data, and has librbd decrypt it with the new passphrase.
func TestLibrbdOpensWhatWeFormat(t *testing.T) {
	testenv.CephConf(t)
	ctx := context.Background()
	for _, tc := range []luks.FormatOptions{
		{Version: 2, KeyBytes: 64, SectorBytes: 4096, KDF: fastArgon2}, {Version: 2, KeyBytes: 32, SectorBytes: 4096, KDF: fast},
		{Version: 1, KeyBytes: 64, KDF: fast}, {Version: 1, KeyBytes: 32, KDF: fast},
	} {
		t.Run(fmt.Sprintf("luks%d aes-%d", tc.Version, tc.KeyBytes*4), func(t *testing.T) {
			const size = 24 << 20
			f := file(t, size)
			tc.DataAlignmentBytes, tc.Passphrase = stripePeriodBytes, mustSecret(t, "first")
			h, key, err := luks.Format(ctx, f, size, tc)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Release()
			if _, h, err = h.ChangeKey(ctx, f, key, mustSecret(t, "second"), luks.KeyslotOptions{KDF: fast}); err != nil {
				t.Fatal(err)
			}
			plain := bytes.Repeat([]byte("0123456789abcde\n"), int(size-h.DataOffsetBytes)/16)
			writeEncrypted(t, f, h, key, plain)
			spec := testenv.Pool + "/" + testenv.UniqueName(t)
			testenv.RBD(t, "import", f.Name(), spec)
			testenv.OwnImage(t, spec)
			raw := testenv.WriteFile(t, filepath.Join(t.TempDir(), "plain"), plain)
			object, img := viaLibrbd(t, spec, tc.Version, "second")
			testenv.Run(t, "qemu-img", "compare", "--object", object, "--image-opts", img, "driver=raw,file.filename="+raw)
			object, img = viaLibrbd(t, spec, tc.Version, "first")
			if r := testenv.Try(t, "qemu-img", "info", "--object", object, "--image-opts", img); r.ExitCode == 0 {
				t.Error("librbd opens it with the passphrase that was replaced")
			}
		})
	}
}

func writeEncrypted(t *testing.T, f *os.File, h *luks.Header, key *luks.VolumeKey, plain []byte) {
	c, err := xts.New(key.Key.Bytes(), h.SectorBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	ciphertext := make([]byte, len(plain))
	c.Encrypt(ciphertext, plain, h.IVOffset)
	if _, err := f.WriteAt(ciphertext, h.DataOffsetBytes); err != nil {
		t.Fatal(err)
	}
}

// TestWeOpenWhatLibrbdFormats goes the other way, for LUKS1: what librbd makes of LUKS2 is opened by the tests of the whole
// gateway, and libcryptsetup's benchmark makes each format slow.
func TestWeOpenWhatLibrbdFormats(t *testing.T) {
	testenv.CephConf(t)
	for version, cipher := range map[int]string{1: "aes-128"} {
		t.Run(fmt.Sprintf("luks%d %s", version, cipher), func(t *testing.T) {
			spec := testenv.NewImage(t, 24)
			testenv.RBD(t, "encryption", "format", "--cipher-alg", cipher, spec, fmt.Sprint("luks", version), passFile(t, "pass"))
			object, img := viaLibrbd(t, spec, version, "pass")
			testenv.Run(t, "qemu-io", "--object", object, "-c", "write -P 0x5a 0 1M", "--image-opts", img)
			exported := filepath.Join(t.TempDir(), "exported")
			testenv.RBD(t, "export", "--no-progress", spec, exported)
			h, f, err := readFile(t, exported, luks.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if h.DataOffsetBytes%stripePeriodBytes != 0 || h.KeyBytes != 32 {
				t.Errorf("data at %d, sectors of %d", h.DataOffsetBytes, h.SectorBytes)
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
			data := make([]byte, 1<<20)
			if _, err := f.ReadAt(data, h.DataOffsetBytes); err != nil {
				t.Fatal(err)
			}
			c.Decrypt(data, data, h.IVOffset)
			if !bytes.Equal(data, bytes.Repeat([]byte{0x5a}, len(data))) {
				t.Error("plaintext differs")
			}
		})
	}
}
