// SPDX-License-Identifier: Apache-2.0

//go:build !purego

package xts

import "golang.org/x/sys/cpu"

// archKernels returns the kernel for arm64.
func archKernels() []*kernel {
	return []*kernel{
		{"armaes", cpu.ARM64.HasAES, 128, encrypt128ARM, decrypt128ARM, encrypt256ARM, decrypt256ARM},
	}
}
