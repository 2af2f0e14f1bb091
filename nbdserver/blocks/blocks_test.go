// SPDX-License-Identifier: Apache-2.0

package blocks

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

// sizes are whole blocks, less, more, and a mapping.
var sizes = []int64{1, 100, Bytes, 5*Bytes + 1000, mapBytes}

func newMemory(t *testing.T, size int64) *Memory {
	t.Helper()
	m, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// adopt writes p as a server does, or returns false.
func adopt(m *Memory, p []byte, offset int64, giveUp bool) bool {
	pieces := m.Spare(offset, int64(len(p)), nil)
	if len(pieces) == 0 {
		return false
	}
	for _, piece := range pieces {
		p = p[copy(piece, p):]
	}
	if giveUp {
		m.GiveUp(pieces)
		return false
	}
	m.Adopt(offset, pieces)
	return true
}

// TestRandomOperations compares memory with a slice.
func TestRandomOperations(t *testing.T) {
	for _, size := range sizes {
		m := newMemory(t, size)
		region := min(size, 8*Bytes) // the model's, at the end
		base := size - region
		model := make([]byte, region)
		rng := rand.New(rand.NewPCG(3, 4))
		noise := make([]byte, region+1000)
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		adopted := 0
		for range 300 {
			off := rng.Int64N(region)
			n := 1 + rng.Int64N(region-off)
			if rng.IntN(2) == 0 { // whole blocks
				off = off / Bytes * Bytes
				n = min(region-off, (n+Bytes-1)/Bytes*Bytes)
			}
			p := make([]byte, n)
			switch op := rng.IntN(6); op {
			case 0, 1, 2:
				copy(p, noise[rng.IntN(1000):])
				switch {
				case op == 0:
					m.WriteAt(p, base+off)
				case op == 1:
					adopt(m, p, base+off, true)
					continue
				case !adopt(m, p, base+off, false):
					continue
				default:
					adopted++
				}
				copy(model[off:], p)
			case 3:
				m.Zero(base+off, n)
				clear(model[off : off+n])
			default:
				if m.ReadAt(p, base+off); !bytes.Equal(p, model[off:off+n]) {
					t.Fatalf("size %d: read %d+%d differs", size, off, n)
				}
			}
		}
		if adopted == 0 {
			t.Errorf("size %d: nothing was adopted", size)
		}
	}
}

// TestSpareBlocksComeBack takes all there are.
func TestSpareBlocksComeBack(t *testing.T) {
	m := newMemory(t, 8*Bytes)
	for range 10 {
		all := m.Spare(100, 4*Bytes-100, nil)
		if len(all) != 4 || len(m.Spare(0, 1, nil)) != 0 {
			t.Fatalf("%d pieces", len(all))
		}
		m.GiveUp(all)
		if adopt(m, make([]byte, 4*Bytes+1), 0, false) {
			t.Fatal("more than there are")
		}
		if !adopt(m, make([]byte, 4*Bytes), 0, false) {
			t.Fatal("not all came back")
		}
	}
}

// TestBlocksAreWhole writes in every way while others look.
func TestBlocksAreWhole(t *testing.T) {
	m := newMemory(t, 4*Bytes)
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for i := range 3 {
		writers.Go(func() {
			for round := range 50 {
				p := bytes.Repeat([]byte{byte(i*50 + round)}, 2*Bytes)
				if i != 1 || !adopt(m, p, Bytes, false) {
					m.WriteAt(p, Bytes)
				}
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for block := int64(1); block <= 2; block++ {
					p := m.Lend(block*Bytes, Bytes)
					if !bytes.Equal(p[1:], p[:len(p)-1]) {
						t.Error("a block is a mixture")
					}
					m.TakeBack(block * Bytes)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}
