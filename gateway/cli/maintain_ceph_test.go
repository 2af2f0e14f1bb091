// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// newFormatted is an RBD image that luksgate has formatted with a cheap keyslot.
func newFormatted(t *testing.T, sizeMiB int64, format string, args []string, create ...string) *rbdImage {
	t.Helper()
	m := &rbdImage{
		spec: testenv.NewImage(t, sizeMiB, create...), format: format,
		key: testenv.WriteFile(t, filepath.Join(t.TempDir(), "key"), []byte("correct horse")),
	}
	args = append([]string{"format", "rbd:" + m.spec, "--type", format, "--key-file", m.key}, args...)
	good(t, append(args, cheap...)...)
	return m
}

// TestFormatForLibrbd formats images, changes their passphrase, and has librbd's engine read what the gateway wrote, and the
// gateway what librbd wrote.
func TestFormatForLibrbd(t *testing.T) {
	testenv.CephConf(t)
	for i, c := range []struct {
		format       string
		args, create []string
		dataMiB      int // of 48
	}{
		{"luks2", nil, nil, 32},
		{"luks2", []string{"--cipher", "aes-128", "--sector-size", "512"}, []string{"--object-size", "32M"}, 16},
		{"luks1", nil, []string{"--object-size", "1M"}, 46},
		{"luks1", []string{"--cipher", "aes-128"}, nil, 44},
	} {
		t.Run(fmt.Sprint(i, c.format), func(t *testing.T) {
			m := newFormatted(t, 48, c.format, c.args, c.create...)
			again := testenv.WriteFile(t, m.key+"2", []byte("battery staple"))
			good(t, append([]string{"key", "change", "rbd:" + m.spec, "--key-file", m.key, "--new-key-file", again}, cheap...)...)
			m.key = again
			g := export(t, "rbd:"+m.spec, "--key-file", m.key)
			model := randomBytes(c.dataMiB<<20, uint64(i))
			if size := strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", g.uri)); size != strconv.Itoa(len(model)) {
				t.Fatalf("size %s, want %d", size, len(model))
			}
			file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "model"), model)
			testenv.Run(t, "nbdcopy", file, g.uri)
			g.stop(t)
			copied := file + "-copied"
			m.librbdRead(t, m.spec, copied)
			if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, model) {
				t.Fatalf("librbd reads something else than the gateway wrote (%v)", err)
			}
			qemuWrites(t, m.librbd(m.spec), model, 30, 512, uint64(i)+10)
			g = export(t, "rbd:"+m.spec, "--key-file", m.key)
			testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, testenv.WriteFile(t, file, model))
			g.stop(t)
		})
	}
}

// TestFormatStriped formats an image that is striped over several objects at a time. librbd 16 reads back what it wrote itself
// only if a request stays within a stripe unit, so it is asked no more.
func TestFormatStriped(t *testing.T) {
	testenv.CephConf(t)
	m := newFormatted(t, 12, "luks1", nil, "--object-size", "1M", "--stripe-unit", "65536", "--stripe-count", "3")
	if out := good(t, "inspect", "rbd:"+m.spec); !strings.Contains(out, "data offset  3 MiB") {
		t.Errorf("the data do not begin at the stripe period\n%s", out)
	}
	write, read := []string{}, m.librbd(m.spec)
	for unit := range 60 {
		write = append(write, "-c", fmt.Sprintf("write -P %d %d 64k", unit+1, unit<<16))
		read = append(read, "-c", fmt.Sprintf("read -P %d %d 64k", unit+1, unit<<16))
	}
	g := export(t, "rbd:"+m.spec, "--key-file", m.key)
	testenv.Run(t, "qemu-io", append([]string{"-f", "raw", g.uri}, write...)...)
	g.stop(t)
	if out := testenv.Run(t, "qemu-io", read...); strings.Contains(out, "failed") {
		t.Errorf("librbd reads something else than the gateway wrote: %s", out)
	}
	if strings.HasPrefix(rbd.Version(), "1.16.") {
		bad(t, exitNotLUKS, "it is striped", "export", "rbd:"+m.spec, "--key-file", m.key, "--engine", "librbd", "--socket", g.socket)
	}
}

