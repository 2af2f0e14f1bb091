// SPDX-License-Identifier: Apache-2.0

//go:build linux && !purego

package xts

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestKernelsMatchProcessor compares the kernels that the tests of this package
// ran with what Linux says of the processor, so that a mistake in the detection
// can not leave a kernel out unnoticed.
func TestKernelsMatchProcessor(t *testing.T) {
	if os.Getenv(envExpectedKernels) != "" {
		t.Skipf("%s is set: under an emulator Linux tells of another processor", envExpectedKernels)
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(text), "\nflags")
	line, _, _ = strings.Cut(line, "\n")
	flags := strings.Fields(line)
	var want []string
	for _, k := range []struct {
		name  string
		flags []string
	}{
		{"vaes512", []string{"vaes", "vpclmulqdq", "avx512f", "avx512bw"}},
		{"vaes256", []string{"vaes", "vpclmulqdq", "avx2"}},
		{"aesni", []string{"aes", "pclmulqdq", "avx"}},
		{"portable", nil},
	} {
		if !slices.ContainsFunc(k.flags, func(f string) bool { return !slices.Contains(flags, f) }) {
			want = append(want, k.name)
		}
	}
	if got := Kernels(); !slices.Equal(got, want) {
		t.Errorf("kernels %v run, but the processor is good for %v", got, want)
	}
}

func TestHasVAES(t *testing.T) {
	for ecx, want := range map[uint32]bool{
		0: false, 1 << 9: false, 1 << 10: false, 1<<9 | 1<<11: false, 1<<8 | 1<<10: false,
		1<<9 | 1<<10: true, ^uint32(0): true, ^uint32(1 << 9): false, ^uint32(1 << 10): false,
	} {
		if got := hasVAES(ecx); got != want {
			t.Errorf("hasVAES(%08x) = %v, want %v", ecx, got, want)
		}
	}
}
