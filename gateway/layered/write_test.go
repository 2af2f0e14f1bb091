// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
)

// TestWritesAgainstModel writes, zeroes and trims through two gateways in turn, between snapshots, and reads everything.
func TestWritesAgainstModel(t *testing.T) {
	seeds(t, 150, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		gates := []*Stack{w.open(&memClient{m: w.m}), w.open(&memClient{m: w.m})}
		for i := range 40 {
			s := gates[w.r.IntN(2)]
			offset, next, err := w.step(s)
			w.must(err)
			w.settle(gates[w.r.IntN(2)], "step", offset, next)
			if w.r.IntN(15) == 0 {
				w.snaps[w.m.snapshot()] = bytes.Clone(w.model)
			}
			if i%10 == 9 {
				w.check("end", gates[w.r.IntN(2)])
			}
		}
	})
}

// TestInterference has another gateway take the lock, write to the same objects and make snapshots between any two steps
// of a request.
func TestInterference(t *testing.T) {
	seeds(t, 150, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		other := w.open(&memClient{m: w.m})
		mine := &memClient{m: w.m}
		s := w.open(mine)
		var busy [2]int64 // the range of the request under way, which the other one leaves alone
		snapshot := map[uint64][]byte{}
		mine.before = func(string) error {
			if w.r.IntN(4) > 0 || len(w.model) == 0 {
				return nil
			}
			if w.r.IntN(4) == 0 {
				snapshot[w.m.snapshot()] = bytes.Clone(w.model)
			}
			offset, length := w.pick(int64(len(w.model)))
			if offset/4096 <= busy[1]/4096 && (offset+length)/4096 >= busy[0]/4096 {
				return nil
			}
			p := randomData(w.r, length)
			w.must(other.WriteAt(bytes.Clone(p), offset, false))
			copy(w.model[offset:], p)
			return nil
		}
		for range 25 {
			if len(w.model) == 0 {
				return
			}
			offset, length := w.pick(int64(len(w.model)))
			busy = [2]int64{offset, offset + length}
			p := randomData(w.r, length)
			w.must(s.WriteAt(bytes.Clone(p), offset, false))
			// A snapshot from the middle of the request has any of both.
			for snap, model := range snapshot {
				l := w.layer(&memClient{m: w.m, snap: snap})
				old := w.model
				w.model = model
				w.settle(New(append([]*Layer{l}, w.lower...), w.base), "snapshot", offset, p)
				w.model, w.snaps[snap] = old, model
				delete(snapshot, snap)
			}
			copy(w.model[offset:], p)
			busy = [2]int64{-1 << 30, -1 << 30}
		}
		mine.before = nil
		w.check("this gateway", s)
		w.check("the other gateway", other)
	})
}

// TestDeath ends a gateway before, or right after, any operation on the cluster, and looks through a new one.
func TestDeath(t *testing.T) {
	seeds(t, 150, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		for range 12 {
			left := w.r.IntN(6)
			c := &memClient{m: w.m}
			c.before = func(string) error {
				if left--; left < 0 {
					return errDead
				}
				return nil
			}
			s := w.open(c)
			for {
				offset, next, err := w.step(s)
				if err != nil && !errors.Is(err, errDead) {
					t.Fatalf("seed %d: %v", seed, err)
				}
				w.settle(w.open(&memClient{m: w.m}), "death", offset, next)
				if err != nil {
					break
				}
				if len(w.model) == 0 {
					return
				}
			}
			if w.r.IntN(4) == 0 {
				w.snaps[w.m.snapshot()] = bytes.Clone(w.model)
			}
			w.check("the next gateway", w.open(&memClient{m: w.m}))
		}
	})
}

