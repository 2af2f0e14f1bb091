// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package xts

import "golang.org/x/sys/cpu"

// archKernels returns the kernels for amd64, fastest first.
func archKernels() []*kernel {
	x := &cpu.X86
	aesni := x.HasAES && x.HasPCLMULQDQ && x.HasAVX
	vaes256 := aesni && x.HasAVX2 && hasVAES(cpuid7())
	vaes512 := x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VAES && x.HasAVX512VPCLMULQDQ
	return []*kernel{
		{"vaes512", vaes512, 512, encrypt128VAES512, decrypt128VAES512, encrypt256VAES512, decrypt256VAES512},
		{"vaes256", vaes256, 256, encrypt128VAES256, decrypt128VAES256, encrypt256VAES256, decrypt256VAES256},
		{"aesni", aesni, 128, encrypt128AESNI, decrypt128AESNI, encrypt256AESNI, decrypt256AESNI},
	}
}

// hasVAES tells from ECX of CPUID leaf 7 whether there are VAES and VPCLMULQDQ,
// the 32-byte forms of AESENC and PCLMULQDQ.
func hasVAES(ecx uint32) bool {
	const vaes, vpclmulqdq = 1 << 9, 1 << 10
	return ecx&vaes != 0 && ecx&vpclmulqdq != 0
}
