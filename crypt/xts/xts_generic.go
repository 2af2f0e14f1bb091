// SPDX-License-Identifier: Apache-2.0

package xts

import "encoding/binary"

// cryptPortable is the portable kernel: one block at a time by cryptBlock, a
// method of c.dataBlock. It is compiled everywhere and is what the assembly
// kernels are compared with.
func (c *Cipher) cryptPortable(dst, src []byte, iv uint64, cryptBlock func(dst, src []byte)) {
	for len(src) > 0 {
		c.sectorPortable(dst[:c.sectorBytes], src[:c.sectorBytes], iv, 0, cryptBlock)
		dst, src, iv = dst[c.sectorBytes:], src[c.sectorBytes:], iv+c.ivStep
	}
}

// sectorPortable does one data unit of whole blocks whose 128-bit initial vector
// is ivHigh<<64 | ivLow, stored little-endian (IEEE 1619-2018, 5.3 and 5.4).
func (c *Cipher) sectorPortable(dst, src []byte, ivLow, ivHigh uint64, cryptBlock func(dst, src []byte)) {
	// Block ciphers are called through an interface, so a local array as
	// argument would be allocated on the heap. The first block of dst serves as
	// scratch for the tweak; dst may be src, so what is there is put back.
	savedLow, savedHigh := load(src)
	store(dst, ivLow, ivHigh)
	c.tweakBlock.Encrypt(dst[:blockBytes], dst[:blockBytes])
	tweakLow, tweakHigh := load(dst)

	low, high := savedLow, savedHigh
	for at := 0; ; {
		block := dst[at : at+blockBytes]
		store(block, low^tweakLow, high^tweakHigh)
		cryptBlock(block, block)
		low, high = load(block)
		store(block, low^tweakLow, high^tweakHigh)
		tweakLow, tweakHigh = double(tweakLow, tweakHigh)
		if at += blockBytes; at == len(src) {
			return
		}
		low, high = load(src[at:])
	}
}

// double multiplies by x in GF(2^128) modulo x^128 + x^7 + x^2 + x + 1, with the
// coefficient of x^0 in the least significant bit (IEEE 1619-2018, 5.2).
func double(low, high uint64) (uint64, uint64) {
	carry := -(high >> 63) & 0x87
	return low<<1 ^ carry, high<<1 | low>>63
}

func load(b []byte) (low, high uint64) {
	return binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
}

func store(b []byte, low, high uint64) {
	binary.LittleEndian.PutUint64(b, low)
	binary.LittleEndian.PutUint64(b[8:], high)
}
