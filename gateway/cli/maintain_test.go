// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// cheap are the flags of a keyslot that takes no time.
var cheap = []string{"--kdf", "pbkdf2", "--kdf-iterations", "1000"}

// A workbench is a folder with an image to be and some passphrases, whose files are named after them.
type workbench struct {
	t          *testing.T
	dir, image string
}

func newWorkbench(t *testing.T, sizeBytes int) *workbench {
	t.Helper()
	w := &workbench{t: t, dir: t.TempDir()}
	w.image = testenv.WriteFile(t, filepath.Join(w.dir, "image"), make([]byte, sizeBytes))
	return w
}

// key is the file with a passphrase.
func (w *workbench) key(passphrase string) string {
	w.t.Helper()
	return testenv.WriteFile(w.t, filepath.Join(w.dir, "key-"+passphrase), []byte(passphrase))
}

// good runs luksgate and expects success; it returns standard output.
func good(t *testing.T, args ...string) string {
	t.Helper()
	r := luksgate(t, args...)
	if r.ExitCode != exitOK {
		t.Fatalf("%s", r)
	}
	return r.Stdout
}

// bad runs luksgate and expects an exit code and a text on standard error.
func bad(t *testing.T, code int, text string, args ...string) {
	t.Helper()
	r := luksgate(t, args...)
	if r.ExitCode != code || !strings.Contains(r.Stderr, text) {
		t.Errorf("luksgate %s: want exit code %d and %q\n%s", strings.Join(args, " "), code, text, r)
	}
}

func (w *workbench) format(version int, args ...string) *workbench {
	w.t.Helper()
	args = append([]string{"format", "file:" + w.image, "--type", fmt.Sprintf("luks%d", version), "--key-file", w.key("one")}, args...)
	good(w.t, append(args, cheap...)...)
	return w
}

// opens lets cryptsetup judge which passphrases there are.
func (w *workbench) opens(passphrase string, want bool) {
	w.t.Helper()
	r := testenv.Try(w.t, "cryptsetup", "open", "--test-passphrase", "--key-file", w.key(passphrase), w.image)
	if (r.ExitCode == 0) != want {
		w.t.Errorf("%s: want that it opens: %v\n%s", passphrase, want, r)
	}
}

// dump is what cryptsetup says of the header, with runs of blanks as one.
func (w *workbench) dump() string {
	w.t.Helper()
	return regexp.MustCompile(`[ \t]+`).ReplaceAllString(testenv.Run(w.t, "cryptsetup", "luksDump", w.image), " ")
}

// TestFormat makes images that cryptsetup describes as asked for, and that the gateway writes and reads.
func TestFormat(t *testing.T) {
	const uuid = "01234567-89ab-cdef-0123-456789abcdef"
	for _, c := range []struct {
		name    string
		version int
		args    []string
		dump    []string
	}{
		{"luks1", 1, nil, []string{"Version: 1", "Cipher mode: xts-plain64", "MK bits: 512", "Hash spec: sha256", "Iterations: 1000"}},
		{"luks1 aes-128", 1, []string{"--cipher", "aes-128", "--kdf-hash", "sha512"}, []string{"MK bits: 256", "Hash spec: sha512"}},
		{"luks2", 2, nil, []string{"Version: 2", "offset: 16777216", "cipher: aes-xts-plain64", "sector: 4096", "Key: 512 bits"}},
		{"luks2 aes-128", 2, []string{"--cipher", "aes-128", "--sector-size", "512", "--label", "my label", "--uuid", uuid},
			[]string{"Label: my label", "UUID: " + uuid, "sector: 512", "Key: 256 bits", "PBKDF: pbkdf2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorkbench(t, 24<<20).format(c.version, c.args...)
			w.opens("one", true)
			w.opens("two", false)
			for _, want := range c.dump {
				if dump := w.dump(); !strings.Contains(dump, want) {
					t.Errorf("want %q\n%s", want, dump)
				}
			}
			g := export(t, "file:"+w.image, "--key-file", w.key("one"), "--holes", "decrypt") // as qemu has it
			testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 0x5a 12345 4000000", "-c", "read -P 0x5a 12345 4000000")
			plain := filepath.Join(w.dir, "plain")
			testenv.Run(t, "nbdcopy", g.uri, plain)
			g.stop(t)
			if c.version == 1 { // qemu knows no LUKS2
				testenv.Run(t, "qemu-img", "compare", "--object", "secret,id=k,file="+w.key("one"), "--image-opts",
					"driver=luks,key-secret=k,file.filename="+w.image, "driver=raw,file.filename="+plain)
			}
		})
	}
}

