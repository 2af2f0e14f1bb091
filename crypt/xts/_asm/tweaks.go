// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/bits"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// offset returns memory at base+bytes.
func offset(base reg.Register, bytes int) operand.Mem {
	return operand.Mem{Base: base, Disp: bytes}
}

// encryptTweaks is step 1: tweaks[s] = AES(tweak key, iv + s*ivStep) for each
// sector s, and for some beyond the last one: groups of 8 or 16 sectors, or a
// single vector where that is enough. At maxSectors no group goes beyond.
func (k *amd64Kernel) encryptTweaks() {
	const iv, stride = 8, 9 // registers after the at most 8 being encrypted
	k.Comment("Encrypt the IVs of all sectors")
	k.ivVectors(iv, stride)
	left, at := k.GP64(), k.GP64()
	k.MOVQ(k.sectors, left)
	k.LEAQ(k.tweaks, at)
	k.LEAQ(k.tweaks, k.tweakAt)
	groupVectors := min(inFlight, 16/k.lanes())
	k.CMPQ(left, operand.U32(k.lanes()))
	k.JG(operand.LabelRef("tweaks"))
	k.tweakGroup(1, iv, stride, at)
	if k.vectorBytes == 64 {
		k.Comment("The first tweak is at hand, and short requests gain by not loading it again")
		k.VSHUFI64X2(operand.Imm(0), k.v(0), k.v(0), k.v(wideTweak))
		k.JMP(operand.LabelRef("spread"))
	} else {
		k.JMP(operand.LabelRef("crypt"))
	}
	k.Label("tweaks")
	k.tweakGroup(groupVectors, iv, stride, at)
	k.ADDQ(operand.U32(groupVectors*k.vectorBytes), at)
	k.SUBQ(operand.U32(groupVectors*k.lanes()), left)
	k.JG(operand.LabelRef("tweaks"))
}

// ivVectors sets register iv to the IVs of the first sectors, one a lane, and
// stride to what takes each to its next.
func (k *amd64Kernel) ivVectors(iv, stride int) {
	x := amd64Kernel{vectorBytes: 16}
	k.VMOVQ(k.load("iv"), x.v(iv))
	k.VMOVQ(k.load("ivStep"), x.v(stride))
	if k.lanes() == 1 {
		return
	}
	lowHalf, temp := k.v(stride+1), k.v(stride+2)
	k.loadVector(k.constant(constLowHalf), lowHalf)
	k.VPBROADCASTQ(x.v(iv), k.v(iv))
	k.and(lowHalf, k.v(iv))
	k.VPBROADCASTQ(x.v(stride), k.v(stride))
	k.VPMULUDQ(k.constant(constLaneNumbers), k.v(stride), temp)
	k.VPADDQ(temp, k.v(iv), k.v(iv))
	k.VPSLLQ(operand.Imm(uint64(bits.TrailingZeros(uint(k.lanes())))), k.v(stride), k.v(stride))
	k.and(lowHalf, k.v(stride))
}

// tweakGroup encrypts the next n vectors of IVs to memory at.
func (k *amd64Kernel) tweakGroup(n, iv, stride int, at reg.Register) {
	key := k.v(15)
	k.loadVector(offset(k.keys, tweakKeysOffset), key)
	for i := range n {
		k.xor(k.v(iv), key, k.v(i))
		k.VPADDQ(k.v(stride), k.v(iv), k.v(iv))
	}
	for r := 1; r <= k.rounds; r++ {
		k.loadVector(offset(k.keys, tweakKeysOffset+r*roundKeyBytes), key)
		for i := range n {
			if r < k.rounds {
				k.VAESENC(key, k.v(i), k.v(i))
			} else {
				k.VAESENCLAST(key, k.v(i), k.v(i))
			}
		}
	}
	for i := range n {
		k.storeVector(k.v(i), offset(at, i*k.vectorBytes))
	}
}

// multiplyPowers sets to = from * x^(j*lanes+i) in lane i, where the power is less
// than 8. high and reduced are overwritten; none of the registers may be another.
//
// Multiplying both halves carry-less by the power, instead of shifting them by
// bits, keeps this off the ports that AES instructions need: a shift would wait
// there behind the chunk before.
func (k *amd64Kernel) multiplyPowers(j int, polynomial, from, to, high, reduced reg.VecPhysical) {
	powers := k.constant(constPowers).Offset(j * k.vectorBytes)
	k.VPCLMULQDQ(operand.Imm(0x01), powers, from, high)
	k.VPCLMULQDQ(operand.Imm(0x00), powers, from, to)
	k.VPCLMULQDQ(operand.Imm(0x01), polynomial, high, reduced)
	k.VPSLLDQ(operand.Imm(8), high, high)
	if k.vectorBytes == 64 {
		k.VPTERNLOGQ(operand.Imm(xor3), high, reduced, to)
		return
	}
	k.VPXOR(reduced, to, to)
	k.VPXOR(high, to, to)
}

// xor3 is the truth table of a^b^c for VPTERNLOG.
const xor3 = 0x96

// multiply sets to = from * x^(8*powerBytes) in each lane: a shift by bytes, and
// what it carries out is reduced by a carry-less multiplication. temp is
// overwritten; to may be from.
func (k *amd64Kernel) multiply(powerBytes int, polynomial, from, to, temp reg.VecPhysical) {
	k.VPSRLDQ(operand.Imm(uint64(blockBytes-powerBytes)), from, temp)
	k.VPSLLDQ(operand.Imm(uint64(powerBytes)), from, to)
	k.VPCLMULQDQ(operand.Imm(0), polynomial, temp, temp)
	k.xor(temp, to, to)
}

// round applies one round key: a middle round, or the last one.
func (k *amd64Kernel) round(key operand.Op, data reg.VecPhysical) {
	if k.encrypting {
		k.VAESENC(key, data, data)
	} else {
		k.VAESDEC(key, data, data)
	}
}

func (k *amd64Kernel) lastRound(key operand.Op, data reg.VecPhysical) {
	if k.encrypting {
		k.VAESENCLAST(key, data, data)
	} else {
		k.VAESDECLAST(key, data, data)
	}
}

// Instructions whose names depend on the width.

func (k *amd64Kernel) xor(a operand.Op, b, to reg.VecPhysical) {
	if k.vectorBytes == 64 {
		k.VPXORQ(a, b, to)
	} else {
		k.VPXOR(a, b, to)
	}
}

func (k *amd64Kernel) and(a, b reg.VecPhysical) {
	if k.vectorBytes == 64 {
		k.VPANDQ(a, b, b)
	} else {
		k.VPAND(a, b, b)
	}
}

func (k *amd64Kernel) loadVector(from operand.Mem, to reg.VecPhysical)  { k.move(from, to) }
func (k *amd64Kernel) storeVector(from reg.VecPhysical, to operand.Mem) { k.move(from, to) }

func (k *amd64Kernel) move(from, to operand.Op) {
	if k.vectorBytes == 64 {
		k.VMOVDQU64(from, to)
	} else {
		k.VMOVDQU(from, to)
	}
}
