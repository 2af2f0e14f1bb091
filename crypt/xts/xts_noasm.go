// SPDX-License-Identifier: Apache-2.0

//go:build (!amd64 && !arm64) || purego

package xts

func archKernels() []*kernel { return nil }
