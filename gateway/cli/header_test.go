// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestHeaderBackup compares with cryptsetup's, and lets each restore the other's.
func TestHeaderBackup(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("luks%d", version), func(t *testing.T) {
			w := newWorkbench(t, 17<<20).format(version)
			img, ours, theirs := "file:"+w.image, filepath.Join(w.dir, "ours"), filepath.Join(w.dir, "theirs")
			good(t, "header", "backup", img, ours)
			testenv.Run(t, "cryptsetup", "luksHeaderBackup", "--header-backup-file", theirs, w.image)
			a, errA := os.ReadFile(ours)
			b, errB := os.ReadFile(theirs)
			if errA != nil || errB != nil || !bytes.Equal(a, b) {
				t.Errorf("the backups differ: %d and %d bytes (%v, %v)", len(a), len(b), errA, errB)
			}
			if st, err := os.Stat(ours); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%v %v", st, err)
			}
			bad(t, exitGeneral, "exists already", "header", "backup", img, ours)

			change := append([]string{"key", "change", img, "--key-file", w.key("one"), "--new-key-file", w.key("two")}, cheap...)
			good(t, change...)
			good(t, "header", "restore", img, theirs)
			w.opens("one", true)
			w.opens("two", false)
			good(t, change...)
			testenv.Run(t, "cryptsetup", "luksHeaderRestore", "--batch-mode", "--header-backup-file", ours, w.image)
			w.opens("one", true)

			other := newWorkbench(t, 17<<20).format(version)
			bad(t, exitGeneral, "UUID of the backup", "header", "restore", "file:"+other.image, ours)
			other.opens("one", true)
			empty := newWorkbench(t, 17<<20)
			bad(t, exitGeneral, "no header to compare with", "header", "restore", "file:"+empty.image, ours)
			good(t, "header", "restore", "file:"+empty.image, ours, "--force")
			empty.opens("one", true)
			bad(t, exitNotLUKS, "no LUKS header", "header", "restore", img, w.key("one"))
			bad(t, exitNotLUKS, "no LUKS header", "header", "backup", "file:"+newWorkbench(t, 17<<20).image, filepath.Join(w.dir, "none"))
			if _, err := os.Stat(filepath.Join(w.dir, "none")); err == nil {
				t.Error("a backup that failed left a file")
			}
		})
	}
}

// TestHeaderRepair spoils one copy, then the other: after the repair each stands alone.
func TestHeaderRepair(t *testing.T) {
	w := newWorkbench(t, 17<<20).format(2)
	img := "file:" + w.image
	if out := good(t, "header", "repair", img); !strings.Contains(out, "nothing to repair") {
		t.Errorf("%s", out)
	}
	for _, at := range []int64{100, 16<<10 + 100, 0} {
		spoil := func(at int64) {
			f, err := os.OpenFile(w.image, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("spoilt"), at); err != nil {
				t.Fatal(err)
			}
		}
		spoil(at)
		if out := good(t, "inspect", img); !strings.Contains(out, "luksgate header repair") {
			t.Errorf("byte %d: no advice\n%s", at, out)
		}
		g := export(t, img, "--key-file", w.key("one"))
		g.stop(t)
		if !strings.Contains(g.Output(), "luksgate header repair") {
			t.Errorf("byte %d: an export does not warn\n%s", at, g.Output())
		}
		if out := good(t, "header", "repair", img); !strings.Contains(out, "good again") {
			t.Errorf("byte %d: %s", at, out)
		}
		if out := good(t, "inspect", img); strings.Contains(out, "warning") {
			t.Errorf("byte %d: still a warning\n%s", at, out)
		}
		w.opens("one", true)
	}
	one := newWorkbench(t, 4<<20).format(1)
	if out := good(t, "header", "repair", "file:"+one.image); !strings.Contains(out, "nothing to repair") {
		t.Errorf("%s", out)
	}
	if err := os.WriteFile(w.image, make([]byte, 17<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	bad(t, exitNotLUKS, "no LUKS header", "header", "repair", img)
}

// TestDetachedHeader formats, opens and changes an image whose header is elsewhere; cryptsetup judges the header.
func TestDetachedHeader(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("luks%d", version), func(t *testing.T) {
			const size = 3 << 20
			w := newWorkbench(t, size)
			header := filepath.Join(w.dir, "header")
			w.format(version, "--header", header)
			img := "file:" + w.image
			if b, err := os.ReadFile(w.image); err != nil || !bytes.Equal(b, make([]byte, size)) {
				t.Errorf("the image was written (%v)", err)
			}
			testenv.Run(t, "cryptsetup", "open", "--test-passphrase", "--header", header, "--key-file", w.key("one"), w.image)
			if out := good(t, "inspect", img, "--header", header); !strings.Contains(out, "detached") || !strings.Contains(out, "data size    3 MiB") {
				t.Errorf("%s", out)
			}
			socket := filepath.Join(testenv.SocketDir(t), "s")
			bad(t, exitNotLUKS, "no LUKS header", "export", img, "--key-file", w.key("one"), "--socket", socket)
			bad(t, exitNotLUKS, "detached", "export", "file:"+header, "--key-file", w.key("one"), "--socket", socket)
			bad(t, exitUsage, "detached", "export", img, "--header", header, "--plain", "--socket", socket)
			bad(t, exitUnreachable, "nowhere", "export", img, "--header", "nowhere", "--key-file", w.key("one"), "--socket", socket)

			model := randomBytes(size, uint64(version))
			g := export(t, img, "--header", header, "--key-file", w.key("one"))
			testenv.Run(t, "nbdcopy", testenv.WriteFile(t, filepath.Join(w.dir, "model"), model), g.uri)
			// Passphrases can be changed while the image is served.
			good(t, append([]string{"key", "change", img, "--header", header, "--key-file", w.key("one"), "--new-key-file", w.key("two")}, cheap...)...)
			g.stop(t)
			bad(t, exitWrongPassphrase, "no keyslot opens", "export", img, "--header", header, "--key-file", w.key("one"), "--socket", socket)
			g = export(t, img, "--header", header, "--key-file", w.key("two"))
			testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, filepath.Join(w.dir, "model"))
			g.stop(t)
			backup := filepath.Join(w.dir, "backup")
			good(t, "header", "backup", img, backup, "--header", header)
			good(t, "header", "restore", img, backup, "--header", header)
			bad(t, exitGeneral, "LUKS header", append([]string{"format", img, "--header", header, "--type", "luks2", "--key-file", w.key("one")}, cheap...)...)
		})
	}
}

