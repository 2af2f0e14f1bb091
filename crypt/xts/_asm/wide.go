// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Registers of the kernel with 64-byte vectors: 0 to 7 data, 8 to 15 tweaks, 16
// and on the round keys but the last, then:
const (
	wideTweak      = 0 // of a sector, before its data
	wideTemp       = 30
	widePolynomial = 31
)

// wideKey returns the register of a round key.
func (k *amd64Kernel) wideKey(r int) reg.VecPhysical { return k.v(16 + r) }

// wideKeys loads what stays in registers for the whole call.
func (k *amd64Kernel) wideKeys() {
	for r := range k.rounds {
		k.loadVector(offset(k.keys, k.keysOffset+r*roundKeyBytes), k.wideKey(r))
	}
	k.loadVector(k.constant(constPolynomial), k.v(widePolynomial))
}

// wideSectors is steps 2 and 3 with 64-byte vectors. There the AES instructions
// have one port for themselves and all else has to fit on the other: so three
// XORs in one instruction, and neither bit shifts nor other arithmetic.
func (k *amd64Kernel) wideSectors() {
	chunksLeft := k.GP64()
	k.Label("sector")
	k.VBROADCASTI32X4(offset(k.tweakAt, 0), k.v(wideTweak))
	k.Label("spread")
	k.wideSpread()
	k.ADDQ(operand.U32(blockBytes), k.tweakAt)
	k.MOVQ(k.chunks, chunksLeft)
	k.JMP(operand.LabelRef("chunkCheck"))
	k.Label("chunk")
	k.wideChunk(true)
	k.Label("chunkCheck")
	k.DECQ(chunksLeft)
	k.JNZ(operand.LabelRef("chunk"))
	k.Comment("The last chunk of the sector")
	k.wideChunk(false)
	k.DECQ(k.sectors)
	k.JNZ(operand.LabelRef("sector"))
}

// wideSpread sets the tweaks of a sector's first chunk, lane i of register 8+j
// to T*x^(4*j+i), from T in all lanes of wideTweak.
func (k *amd64Kernel) wideSpread() {
	k.Comment("Spread the tweak of a sector")
	for j := range 2 {
		k.multiplyPowers(j, k.v(widePolynomial), k.v(wideTweak), k.v(8+j), k.v(1+2*j), k.v(2+2*j))
	}
	for j := 2; j < inFlight; j++ {
		k.multiply(j/2, k.v(widePolynomial), k.v(8+j%2), k.v(8+j), k.v(5+j%3))
	}
}

// wideChunk crypts 512 bytes and, if more of the sector follows, multiplies the
// tweaks by x^32.
func (k *amd64Kernel) wideChunk(more bool) {
	for j := range inFlight {
		k.loadVector(offset(k.src, j*k.vectorBytes), k.v(j))
		k.VPTERNLOGQ(operand.Imm(xor3), k.v(8+j), k.wideKey(0), k.v(j))
	}
	for r := 1; r < k.rounds; r++ {
		for j := range inFlight {
			k.round(k.wideKey(r), k.v(j))
		}
	}
	temp := k.v(wideTemp)
	for j := range inFlight {
		k.xor(offset(k.keys, k.keysOffset+k.rounds*roundKeyBytes), k.v(8+j), temp)
		k.lastRound(temp, k.v(j))
		k.storeVector(k.v(j), offset(k.dst, j*k.vectorBytes))
		if more {
			k.multiply(k.chunkPowerBytes(), k.v(widePolynomial), k.v(8+j), k.v(8+j), temp)
		}
	}
	k.ADDQ(operand.U32(k.chunkBytes()), k.src)
	k.ADDQ(operand.U32(k.chunkBytes()), k.dst)
}
