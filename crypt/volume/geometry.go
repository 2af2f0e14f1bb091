// SPDX-License-Identifier: Apache-2.0

package volume

import "fmt"

// ivUnitBytes is the unit in which plain64 counts, whatever the sector size (dm-crypt without iv_large_sectors; librbd
// crypto/BlockCrypto.cc).
const ivUnitBytes = 512

// Geometry says where in the store the encrypted data lie and how they are cut in sectors.
type Geometry struct {
	// DataOffsetBytes is where plaintext byte 0 lies in the store.
	DataOffsetBytes int64
	// SizeBytes is the size of the plaintext, a multiple of SectorBytes.
	SizeBytes int64
	// SectorBytes is the unit of encryption: 512, 1024, 2048 or 4096.
	SectorBytes int
	// IVOffset is added to every IV, in 512-byte units (LUKS2 iv_tweak).
	IVOffset uint64
}

// NewGeometry fits a volume into a store of storeBytes: lengthBytes 0 means up to the end of the store. The size is
// rounded down to whole sectors.
func NewGeometry(storeBytes, dataOffsetBytes, lengthBytes int64, sectorBytes int, ivOffset uint64) (Geometry, error) {
	if dataOffsetBytes < 0 || dataOffsetBytes > storeBytes {
		return Geometry{}, fmt.Errorf("volume: data offset %d is outside the image of %d bytes", dataOffsetBytes, storeBytes)
	}
	size := storeBytes - dataOffsetBytes
	if lengthBytes < 0 || lengthBytes > size {
		return Geometry{}, fmt.Errorf("volume: segment of %d bytes at %d does not fit in the image of %d bytes",
			lengthBytes, dataOffsetBytes, storeBytes)
	}
	if lengthBytes > 0 {
		size = lengthBytes
	}
	size -= size % int64(sectorBytes)
	return Geometry{DataOffsetBytes: dataOffsetBytes, SizeBytes: size, SectorBytes: sectorBytes, IVOffset: ivOffset}, nil
}

// A span is the smallest run of whole sectors that covers a byte range of the plaintext.
type span struct {
	startBytes int64 // first byte of the first sector
	endBytes   int64 // first byte after the last sector
	headBytes  int   // bytes of the first sector before the range
	tailBytes  int   // bytes of the last sector after the range
}

func (g Geometry) span(offsetBytes, lengthBytes int64) span {
	s := int64(g.SectorBytes)
	end := offsetBytes + lengthBytes
	start := offsetBytes - offsetBytes%s
	up := (end + s - 1) / s * s
	return span{startBytes: start, endBytes: up, headBytes: int(offsetBytes - start), tailBytes: int(up - end)}
}

// inner is the run of whole sectors inside a byte range; it may be empty (start >= end).
func (g Geometry) inner(offsetBytes, lengthBytes int64) (startBytes, endBytes int64) {
	s := int64(g.SectorBytes)
	end := offsetBytes + lengthBytes
	return (offsetBytes + s - 1) / s * s, end - end%s
}

func (s span) aligned() bool { return s.headBytes == 0 && s.tailBytes == 0 }

// storeOffset maps a plaintext offset to the store.
func (g Geometry) storeOffset(offsetBytes int64) int64 { return g.DataOffsetBytes + offsetBytes }

// iv is the IV of the sector at a plaintext offset, in 512-byte units.
func (g Geometry) iv(offsetBytes int64) uint64 { return g.IVOffset + uint64(offsetBytes)/ivUnitBytes }