// TestManyWriters has goroutines write to ranges of their own, side by side in the same objects, and reads meanwhile.
func TestManyWriters(t *testing.T) {
	seeds(t, 40, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		c := &memClient{m: w.m}
		s := w.open(c)
		const slice = 700
		var wg sync.WaitGroup
		for i := int64(0); i*slice < int64(len(w.model)); i++ {
			mine := w.model[i*slice : min((i+1)*slice, int64(len(w.model)))]
			copy(mine, randomData(w.r, int64(len(mine))))
			p := bytes.Clone(mine)
			wg.Go(func() {
				if err := s.WriteAt(p, i*slice, false); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			})
			wg.Go(func() {
				got := make([]byte, len(mine))
				if err := s.ReadAt(got, i*slice); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			})
		}
		wg.Wait()
		w.check("end", s)
	})
}

// TestCopyUpAll copies up everything and takes the parent away.
func TestCopyUpAll(t *testing.T) {
	seeds(t, 60, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		c := &memClient{m: w.m}
		s := w.open(c)
		for range 5 {
			w.write(s, w.model)
		}
		w.snaps[w.m.snapshot()] = bytes.Clone(w.model)
		n, err := s.ObjectsShowing()
		w.must(err)
		for i := range n {
			w.must(s.CopyUp(i))
		}
		w.lower, w.base = nil, make(plain, 64<<10)
		for i := range w.base {
			w.base[i] = 0xaa
		}
		w.check("with another parent", w.open(c))
		w.m.overlap = 0
		w.check("without parent", w.open(c))
	})
}

// TestWhatIsAsked counts: what is known is not asked for again until another client has had the lock, and a snapshot is
// asked once.
func TestWhatIsAsked(t *testing.T) {
	base := plain(randomData(rand.New(rand.NewPCG(1, 1)), 64<<10))
	m := newMemImage(64<<10, 4096, 64<<10, func([]byte, int64) {})
	c, other := &memClient{m: m}, &memClient{m: m}
	open := func(c *memClient) *Stack {
		s, err := NewWritable([]*Layer{layerOf(c, 0, 512, 1)}, base)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(c)
	p := make([]byte, 100)
	asked := func(what string, stats, reads int, f func() error) {
		t.Helper()
		c.stats, c.reads = 0, 0
		if err := f(); err != nil {
			t.Fatal(err)
		}
		if c.stats != stats || c.reads != reads {
			t.Errorf("%s: %d stats and %d reads, want %d and %d", what, c.stats, c.reads, stats, reads)
		}
	}
	read := func() error { return s.ReadAt(p, 0) }
	write := func() error { return s.WriteAt(make([]byte, 512), 8192, false) }
	asked("a read without the lock", 0, 1, read)
	asked("another", 0, 1, read)
	asked("the first write", 1, 0, write)
	asked("the second", 0, 0, write)
	asked("a read with the lock", 0, 1, read)
	asked("another", 0, 0, read)
	if err := open(other).WriteAt(make([]byte, 512), 0, false); err != nil {
		t.Fatal(err)
	}
	asked("a read after another client's write", 0, 1, read)
	if p[0] != 0 || p[50] != 0 {
		t.Error("another client's write is not seen")
	}
	asked("a write after another client's", 1, 0, write)
	snap := &memClient{m: m, snap: m.snapshot()}
	v := New([]*Layer{layerOf(snap, 0, 512, 1)}, base)
	for range 3 {
		if err := v.ReadAt(p, 30000); err != nil {
			t.Fatal(err)
		}
	}
	if snap.reads != 1 {
		t.Errorf("a snapshot was asked %d times", snap.reads)
	}
}

// TestShrunkMeanwhile has another client make the image smaller while an object is copied up: that is told.
func TestShrunkMeanwhile(t *testing.T) {
	base := plain(bytes.Repeat([]byte{7}, 64<<10))
	m := newMemImage(64<<10, 4096, 64<<10, func([]byte, int64) {})
	c := &memClient{m: m}
	s, err := NewWritable([]*Layer{layerOf(c, 0, 512, 1)}, base)
	if err != nil {
		t.Fatal(err)
	}
	c.before = func(op string) error {
		if op == "create" {
			m.owner, m.overlap, m.epoch = nil, 4096, m.epoch+1
		}
		return nil
	}
	if err := s.WriteAt(make([]byte, 512), 8192, false); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
}
