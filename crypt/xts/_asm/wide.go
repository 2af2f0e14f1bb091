// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Registers of the kernel with 64-byte vectors: 0 to 7 data, 8 to 15 tweaks, 16
// and on the round keys but the last, then:
const (
	wideTemp       = 30
	widePolynomial = 31
)

// wideSectors is steps 2 and 3 with 64-byte vectors. There the AES instructions
// have one port for themselves and all else has to fit on the other: so three
// XORs in one instruction, and neither bit shifts nor other arithmetic.
func (k *amd64Kernel) wideSectors() {
	key := func(r int) reg.VecPhysical { return k.v(16 + r) }
	for r := range k.rounds {
		k.loadVector(offset(k.keys, k.keysOffset+r*roundKeyBytes), key(r))
	}
	k.loadVector(k.constant(constPolynomial), k.v(widePolynomial))
	tweakAt, chunksLeft := k.GP64(), k.GP64()
	k.LEAQ(k.tweaks, tweakAt)

	k.Label("sector")
	k.wideSpread(tweakAt)
	k.ADDQ(operand.U32(blockBytes), tweakAt)
	k.MOVQ(k.chunks, chunksLeft)
	k.JMP(operand.LabelRef("chunkCheck"))
	k.Label("chunk")
	k.wideChunk(key, true)
	k.Label("chunkCheck")
	k.DECQ(chunksLeft)
	k.JNZ(operand.LabelRef("chunk"))
	k.Comment("The last chunk of the sector")
	k.wideChunk(key, false)
	k.DECQ(k.sectors)
	k.JNZ(operand.LabelRef("sector"))
}

// wideSpread sets the tweaks of a sector's first chunk, lane i of register 8+j
// to T*x^(4*j+i), from T in memory.
func (k *amd64Kernel) wideSpread(at reg.Register) {
	k.Comment("Spread the tweak of a sector")
	tweak := k.v(0)
	k.VBROADCASTI32X4(offset(at, 0), tweak)
	for j := range 2 {
		k.multiplyPowers(j, k.v(widePolynomial), tweak, k.v(8+j), k.v(1+2*j), k.v(2+2*j))
	}
	for j := 2; j < inFlight; j++ {
		k.multiply(j/2, k.v(widePolynomial), k.v(8+j%2), k.v(8+j), k.v(5+j%3))
	}
}

// wideChunk crypts 512 bytes and, if more of the sector follows, multiplies the
// tweaks by x^32.
func (k *amd64Kernel) wideChunk(key func(r int) reg.VecPhysical, more bool) {
	for j := range inFlight {
		k.loadVector(offset(k.src, j*k.vectorBytes), k.v(j))
		k.VPTERNLOGQ(operand.Imm(xor3), k.v(8+j), key(0), k.v(j))
	}
	for r := 1; r < k.rounds; r++ {
		for j := range inFlight {
			k.round(key(r), k.v(j))
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
