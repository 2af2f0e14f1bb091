// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// fake is a level in memory: its plaintext, and the objects that exist.
type fake struct {
	data    []byte
	objects map[int64]bool
	object  int64
	overlap int64
	fixed   bool
	base    bool
	data0   int64 // the data offset
}

func (f *fake) SizeBytes() int64 { return int64(len(f.data)) }

func (f *fake) ReadAt(p []byte, off int64) error {
	if f.object > 0 && !f.base {
		number := (off + f.data0) / f.object
		if (off+f.data0+int64(len(p))-1)/f.object != number {
			return fmt.Errorf("read of %d at %d goes beyond object %d", len(p), off, number)
		}
		if !f.objects[number] {
			return ErrAbsent
		}
	}
	if off < 0 || off+int64(len(p)) > int64(len(f.data)) {
		return fmt.Errorf("read of %d at %d is outside %d bytes", len(p), off, len(f.data))
	}
	copy(p, f.data[off:])
	return nil
}

func (f *fake) ObjectBytes() int64           { return f.object }
func (f *fake) OverlapBytes() (int64, error) { return f.overlap, nil }
func (f *fake) Epoch() (uint64, bool)        { return 0, f.fixed }

func (f *fake) Stat(number int64) (bool, int64, error) { return f.objects[number], f.object, nil }

func newFake(r *rand.Rand, size, object int64) *fake {
	f := &fake{data: make([]byte, size), objects: map[int64]bool{}, object: object}
	for i := range f.data {
		f.data[i] = byte(r.Uint32())
	}
	for i := range size/object + 20 {
		f.objects[i] = r.IntN(2) == 0
	}
	return f
}

// model is what byte x of a level reads as, said byte by byte.
func model(layers []*Layer, base *fake, x int64) byte {
	if len(layers) == 0 {
		return base.data[x]
	}
	l, f := layers[0], layers[0].Source.(*fake)
	if f.objects[(x+l.DataOffsetBytes)/f.object] {
		return f.data[x]
	}
	below := base
	if len(layers) > 1 {
		below = layers[1].Source.(*fake)
	}
	if x+l.DataOffsetBytes >= f.overlap || x >= int64(len(below.data)) {
		return 0
	}
	return model(layers[1:], base, x)
}

// TestReadsAgainstModel reads random chains, with data offsets inside objects and objects of different sizes, from many
// goroutines.
func TestReadsAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		base := newFake(r, 1+r.Int64N(3000), 64)
		base.base = true
		var layers []*Layer
		for i := range 1 + r.IntN(4) {
			f := newFake(r, 1+r.Int64N(3000), 32<<r.IntN(4))
			f.overlap, f.fixed = r.Int64N(4000), i > 0
			f.data0 = r.Int64N(600)
			layers = append(layers, &Layer{Source: f, Objects: f, DataOffsetBytes: f.data0})
		}
		stack := New(layers, base)
		size := layers[0].Source.SizeBytes()
		var wg sync.WaitGroup
		for range 4 {
			start := r.Int64N(size)
			length := r.Int64N(size - start + 1)
			wg.Go(func() {
				got := bytes.Repeat([]byte{0xee}, int(length))
				if err := stack.ReadAt(got, start); err != nil {
					t.Errorf("seed %d: %v", seed, err)
					return
				}
				for i, b := range got {
					if want := model(layers, base, start+int64(i)); b != want {
						t.Errorf("seed %d: byte %d is %d, want %d", seed, start+int64(i), b, want)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}