// TestDetachedHeaderLeavesNothing fails to format and must not leave a file, nor touch what is there.
func TestDetachedHeaderLeavesNothing(t *testing.T) {
	w := newWorkbench(t, 17<<20).format(2)
	header := filepath.Join(w.dir, "header")
	args := append([]string{"format", "file:" + w.image, "--header", header, "--type", "luks2", "--key-file", w.key("one")}, cheap...)
	bad(t, exitGeneral, "begins with a LUKS header, which would be lost (--force", args...)
	if _, err := os.Stat(header); err == nil {
		t.Error("the header's file was left")
	}
	w.opens("one", true)
	bad(t, exitUnreachable, "image", "format", "file:"+w.image+"-none", "--header", header, "--type", "luks2", "--key-file", w.key("one"))
	if _, err := os.Stat(header); err == nil {
		t.Error("the header's file was left")
	}
}

// TestHeaderOfCryptsetup opens a detached header that cryptsetup made, whose data begin inside the image.
func TestHeaderOfCryptsetup(t *testing.T) {
	w := newWorkbench(t, 20<<20)
	header := filepath.Join(w.dir, "header")
	testenv.Run(t, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--header", header, "--offset", "8192", "--key-file", w.key("one"), w.image)
	g := export(t, "file:"+w.image, "--header", header, "--key-file", w.key("one"))
	if size := strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", g.uri)); size != "16777216" {
		t.Errorf("size %s", size)
	}
	g.stop(t)
}

// TestUntrustedTexts has an image say what a terminal would act on.
func TestUntrustedTexts(t *testing.T) {
	w := newWorkbench(t, 17<<20).format(2, "--label", "\x1b[31mred\x1b[0m")
	token := testenv.WriteFile(t, filepath.Join(w.dir, "token"), []byte(`{"type":"\u001b]0;owned\u0007","keyslots":["0"]}`))
	testenv.Run(t, "cryptsetup", "token", "import", "--json-file", token, w.image)
	out := good(t, "inspect", "file:"+w.image)
	if strings.ContainsAny(out, "\x1b\x07") || !strings.Contains(out, `\x1b[31mred`) || !strings.Contains(out, `"\x1b]0;owned\a"`) {
		t.Errorf("%q", out)
	}
	testenv.Run(t, "cryptsetup", "config", "--subsystem", "my subsystem", "--label", "", w.image)
	if out := good(t, "inspect", "file:"+w.image); !strings.Contains(out, `"my subsystem"`) {
		t.Errorf("%s", out)
	}
}

// TestVersionSaysWhatIsWrong forces a kernel that there is not.
func TestVersionSaysWhatIsWrong(t *testing.T) {
	cmd := command("version")
	cmd.Env = append(cmd.Env, "LUKSGATE_XTS=abacus")
	if r := testenv.RunCmd(t, cmd); r.ExitCode != exitOK || !strings.Contains(r.Stdout, `none: xts: no kernel "abacus"`) {
		t.Errorf("%s", r)
	}
}
