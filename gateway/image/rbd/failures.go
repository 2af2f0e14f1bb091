// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"errors"
	"maps"
	"sync"
	"syscall"
)

// operations are the names of the shim's operations, by number (enum lg_op).
var operations = [...]string{"read", "write", "flush", "discard", "write_zeroes", "compare_and_write"}

// failures counts errors of one image. The zero value is empty. Its methods may be called by many goroutines at once.
type failures struct {
	mu    sync.Mutex
	count map[Failure]uint64
}

// add counts an error of the operation with a number. That a comparison found something else is none.
func (f *failures) add(op int, err error) {
	var no syscall.Errno
	if !errors.As(err, &no) || no == syscall.EILSEQ {
		return
	}
	name := "other"
	if op >= 0 && op < len(operations) {
		name = operations[op]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == nil {
		f.count = map[Failure]uint64{}
	}
	f.count[Failure{name, no}]++
}

func (f *failures) all() map[Failure]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.count)
}
