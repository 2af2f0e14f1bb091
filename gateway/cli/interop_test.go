// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway"
)

func randomBytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte(bytes.Repeat(binary.LittleEndian.AppendUint64(nil, seed), 4)))
	_, _ = rng.Read(b)
	return b
}

// TestForeignImages reads images whose payload other programs have encrypted, in every format, key and sector size.
func TestForeignImages(t *testing.T) {
	for _, o := range []testenv.LUKSOptions{
		{Version: 1, KeyBits: 256}, {Version: 1, KeyBits: 512},
		{Version: 2, KeyBits: 256, SectorBytes: 512}, {Version: 2, KeyBits: 512, SectorBytes: 1024},
		{Version: 2, KeyBits: 256, SectorBytes: 2048}, {Version: 2, KeyBits: 512, SectorBytes: 4096},
	} {
		t.Run(fmt.Sprintf("luks%d-%d-%d", o.Version, o.KeyBits, o.SectorBytes), func(t *testing.T) {
			o.Plaintext = randomBytes(3<<20, uint64(o.KeyBits+o.SectorBytes))
			luks := testenv.NewLUKSFile(t, o)
			g := export(t, "file:"+luks.Path, "--key-file", luks.PassphrasePath, "--read-only")
			testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, luks.PlaintextPath)
			got := filepath.Join(t.TempDir(), "copy")
			testenv.Run(t, "nbdcopy", "--requests=16", g.uri, got)
			if b, err := os.ReadFile(got); err != nil || !bytes.Equal(b, o.Plaintext) {
				t.Errorf("nbdcopy reads something else (%v)", err)
			}
			r := testenv.Try(t, "qemu-io", "-f", "raw", g.uri, "-c", "write 0 4k")
			if r.ExitCode == 0 {
				t.Errorf("a read-only export was written\n%s", r)
			}
			g.stop(t)
		})
	}
}

// TestWriteReadBack writes through the gateway, ends it, starts it again and compares the whole content.
func TestWriteReadBack(t *testing.T) {
	model := randomBytes(4<<20, 1)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: model})
	g := export(t, "file:"+luks.Path, "--key-file", luks.PassphrasePath)
	qemuWrites(t, []string{"-f", "raw", g.uri}, model, 60, 1, 2)
	g.stop(t)
	g = export(t, "file:"+luks.Path, "--key-file", luks.PassphrasePath)
	testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, testenv.WriteFile(t, filepath.Join(t.TempDir(), "m"), model))
	g.stop(t)
}

// qemuWrites lets qemu-io write random data at random places, multiples of unit bytes, and keeps model in step. target
// are qemu-io's arguments for the image.
func qemuWrites(t *testing.T, target []string, model []byte, count, unit int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 99))
	data := randomBytes(1<<20, seed)
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "data"), data)
	args := append([]string{}, target...)
	for i := range count {
		off := rng.IntN(len(model)/unit) * unit
		n := min(1+rng.IntN(300_000), len(model)-off)
		if i%4 == 0 {
			n = min(1+rng.IntN(5000), len(model)-off)
		}
		if n = n / unit * unit; n == 0 {
			n = unit
		}
		switch rng.IntN(6) {
		case 0:
			args = append(args, "-c", fmt.Sprintf("write -z %d %d", off, n))
			clear(model[off : off+n])
		case 1:
			args = append(args, "-c", "flush")
			fallthrough
		default:
			// qemu-io repeats the file's content, from its beginning.
			args = append(args, "-c", fmt.Sprintf("write -s %s %d %d", file, off, n))
			copy(model[off:off+n], data)
		}
	}
	out := testenv.Run(t, "qemu-io", append(args, "-c", "flush")...)
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Fatalf("qemu-io: %s", out)
	}
}

// TestPlain serves a file as it is, and warns where that is ciphertext.
func TestPlain(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: randomBytes(1<<20, 3)})
	g := export(t, "file:"+luks.Path, "--plain", "--read-only")
	testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, luks.Path)
	g.stop(t)
	if !strings.Contains(g.Output(), "ciphertext") {
		t.Errorf("no warning about ciphertext:\n%s", g.Output())
	}
}

// TestClientDiesInWrite sends half of a WRITE's payload and goes: the image must not change, and others are served on.
func TestClientDiesInWrite(t *testing.T) {
	model := randomBytes(4<<20, 5)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: model})
	g := export(t, "file:"+luks.Path, "--key-file", luks.PassphrasePath)
	for _, length := range []int{4096, 1 << 20} {
		c := dial(t, g.socket)
		// A whole write first, which must be kept.
		c.writeHeader(1, 0, 512)
		whole := randomBytes(512, uint64(length))
		c.write(whole)
		copy(model, whole)
		if cookie, errno := c.reply(); cookie != 1 || errno != 0 {
			t.Fatalf("reply %d, error %d", cookie, errno)
		}
		c.writeHeader(2, 1<<20, uint32(length))
		c.write(randomBytes(length-7, 6))
		c.c.Close()
	}
	testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, testenv.WriteFile(t, filepath.Join(t.TempDir(), "m"), model))
	g.stop(t)
}

