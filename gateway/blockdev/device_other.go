// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !(cgo || amd64)

package blockdev

import (
	"context"
	"errors"
)

var errBuild = errors.New("blockdev: this build of luksgate cannot attach devices of the kernel: build it with cgo, or for amd64")

// Run implements nothing in this build.
func Run(context.Context, Options) error { return errBuild }

// Holder is the process that has attached a device; this build does not look.
func Holder(string) int { return 0 }

// InUse implements nothing in this build.
func InUse(string) error { return errBuild }
