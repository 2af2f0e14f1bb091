// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

// Must agree with schedule.go and xts.go of package xts.
const (
	blockBytes        = 16
	roundKeyBytes     = 64
	encryptKeysOffset = 0
	decryptKeysOffset = 15 * roundKeyBytes
	tweakKeysOffset   = 30 * roundKeyBytes
	maxSectors        = (64 << 10) / 512
)

// inFlight is the number of vectors encrypted side by side. AESENC has a latency
// of 3 to 5 cycles at one or two a cycle.
const inFlight = 8

// amd64Kernel generates the functions of one kernel, in four variants each:
// direction and key size. All have this plan:
//
//  1. encrypt the IVs of all sectors to tweaks, kept on the stack
//  2. for each sector: spread its tweak to those of the first chunk
//  3. for each chunk of inFlight vectors: crypt, multiply the tweaks onward
//
// A sector is a whole number of chunks, at 64-byte vectors one for 512 bytes.
type amd64Kernel struct {
	name        string
	suffix      string // of function names
	vectorBytes int    // 16, 32 or 64

	*build.Context
	params
	rounds     int
	encrypting bool
	keysOffset int
}

// params are the registers of a function's arguments, and its stack.
type params struct {
	keys, dst, src, sectors reg.GPVirtual
	chunks                  reg.GPVirtual // of a sector
	tweaks                  operand.Mem   // encrypted tweaks of all sectors
	tweakAt                 reg.GPVirtual // place of the current sector's in tweaks
	chunkTweaks             operand.Mem   // spill area of narrow kernels
}

func (k *amd64Kernel) lanes() int      { return k.vectorBytes / blockBytes }
func (k *amd64Kernel) chunkBytes() int { return inFlight * k.vectorBytes }

// chunkPowerBytes is how far, in powers of x^8, a chunk moves the tweaks on.
func (k *amd64Kernel) chunkPowerBytes() int { return inFlight * k.lanes() / 8 }

// v returns vector register i in the kernel's width.
func (k *amd64Kernel) v(i int) reg.VecPhysical {
	switch k.vectorBytes {
	case 16:
		return []reg.VecPhysical{reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7, reg.X8,
			reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14, reg.X15}[i]
	case 32:
		return []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8,
			reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15}[i]
	}
	return []reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9,
		reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15, reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20,
		reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}[i]
}

// generate returns the assembly file and the file of declarations.
func (k amd64Kernel) generate() (asm, stubs []byte, err error) {
	k.Context = build.NewContext()
	k.ConstraintExpr("amd64,!purego")
	k.constants()
	for _, k.rounds = range []int{10, 14} {
		for _, k.encrypting = range []bool{true, false} {
			k.function()
		}
	}
	return compile(k.Context)
}

// compile turns what a context has collected into files.
func compile(c *build.Context) (asm, stubs []byte, err error) {
	file, err := c.Result()
	if err != nil {
		return nil, nil, err
	}
	if err := pass.Compile.Execute(file); err != nil {
		return nil, nil, err
	}
	config := printer.Config{Name: "crypt/xts/_asm", Pkg: "xts"}
	if asm, err = printer.NewGoAsm(config).Print(file); err != nil {
		return nil, nil, err
	}
	stubs, err = printer.NewStubs(config).Print(file)
	return withLicence(asm), withLicence(stubs), err
}

func withLicence(text []byte) []byte {
	return append([]byte("// SPDX-License-Identifier: Apache-2.0\n\n"), text...)
}

// function writes one variant.
func (k *amd64Kernel) function() {
	verb := "decrypt"
	k.keysOffset = decryptKeysOffset
	if k.encrypting {
		verb, k.keysOffset = "encrypt", encryptKeysOffset
	}
	bits := 32 * (k.rounds - 6)
	name := fmt.Sprintf("%s%d%s", verb, bits, k.suffix)
	k.Function(name)
	k.Pragma("noescape")
	k.Doc(fmt.Sprintf("%s does AES-%d-XTS: %d to %d sectors of chunks*%d bytes from src to dst.",
		name, bits, 1, maxSectors, k.chunkBytes()),
		"keys is a schedule of expandKeys; the IV goes up by ivStep a sector.")
	k.SignatureExpr("func(keys, dst, src *byte, sectors, chunks int, iv, ivStep uint64)")
	k.tweaks = k.AllocLocal(maxSectors * blockBytes)
	if k.vectorBytes < 64 {
		k.chunkTweaks = k.AllocLocal(inFlight * k.vectorBytes)
	}
	k.keys, k.dst, k.src = k.load("keys"), k.load("dst"), k.load("src")
	k.sectors, k.chunks = k.load("sectors"), k.load("chunks")
	k.tweakAt = k.GP64()
	if k.vectorBytes == 64 {
		k.wideKeys()
		k.encryptTweaks()
		k.wideSectors()
	} else {
		k.encryptTweaks()
		k.narrowSectors()
	}
	k.VZEROUPPER()
	k.RET()
}

func (k *amd64Kernel) load(param string) reg.GPVirtual {
	r := k.GP64()
	k.Load(k.Param(param), r)
	return r
}

// Constants in memory, given lane by lane. The first three fill one vector; the
// powers are for the vectors that hold the first 8 tweaks.
const (
	constLaneNumbers = "laneNumbers" // 0, 1, 2, 3 in the low halves of lanes
	constLowHalf     = "lowHalf"     // ones in the low halves
	constPolynomial  = "polynomial"  // x^7 + x^2 + x + 1 in the low halves
	constPowers      = "powers"      // x^0 to x^7 in the low halves
)

func (k *amd64Kernel) constants() {
	for _, c := range []struct {
		name  string
		lanes int
		value func(lane uint64) (low, high uint64)
	}{
		{constLaneNumbers, k.lanes(), func(lane uint64) (uint64, uint64) { return lane, 0 }},
		{constLowHalf, k.lanes(), func(uint64) (uint64, uint64) { return ^uint64(0), 0 }},
		{constPolynomial, k.lanes(), func(uint64) (uint64, uint64) { return 0x87, 0 }},
		{constPowers, 8, func(lane uint64) (uint64, uint64) { return 1 << lane, 0 }},
	} {
		if k.lanes() == 1 && (c.name == constLaneNumbers || c.name == constLowHalf) {
			continue
		}
		k.StaticGlobal(c.name + k.suffix)
		k.DataAttributes(attr.RODATA | attr.NOPTR)
		for lane := range uint64(c.lanes) {
			low, high := c.value(lane)
			k.AppendDatum(operand.U64(low))
			k.AppendDatum(operand.U64(high))
		}
	}
}

func (k *amd64Kernel) constant(name string) operand.Mem {
	return operand.NewDataAddr(operand.NewStaticSymbol(name+k.suffix), 0)
}
