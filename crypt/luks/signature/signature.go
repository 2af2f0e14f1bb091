// SPDX-License-Identifier: Apache-2.0

// Package signature recognises what else may begin a disk image, so that nobody takes the remains of a LUKS header for
// the truth, or formats over a file system.
//
// It knows the formats by their magics only and errs on the side of finding one. Offsets are those that blkid uses.
package signature

import "io"

// magic is a byte string at a fixed place.
type magic struct {
	offsetBytes int64
	bytes       string
	name        string
}

var luksMagics = []magic{
	{0, "LUKS\xba\xbe", "a LUKS header"},
	{0, "RBDL\xba\xbe", "a LUKS header of a librbd clone"},
}

var magics = []magic{
	{0, "LABELONE", "an LVM2 physical volume"},
	{512, "LABELONE", "an LVM2 physical volume"},
	{1024, "LABELONE", "an LVM2 physical volume"},
	{1536, "LABELONE", "an LVM2 physical volume"},
	{0x438, "\x53\xef", "an ext2/3/4 file system"},
	{0, "XFSB", "an XFS file system"},
	{0x10040, "_BHRfS_M", "a btrfs file system"},
	{4086, "SWAPSPACE2", "swap space"},
	{4086, "SWAP-SPACE", "swap space"},
	{512, "EFI PART", "a GPT partition table"},
	{510, "\x55\xaa", "a partition table or boot sector"},
	{0, "\xfc\x4e\x2b\xa9", "a Linux RAID member"},
	{4096, "\xfc\x4e\x2b\xa9", "a Linux RAID member"},
	{4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"},
	{3, "-FVE-FS-", "a BitLocker volume"},
	{3, "NTFS    ", "an NTFS file system"},
	{3, "EXFAT   ", "an exFAT file system"},
	{32769, "CD001", "an ISO 9660 file system"},
	{0, "hsqs", "a squashfs file system"},
	{1024, "\x10\x20\xf5\xf2", "an F2FS file system"},
	{1024, "\xe2\xe1\xf5\xe0", "an EROFS file system"},
	{0, "QFI\xfb", "a qcow2 image"},
	{0, "KDMV", "a VMDK image"},
	{0, "conectix", "a VHD image"},
	{0, "vhdxfile", "a VHDX image"},
	{0, "bluestore block device", "a Ceph OSD"},
}

// probeBytes is how much of the start is read: the btrfs superblock is the furthest.
const probeBytes = 0x10040 + 8

// Detect names what begins the image r of sizeBytes, "" if nothing known does. An image that cannot be read has no
// signature. A LUKS header counts as one.
func Detect(r io.ReaderAt, sizeBytes int64) string {
	head := readHead(r, sizeBytes)
	if name := find(luksMagics, head); name != "" {
		return name
	}
	return find(magics, head)
}

// DetectForeign is Detect without LUKS.
func DetectForeign(r io.ReaderAt, sizeBytes int64) string {
	return find(magics, readHead(r, sizeBytes))
}

func readHead(r io.ReaderAt, sizeBytes int64) []byte {
	head := make([]byte, min(max(sizeBytes, 0), probeBytes))
	n, _ := r.ReadAt(head, 0)
	return head[:n]
}

func find(magics []magic, head []byte) string {
	for _, m := range magics {
		end := m.offsetBytes + int64(len(m.bytes))
		if end <= int64(len(head)) && string(head[m.offsetBytes:end]) == m.bytes {
			return m.name
		}
	}
	return ""
}
