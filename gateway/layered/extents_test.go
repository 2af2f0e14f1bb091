// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"testing"
)

// TestExtents maps random chains: what is called a hole reads as zeros, what is called the image's own is in one of its
// objects, and something is called a hole where nothing was written.
func TestExtents(t *testing.T) {
	holes := 0
	seeds(t, 100, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		s := w.open(&memClient{m: w.m})
		for range 6 {
			offset, next, err := w.step(s)
			w.must(err)
			w.settle(s, "step", offset, next)
		}
		room := 1 + w.r.IntN(40)
		for at := int64(0); at < int64(len(w.model)); {
			all, err := s.Extents(at, int64(len(w.model))-at, make([]Extent, 0, room))
			w.must(err)
			if len(all) == 0 || len(all) > room {
				t.Fatalf("seed %d: %d extents at %d", seed, len(all), at)
			}
			for i, e := range all {
				if i > 0 && all[i-1].Depth == e.Depth && all[i-1].Zero == e.Zero || e.LengthBytes <= 0 || e.Depth > len(s.layers)+1 {
					t.Fatalf("seed %d: at %d: %+v", seed, at, all)
				}
				holes += w.checkExtent(s, at, e)
				at += e.LengthBytes
			}
			if at > int64(len(w.model)) {
				t.Fatalf("seed %d: extents end at %d of %d", seed, at, len(w.model))
			}
		}
	})
	if holes == 0 {
		t.Error("no holes were found anywhere")
	}
}

// checkExtent returns 1 for a hole.
func (w *world) checkExtent(s *Stack, at int64, e Extent) int {
	w.t.Helper()
	l := s.layers[0]
	hole := e.Depth == 0 || e.Zero
	for x := at; x < at+e.LengthBytes; x++ {
		if hole && w.model[x] != 0 {
			w.t.Fatalf("seed %d: byte %d is %#x in a hole at %d+%d", w.seed, x, w.model[x], at, e.LengthBytes)
		}
		number, _ := object(x, l.DataOffsetBytes, l.Objects.ObjectBytes())
		if o := w.m.objects[number]; (e.Depth == 1) != (o != nil && o.exists) && e.Depth != 0 {
			w.t.Fatalf("seed %d: byte %d has depth %d, and object %d is %+v", w.seed, x, e.Depth, number, o)
		}
	}
	if hole {
		return 1
	}
	return 0
}

// TestCopyUpOf has the objects of images of 4 MiB per object around headers and overlaps: where the data begin inside an
// object, where the overlap ends inside one or inside the header, where the parent is smaller, and where the parent's own
// header is larger, so that the raw overlap goes further than its plaintext.
func TestCopyUpOf(t *testing.T) {
	child := func(raw, data, sector int64) Level { return Level{raw * mib, data, sector} }
	for _, c := range []struct {
		name               string
		number, raw        int64 // raw is the overlap in MiB
		parent             int64 // bytes of the parent's plaintext
		child              Level
		needed             bool
		start, shown, size int64
		at                 int64
	}{
		{"first of LUKS2 under LUKS2", 4, 64, 48 * mib, child(64, 16*mib, 4096), true, 0, 4 * mib, 4 * mib, 0},
		{"last", 15, 64, 48 * mib, child(64, 16*mib, 4096), true, 44 * mib, 4 * mib, 4 * mib, 0},
		{"behind the end of the overlap", 15, 60, 48 * mib, child(64, 16*mib, 4096), false, 0, 0, 0, 0},
		{"the overlap ends inside", 15, 62, 48 * mib, child(64, 16*mib, 4096), true, 44 * mib, 2 * mib, 2 * mib, 0},
		{"LUKS2 parent, LUKS1 child, shown", 12, 64, 48 * mib, child(64, 4*mib, 512), true, 44 * mib, 4 * mib, 4 * mib, 0},
		{"LUKS2 parent, LUKS1 child, empty", 13, 64, 48 * mib, child(64, 4*mib, 512), true, 48 * mib, 0, 0, 0},
		{"LUKS2 parent, LUKS1 child, last, empty", 15, 64, 48 * mib, child(64, 4*mib, 512), true, 56 * mib, 0, 0, 0},
		{"LUKS1 parent, LUKS2 child", 15, 64, 60 * mib, child(64, 16*mib, 4096), true, 44 * mib, 4 * mib, 4 * mib, 0},
		{"plaintext parent of odd size", 4, 17, 100, child(64, 16*mib, 4096), true, 0, 100, 4096, 0},
		{"overlap inside the header", 1, 8, 48 * mib, child(64, 16*mib, 4096), true, 0, 0, 0, 12 * mib},
		{"data begin inside an object", 0, 64, 48 * mib, child(64, 2068480, 512), true, 0, 4*mib - 2068480, 4*mib - 2068480, 2068480},
		{"and the next one", 1, 64, 48 * mib, child(64, 2068480, 512), true, 4*mib - 2068480, 4 * mib, 4 * mib, 0},
		{"flattened", 4, 0, 48 * mib, child(64, 16*mib, 4096), false, 0, 0, 0, 0},
	} {
		got, needed := copyUpOf(c.number, 4*mib, c.raw*mib, c.parent, c.child)
		want := copyUp{startBytes: c.start, endBytes: c.start + c.size, shownBytes: c.shown, atBytes: c.at}
		if !c.needed {
			want = copyUp{}
		}
		if needed != c.needed || got != want {
			t.Errorf("%s: %v %+v, want %v %+v", c.name, needed, got, c.needed, want)
		}
	}
	for _, c := range []struct{ in, want int64 }{{0, 0}, {1, 512}, {512, 512}, {513, 1024}, {4096, 4096}} {
		p := make([]byte, 4096)
		for i := range c.in {
			p[i] = 1
		}
		if got := withoutTail(p, 512); got != c.want {
			t.Errorf("%d bytes of 4096: %d without the zeros at the end, want %d", c.in, got, c.want)
		}
	}
}