// TestFormatArgon2 gives the costs, of which cryptsetup reads the same.
func TestFormatArgon2(t *testing.T) {
	w := newWorkbench(t, 17<<20)
	good(t, "format", "file:"+w.image, "--type", "luks2", "--key-file", w.key("one"),
		"--kdf", "argon2i", "--kdf-passes", "5", "--kdf-memory", "128K", "--kdf-threads", "1")
	w.opens("one", true)
	for _, want := range []string{"PBKDF: argon2i\n", "Time cost: 5", "Memory: 128", "Threads: 1"} {
		if dump := w.dump(); !strings.Contains(dump, want) {
			t.Errorf("want %q\n%s", want, dump)
		}
	}
	r := luksgate(t, "format", "file:"+w.image, "--type", "luks2", "--key-file", w.key("two"), "--force", "--kdf-target", "1ms")
	if r.ExitCode != exitOK || !strings.Contains(r.Stderr, "Measuring argon2id") {
		t.Errorf("no word of the measurement\n%s", r)
	}
	w.opens("two", true)
	// Whatever the target, a measured keyslot has 64 MiB at least.
	socket := filepath.Join(testenv.SocketDir(t), "s")
	bad(t, exitNotLUKS, "over the limit", "export", "file:"+w.image, "--key-file", w.key("two"), "--kdf-memory-limit", "1M", "--socket", socket)
	bad(t, exitUsage, "--kdf-memory-limit", "export", "file:"+w.image, "--key-file", w.key("two"), "--kdf-memory-limit", "5G", "--socket", socket)
}

// TestFormatRefuses leaves what is there alone, until it is told otherwise.
func TestFormatRefuses(t *testing.T) {
	w := newWorkbench(t, 24<<20).format(2)
	again := append([]string{"format", "file:" + w.image, "--type", "luks1", "--key-file", w.key("two")}, cheap...)
	bad(t, exitGeneral, "a LUKS header (--force", again...)
	bad(t, exitGeneral, "a LUKS header (--force", append(again, "--yes")...)
	w.opens("one", true)
	good(t, append(again, "--force")...)
	w.opens("two", true)
	w.opens("one", false)

	for name, c := range map[string]struct {
		content string
		at      int
		text    string
	}{
		"data": {"x", 10 << 20, "data at byte 10485760"}, "file system": {"\x53\xef", 0x438, "ext2/3/4"},
		"secondary header": {"", 0, "secondary"},
	} {
		w := newWorkbench(t, 24<<20)
		b := make([]byte, 24<<20)
		if name == "secondary header" {
			w.format(2)
			var err error
			if b, err = os.ReadFile(w.image); err != nil {
				t.Fatal(err)
			}
			clear(b[:4096])
		}
		copy(b[c.at:], c.content)
		testenv.WriteFile(t, w.image, b)
		bad(t, exitGeneral, "", append([]string{"format", "file:" + w.image, "--type", "luks2", "--key-file", w.key("two")}, cheap...)...)
		if now, err := os.ReadFile(w.image); err != nil || !bytes.Equal(now, b) {
			t.Errorf("%s: the image was changed (%v)", name, err)
		}
	}
	empty := newWorkbench(t, 16<<20)
	r := luksgate(t, append([]string{"format", "file:" + empty.image, "--type", "luks2", "--key-file", empty.key("one")}, cheap...)...)
	if r.ExitCode != exitOK || !strings.Contains(r.Stderr, "no room for data") {
		t.Errorf("%s", r)
	}
	small := newWorkbench(t, 4<<20)
	bad(t, exitGeneral, "the image ends at 4194304", append([]string{"format", "file:" + small.image, "--type", "luks2", "--key-file", small.key("one")}, cheap...)...)
}

