// SPDX-License-Identifier: Apache-2.0

package xts

import (
	"slices"
	"strings"
	"testing"
)

func TestKernelChoice(t *testing.T) {
	names := Kernels()
	if names[len(names)-1] != "portable" {
		t.Errorf("Kernels() = %v does not end in portable", names)
	}
	for _, name := range names {
		if k, err := choose(name); err != nil || k.name != name {
			t.Errorf("%s=%s chooses %v, %v", EnvKernel, name, k, err)
		}
	}
	if k, err := choose(""); err != nil || k.name != names[0] {
		t.Errorf("without %s: %v, %v; want %s", EnvKernel, k, err, names[0])
	}
	for _, name := range []string{"vaes", "AESNI", "portable ", "?"} {
		if _, err := choose(name); err == nil || !strings.Contains(err.Error(), EnvKernel) || !strings.Contains(err.Error(), "portable") {
			t.Errorf("%s=%s gives error %v, want one that names the variable and the choice", EnvKernel, name, err)
		}
	}
}

func TestUnusableKernelIsRefused(t *testing.T) {
	kernels = append(slices.Clone(kernels), &kernel{name: "other"})
	defer func() { kernels = kernels[:len(kernels)-1] }()
	if slices.Contains(Kernels(), "other") {
		t.Error("an unusable kernel is listed")
	}
	if _, err := choose("other"); err == nil || !strings.Contains(err.Error(), "can not run") {
		t.Errorf("an unusable kernel gives error %v", err)
	}
}