// TestStopUnderLoad ends the gateway while a client writes: everything that was answered is kept.
func TestStopUnderLoad(t *testing.T) {
	const blocks = 512
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, blocks*4096)})
	g := export(t, "file:"+luks.Path, "--key-file", luks.PassphrasePath)
	c := dial(t, g.socket)
	answered := make(map[uint64]bool)
	time.AfterFunc(50*time.Millisecond, func() { g.Signal(os.Interrupt) })
	for cookie := range uint64(blocks) {
		if !c.tryWrite(cookie, cookie*4096, bytes.Repeat([]byte{byte(cookie + 1)}, 4096)) {
			break
		}
		answered[cookie] = true
		time.Sleep(time.Millisecond / 2)
	}
	if code := g.Wait(); code != 0 {
		t.Fatalf("SIGINT: exit code %d\n%s", code, g.Output())
	}
	if len(answered) == 0 || len(answered) == blocks {
		t.Logf("%d of %d writes were answered before the end", len(answered), blocks)
	}
	g = export(t, "file:"+luks.Path, "--key-file", luks.PassphrasePath)
	got := filepath.Join(t.TempDir(), "copy")
	testenv.Run(t, "nbdcopy", g.uri, got)
	b, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	for cookie := range answered {
		if !bytes.Equal(b[cookie*4096:][:4096], bytes.Repeat([]byte{byte(cookie + 1)}, 4096)) {
			t.Fatalf("write %d was answered and is not there", cookie)
		}
	}
}

// tryWrite writes and waits for the answer; false when the server has gone.
func (r *rawClient) tryWrite(cookie, offset uint64, p []byte) bool {
	h := binary.BigEndian.AppendUint32(nil, 0x25609513)
	h = append(h, 0, 0, 0, 1)
	h = binary.BigEndian.AppendUint64(h, cookie)
	h = binary.BigEndian.AppendUint64(h, offset)
	h = binary.BigEndian.AppendUint32(h, uint32(len(p)))
	if _, err := r.c.Write(append(h, p...)); err != nil {
		return false
	}
	var reply [16]byte
	for got := 0; got < len(reply); {
		n, err := r.c.Read(reply[got:])
		if err != nil {
			return false
		}
		got += n
	}
	return binary.BigEndian.Uint32(reply[4:]) == 0 && binary.BigEndian.Uint64(reply[8:]) == cookie
}

// TestInspectJSON compares with what the image was made with.
func TestInspectJSON(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{KeyBits: 256, SectorBytes: 512, Plaintext: make([]byte, 1<<20)})
	r := luksgate(t, "inspect", "file:"+luks.Path, "--json")
	var got gateway.Report
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil || r.ExitCode != 0 {
		t.Fatalf("%v\n%s", err, r)
	}
	if got.Format != "luks2" || got.Header == nil || got.Header.KeyBytes != 32 || got.Header.SectorBytes != 512 ||
		got.Header.DataOffsetBytes != luks.DataOffsetBytes || got.DataBytes != 1<<20 || len(got.Header.Keyslots) != 1 ||
		got.Header.Keyslots[0].KDF.Type != "pbkdf2" {
		t.Errorf("%+v\n%+v", got, got.Header)
	}
}

// TestXMLDisk prints a disk for the export's URI; package attach has the tests of what is in it.
func TestXMLDisk(t *testing.T) {
	r := luksgate(t, "xml", "disk", "--uri", "nbd+unix:///vm1?socket=/run/luksgate/vm1.sock", "--target", "vda")
	for _, want := range []string{`protocol="nbd"`, `name="vm1"`, `socket="/run/luksgate/vm1.sock"`, `dev="vda"`, `error_policy="stop"`} {
		if r.ExitCode != 0 || !strings.Contains(r.Stdout, want) {
			t.Errorf("want %s\n%s", want, r)
		}
	}
}

// TestVersion names the kernel that was forced.
func TestVersion(t *testing.T) {
	cmd := command("version", "--json")
	cmd.Env = append(cmd.Env, "LUKSGATE_XTS=portable")
	r := testenv.RunCmd(t, cmd)
	var got versionInfo
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil || got.XTS != "portable" || got.Go == "" || got.Librbd == "" {
		t.Errorf("%v %s", err, r)
	}
}
