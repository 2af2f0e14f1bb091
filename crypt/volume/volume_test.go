// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/xts"

	"github.com/luksgate/luksgate/crypt/workers"
)

// memStore is a Store in memory. fail, where set, is asked before each operation.
type memStore struct {
	mu    sync.Mutex
	data  []byte
	holes []Extent
	// object is the size of an object, 0 if there are none.
	object int64
	fail   func(op string) error
}

func (m *memStore) SizeBytes() int64 { return int64(len(m.data)) }

func (m *memStore) ask(op string) error {
	if m.fail != nil {
		return m.fail(op)
	}
	return nil
}

func (m *memStore) ReadAt(iov [][]byte, off int64) error {
	if err := m.ask("read"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range iov {
		off += int64(copy(b, m.data[off:]))
	}
	return nil
}

func (m *memStore) WriteAt(iov [][]byte, off int64, _ bool) error {
	if err := m.ask("write"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range iov {
		off += int64(copy(m.data[off:], b))
	}
	return nil
}

func (m *memStore) Flush() error { return m.ask("flush") }

func (m *memStore) Discard(off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.data[off : off+n])
	return nil
}

func (m *memStore) Zero(off, n int64) error { return m.Discard(off, n) }
func (m *memStore) ObjectBytes() int64      { return m.object }

func (m *memStore) CompareAndWrite(old, next []byte, off int64) (bool, error) {
	if err := m.ask("swap"); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Equal(m.data[off:off+int64(len(old))], old) {
		return false, nil
	}
	copy(m.data[off:], next)
	return true, nil
}

func (m *memStore) Extents(off, n int64, dst []Extent) ([]Extent, error) {
	pos := int64(0)
	for _, e := range m.holes {
		lo, hi := max(pos, off), min(pos+e.LengthBytes, off+n)
		if lo < hi && len(dst) < cap(dst) {
			dst = append(dst, Extent{LengthBytes: hi - lo, Hole: e.Hole})
		}
		pos += e.LengthBytes
	}
	return dst, nil
}

// refCipher is AES-XTS by golang.org/x/crypto, one sector at a time: the judge of what a volume writes.
type refCipher struct {
	c      *xts.Cipher
	sector int
}

func newRefCipher(t testing.TB, sector int) refCipher {
	c, err := xts.NewCipher(aes.NewCipher, bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 9}, 8))
	if err != nil {
		t.Fatal(err)
	}
	return refCipher{c, sector}
}

func (r refCipher) Encrypt(dst, src []byte, iv uint64) { r.each(dst, src, iv, r.c.Encrypt) }
func (r refCipher) Decrypt(dst, src []byte, iv uint64) { r.each(dst, src, iv, r.c.Decrypt) }

func (r refCipher) each(dst, src []byte, iv uint64, f func(dst, src []byte, n uint64)) {
	for i := 0; i < len(src); i += r.sector {
		f(dst[i:i+r.sector], src[i:i+r.sector], iv)
		iv += uint64(r.sector / 512)
	}
}

// splitRunner cuts every task in single grains on goroutines of their own.
type splitRunner struct{}

func (splitRunner) Run(task workers.Task, units, grain int) {
	var wg sync.WaitGroup
	for lo := 0; lo < units; lo += grain {
		wg.Go(func() { task.Do(lo, min(lo+grain, units)) })
	}
	wg.Wait()
}

type fixture struct {
	store *memStore
	vol   *Volume
	ref   refCipher
	geo   Geometry
}

func newFixture(t testing.TB, sector int, dataOffset, size int64, holes Holes) *fixture {
	store := &memStore{data: make([]byte, dataOffset+size+100)}
	geo, err := NewGeometry(store.SizeBytes(), dataOffset, 0, sector, 7)
	if err != nil {
		t.Fatal(err)
	}
	ref := newRefCipher(t, sector)
	vol, err := New(store, ref, splitRunner{}, Options{Geometry: geo, Holes: holes})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{store, vol, ref, geo}
}

// plaintext decrypts the whole store with the reference cipher; all-zero sectors stay zero.
func (f *fixture) plaintext() []byte {
	out := bytes.Clone(f.store.data[f.geo.DataOffsetBytes:][:f.geo.SizeBytes])
	for pos := 0; pos < len(out); pos += f.geo.SectorBytes {
		s := out[pos : pos+f.geo.SectorBytes]
		if !bytes.Equal(s, make([]byte, len(s))) {
			f.ref.Decrypt(s, s, f.geo.IVOffset+uint64(pos)/512)
		}
	}
	return out
}

