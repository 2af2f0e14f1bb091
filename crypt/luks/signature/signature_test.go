// SPDX-License-Identifier: Apache-2.0

package signature_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks/signature"
	"github.com/luksgate/luksgate/deploy/testenv"
)

func TestDetect(t *testing.T) {
	for want, spoil := range map[string]func(b []byte){
		"":                        func([]byte) {},
		"a LUKS header":           func(b []byte) { copy(b, "LUKS\xba\xbe") },
		"an LVM2 physical volume": func(b []byte) { copy(b[512:], "LABELONE") },
		"a btrfs file system":     func(b []byte) { copy(b[0x10040:], "_BHRfS_M") },
	} {
		b := make([]byte, 1<<17)
		spoil(b)
		if got := signature.Detect(bytes.NewReader(b), int64(len(b))); got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
	luks := []byte("LUKS\xba\xbe")
	if got := signature.DetectForeign(bytes.NewReader(luks), 6); got != "" {
		t.Errorf("LUKS is foreign: %q", got)
	}
	if got := signature.Detect(bytes.NewReader(luks[:5]), 5); got != "" {
		t.Errorf("half a magic: %q", got)
	}
}

// TestRealFormats has the tools make what we claim to know.
func TestRealFormats(t *testing.T) {
	dir := t.TempDir()
	ext4 := filepath.Join(dir, "ext4")
	if err := os.WriteFile(ext4, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, "/sbin/mke2fs", "-q", "-t", "ext4", ext4)
	qcow2 := filepath.Join(dir, "qcow2")
	testenv.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", qcow2, "1M")
	swap := filepath.Join(dir, "swap")
	if err := os.WriteFile(swap, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, "/sbin/mkswap", "-q", swap)
	for path, want := range map[string]string{ext4: "ext2/3/4", qcow2: "qcow2", swap: "swap"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if got := signature.Detect(f, info.Size()); !strings.Contains(got, want) {
			t.Errorf("%s: %q", want, got)
		}
		_ = f.Close()
	}
}