// TestMaintenanceUsage tries what cannot be meant.
func TestMaintenanceUsage(t *testing.T) {
	w := newWorkbench(t, 17<<20)
	img, one := "file:"+w.image, w.key("one")
	format := []string{"format", img, "--key-file", one, "--type"}
	for text, args := range map[string][]string{
		"--type luks1 or --type luks2": {"format", img, "--key-file", one},
		`"luks3"`:                      append(format, "luks3"),
		`"aes-512"`:                    append(format, "luks2", "--cipher", "aes-512"),
		"--sector-size 4095":           append(format, "luks2", "--sector-size", "4095"),
		"sectors of 512 bytes only":    append(format, "luks1", "--sector-size", "4096"),
		"no label":                     append(format, "luks1", "--label", "x"),
		"longer than 47":               append(format, "luks2", "--label", strings.Repeat("x", 48)),
		`UUID "x"`:                     append(format, "luks2", "--uuid", "x"),
		"LUKS1 has pbkdf2 only":        append(format, "luks1", "--kdf", "argon2id"),
		`--kdf "scrypt"`:               append(format, "luks2", "--kdf", "scrypt"),
		"this is argon2id":             append(format, "luks2", "--kdf-iterations", "5000"),
		"this is pbkdf2":               append(format, "luks2", "--kdf", "pbkdf2", "--kdf-memory", "1M"),
		"--kdf-iterations 999":         append(format, "luks2", "--kdf", "pbkdf2", "--kdf-iterations", "999"),
		"--kdf-passes 3":               append(format, "luks2", "--kdf-passes", "3"),
		`--kdf-memory "31K"`:           append(format, "luks2", "--kdf-memory", "31K"),
		"at most 1024 GiB in all":      append(format, "luks2", "--kdf-memory", "4G", "--kdf-passes", "4000000000"),
		"--kdf-threads 5":              append(format, "luks2", "--kdf-threads", "5"),
		"--kdf-hash":                   append(format, "luks2", "--kdf", "pbkdf2", "--kdf-hash", "md5"),
		"--kdf-target":                 append(format, "luks2", "--kdf-target", "2h"),
		"name the new passphrase":      {"format", img, "--type", "luks2"},
		"empty memory":                 {"format", "mem:32M", "--type", "luks2", "--key-file", one},
		"is a snapshot":                {"key", "remove", "rbd:a/b@c", "--keyslot", "0"},
		"--new-key-file":               {"key", "add", img, "--key-file", one},
		"same descriptor 3":            {"key", "add", img, "--key-fd", "3", "--new-key-fd", "3"},
		"exclude each other":           {"key", "remove", img, "--keyslot", "0", "--key-file", one},
		"or its keyslot":               {"key", "remove", img},
		"--keyslot -1":                 {"key", "remove", img, "--keyslot", "-1"},
		"command is missing":           {"key"},
		"unknown command":              {"header", "bakcup"},
		"accepts 2 arg":                {"header", "backup", img},
	} {
		bad(t, exitUsage, text, args...)
	}
	if b, err := os.ReadFile(w.image); err != nil || !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("the image was changed (%v)", err)
	}
}

// TestKeys adds, changes and removes passphrases, which cryptsetup must see.
func TestKeys(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("luks%d", version), func(t *testing.T) {
			w := newWorkbench(t, 17<<20).format(version)
			img := "file:" + w.image
			add := append([]string{"key", "add", img, "--key-file", w.key("one"), "--new-key-file", w.key("two")}, cheap...)
			if out := good(t, append(add, "--keyslot", "5")...); out != "keyslot 5\n" {
				t.Errorf("add prints %q", out)
			}
			bad(t, exitGeneral, "keyslot 5 is in use", append(add, "--keyslot", "5")...)
			bad(t, exitGeneral, "no such keyslot", append(add, "--keyslot", "32")...)
			w.opens("one", true)
			w.opens("two", true)

			change := append([]string{"key", "change", img, "--key-file", w.key("one"), "--new-key-file", w.key("three")}, cheap...)
			bad(t, exitWrongPassphrase, "no keyslot opens", append(change, "--keyslot", "5")...)
			want := map[int]string{1: "keyslot 1\n", 2: "keyslot 0\n"}[version]
			if out := good(t, change...); out != want {
				t.Errorf("change prints %q, want %q", out, want)
			}
			bad(t, exitWrongPassphrase, "no keyslot opens", change...)
			w.opens("one", false)
			w.opens("three", true)

			var slots []luks.Keyslot
			if err := json.Unmarshal([]byte(good(t, "key", "list", img, "--json")), &slots); err != nil || len(slots) != 2 ||
				slots[1].ID != 5 || slots[1].KDF.Iterations != 1000 {
				t.Errorf("%v: %+v", err, slots)
			}
			if out := good(t, "key", "list", img); !strings.Contains(out, "keyslot 5  pbkdf2 sha256, 1000 iterations\n") {
				t.Errorf("list prints\n%s", out)
			}
			good(t, "key", "remove", img, "--key-file", w.key("three"))
			w.opens("three", false)
			w.opens("two", true)
			bad(t, exitGeneral, "nobody can open the image (--force", "key", "remove", img, "--keyslot", "5")
			bad(t, exitGeneral, "keyslot 0 is not in use", "key", "remove", img, "--keyslot", "0")
			w.opens("two", true)
			good(t, "key", "remove", img, "--keyslot", "5", "--force")
			w.opens("two", false)
		})
	}
}

