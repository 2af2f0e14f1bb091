// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/image"
)

func newFile(t *testing.T, size int64) string {
	path := filepath.Join(t.TempDir(), "img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRandomOperations(t *testing.T) {
	const size = 300_032
	m, err := Open(newFile(t, size), false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	model := make([]byte, size)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		off := rng.Int64N(size)
		n := rng.Int64N(min(size-off, 100_000) + 1)
		p := make([]byte, n)
		cut := rng.Int64N(n + 1)
		iov := [][]byte{p[:cut], p[cut:]}
		switch rng.IntN(3) {
		case 0:
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			copy(model[off:], p)
			err = m.WriteAt(iov, off, rng.IntN(4) == 0)
		case 1:
			if n > 0 {
				clear(model[off : off+n])
				err = m.Discard(off, n)
			}
		default:
			if err = m.ReadAt(iov, off); !bytes.Equal(p, model[off:off+n]) {
				t.Fatalf("read %d+%d differs", off, n)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestAdvance(t *testing.T) {
	iov := [][]byte{make([]byte, 3), make([]byte, 5), make([]byte, 2)}
	for n := range 11 {
		left := 0
		for _, b := range advance(iov, n) {
			left += len(b)
		}
		if left != 10-n {
			t.Errorf("after %d of 10 bytes %d are left", n, left)
		}
	}
	if len(iov[0]) != 3 {
		t.Error("the caller's iov was changed")
	}
}

func TestExtents(t *testing.T) {
	const size = 1 << 20
	m, err := Open(newFile(t, size), false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.WriteAt([][]byte{bytes.Repeat([]byte{1}, 65536)}, 262144, false); err != nil {
		t.Fatal(err)
	}
	got, err := m.Extents(0, size, make([]volume.Extent, 0, 8))
	want := []volume.Extent{{LengthBytes: 262144, Hole: true}, {LengthBytes: 65536}, {LengthBytes: size - 327680, Hole: true}}
	if err != nil || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %v %v, want %v", got, err, want)
	}
	one, err := m.Extents(262144+10, 20, make([]volume.Extent, 0, 1))
	if err != nil || len(one) != 1 || one[0] != (volume.Extent{LengthBytes: 20}) {
		t.Errorf("got %v %v", one, err)
	}
}

func TestLocks(t *testing.T) {
	path := newFile(t, 1<<20)
	w, err := Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		if _, err := Open(path, readOnly); !errors.Is(err, image.ErrBusy) {
			t.Errorf("second open, read-only %v: got %v, want ErrBusy", readOnly, err)
		}
	}
	qemuIO := testenv.Tool(t, "qemu-io")
	out, err := exec.Command(qemuIO, "-f", "raw", "-c", "write 0 512", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "lock") {
		t.Errorf("qemu-io writes an image that luksgate has open: %s", out)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r1, err := Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer r1.Close()
	r2, err := Open(path, true)
	if err != nil {
		t.Fatalf("two readers exclude each other: %v", err)
	}
	defer r2.Close()
	if _, err := Open(path, false); !errors.Is(err, image.ErrBusy) {
		t.Errorf("a writer beside readers: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, path := range []string{"/nonexistent/image", t.TempDir(), "/dev/null"} {
		if _, err := Open(path, true); !errors.Is(err, image.ErrUnreachable) {
			t.Errorf("%s: got %v, want ErrUnreachable", path, err)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("the error does not name the file: %v", err)
		}
	}
}

func TestShrunkFile(t *testing.T) {
	path := newFile(t, 8192)
	m, err := Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if err := m.ReadAt([][]byte{make([]byte, 8192)}, 0); err == nil {
		t.Error("reading past the end of a file that was cut succeeded")
	}
}

// TestStandby opens a file beside its user, and holds it when that one has gone.
func TestStandby(t *testing.T) {
	path := newFile(t, 8192)
	first, err := Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	next, err := OpenStandby(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := next.Hold(false); !errors.Is(err, image.ErrBusy) {
		t.Errorf("held beside its user: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := next.Hold(false); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, false); !errors.Is(err, image.ErrBusy) {
		t.Errorf("opened beside one that holds it: %v", err)
	}
}
