// SPDX-License-Identifier: Apache-2.0

package xts

import (
	"fmt"
	"testing"
)

// BenchmarkRun is for a look at one kernel; bench/crypto compares with others.
func BenchmarkRun(b *testing.B) {
	for _, kernel := range Kernels() {
		for _, shape := range []struct{ sectorBytes, runBytes int }{
			{512, 512}, {512, 4096}, {512, 65536}, {4096, 4096}, {4096, 65536},
		} {
			c := mustCipher(b, kernel, make([]byte, 64), shape.sectorBytes)
			for name, crypt := range map[string]func(dst, src []byte, iv uint64){"encrypt": c.Encrypt, "decrypt": c.Decrypt} {
				b.Run(fmt.Sprintf("%s/%d/%d/%s", kernel, shape.sectorBytes, shape.runBytes, name), func(b *testing.B) {
					buf := make([]byte, shape.runBytes)
					b.SetBytes(int64(len(buf)))
					for iv := uint64(0); b.Loop(); iv++ {
						crypt(buf, buf, iv)
					}
				})
			}
		}
	}
}
