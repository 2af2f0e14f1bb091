// SPDX-License-Identifier: Apache-2.0

package xts

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// EnvKernel is the environment variable that forces a kernel by its name, for
// tests and support.
const EnvKernel = "LUKSGATE_XTS"

// kernel is one implementation of the cipher.
type kernel struct {
	name   string
	usable bool // this processor can run it

	// Assembly kernels work in chunks of chunkBytes, a divisor of 512, and have a
	// function for each direction and key size. The portable one has none.
	chunkBytes                                     int
	encrypt128, decrypt128, encrypt256, decrypt256 kernelFunc
}

// kernelFunc does one or more sectors of together at most maxCallBytes from src
// to dst. keys is a schedule as expandKeys makes it; a sector has that many
// chunks, and its IV is the one before plus ivStep. It trusts its arguments.
type kernelFunc func(keys, dst, src *byte, sectors, chunks int, iv, ivStep uint64)

// kernels lists those compiled in, fastest first, portable last.
var kernels = append(archKernels(), &kernel{name: "portable", usable: true})

// Kernels returns the names of the kernels that this processor can run, fastest
// first. The last is always "portable".
func Kernels() []string {
	var names []string
	for _, k := range kernels {
		if k.usable {
			names = append(names, k.name)
		}
	}
	return names
}

// Kernel returns the name of the kernel that New uses: the one that EnvKernel
// names, else the first of Kernels. It is decided once, at the first use of the
// package. The name is "" where KernelError has an error.
func Kernel() string {
	k, err := selected()
	if err != nil {
		return ""
	}
	return k.name
}

// KernelError returns nil, or why New can not work: EnvKernel names no kernel of
// this build, or one that this processor can not run.
func KernelError() error {
	_, err := selected()
	return err
}

var selected = sync.OnceValues(func() (*kernel, error) {
	return choose(os.Getenv(EnvKernel))
})

// choose returns the kernel for a value of EnvKernel.
func choose(forced string) (*kernel, error) {
	if forced == "" {
		return find(Kernels()[0])
	}
	k, err := find(forced)
	if err != nil {
		return nil, fmt.Errorf("%w (from environment variable %s: unset it or name one of these)", err, EnvKernel)
	}
	return k, nil
}

// find returns the usable kernel of that name.
func find(name string) (*kernel, error) {
	for _, k := range kernels {
		switch {
		case k.name != name:
		case !k.usable:
			return nil, fmt.Errorf("xts: this processor can not run kernel %q, only %s", name, strings.Join(Kernels(), ", "))
		default:
			return k, nil
		}
	}
	return nil, fmt.Errorf("xts: no kernel %q in this build, only %s", name, strings.Join(Kernels(), ", "))
}
