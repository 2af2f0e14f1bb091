// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// importLUKS makes an RBD image of a LUKS file, as Cinder does.
func importLUKS(t *testing.T, luks *testenv.LUKSFile, options ...string) string {
	t.Helper()
	spec := testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, append([]string{"import", "--no-progress", luks.Path, spec}, options...)...)
	testenv.OwnImage(t, spec)
	return spec
}

// usedBytes is what the image's objects take.
func usedBytes(t *testing.T, spec string) int64 {
	t.Helper()
	var du struct {
		Images []struct {
			Used int64 `json:"used_size"`
		} `json:"images"`
	}
	if err := json.Unmarshal([]byte(testenv.RBD(t, "du", "--format", "json", spec)), &du); err != nil || len(du.Images) != 1 {
		t.Fatalf("rbd du: %v", err)
	}
	return du.Images[0].Used
}

// TestUnalignedDataOffset has the data begin inside an object, as cryptsetup's and qemu's LUKS1 headers have it; librbd
// refuses such images.
func TestUnalignedDataOffset(t *testing.T) {
	testenv.CephConf(t)
	for _, bits := range []int{256, 512} {
		model := randomBytes(6<<20, uint64(bits))
		luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Version: 1, KeyBits: bits, Plaintext: model})
		if luks.DataOffsetBytes%(4<<20) == 0 {
			t.Fatalf("the data begin at %d, at an object's beginning", luks.DataOffsetBytes)
		}
		spec := importLUKS(t, luks)
		g := export(t, "rbd:"+spec, "--key-file", luks.PassphrasePath)
		testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, luks.PlaintextPath)
		qemuWrites(t, []string{"-f", "raw", g.uri}, model, 40, 1, uint64(bits))
		g.stop(t)
		g = export(t, "rbd:"+spec, "--key-file", luks.PassphrasePath)
		testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, testenv.WriteFile(t, luks.PlaintextPath+"2", model))
		g.stop(t)
	}
}

// TestTrimFreesSpace looks at what rbd says is used; librbd's own engine would write encrypted zeros instead.
func TestTrimFreesSpace(t *testing.T) {
	testenv.CephConf(t)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: randomBytes(16<<20, 31)})
	spec := importLUKS(t, luks)
	g := export(t, "rbd:"+spec, "--key-file", luks.PassphrasePath)
	before := usedBytes(t, spec)
	out := testenv.Run(t, "qemu-io", "-d", "unmap", "-f", "raw", g.uri, "-c", "discard 4M 8M", "-c", "read -P 0 4M 8M")
	if strings.Contains(out, "erification failed") {
		t.Errorf("what was trimmed does not read as zeros: %s", out)
	}
	if freed := before - usedBytes(t, spec); freed != 8<<20 {
		t.Errorf("TRIM of 8 MiB freed %d bytes", freed)
	}
	extents := testenv.Run(t, "nbdinfo", "--map", g.uri)
	if fields := strings.Fields(extents); len(fields) != 12 || fields[5] != "8388608" || fields[7] != "hole,zero" {
		t.Errorf("block status does not show the hole:\n%s", extents)
	}
	// Copies are sparse too.
	copied := filepath.Join(t.TempDir(), "copy")
	testenv.Run(t, "nbdcopy", g.uri, copied)
	var st syscall.Stat_t
	if err := syscall.Stat(copied, &st); err != nil || st.Size != 16<<20 || st.Blocks*512 > 9<<20 {
		t.Errorf("a copy of 16 MiB with a hole of 8 MiB takes %d bytes, %v", st.Blocks*512, err)
	}
	g.stop(t)
}

