// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"syscall"
)

// WriteZeroes encrypts and writes zeroChunkBytes at a time, in at most zeroBuffers chunks at once over all callers.
const (
	zeroChunkBytes = 1 << 20
	zeroBuffers    = 4
)

// ZeroOptions modify WriteZeroes.
type ZeroOptions struct {
	// FUA: on stable storage before the return.
	FUA bool
	// NoHole: nothing is freed.
	NoHole bool
	// Fast: an error that wraps ENOTSUP, at once, where zeros would have to be written as data.
	Fast bool
}

// WriteZeroes makes the range read as zeros, in the way that Options.Zeroes says.
func (v *Volume) WriteZeroes(offsetBytes, lengthBytes int64, opts ZeroOptions) error {
	if err := v.writable(offsetBytes, lengthBytes); err != nil || lengthBytes == 0 {
		return err
	}
	end := offsetBytes + lengthBytes
	start, stop := end, end // what is freed; the rest is written
	if !opts.NoHole {
		start, stop = v.freeable(offsetBytes, end)
	}
	if opts.Fast && (start > offsetBytes || stop < end) {
		return fmt.Errorf("volume: zeros at %d+%d would be written as data: %w", offsetBytes, lengthBytes, syscall.ENOTSUP)
	}
	if err := v.writeZeroData(offsetBytes, start, opts.FUA); err != nil {
		return err
	}
	if start < stop {
		if err := v.free(start, stop); err != nil {
			return err
		}
	}
	if err := v.writeZeroData(stop, end, opts.FUA); err != nil {
		return err
	}
	if opts.FUA && start < stop {
		return v.store.Flush()
	}
	return nil
}

// freeable is the part of [offset, end) that the mode allows to free; it is empty at end, where there is none.
func (v *Volume) freeable(offset, end int64) (start, stop int64) {
	g := v.opts.Geometry
	switch v.opts.Zeroes {
	case ZeroesPunch:
		start, stop = g.inner(offset, end-offset)
	case ZeroesObject:
		unit := v.store.ObjectBytes()
		if unit == 0 {
			return end, end
		}
		start = (g.storeOffset(offset)+unit-1)/unit*unit - g.DataOffsetBytes
		stop = g.storeOffset(end)/unit*unit - g.DataOffsetBytes
		if end == v.SizeBytes() && g.storeOffset(end) == v.store.SizeBytes() {
			stop = end // the last object ends with the image
		}
	default:
		return end, end
	}
	if start >= stop {
		return end, end
	}
	return start, stop
}

func (v *Volume) free(start, stop int64) error {
	r := v.begin(start, stop-start, true)
	defer v.end(r)
	at := v.opts.Geometry.storeOffset(start)
	if v.opts.Zeroes == ZeroesPunch {
		return v.store.Zero(at, stop-start)
	}
	return v.store.Discard(at, stop-start)
}

// writeZeroData encrypts zeros and writes them.
func (v *Volume) writeZeroData(offset, end int64, fua bool) error {
	if offset >= end {
		return nil
	}
	buf := <-v.zeroes
	defer func() { v.zeroes <- buf }()
	if buf == nil {
		buf = make([]byte, zeroChunkBytes)
	}
	for offset < end {
		// Chunks end on chunk boundaries, so that at most the first and the last are ragged.
		n := min(end-offset, zeroChunkBytes-offset%zeroChunkBytes)
		clear(buf[:n])
		if err := v.WriteAt(buf[:n], offset, fua); err != nil {
			return err
		}
		offset += n
	}
	return nil
}
