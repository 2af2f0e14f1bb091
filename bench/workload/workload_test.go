// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"compress/flate"
	"testing"
)

func TestRequestsStayInsideAndRepeat(t *testing.T) {
	const size = 1<<20 + 512 // the rest is never touched
	for _, k := range Kinds {
		w := Workload{Kind: k, BlockBytes: 4096, Depth: 1, Clients: 2, Images: 1}
		c, again, other := w.NewClient(7, 0, size), w.NewClient(7, 0, size), w.NewClient(7, 1, size)
		reads, writes, different := 0, 0, 0
		for n := range uint64(1000) {
			r := c.At(n)
			if r.OffsetBytes < 0 || r.OffsetBytes+4096 > 1<<20 || r.OffsetBytes%4096 != 0 {
				t.Fatalf("%s: request %d is at %d", k, n, r.OffsetBytes)
			}
			if r != again.At(n) {
				t.Fatalf("%s: request %d is another one the second time", k, n)
			}
			if r != other.At(n) {
				different++
			}
			if r.Write {
				writes++
			} else {
				reads++
			}
		}
		if k.Reads() != (reads > 0) || k.Writes() != (writes > 0) {
			t.Errorf("%s: %d reads and %d writes", k, reads, writes)
		}
		if k.Reads() && k.Writes() && (reads < 650 || reads > 750) {
			t.Errorf("%s: %d reads of 1000, expected 700 or so", k, reads)
		}
		if different < 900 && k.Random() {
			t.Errorf("%s: the second client does mostly what the first does", k)
		}
	}
}

func TestSequentialGoesOnAndRandomGoesEverywhere(t *testing.T) {
	w := Workload{Kind: SequentialRead, BlockBytes: 4096, Clients: 4}
	c := w.NewClient(1, 5, 1<<20) // the second client of the second image
	for n := range uint64(256) {
		if want := int64((64 + n) % 256 * 4096); c.At(n).OffsetBytes != want {
			t.Fatalf("request %d is at %d, expected %d", n, c.At(n).OffsetBytes, want)
		}
	}
	w.Kind = RandomRead
	c = w.NewClient(1, 0, 1<<20)
	seen := map[int64]bool{}
	for n := range uint64(4000) {
		seen[c.At(n).OffsetBytes] = true
	}
	if len(seen) != 256 {
		t.Errorf("4000 random requests touched %d of 256 blocks", len(seen))
	}
}

func TestNoiseDoesNotCompress(t *testing.T) {
	b, same := make([]byte, 1<<20), make([]byte, 1<<20)
	Noise(5, b)
	Noise(5, same)
	if !bytes.Equal(b, same) {
		t.Error("the same seed gave other bytes")
	}
	var out bytes.Buffer
	z, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil || out.Len() < len(b) {
		t.Errorf("%d bytes were compressed to %d (%v)", len(b), out.Len(), err)
	}
}

func TestMatrix(t *testing.T) {
	if n := len(Quick.Workloads()); n != 8 || Quick.Check() != nil {
		t.Errorf("quick has %d workloads (%v)", n, Quick.Check())
	}
	// 6 kinds, 4 sizes, 3 depths; and for each kind 8 clients and 16 images of the first size at the last depth.
	if n := len(Full.Workloads()); n != 6*4*3+6*(3+2) || Full.Check() != nil {
		t.Errorf("full has %d workloads (%v)", n, Full.Check())
	}
	for name, change := range map[string]func(*Matrix){
		"kind":  func(m *Matrix) { m.Kinds = []Kind{"walk"} },
		"size":  func(m *Matrix) { m.BlocksBytes = []int{1000} },
		"large": func(m *Matrix) { m.BlocksBytes = []int{64 << 20} },
		"depth": func(m *Matrix) { m.Depths = []int{0} },
		"none":  func(m *Matrix) { m.Clients = nil },
	} {
		m := Quick
		change(&m)
		if m.Check() == nil {
			t.Errorf("%s: nothing is wrong with %+v", name, m)
		}
	}
}
