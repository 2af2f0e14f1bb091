// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// cpuidFile generates cpuid7, because x/sys/cpu tells of VAES and VPCLMULQDQ
// only where there is AVX-512 too.
func cpuidFile() (asm, stubs []byte, err error) {
	c := build.NewContext()
	c.ConstraintExpr("amd64,!purego")
	c.Function("cpuid7")
	c.Pragma("noescape")
	c.Doc("cpuid7 returns ECX of CPUID leaf 7, subleaf 0, which must exist.")
	c.SignatureExpr("func() (ecx uint32)")
	c.MOVL(operand.U32(7), reg.EAX)
	c.XORL(reg.ECX, reg.ECX)
	c.CPUID()
	c.Store(reg.ECX, c.Return("ecx"))
	c.RET()
	return compile(c)
}