// TestZeroesForBothEngines writes zeros in each mode and looks at them through librbd's engine.
func TestZeroesForBothEngines(t *testing.T) {
	testenv.CephConf(t)
	m := newRBDImage(t, 40, "luks2", "aes-256").cheapKDF(t)
	model := randomBytes(24<<20, 41)
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "model"), model)
	for _, c := range []struct {
		mode  string
		freed int64
	}{{"object", 8 << 20}, {"encrypt", 0}} {
		g := export(t, "rbd:"+m.spec, "--key-file", m.key, "--zeroes", c.mode)
		testenv.Run(t, "nbdcopy", file, g.uri)
		before := usedBytes(t, m.spec)
		// From inside an object, over two whole ones, into another.
		testenv.Run(t, "qemu-io", "-f", "raw", "-d", "unmap", g.uri, "-c", "write -z -u 3000000 11000000", "-c", "flush")
		want := append([]byte{}, model...)
		clear(want[3000000:14000000])
		wantFile := testenv.WriteFile(t, filepath.Join(t.TempDir(), "want"), want)
		testenv.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", g.uri, wantFile)
		if freed := before - usedBytes(t, m.spec); freed != c.freed {
			t.Errorf("%s: freed %d bytes, want %d", c.mode, freed, c.freed)
		}
		g.stop(t)
		copied := filepath.Join(t.TempDir(), "copy")
		m.librbdRead(t, m.spec, copied)
		if got, err := os.ReadFile(copied); err != nil || string(got) != string(want) {
			t.Errorf("%s: librbd's engine reads something else (%v)", c.mode, err)
		}
	}
}

// TestHandOver has the gateway and librbd's engine write in turn, the gateway open all the time: the lock passes back and
// forth, and each sees the other's bytes at once.
func TestHandOver(t *testing.T) {
	testenv.CephConf(t)
	m := newRBDImage(t, 24, "luks2", "aes-256").cheapKDF(t)
	g := export(t, "rbd:"+m.spec, "--key-file", m.key)
	for round := range 4 {
		at := round * 65536
		testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", fmt.Sprintf("write -P %d %d 32k", 10+round, at), "-c", "flush")
		out := testenv.Run(t, "qemu-io", append(m.librbd(m.spec), "-c", fmt.Sprintf("read -P %d %d 32k", 10+round, at),
			"-c", fmt.Sprintf("write -P %d %d 32k", 100+round, at+32768), "-c", "flush")...)
		out += testenv.Run(t, "qemu-io", "-r", "-f", "raw", g.uri, "-c", fmt.Sprintf("read -P %d %d 32k", 100+round, at+32768))
		if strings.Contains(out, "failed") {
			t.Fatalf("round %d: %s", round, out)
		}
	}
	testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write 0 4k")
	g.waitOutput(t, "another client took the exclusive lock")
	g.waitOutput(t, "goes back and forth: two clients write")
	g.stop(t)
}

// TestTakeover breaks the lock of a living gateway, which must stop at once and say why.
func TestTakeover(t *testing.T) {
	testenv.CephConf(t)
	spec := testenv.NewImage(t, 8)
	old := export(t, "rbd:"+spec, "--plain", "--lock", "exclusive")
	testenv.Run(t, "qemu-io", "-f", "raw", old.uri, "-c", "write -P 1 0 4k", "-c", "flush")
	next := export(t, "rbd:"+spec, "--plain", "--lock", "exclusive", "--takeover")
	testenv.Run(t, "qemu-io", "-f", "raw", next.uri, "-c", "write -P 2 0 4k", "-c", "flush")
	r := testenv.Try(t, "qemu-io", "-f", "raw", old.uri, "-c", "write -P 3 0 4k", "-c", "flush")
	if r.ExitCode == 0 && !strings.Contains(r.Stdout+r.Stderr, "failed") {
		t.Errorf("the old gateway still writes: %s", r)
	}
	if code := old.Wait(); code != exitUnreachable {
		t.Errorf("the old gateway ends with %d, want %d\n%s", code, exitUnreachable, old.Output())
	}
	out := testenv.Run(t, "qemu-io", "-r", "-f", "raw", next.uri, "-c", "read -P 2 0 4k")
	if strings.Contains(out, "erification failed") {
		t.Errorf("the old gateway's bytes are in the image: %s", out)
	}
	if !strings.Contains(next.Output(), "breaking the exclusive lock") {
		t.Errorf("no word of the broken lock:\n%s", next.Output())
	}
	next.stop(t)
}

