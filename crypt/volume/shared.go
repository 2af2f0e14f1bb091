// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"fmt"
	"syscall"
)

// maxSwaps bounds how often a sector is tried that others keep changing.
const maxSwaps = 64

// writeShared writes an unaligned request to a store that others write too: whole sectors as they come, each ragged
// sector by comparing and writing, so that nobody's bytes in it are lost. inner is what cut returned.
func (r *request) writeShared(p, inner []byte, fua bool) error {
	g := r.v.opts.Geometry
	head := 0
	if r.hasHead {
		head = min(len(p), g.SectorBytes-r.span.headBytes)
		if err := r.swapSector(p[:head], r.span.startBytes, r.span.headBytes); err != nil {
			return err
		}
	}
	pos := r.span.startBytes
	if head > 0 {
		pos += int64(g.SectorBytes)
	}
	if len(inner) > 0 {
		r.crypt(inner, pos, true)
		r.one[0] = inner
		if err := r.v.store.WriteAt(r.one[:], g.storeOffset(pos), false); err != nil {
			return err
		}
	}
	if tail := p[head+len(inner):]; len(tail) > 0 {
		if err := r.swapSector(tail, r.span.endBytes-int64(g.SectorBytes), 0); err != nil {
			return err
		}
	}
	if fua {
		return r.v.store.Flush()
	}
	return nil
}

// swapSector puts p at byte at of the sector at offsetBytes. XTS encrypts each 16-byte block by itself, so only the
// chunks that p touches change; those that it covers in part are replaced only if they still are what was read. In a
// sector that has holes, these are filled with encrypted zeros too, for readers that know only holes of whole sectors.
func (r *request) swapSector(p []byte, offsetBytes int64, at int) error {
	g := r.v.opts.Geometry
	old, sector := r.head, r.tail
	for range maxSwaps {
		r.one[0] = old
		if err := r.v.store.ReadAt(r.one[:], g.storeOffset(offsetBytes)); err != nil {
			return err
		}
		copy(sector, old)
		r.crypt(sector, offsetBytes, false)
		copy(sector[at:], p)
		r.crypt(sector, offsetBytes, true)
		done := true
		for i := 0; i < len(old) && done; i += chunkBytes {
			var err error
			if done, err = r.swapChunk(old[i:i+chunkBytes], sector[i:i+chunkBytes], offsetBytes+int64(i), i < at+len(p) && i+chunkBytes > at); err != nil {
				return err
			}
		}
		if done {
			return nil
		}
	}
	return fmt.Errorf("volume: sector at %d: others changed it %d times meanwhile: %w", offsetBytes, maxSwaps, syscall.EIO)
}

// swapChunk returns false if the chunk must be read again: somebody changed it, and it holds bytes of the request. One
// that does not was a hole, which somebody else has filled.
func (r *request) swapChunk(old, next []byte, offsetBytes int64, ours bool) (bool, error) {
	if bytes.Equal(old, next) {
		return true, nil
	}
	done, err := r.v.swap.CompareAndWrite(old, next, r.v.opts.Geometry.storeOffset(offsetBytes))
	return done || !ours, err
}