// TestMaintenanceOfImageInUse finds another client at the image, whether it holds the lock or not; that one must not notice.
func TestMaintenanceOfImageInUse(t *testing.T) {
	testenv.CephConf(t)
	m := newFormatted(t, 24, "luks2", nil)
	again := testenv.WriteFile(t, m.key+"2", []byte("battery staple"))
	img := "rbd:" + m.spec
	verbs := [][]string{
		append([]string{"format", img, "--type", "luks2", "--key-file", m.key, "--force"}, cheap...),
		append([]string{"key", "add", img, "--key-file", m.key, "--new-key-file", again}, cheap...),
		{"key", "remove", img, "--keyslot", "0", "--force"},
		{"header", "repair", img},
	}
	for _, lock := range []string{"cooperative", "exclusive"} {
		g := export(t, img, "--key-file", m.key, "--lock", lock)
		for _, args := range verbs {
			bad(t, exitBusy, "open for writing by client.", args...)
		}
		testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 1 0 4k", "-c", "flush")
		for _, args := range verbs {
			bad(t, exitBusy, "open for writing by client.", args...)
		}
		good(t, "key", "list", img)
		good(t, "header", "backup", img, filepath.Join(t.TempDir(), "backup"))
		if out := testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 2 0 4k", "-c", "flush"); strings.Contains(out, "failed") {
			t.Errorf("the other client cannot write any more: %s", out)
		}
		g.stop(t)
	}
	good(t, verbs[1]...)
}

// TestMaintenanceHoldsTheLock has librbd try to write while a keyslot is made that takes for ever, and then gives that up.
func TestMaintenanceHoldsTheLock(t *testing.T) {
	testenv.CephConf(t)
	m := newFormatted(t, 24, "luks2", nil)
	// The image is looked at before the passphrase is asked for, and held after that: this passphrase tells which is which.
	again := m.key + "2"
	if err := syscall.Mkfifo(again, 0o600); err != nil {
		t.Fatal(err)
	}
	p := testenv.StartCmd(t, command("key", "add", "rbd:"+m.spec, "--key-file", m.key, "--new-key-file", again,
		"--kdf", "pbkdf2", "--kdf-iterations", "268435456"))
	var passphrase *os.File
	for err := error(syscall.ENXIO); err != nil; passphrase, err = os.OpenFile(again, os.O_WRONLY|syscall.O_NONBLOCK, 0) {
		if !errors.Is(err, syscall.ENXIO) || !p.Running() {
			t.Fatalf("the passphrase is not asked for: %v\n%s", err, p.Output())
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := passphrase.WriteString("battery staple"); err != nil {
		t.Fatal(err)
	}
	passphrase.Close()
	for end := time.Now().Add(testenv.CommandTimeout); !strings.Contains(testenv.RBD(t, "lock", "list", m.spec), "client."); {
		if time.Now().After(end) || !p.Running() {
			t.Fatalf("the lock is never taken:\n%s", p.Output())
		}
	}
	raw := "rbd:" + m.spec + ":conf=" + os.Getenv(testenv.EnvCephConf)
	res := testenv.Try(t, "qemu-io", "-f", "raw", raw, "-c", "write -P 9 20M 4k")
	if !p.Running() {
		t.Fatalf("it ended:\n%s", p.Output())
	}
	if res.ExitCode == 0 && !strings.Contains(res.Stdout+res.Stderr, "failed") {
		t.Errorf("another client writes meanwhile: %s", res)
	}
	if code := p.Stop(); code != exitGeneral || !strings.Contains(p.Output(), "context canceled") {
		t.Errorf("SIGTERM: exit code %d\n%s", code, p.Output())
	}
	testenv.Run(t, "qemu-io", "-f", "raw", raw, "-c", "write -P 9 20M 4k")
	if out := good(t, "key", "list", "rbd:"+m.spec); strings.Count(out, "keyslot") != 1 {
		t.Errorf("%s", out)
	}
}

// TestMaintenanceWithoutLock changes an image that cannot be locked, and says so.
func TestMaintenanceWithoutLock(t *testing.T) {
	testenv.CephConf(t)
	m := newFormatted(t, 24, "luks1", nil, "--image-feature", "layering")
	again := testenv.WriteFile(t, m.key+"2", []byte("battery staple"))
	r := luksgate(t, append([]string{"key", "change", "rbd:" + m.spec, "--key-file", m.key, "--new-key-file", again}, cheap...)...)
	if r.ExitCode != exitOK || !strings.Contains(r.Stderr, "no exclusive-lock feature") {
		t.Errorf("%s", r)
	}
}

// TestMaintenanceOfClones changes the passphrase of a clone with its parent's key.
func TestMaintenanceOfClones(t *testing.T) {
	testenv.CephConf(t)
	m := newFormatted(t, 24, "luks2", nil)
	model := randomBytes(8<<20, 71)
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "model"), model)
	g := export(t, "rbd:"+m.spec, "--key-file", m.key)
	testenv.Run(t, "nbdcopy", file, g.uri)
	g.stop(t)
	testenv.RBD(t, "snap", "create", "--no-progress", m.spec+"@s")
	clone := testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, "clone", "--rbd-default-clone-format", "2", m.spec+"@s", clone)
	testenv.OwnImage(t, clone)

	again := testenv.WriteFile(t, m.key+"2", []byte("battery staple"))
	bad(t, exitUsage, "is a snapshot", append([]string{"format", "rbd:" + m.spec + "@s", "--type", "luks2", "--key-file", again, "--force"}, cheap...)...)
	good(t, append([]string{"key", "change", "rbd:" + clone, "--key-file", m.key, "--new-key-file", again}, cheap...)...)
	for spec, key := range map[string]string{m.spec: m.key, clone: again} {
		g := export(t, "rbd:"+spec, "--key-file", key)
		testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, file)
		g.stop(t)
	}
	bad(t, exitWrongPassphrase, "no keyslot opens", append([]string{"key", "change", "rbd:" + clone, "--key-file", m.key, "--new-key-file", again}, cheap...)...)
	m.key = again
	copied := file + "-copied"
	m.librbdRead(t, clone, copied)
	if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, model) {
		t.Errorf("librbd reads something else from the clone (%v)", err)
	}
}

