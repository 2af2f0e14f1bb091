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
