// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
)

// A world is a chain in memory whose first image is written, with the bytes that it is expected to hold.
type world struct {
	t      *testing.T
	seed   uint64
	r      *rand.Rand
	m      *memImage
	lower  []*Layer // the levels below, read-only
	base   plain
	offset int64 // of the first level's data
	sector int
	model  []byte
	snaps  map[uint64][]byte
}

// randomData has long runs of zeros, as disks do.
func randomData(r *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	for i := int64(0); i < n; {
		run := min(1+r.Int64N(3000), n-i)
		if r.IntN(3) > 0 {
			for j := range run {
				p[i+j] = byte(r.Uint32())
			}
		}
		i += run
	}
	return p
}

// newWorld makes a chain of a plaintext image, up to two levels with keys of their own, and one to be written. The raw bytes
// of each parent, which librbd would copy up, are noise.
func newWorld(t *testing.T, seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 2))
	w := &world{t: t, seed: seed, r: r, base: randomData(r, 1+r.Int64N(40<<10)), snaps: map[uint64][]byte{}}
	noise := func(p []byte, _ int64) {
		for i := range p {
			p[i] = 0xbb
		}
	}
	shown := []byte(w.base)
	for range r.IntN(3) {
		m, offset, sector := w.image(noise)
		c := &memClient{m: m}
		l := layerOf(c, offset, sector, byte(r.Uint32()))
		// What it shows, from the bottom up.
		view := make([]byte, l.Source.SizeBytes())
		copy(view, shown[:OverlapBytes(m.overlap, offset, int64(len(shown)))])
		s, err := NewWritable(append([]*Layer{l}, w.lower...), w.base)
		if err != nil {
			t.Fatal(err)
		}
		for range r.IntN(8) {
			w.write(s, view)
		}
		snap := m.snapshot()
		for range 3 { // the snapshot does not see these
			w.write(s, bytes.Clone(view))
		}
		w.lower = append([]*Layer{layerOf(&memClient{m: m, snap: snap}, offset, sector, l.Source.(memTarget).key())}, w.lower...)
		shown = view
	}
	w.m, w.offset, w.sector = w.image(noise)
	w.model = make([]byte, w.layer(&memClient{m: w.m}).Source.SizeBytes())
	copy(w.model, shown[:OverlapBytes(w.m.overlap, w.offset, int64(len(shown)))])
	return w
}

// image makes an image with random sizes. Its first objects hold the header.
func (w *world) image(noise func([]byte, int64)) (m *memImage, offset int64, sector int) {
	sector = 512 << w.r.IntN(4)
	object := int64(4096 << w.r.IntN(3))
	offset = object * w.r.Int64N(3)
	size := offset + 1 + w.r.Int64N(48<<10)
	m = newMemImage(size, object, w.r.Int64N(size+1), noise)
	for n := range offset / object {
		m.create(n, bytes.Repeat([]byte{0xcc}, int(object)), 0)
	}
	return m, offset, sector
}

func (t memTarget) key() byte {
	p := make([]byte, t.SectorBytes())
	t.Encrypt(p, 0)
	return p[0]
}

const topKey = 0x5a

func (w *world) layer(c *memClient) *Layer { return layerOf(c, w.offset, w.sector, topKey) }

// open is a gateway.
func (w *world) open(c *memClient) *Stack {
	w.t.Helper()
	s, err := NewWritable(append([]*Layer{w.layer(c)}, w.lower...), w.base)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// pick is a random range of n bytes.
func (w *world) pick(n int64) (offset, length int64) {
	if n == 0 {
		return 0, 0
	}
	offset = w.r.Int64N(n)
	length = min([]int64{1, 100, 512, 4096, 20000}[w.r.IntN(5)], n-offset)
	if w.r.IntN(3) == 0 {
		offset = offset / 4096 * 4096
	}
	return offset, 1 + w.r.Int64N(length)
}

// write does one random write to s and the model.
func (w *world) write(s *Stack, model []byte) {
	offset, length := w.pick(int64(len(model)))
	p := randomData(w.r, length)
	q := bytes.Clone(p)
	if length > 0 {
		w.must(s.WriteAt(q, offset, false))
	}
	copy(model[offset:], p)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("seed %d: %v", w.seed, err)
	}
}

// step does one random operation. It returns the range that it changes, and what may be there afterwards besides what was.
func (w *world) step(s *Stack) (offset int64, next []byte, err error) {
	offset, length := w.pick(int64(len(w.model)))
	next = make([]byte, length)
	if length == 0 {
		return 0, nil, nil
	}
	switch w.r.IntN(6) {
	case 0, 1, 2:
		next = randomData(w.r, length)
		err = s.WriteAt(bytes.Clone(next), offset, w.r.IntN(2) == 0)
	case 3:
		err = s.Trim(offset, length)
	default:
		opts := ZeroOptions{NoHole: w.r.IntN(3) == 0, Fast: w.r.IntN(4) == 0}
		if err = s.WriteZeroes(offset, length, opts); opts.Fast && errors.Is(err, syscall.ENOTSUP) {
			return 0, nil, nil
		}
		if err == nil {
			copy(w.model[offset:], next) // certain
		}
	}
	return offset, next, err
}

// settle takes from s what may have become of a range: each chunk of 512 bytes is what it was, or next. certain is how
// much of it must be next.
func (w *world) settle(s *Stack, what string, offset int64, next []byte) {
	w.t.Helper()
	got := make([]byte, len(next))
	if len(next) == 0 {
		return
	}
	w.must(s.ReadAt(got, offset))
	for i := 0; i < len(got); {
		n := min(512-int(offset+int64(i))%512, len(got)-i)
		old := w.model[offset+int64(i):][:n]
		if !bytes.Equal(got[i:i+n], next[i:i+n]) && !bytes.Equal(got[i:i+n], old) {
			w.t.Fatalf("seed %d: %s at %d+%d: chunk at %d is neither old nor new", w.seed, what, offset, len(next), offset+int64(i))
		}
		copy(old, got[i:i+n])
		i += n
	}
}

// check reads everything, snapshots too.
func (w *world) check(what string, s *Stack) {
	w.t.Helper()
	if w.m.rawUp > 0 {
		w.t.Fatalf("seed %d: %s: raw bytes of the parent were copied up", w.seed, what)
	}
	w.compare(what, s, w.model)
	for snap, model := range w.snaps {
		l := w.layer(&memClient{m: w.m, snap: snap})
		w.compare(fmt.Sprintf("%s, snapshot %d", what, snap), New(append([]*Layer{l}, w.lower...), w.base), model)
	}
}

func (w *world) compare(what string, s *Stack, model []byte) {
	w.t.Helper()
	got := make([]byte, len(model))
	w.must(s.ReadAt(got, 0))
	for i := range got {
		if got[i] != model[i] {
			w.t.Fatalf("seed %d: %s: byte %d is %#x, want %#x", w.seed, what, i, got[i], model[i])
		}
	}
}

func seeds(t *testing.T, n int, f func(t *testing.T, seed uint64)) {
	first := rand.Uint64() >> 16
	t.Logf("seeds from %d on", first)
	for i := range uint64(n) {
		f(t, first+i)
	}
}