// TestDetachedHeaderOfImage has the data of an RBD image begin with its first byte, a clone of it included.
func TestDetachedHeaderOfImage(t *testing.T) {
	testenv.CephConf(t)
	w := newWorkbench(t, 0)
	spec, header := testenv.NewImage(t, 8), filepath.Join(w.dir, "header")
	img, model := "rbd:"+spec, randomBytes(8<<20, 81)
	file := testenv.WriteFile(t, filepath.Join(w.dir, "model"), model)
	good(t, append([]string{"format", img, "--type", "luks2", "--header", header, "--key-file", w.key("one")}, cheap...)...)
	g := export(t, img, "--header", header, "--key-file", w.key("one"))
	testenv.Run(t, "nbdcopy", file, g.uri)
	g.stop(t)
	testenv.RBD(t, "export", "--no-progress", spec, filepath.Join(w.dir, "raw"))
	if b, err := os.ReadFile(filepath.Join(w.dir, "raw")); err != nil || bytes.Equal(b, model) || len(b) != len(model) {
		t.Errorf("the image is not ciphertext from its first byte on (%v)", err)
	}
	testenv.RBD(t, "snap", "create", "--no-progress", spec+"@s")
	clone := testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, "clone", "--rbd-default-clone-format", "2", spec+"@s", clone)
	testenv.OwnImage(t, clone)
	g = export(t, "rbd:"+clone, "--header", header, "--key-file", w.key("one"))
	testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, file)
	g.stop(t)
}

// TestKeysOfLibrbdImage changes the passphrase of an image that the rbd tool formatted, which cannot do that itself.
func TestKeysOfLibrbdImage(t *testing.T) {
	testenv.CephConf(t)
	m := newRBDImage(t, 20, "luks1", "aes-256") // its keyslot costs less than that of luks2
	testenv.Run(t, "qemu-io", append(m.librbd(m.spec), "-c", "write -P 0x5a 0 1M")...)
	again := testenv.WriteFile(t, m.key+"2", []byte("battery staple"))
	if out := good(t, append([]string{"key", "change", "rbd:" + m.spec, "--key-file", m.key, "--new-key-file", again}, cheap...)...); out != "keyslot 1\n" {
		t.Errorf("%q", out)
	}
	if r := testenv.Try(t, "qemu-io", append(m.librbd(m.spec), "-c", "read 0 1M")...); r.ExitCode == 0 {
		t.Errorf("librbd opens it with the old passphrase\n%s", r)
	}
	m.key = again
	if out := testenv.Run(t, "qemu-io", append(m.librbd(m.spec), "-c", "read -P 0x5a 0 1M")...); strings.Contains(out, "failed") {
		t.Errorf("librbd reads something else: %s", out)
	}
}
