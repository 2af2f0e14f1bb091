// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestRandomOperations(t *testing.T) {
	const size = 300_001
	m, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	model := make([]byte, size)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		off := rng.Int64N(size)
		n := rng.Int64N(min(size-off, 150_000) + 1)
		p := make([]byte, n)
		cut := rng.Int64N(n + 1)
		iov := [][]byte{p[:cut], p[cut:]}
		switch rng.IntN(3) {
		case 0:
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			copy(model[off:], p)
			err = m.WriteAt(iov, off, false)
		case 1:
			clear(model[off : off+n])
			err = m.Discard(off, n)
		default:
			if err = m.ReadAt(iov, off); !bytes.Equal(p, model[off:off+n]) {
				t.Fatalf("read %d+%d differs", off, n)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, size := range []int64{-1, maxBytes + 1} {
		if _, err := New(size); err == nil {
			t.Errorf("size %d was accepted", size)
		}
	}
	m, err := New(0)
	if err != nil || m.SizeBytes() != 0 {
		t.Fatalf("%v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}
