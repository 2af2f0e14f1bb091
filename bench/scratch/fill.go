// SPDX-License-Identifier: Apache-2.0

package scratch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/luksgate/luksgate/bench/workload"
)

const (
	fillBytes = 4 << 20 // of one request
	fillDepth = 4
)

// Device is what Fill needs of one.
type Device interface {
	WriteAt(p []byte, offsetBytes int64, fua bool) error
	Flush() error
}

// Fill writes the first sizeBytes of a device with bytes that do not compress, and flushes. progress is called from
// several goroutines; nil is allowed.
func Fill(ctx context.Context, d Device, sizeBytes int64, seed uint64, progress func(doneBytes int64)) error {
	var next, done atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, fillDepth)
	for i := range fillDepth {
		wg.Go(func() {
			buf := make([]byte, min(fillBytes, sizeBytes))
			for errs[i] == nil {
				at := next.Add(fillBytes) - fillBytes
				if at >= sizeBytes {
					return
				}
				if errs[i] = ctx.Err(); errs[i] != nil {
					return
				}
				part := buf[:min(fillBytes, sizeBytes-at)]
				workload.Noise(seed<<32+uint64(at/fillBytes), part)
				errs[i] = d.WriteAt(part, at, false)
				if n := done.Add(int64(len(part))); progress != nil {
					progress(n)
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("filling it: %w", err)
	}
	return d.Flush()
}
