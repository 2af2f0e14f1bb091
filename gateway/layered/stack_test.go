// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"bytes"
	"errors"
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
	mu      sync.Mutex
	asked   map[int64]int
	fail    error
}

func (f *fake) SizeBytes() int64 { return int64(len(f.data)) }

func (f *fake) ReadAt(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(len(f.data)) {
		return fmt.Errorf("read of %d at %d is outside %d bytes", len(p), off, len(f.data))
	}
	copy(p, f.data[off:])
	return nil
}

func (f *fake) ObjectBytes() int64           { return f.object }
func (f *fake) OverlapBytes() (int64, error) { return f.overlap, nil }
func (f *fake) Fixed() bool                  { return f.fixed }

func (f *fake) Exists(number int64) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[number]++
	return f.objects[number], f.fail
}

func newFake(r *rand.Rand, size, object int64) *fake {
	f := &fake{data: make([]byte, size), objects: map[int64]bool{}, object: object, asked: map[int64]int{}}
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
		var layers []*Layer
		for i := range 1 + r.IntN(4) {
			f := newFake(r, 1+r.Int64N(3000), 32<<r.IntN(4))
			f.overlap, f.fixed = r.Int64N(4000), i > 0
			layers = append(layers, &Layer{Source: f, Objects: f, DataOffsetBytes: r.Int64N(600)})
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

// TestWhatIsRemembered asks a snapshot once and an image each time, and forgets failures.
func TestWhatIsRemembered(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, fixed := range []bool{true, false} {
		f, base := newFake(r, 1024, 64), newFake(r, 1024, 64)
		f.fixed, f.overlap, f.fail = fixed, 1024, errors.New("no answer")
		stack := New([]*Layer{{Source: f, Objects: f}}, base)
		p := make([]byte, 64)
		if err := stack.ReadAt(p, 0); !errors.Is(err, f.fail) {
			t.Fatalf("an error is lost: %v", err)
		}
		f.fail = nil
		for range 3 {
			if err := stack.ReadAt(p, 0); err != nil {
				t.Fatal(err)
			}
		}
		if want := map[bool]int{true: 2, false: 4}[fixed]; f.asked[0] != want {
			t.Errorf("fixed %v: asked %d times, want %d", fixed, f.asked[0], want)
		}
		f.objects[0] = !f.objects[0]
		if err := stack.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if own := bytes.Equal(p, f.data[:64]); !fixed && own != f.objects[0] {
			t.Error("a change of the image is not seen")
		}
	}
}