// TestRandomOperations holds the volume against a plain byte slice, and what it stored against the reference cipher.
func TestRandomOperations(t *testing.T) {
	for i, sector := range []int{512, 1024, 2048, 4096, 512, 4096} {
		t.Run(fmt.Sprint(sector), func(t *testing.T) {
			const size = 1 << 20
			f := newFixture(t, sector, 2068480, size, HolesZero)
			f.store.object = 64 << 10
			f.vol.opts.Zeroes = Zeroes(i % 3)
			if i >= 4 {
				f.vol.swap = f.store
			}
			model := make([]byte, size)
			rng := rand.New(rand.NewPCG(1, uint64(sector)))
			for step := range 1500 {
				off := rng.Int64N(size)
				n := min(rng.Int64N(1+rng.Int64N(3*int64(sector)+70000)), size-off)
				if rng.IntN(3) == 0 {
					off, n = off&^511, min(n&^511+512, size-off&^511)
				}
				f.randomStep(t, rng, model, off, n, step)
			}
			if !bytes.Equal(f.plaintext(), model) {
				t.Fatal("what is stored does not decrypt to the model")
			}
		})
	}
}

func (f *fixture) randomStep(t *testing.T, rng *rand.Rand, model []byte, off, n int64, step int) {
	t.Helper()
	buf := make([]byte, n)
	var err error
	switch rng.IntN(8) {
	case 0:
		err = f.vol.WriteZeroes(off, n, ZeroOptions{FUA: rng.IntN(2) == 0, NoHole: rng.IntN(4) == 0})
		clear(model[off : off+n])
	case 1:
		err = f.vol.Trim(off, n)
		if start, end := f.geo.inner(off, n); start < end {
			clear(model[start:end])
		}
	case 2, 3, 4:
		for i := range buf {
			buf[i] = byte(rng.Uint32())
		}
		copy(model[off:], buf)
		err = f.vol.WriteAt(buf, off, false)
	default:
		err = f.vol.ReadAt(buf, off)
		if !bytes.Equal(buf, model[off:off+n]) {
			t.Fatalf("step %d: read %d+%d differs from the model", step, off, n)
		}
	}
	if err != nil {
		t.Fatalf("step %d: %d+%d: %v", step, off, n, err)
	}
}