// TestLockRemoved takes the lock from a daemon that keeps it, without blocking it: metric and log tell, and the image is opened
// anew for the next client.
func TestLockRemoved(t *testing.T) {
	testenv.CephConf(t)
	spec := testenv.NewImage(t, 8)
	d := serveDaemon(t, fmt.Sprintf(`
exports:
  - {name: disk, image: "rbd:%s", plain: true, lock: exclusive, socket: DIR/disk.sock, ceph: {conf: %s}}
`, spec, os.Getenv(testenv.EnvCephConf)))
	if err := dial(t, d.socket("disk.sock")).doWrite(1, 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	var locks []struct{ ID, Locker string }
	if err := json.Unmarshal([]byte(testenv.RBD(t, "lock", "ls", "--format", "json", spec)), &locks); err != nil || len(locks) != 1 {
		t.Fatalf("%d locks, %v", len(locks), err)
	}
	testenv.RBD(t, "--rbd-blocklist-on-break-lock=false", "lock", "rm", spec, locks[0].ID, locks[0].Locker)
	d.wait("the loss is counted", func() bool { return strings.HasSuffix(d.metric("luksgate_rbd_lock_losses_total", "disk"), " 1") })
	if out := d.Output(); !strings.Contains(out, "the exclusive lock was lost") {
		t.Errorf("the log says nothing:\n%s", out)
	}
	out := testenv.Run(t, "qemu-io", "-f", "raw", "rbd:"+spec+":conf="+os.Getenv(testenv.EnvCephConf), "-c", "write -P 2 0 4k")
	out += testenv.Run(t, "qemu-io", "-f", "raw", d.uri("disk", "disk.sock"), "-c", "read -P 2 0 4k", "-c", "write 4k 4k")
	if strings.Contains(out, "failed") {
		t.Errorf("%s", out)
	}
	d.stop()
}

// TestWritersWithoutLock has two gateways write unaligned neighbours of an image without the exclusive-lock feature.
func TestWritersWithoutLock(t *testing.T) {
	testenv.CephConf(t)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20)})
	spec := importLUKS(t, luks, "--image-feature", "layering")
	args := []string{"rbd:" + spec, "--key-file", luks.PassphrasePath, "--lock", "none"}
	gates := []*gate{export(t, args...), export(t, args...)}
	const pieces, size = 40, 700
	done := make(chan error, len(gates))
	for i, g := range gates {
		go func() {
			commands := []string{"-f", "raw", g.uri}
			for p := i; p < pieces; p += len(gates) {
				commands = append(commands, "-c", fmt.Sprintf("write -P %d %d %d", p+1, p*size, size))
			}
			r := testenv.Try(t, "qemu-io", append(commands, "-c", "flush")...)
			if r.ExitCode != 0 || strings.Contains(r.Stdout+r.Stderr, "failed") {
				done <- fmt.Errorf("%s", r)
				return
			}
			done <- nil
		}()
	}
	for range gates {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	got := filepath.Join(t.TempDir(), "copy")
	testenv.Run(t, "nbdcopy", gates[0].uri, got)
	b, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	for p := range pieces {
		for i := range size {
			if b[p*size+i] != byte(p+1) {
				t.Fatalf("byte %d of piece %d is %d: a neighbour's write lost it", i, p, b[p*size+i])
			}
		}
	}
	for _, g := range gates {
		g.stop(t)
	}
}

// TestResizeWhileExported grows the image under a running export: new connections see the new size.
func TestResizeWhileExported(t *testing.T) {
	testenv.CephConf(t)
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: randomBytes(8<<20, 51)})
	spec := importLUKS(t, luks)
	g := export(t, "rbd:"+spec, "--key-file", luks.PassphrasePath)
	size := func() string { return strings.TrimSpace(testenv.Run(t, "nbdinfo", "--size", g.uri)) }
	if got := size(); got != strconv.Itoa(8<<20) {
		t.Fatalf("size %s", got)
	}
	testenv.RBD(t, "resize", "--no-progress", "--size", "28M", spec)
	g.waitOutput(t, "now=29360128")
	if got := size(); got != strconv.Itoa(12<<20) {
		t.Fatalf("after the resize: size %s\n%s", got, g.Output())
	}
	testenv.Run(t, "qemu-io", "-f", "raw", g.uri, "-c", "write -P 9 11M 1M")
	g.stop(t)
}
