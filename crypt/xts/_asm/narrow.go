// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/mmcloughlin/avo/operand"
)

// Registers of the kernels with 16 and 32 byte vectors, of which there are 16:
// 0 to 7 data, and:
const (
	narrowPolynomial = 8
	narrowFirstKey   = 9
	narrowLastKey    = 10
	narrowTemp       = 11 // and 12, 13
	narrowTweak      = 14
	narrowKey        = 15 // the round's
)

// narrowSectors is steps 2 and 3 with 16 or 32 byte vectors. The tweaks of a
// chunk are on the stack.
func (k *amd64Kernel) narrowSectors() {
	k.Label("crypt")
	k.loadVector(k.constant(constPolynomial), k.v(narrowPolynomial))
	k.loadVector(offset(k.keys, k.keysOffset), k.v(narrowFirstKey))
	k.loadVector(offset(k.keys, k.keysOffset+k.rounds*roundKeyBytes), k.v(narrowLastKey))
	chunksLeft := k.GP64()

	k.Label("sector")
	k.narrowSpread()
	k.ADDQ(operand.U32(blockBytes), k.tweakAt)
	k.MOVQ(k.chunks, chunksLeft)
	k.DECQ(chunksLeft)
	k.Label("chunk")
	k.narrowChunk(true)
	k.DECQ(chunksLeft)
	k.JNZ(operand.LabelRef("chunk"))
	k.Comment("The last chunk of the sector")
	k.narrowChunk(false)
	k.DECQ(k.sectors)
	k.JNZ(operand.LabelRef("sector"))
}

// spill returns where the tweaks of vector j are.
func (k *amd64Kernel) spill(j int) operand.Mem { return k.chunkTweaks.Offset(j * k.vectorBytes) }

// narrowSpread sets the tweaks of a sector's first chunk from the one in memory.
func (k *amd64Kernel) narrowSpread() {
	k.Comment("Spread the tweak of a sector")
	tweak := k.v(narrowTweak)
	if k.lanes() == 1 {
		k.VMOVDQU(offset(k.tweakAt, 0), tweak)
		k.storeVector(tweak, k.spill(0))
	} else {
		k.VBROADCASTI128(offset(k.tweakAt, 0), tweak)
	}
	first := inFlight / k.lanes() // vectors with the first 8 tweaks
	for j := range first {
		set := j % 2 * 3
		to, high, reduced := k.v(set), k.v(set+1), k.v(set+2)
		if k.lanes() == 1 && j == 0 {
			continue
		}
		k.multiplyPowers(j, k.v(narrowPolynomial), tweak, to, high, reduced)
		k.storeVector(to, k.spill(j))
		if k.lanes() > 1 { // the vector that is x^8 further
			k.multiply(1, k.v(narrowPolynomial), to, to, high)
			k.storeVector(to, k.spill(j+first))
		}
	}
}

// narrowChunk crypts one chunk and, if more of the sector follows, multiplies
// the tweaks onward.
func (k *amd64Kernel) narrowChunk(more bool) {
	temp := k.v(narrowTemp)
	for j := range inFlight {
		k.xor(k.spill(j), k.v(narrowFirstKey), temp)
		k.xor(offset(k.src, j*k.vectorBytes), temp, k.v(j))
	}
	key := k.v(narrowKey)
	for r := 1; r < k.rounds; r++ {
		k.loadVector(offset(k.keys, k.keysOffset+r*roundKeyBytes), key)
		for j := range inFlight {
			k.round(key, k.v(j))
		}
	}
	for j := range inFlight {
		tweak := k.v(narrowTweak)
		k.loadVector(k.spill(j), tweak)
		k.xor(tweak, k.v(narrowLastKey), temp)
		k.lastRound(temp, k.v(j))
		k.storeVector(k.v(j), offset(k.dst, j*k.vectorBytes))
		if more {
			k.multiply(k.chunkPowerBytes(), k.v(narrowPolynomial), tweak, tweak, temp)
			k.storeVector(tweak, k.spill(j))
		}
	}
	k.ADDQ(operand.U32(k.chunkBytes()), k.src)
	k.ADDQ(operand.U32(k.chunkBytes()), k.dst)
}