// TestKeyPriority has cryptsetup show the priorities, and the gateway heed them.
func TestKeyPriority(t *testing.T) {
	w := newWorkbench(t, 17<<20).format(2)
	img := "file:" + w.image
	good(t, append([]string{"key", "add", img, "--key-file", w.key("one"), "--new-key-file", w.key("two"), "--priority", "ignore"}, cheap...)...)
	if dump := w.dump(); !strings.Contains(dump, "Priority: ignored") {
		t.Errorf("%s", dump)
	}
	change := append([]string{"key", "change", img, "--key-file", w.key("two"), "--new-key-file", w.key("three")}, cheap...)
	bad(t, exitWrongPassphrase, "no keyslot opens", change...)
	good(t, append(change, "--keyslot", "1", "--priority", "prefer")...)
	if dump := w.dump(); !strings.Contains(dump, "Priority: preferred") {
		t.Errorf("%s", dump)
	}
	bad(t, exitUsage, `"high"`, append(change, "--priority", "high")...)
	bad(t, exitUsage, "LUKS1 has none", append([]string{"key", "add", "file:" + newWorkbench(t, 4<<20).format(1).image, "--key-file", w.key("one"),
		"--new-key-file", w.key("two"), "--priority", "prefer"}, cheap...)...)
}

// TestMaintenanceIsAlone finds the image in use, by the gateway and by qemu.
func TestMaintenanceIsAlone(t *testing.T) {
	w := newWorkbench(t, 17<<20).format(2)
	img := "file:" + w.image
	g := export(t, img, "--key-file", w.key("one"))
	for _, args := range [][]string{
		{"format", img, "--type", "luks2", "--key-file", w.key("two"), "--force"},
		{"key", "remove", img, "--keyslot", "0", "--force"},
		{"header", "repair", img},
	} {
		bad(t, exitBusy, "in use", args...)
	}
	g.stop(t)
	w.opens("one", true)
}

// TestKeysForQemu replaces the passphrase of an image whose data qemu encrypted, and qemu opens it.
func TestKeysForQemu(t *testing.T) {
	foreign := testenv.NewLUKSFile(t, testenv.LUKSOptions{Version: 1, Passphrase: []byte("one"), Plaintext: randomBytes(1<<20, 91)})
	w := newWorkbench(t, 0)
	w.image = foreign.Path
	good(t, append([]string{"key", "add", "file:" + w.image, "--key-file", w.key("one"), "--new-key-file", w.key("two")}, cheap...)...)
	good(t, "key", "remove", "file:"+w.image, "--key-file", w.key("one"))
	open := func(passphrase string) testenv.Result {
		return testenv.Try(t, "qemu-img", "compare", "--object", "secret,id=k,file="+w.key(passphrase), "--image-opts",
			"driver=luks,key-secret=k,file.filename="+w.image, "driver=raw,file.filename="+foreign.PlaintextPath)
	}
	if r := open("two"); r.ExitCode != 0 {
		t.Errorf("%s", r)
	}
	if r := open("one"); r.ExitCode == 0 {
		t.Errorf("qemu opens it with the passphrase that was removed\n%s", r)
	}
	w.opens("two", true)
}
