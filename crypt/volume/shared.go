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

// swapSector puts p at byte at of the sector at offsetBytes.
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
		if bytes.Equal(sector[at:at+len(p)], p) {
			return nil
		}
		copy(sector[at:], p)
		r.crypt(sector, offsetBytes, true)
		done, err := r.v.swap.CompareAndWrite(old, sector, g.storeOffset(offsetBytes))
		if done || err != nil {
			return err
		}
	}
	return fmt.Errorf("volume: sector at %d: others changed it %d times meanwhile: %w", offsetBytes, maxSwaps, syscall.EIO)
}
