// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package xts

import "golang.org/x/sys/cpu"

//go:generate go run -C _asm . ..

// amd64Func is the type of the functions in the generated files.
type amd64Func func(keys, dst, src *byte, sectors, chunks int, iv, ivStep uint64)

// archKernels returns the kernels for amd64, fastest first.
func archKernels() []*kernel {
	x := &cpu.X86
	aesni := x.HasAES && x.HasPCLMULQDQ && x.HasAVX
	vaes512 := x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VAES && x.HasAVX512VPCLMULQDQ
	return []*kernel{
		amd64Kernel("vaes512", vaes512, 512,
			encrypt128VAES512, decrypt128VAES512, encrypt256VAES512, decrypt256VAES512),
		amd64Kernel("vaes256", aesni && hasVAES(), 256,
			encrypt128VAES256, decrypt128VAES256, encrypt256VAES256, decrypt256VAES256),
		amd64Kernel("aesni", aesni, 128,
			encrypt128AESNI, decrypt128AESNI, encrypt256AESNI, decrypt256AESNI),
	}
}

// hasVAES tells whether there are VAES and VPCLMULQDQ on 32-byte registers.
func hasVAES() bool {
	const vaes, vpclmulqdq = 1 << 9, 1 << 10
	return cpu.X86.HasAVX2 && cpuid7()&(vaes|vpclmulqdq) == vaes|vpclmulqdq
}

// amd64Kernel joins the four functions of a kernel that works in chunks of
// chunkBytes.
func amd64Kernel(name string, usable bool, chunkBytes int, encrypt128, decrypt128, encrypt256, decrypt256 amd64Func) *kernel {
	crypt := func(dir direction, keys, dst, src *byte, sectors, sectorBytes, rounds int, iv uint64) {
		f := encrypt128
		switch {
		case dir == decrypt && rounds == 14:
			f = decrypt256
		case dir == decrypt:
			f = decrypt128
		case rounds == 14:
			f = encrypt256
		}
		f(keys, dst, src, sectors, sectorBytes/chunkBytes, iv, uint64(sectorBytes/IVUnitBytes))
	}
	return &kernel{name: name, usable: usable, crypt: crypt}
}
