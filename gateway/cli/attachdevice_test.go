// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestAttachDevice runs the gateway and `luksgate attach --device` in a guest, whose kernel then reads and writes the
// device; deploy/guest/blockdev says what it does. The host looks at the image afterwards with qemu.
func TestAttachDevice(t *testing.T) {
	here := testenv.Here(t)
	image := testenv.NewLUKSFile(t, testenv.LUKSOptions{Version: 1, Plaintext: make([]byte, 8<<20)})
	guest := testenv.NewGuestOf(t, here.Dir, "./deploy/guest/blockdev", map[string]string{
		"luksgate": testenv.GoProgram(t, "."), "luks.img": image.Path, "key": image.PassphrasePath, "modules/90-nbd.ko": "nbd.ko",
	})
	st, err := os.Stat(image.Path)
	if err != nil {
		t.Fatal(err)
	}
	out := testenv.WriteFile(t, filepath.Join(here.Dir, "out"), make([]byte, st.Size()))
	vm := testenv.NewVM(t, here, "guest", "pc", guest, "-m", "384",
		"-drive", "file="+out+",format=raw,if=none,id=out", "-device", "virtio-blk-pci,drive=out")
	digest := strings.TrimSpace(vm.Console().Wait(t, "DIGEST", nil))
	for _, step := range []string{"use", "one", "lost", "read-only"} {
		vm.Console().Wait(t, "OK", func(rest string) bool { return strings.TrimSpace(rest) == step })
	}
	plain := filepath.Join(t.TempDir(), "plain")
	testenv.Run(t, "qemu-img", "convert", "-O", "raw", "--object", "secret,id=key,file="+image.PassphrasePath,
		"--image-opts", "driver=luks,key-secret=key,file.filename="+out, plain)
	// What the guest has trimmed is a hole in the file, which qemu decrypts; the gateway reads it as zeros.
	f, err := os.OpenFile(plain, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 1<<20), 1<<20); err != nil {
		t.Fatal(err)
	}
	(&hop{t: t}).expect("by qemu", plain, digest)
}

// TestAttachDeviceRefuses is what can be told without the kernel's driver.
func TestAttachDeviceRefuses(t *testing.T) {
	uri := "nbd+unix:///x?socket=/nonexistent"
	for name, test := range map[string]struct {
		code int
		text string
		args []string
	}{
		"domain too":   {exitUsage, "--domain", []string{"attach", "--device", "/dev/nbd0", "--uri", uri, "--domain", "x"}},
		"no image":     {exitUsage, "--image", []string{"attach", "--device", "/dev/nbd0"}},
		"two":          {exitUsage, "--image", []string{"attach", "--device", "/dev/nbd0", "--uri", uri, "--image", "mem:1M"}},
		"tls":          {exitUsage, "TLS", []string{"attach", "--device", "/dev/nbd0", "--uri", "nbds://host/x"}},
		"no uri":       {exitGeneral, "NBD URI", []string{"attach", "--device", "/dev/nbd0", "--uri", "http://host/x"}},
		"no device":    {exitGeneral, "modprobe nbd", []string{"attach", "--device", "/dev/nbd-none", "--uri", uri}},
		"other device": {exitGeneral, "/dev/nbd0", []string{"attach", "--device", "/dev/null", "--uri", uri}},
		"uri alone":    {exitUsage, "--device", []string{"attach", "--domain", "x", "--target", "vda", "--image", "mem:1M", "--uri", uri}},
		"no daemon":    {exitUnreachable, "luksgate serve", []string{"attach", "--device", "/dev/nbd0", "--image", "mem:1M", "--admin", "/nonexistent"}},
		"detach both":  {exitUsage, "--device", []string{"detach", "--device", "/dev/nbd0", "--domain", "x", "--target", "vda"}},
		"detach":       {exitOK, "nothing was to be done", []string{"detach", "--device", "/dev/nbd-none"}},
	} {
		want(t, name, luksgate(t, test.args...), test.code, test.text)
	}
}
