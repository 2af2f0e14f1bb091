// SPDX-License-Identifier: Apache-2.0

package layered

import "testing"

const mib = 1 << 20

// TestSizesAndOverlaps has a row for each kind of clone, of images with objects of 4 MiB: a LUKS1 header takes 4 MiB, a
// LUKS2 header 16 MiB.
func TestSizesAndOverlaps(t *testing.T) {
	plain := Level{SectorBytes: 1}
	luks1 := Level{DataOffsetBytes: 4 * mib, SectorBytes: 512}
	luks2 := Level{DataOffsetBytes: 16 * mib, SectorBytes: 4096}
	qemu1 := Level{DataOffsetBytes: 2068480, SectorBytes: 512}
	for _, c := range []struct {
		name                     string
		parent, child            Level
		parentMiB, childMiB, raw int64 // raw is the overlap in MiB
		size, overlap, lost      int64 // in MiB
	}{
		{"LUKS2 under LUKS2", luks2, luks2, 64, 64, 64, 48, 48, 0},
		{"LUKS1 under LUKS1", luks1, luks1, 64, 64, 64, 60, 60, 0},
		{"plaintext under LUKS2", plain, luks2, 64, 64, 64, 48, 48, 16},
		{"plaintext under LUKS1", plain, luks1, 64, 64, 64, 60, 60, 4},
		{"plaintext grown before the snapshot", plain, luks2, 80, 80, 80, 64, 64, 16},
		{"plaintext, clone grown afterwards", plain, luks2, 64, 80, 64, 64, 48, 16},
		{"LUKS1 under LUKS2", luks1, luks2, 64, 64, 64, 48, 48, 12},
		{"LUKS2 under LUKS1", luks2, luks1, 64, 64, 64, 60, 48, 0},
		{"LUKS2 under LUKS1, shrunk", luks2, luks1, 64, 32, 32, 28, 28, 20},
		{"shrunk and grown again", luks2, luks2, 64, 64, 32, 48, 16, 32},
		{"overlap within the header", luks2, luks2, 64, 64, 8, 48, 0, 48},
		{"overlap is the header", luks2, luks2, 64, 64, 16, 48, 0, 48},
		{"nothing but a header", luks2, luks2, 16, 16, 16, 0, 0, 0},
		{"flattened", luks2, luks2, 64, 64, 0, 48, 0, 48},
	} {
		c.parent.RawBytes, c.child.RawBytes = c.parentMiB*mib, c.childMiB*mib
		size := c.child.SizeBytes() / mib
		overlap := OverlapBytes(c.raw*mib, c.child.DataOffsetBytes, c.parent.SizeBytes()) / mib
		lost := LostBytes(c.raw*mib, c.child, c.parent) / mib
		if size != c.size || overlap != c.overlap || lost != c.lost {
			t.Errorf("%s: size %d, overlap %d, lost %d; want %d, %d, %d", c.name, size, overlap, lost, c.size, c.overlap, c.lost)
		}
	}
	qemu1.RawBytes = 8*mib + 100 // the data begin inside an object, the size is no multiple of a sector
	if got, want := qemu1.SizeBytes(), int64(8*mib-2068480); got != want {
		t.Errorf("size %d, want %d", got, want)
	}
	if got := (Level{RawBytes: 100, DataOffsetBytes: 4096, SectorBytes: 512}).SizeBytes(); got != 0 {
		t.Errorf("an image smaller than its header has %d bytes", got)
	}
}

func TestObject(t *testing.T) {
	for _, c := range []struct{ offset, data, object, number, end int64 }{
		{0, 0, 4 * mib, 0, 4 * mib},
		{4*mib - 1, 0, 4 * mib, 0, 4 * mib},
		{4 * mib, 0, 4 * mib, 1, 8 * mib},
		{0, 16 * mib, 4 * mib, 4, 4 * mib},
		{0, 2068480, 4 * mib, 0, 4*mib - 2068480},
		{4*mib - 2068480, 2068480, 4 * mib, 1, 8*mib - 2068480},
		{0, 16 * mib, 4096, 4096, 4096},
		{33 * mib, 16 * mib, 32 * mib, 1, 48 * mib},
	} {
		if number, end := object(c.offset, c.data, c.object); number != c.number || end != c.end {
			t.Errorf("%+v: got object %d up to %d", c, number, end)
		}
	}
}