// TestConcurrentNeighbours writes neighbouring ranges that share sectors from many goroutines: none may lose a byte.
func TestConcurrentNeighbours(t *testing.T) {
	f := newFixture(t, 4096, 1<<20, 64<<10, HolesZero)
	const writers, piece = 16, 1000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for round := range 60 {
				p := bytes.Repeat([]byte{byte(w*60 + round)}, piece)
				if err := f.vol.WriteAt(p, int64(w*piece), false); err != nil {
					t.Error(err)
				}
				if err := f.vol.ReadAt(p, int64(w*piece)); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(p, bytes.Repeat([]byte{byte(w*60 + round)}, piece)) {
					t.Errorf("writer %d round %d: bytes lost", w, round)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestNoTornSectors overwrites whole sectors while others read them: a reader sees one write, not a mixture.
func TestNoTornSectors(t *testing.T) {
	f := newFixture(t, 512, 0, 8192, HolesZero)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for round := range 200 {
				p := make([]byte, 8192)
				for s := 0; s < len(p); s += 8 {
					binary.LittleEndian.PutUint64(p[s:], uint64(w*1000+round)|1<<40)
				}
				_ = f.vol.WriteAt(p, 0, false)
			}
		})
		wg.Go(func() {
			p := make([]byte, 8192)
			for range 200 {
				_ = f.vol.ReadAt(p, 0)
				for s := 0; s < len(p); s += 512 {
					if !bytes.Equal(p[s:s+504], p[s+8:s+512]) {
						t.Errorf("torn sector at %d", s)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestHoles(t *testing.T) {
	zero := newFixture(t, 4096, 4096, 64<<10, HolesZero)
	p := bytes.Repeat([]byte{0xff}, 64<<10)
	if err := zero.vol.ReadAt(p, 0); err != nil || !bytes.Equal(p, make([]byte, len(p))) {
		t.Fatalf("holes=zero: never-written sectors do not read as zeros (%v)", err)
	}
	dec := newFixture(t, 4096, 4096, 64<<10, HolesDecrypt)
	want := make([]byte, 64<<10)
	dec.ref.Decrypt(want, want, dec.geo.IVOffset)
	if err := dec.vol.ReadAt(p, 0); err != nil || !bytes.Equal(p, want) {
		t.Fatalf("holes=decrypt: differs from what dm-crypt reads (%v)", err)
	}
	// An unaligned write into a hole keeps the zeros around it.
	if err := zero.vol.WriteAt([]byte("abc"), 5000, false); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	if err := zero.vol.ReadAt(got, 4096); err != nil {
		t.Fatal(err)
	}
	wantSector := make([]byte, 4096)
	copy(wantSector[904:], "abc")
	if !bytes.Equal(got, wantSector) {
		t.Fatal("an unaligned write into a hole changed its neighbours")
	}
}

func TestExtents(t *testing.T) {
	f := newFixture(t, 4096, 4096, 64<<10, HolesZero)
	f.store.holes = []Extent{
		{4096, false}, {8192, true}, {512, true}, {1024, false}, {10000, true}, {3000, true}, {512, false}, {1 << 20, true},
	}
	// Sectors, counted from the data offset: 0,1 holes; 2 is mixed; 3,4 holes; then what ends inside a sector is data.
	want := []Extent{{8192, true}, {4096, false}, {4096, true}}
	got, err := f.vol.Extents(0, 64<<10, make([]Extent, 0, 16))
	if err != nil || len(got) < 3 {
		t.Fatalf("%v %v", got, err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("extent %d: got %v, want %v (all: %v)", i, got[i], want[i], got)
		}
	}
	sum := int64(0)
	for _, e := range got {
		sum += e.LengthBytes
	}
	if sum != 64<<10 {
		t.Errorf("extents add up to %d, want %d: %v", sum, 64<<10, got)
	}
	one, err := f.vol.Extents(100, 200, make([]Extent, 0, 1))
	if err != nil || len(one) != 1 || one[0] != (Extent{200, true}) {
		t.Errorf("inside one sector: %v %v", one, err)
	}
}

func TestFaults(t *testing.T) {
	f := newFixture(t, 4096, 4096, 64<<10, HolesZero)
	for _, op := range []string{"read", "write", "flush"} {
		f.store.fail = func(o string) error {
			if o == op {
				return syscall.EIO
			}
			return nil
		}
		before := bytes.Clone(f.store.data)
		errs := map[string]error{
			"read":  f.vol.ReadAt(make([]byte, 4096), 0),
			"write": f.vol.WriteAt(make([]byte, 100), 50, false),
			"flush": f.vol.Flush(),
		}
		if op == "read" && errs["write"] == nil {
			t.Error("an unaligned write succeeded although its sector could not be read")
		}
		if !errors.Is(errs[op], syscall.EIO) {
			t.Errorf("%s: got %v, want EIO", op, errs[op])
		}
		if op != "flush" && !bytes.Equal(before, f.store.data) {
			t.Errorf("a failed %s changed the store", op)
		}
	}
	// Everything is unlocked again.
	f.store.fail = nil
	if err := f.vol.WriteAt(make([]byte, 64<<10), 0, true); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	f := newFixture(t, 4096, 4096, 64<<10, HolesZero)
	size := f.vol.SizeBytes()
	for _, c := range []struct{ off, n int64 }{{-1, 1}, {size, 1}, {size - 1, 2}, {1 << 62, 1}} {
		if f.vol.ReadAt(make([]byte, c.n), c.off) == nil || f.vol.WriteAt(make([]byte, c.n), c.off, false) == nil ||
			f.vol.Trim(c.off, c.n) == nil || f.vol.WriteZeroes(c.off, c.n, ZeroOptions{}) == nil {
			t.Errorf("range %d+%d was accepted", c.off, c.n)
		}
	}
	ro, err := New(f.store, f.ref, splitRunner{}, Options{Geometry: f.geo, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := ro.WriteAt(make([]byte, 1), 0, false); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write on a read-only volume: %v", err)
	}
	if _, err := NewGeometry(1000, 2000, 0, 512, 0); err == nil {
		t.Error("a data offset outside the image was accepted")
	}
	if _, err := NewGeometry(1<<20, 4096, 1<<20, 512, 0); err == nil {
		t.Error("a segment longer than the image was accepted")
	}
}

func BenchmarkReadAligned4K(b *testing.B) {
	f := newFixture(b, 4096, 4096, 64<<10, HolesZero)
	f.vol.runner = inlineRunner{}
	p := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		_ = f.vol.ReadAt(p, 8192)
	}
}

type inlineRunner struct{}

func (inlineRunner) Run(task workers.Task, units, _ int) { task.Do(0, units) }

// TestNoAllocations proves that an aligned request allocates nothing in steady state.
func TestNoAllocations(t *testing.T) {
	f := newFixture(t, 4096, 4096, 64<<10, HolesZero)
	f.vol.runner = inlineRunner{}
	p := make([]byte, 8192)
	n := testing.AllocsPerRun(200, func() {
		_ = f.vol.WriteAt(p, 4096, false)
		_ = f.vol.ReadAt(p, 4096)
	})
	if n >= 1 && !raceEnabled {
		t.Errorf("%v allocations per write and read, want 0", n)
	}
}

// TestZeroModes looks at what each mode leaves in the store.
func TestZeroModes(t *testing.T) {
	const object = 16 << 10
	for _, c := range []struct {
		mode    Zeroes
		off, n  int64
		freed   []int64 // plaintext range that is zero bytes in the store
		options ZeroOptions
		fast    bool // Fast is accepted
	}{
		{mode: ZeroesObject, off: 0, n: 64 << 10, freed: []int64{12 << 10, 64 << 10}}, // the header's object is not freed
		{mode: ZeroesObject, off: 4096, n: 40 << 10, freed: []int64{12 << 10, 44 << 10}},
		{mode: ZeroesObject, off: 12 << 10, n: 16 << 10, freed: []int64{12 << 10, 28 << 10}, fast: true},
		{mode: ZeroesObject, off: 4096, n: 8192},
		{mode: ZeroesObject, off: 0, n: 64 << 10, options: ZeroOptions{NoHole: true}},
		{mode: ZeroesEncrypt, off: 0, n: 64 << 10},
		{mode: ZeroesPunch, off: 100, n: 9000, freed: []int64{4096, 8192}},
		{mode: ZeroesPunch, off: 4096, n: 8192, freed: []int64{4096, 12288}, fast: true},
	} {
		// The data begin in the middle of an object, 12 KiB before the next one; the image ends with the data.
		f := newFixture(t, 4096, 4096, 64<<10, HolesZero)
		f.store.data = f.store.data[:4096+64<<10]
		f.store.object, f.vol.opts.Zeroes = object, c.mode
		p := bytes.Repeat([]byte{7}, 64<<10)
		if err := f.vol.WriteAt(p, 0, false); err != nil {
			t.Fatal(err)
		}
		fast := c.options
		fast.Fast = true
		before := bytes.Clone(f.store.data)
		err := f.vol.WriteZeroes(c.off, c.n, fast)
		if (err == nil) != c.fast || err != nil && (!errors.Is(err, syscall.ENOTSUP) || !bytes.Equal(before, f.store.data)) {
			t.Errorf("%+v: fast: %v", c, err)
		}
		if err := f.vol.WriteZeroes(c.off, c.n, c.options); err != nil {
			t.Fatal(err)
		}
		for pos := int64(0); pos < 64<<10; pos += 4096 {
			zero := isZero(f.store.data[4096+pos:][:4096])
			want := len(c.freed) == 2 && pos >= c.freed[0] && pos < c.freed[1]
			if zero != want {
				t.Errorf("%+v: sector at %d is zero bytes: %v, want %v", c, pos, zero, want)
			}
		}
		want := bytes.Repeat([]byte{7}, 64<<10)
		clear(want[c.off : c.off+c.n])
		if !bytes.Equal(f.plaintext(), want) {
			t.Errorf("%+v: reads as something else", c)
		}
	}
}

// TestSharedStore has two volumes on one store, as two gateways without a lock: unaligned writes into one sector by both
// must all be there.
func TestSharedStore(t *testing.T) {
	f := newFixture(t, 4096, 0, 16<<10, HolesZero)
	var vols [2]*Volume
	for i := range vols {
		v, err := New(f.store, f.ref, splitRunner{}, Options{Geometry: f.geo, Shared: true})
		if err != nil {
			t.Fatal(err)
		}
		vols[i] = v
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for range 50 {
				if err := vols[w%2].WriteAt(bytes.Repeat([]byte{byte(w + 1)}, 500), int64(w*500+3800), false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := f.plaintext()
	for w := range 8 {
		if !bytes.Equal(got[w*500+3800:][:500], bytes.Repeat([]byte{byte(w + 1)}, 500)) {
			t.Errorf("bytes of writer %d are lost", w)
		}
	}
	f.store.fail = func(op string) error {
		if op == "swap" {
			f.store.data[100]++ // somebody else, every time
		}
		return nil
	}
	if err := vols[0].WriteAt([]byte{1}, 50, false); !errors.Is(err, syscall.EIO) {
		t.Errorf("a sector that never stays: %v, want EIO", err)
	}
}

func TestResize(t *testing.T) {
	f := newFixture(t, 4096, 4096, 64<<10, HolesZero)
	f.store.data = append(f.store.data, make([]byte, 8192)...)
	if err := f.vol.Resize(); err != nil || f.vol.SizeBytes() != 72<<10 {
		t.Fatalf("%d %v", f.vol.SizeBytes(), err)
	}
	if err := f.vol.WriteAt(make([]byte, 100), 70<<10, false); err != nil {
		t.Error(err)
	}
	f.store.data = f.store.data[:8192]
	if err := f.vol.Resize(); err != nil || f.vol.SizeBytes() != 4096 {
		t.Fatalf("%d %v", f.vol.SizeBytes(), err)
	}
	if err := f.vol.ReadAt(make([]byte, 100), 70<<10); !errors.Is(err, syscall.EIO) {
		t.Errorf("beyond the new end: %v, want EIO", err)
	}
}
