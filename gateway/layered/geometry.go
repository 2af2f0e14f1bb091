// SPDX-License-Identifier: Apache-2.0

package layered

// A Level is one image of a chain: the image itself, or a snapshot that is its parent, and so on.
type Level struct {
	// RawBytes is the size of the image or snapshot as Ceph has it.
	RawBytes int64
	// DataOffsetBytes is where plaintext byte 0 lies; 0 in a plaintext image.
	DataOffsetBytes int64
	// SectorBytes is the unit of encryption; 1 in a plaintext image.
	SectorBytes int64
}

// SizeBytes is the size of the level's plaintext.
func (l Level) SizeBytes() int64 {
	n := max(l.RawBytes-l.DataOffsetBytes, 0)
	return n - n%max(l.SectorBytes, 1)
}

// OverlapBytes is how much of its parent's plaintext, from byte 0 on, can be seen through a child: plaintext byte x of the
// child is plaintext byte x of the parent, whatever the sizes of the two headers. rawOverlapBytes is the overlap as Ceph
// has it, in bytes of the images (librbd's ImageCtx::reduce_parent_overlap).
func OverlapBytes(rawOverlapBytes, childDataOffsetBytes, parentSizeBytes int64) int64 {
	return max(min(rawOverlapBytes-childDataOffsetBytes, parentSizeBytes), 0)
}

// LostBytes is the length of the parent's tail that cannot be seen through a child, because the child's header takes its
// room. Growing the child later does not bring it back; growing the parent before its snapshot does.
func LostBytes(rawOverlapBytes int64, child, parent Level) int64 {
	seen := min(OverlapBytes(rawOverlapBytes, child.DataOffsetBytes, parent.SizeBytes()), child.SizeBytes())
	return parent.SizeBytes() - seen
}

// object is the number of the object that holds a plaintext byte, and the plaintext byte at which the next one begins.
func object(offsetBytes, dataOffsetBytes, objectBytes int64) (number, endBytes int64) {
	number = (dataOffsetBytes + offsetBytes) / objectBytes
	return number, (number+1)*objectBytes - dataOffsetBytes
}

// content is the plaintext that an object of a level holds: none of the header, and nothing beyond the end.
func (l Level) content(number, objectBytes int64) (startBytes, endBytes int64) {
	size := l.SizeBytes()
	startBytes = min(max(number*objectBytes-l.DataOffsetBytes, 0), size)
	return startBytes, max(min((number+1)*objectBytes-l.DataOffsetBytes, size), startBytes)
}

// A copyUp says how an object comes to hold what its parent shows, before anything else is written to it.
type copyUp struct {
	startBytes, endBytes int64 // of the plaintext that it gets, in whole sectors; none if they are the same
	shownBytes           int64 // how much of that is the parent's; the rest is zeros
	atBytes              int64 // where in the object its ciphertext begins
}

// copyUpOf is for an object that does not exist. needed is false for one that cannot show anything of the parent: where
// there is a raw overlap, librbd would copy up raw bytes by itself, so the object must exist even if none of the parent's
// plaintext can be seen through it.
func copyUpOf(number, objectBytes, rawOverlapBytes, parentSizeBytes int64, child Level) (c copyUp, needed bool) {
	if number*objectBytes >= rawOverlapBytes {
		return copyUp{}, false
	}
	start, end := child.content(number, objectBytes)
	shown := OverlapBytes(rawOverlapBytes, child.DataOffsetBytes, parentSizeBytes)
	shown = max(min(shown, end)-start, 0)
	sector := max(child.SectorBytes, 1)
	padded := (shown + sector - 1) / sector * sector
	return copyUp{
		startBytes: start, endBytes: start + padded, shownBytes: shown,
		atBytes: child.DataOffsetBytes + start - number*objectBytes,
	}, true
}

// withoutTail is how much of p, in whole sectors, is left without the zeros at its end.
func withoutTail(p []byte, sectorBytes int64) int64 {
	n := len(p)
	for n > 0 && p[n-1] == 0 {
		n--
	}
	return (int64(n) + sectorBytes - 1) / sectorBytes * sectorBytes
}
