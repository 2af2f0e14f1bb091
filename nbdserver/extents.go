// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/luksgate/luksgate/nbdserver/wire"
)

// extentLists are scratch space for Device.Extents.
var extentLists = sync.Pool{New: func() any {
	s := make([]Extent, 0, extentsWide)
	return &s
}}

// blockStatus turns r into a reply with one chunk for each metadata context.
func (c *conn) blockStatus(r *request) error {
	q := r.Request
	contexts := c.contexts
	if q.Flags&wire.CmdFlagPayloadLen != 0 {
		var err error
		if contexts, err = c.parseStatusPayload(&q, r.data); err != nil {
			return err
		}
	}
	list := extentLists.Get().(*[]Extent)
	defer extentLists.Put(list)
	limit := extentsCompact
	if c.extended {
		limit = extentsWide
	}
	if q.Flags&wire.CmdFlagReqOne != 0 {
		limit = 1
	}
	var out []byte
	for i, context := range contexts {
		extents, err := c.device.Extents(context.name, int64(q.OffsetBytes), int64(q.LengthBytes), (*list)[:0:limit])
		if err != nil {
			return fmt.Errorf("extents of %s: %w", context.name, err)
		}
		extents = c.trimExtents(&q, extents)
		if len(extents) == 0 {
			return fmt.Errorf("extents of %s at %d: device returned none", context.name, q.OffsetBytes)
		}
		flags := uint16(0)
		if i == len(contexts)-1 {
			flags = wire.ChunkFlagDone
		}
		out = c.appendStatus(out, &q, flags, context.id, extents)
	}
	if len(contexts) == 0 {
		return nil // an empty selection is answered by success alone
	}
	if r.buf != nil {
		r.buf.Release() // of the payload
		r.buf = nil
	}
	r.raw, r.data = true, out
	return nil
}

// parseStatusPayload decodes the payload of a BLOCK_STATUS: the effect length and ids of some of the contexts
// (proto.md, "Block status requests with a payload"). It sets q's length.
func (c *conn) parseStatusPayload(q *wire.Request, payload []byte) ([]contextID, error) {
	if len(payload) < 8 || len(payload)%4 != 0 {
		return nil, fmt.Errorf("block status payload of %d bytes: %w", len(payload), syscall.EINVAL)
	}
	q.LengthBytes = binary.BigEndian.Uint64(payload)
	plain := *q
	plain.Flags &^= wire.CmdFlagPayloadLen
	if f := c.rules.validateRange(&plain); f != noFault {
		return nil, fmt.Errorf("block status payload: %s: %w", f.text, syscall.EINVAL)
	}
	var chosen []contextID
	for ids := payload[8:]; len(ids) > 0; ids = ids[4:] {
		id := binary.BigEndian.Uint32(ids)
		i := slices.IndexFunc(c.contexts, func(x contextID) bool { return x.id == id })
		if i < 0 || slices.Contains(chosen, c.contexts[i]) {
			return nil, fmt.Errorf("block status payload: context id %d: %w", id, syscall.EINVAL)
		}
		chosen = append(chosen, c.contexts[i])
	}
	return chosen, nil
}

// trimExtents keeps extents within what the protocol allows: the reply starts at the request's offset, with REQ_ONE it is
// one extent and no longer than asked for, and nothing reaches past the end of the export.
func (c *conn) trimExtents(q *wire.Request, extents []Extent) []Extent {
	left := int64(c.rules.sizeBytes - q.OffsetBytes)
	if q.Flags&wire.CmdFlagReqOne != 0 {
		left = min(left, int64(q.LengthBytes))
	}
	asked := int64(q.LengthBytes)
	kept := extents[:0]
	for _, e := range extents {
		if left == 0 || asked <= 0 {
			break
		}
		e.LengthBytes = min(e.LengthBytes, left)
		if e.LengthBytes <= 0 {
			break
		}
		left -= e.LengthBytes
		asked -= e.LengthBytes
		kept = append(kept, e)
	}
	return kept
}

// appendStatus appends a block status chunk.
func (c *conn) appendStatus(out []byte, q *wire.Request, flags uint16, id uint32, extents []Extent) []byte {
	chunk := wire.Chunk{Flags: flags, Type: wire.ChunkBlockStatus, Cookie: q.Cookie, OffsetBytes: q.OffsetBytes}
	var header [wire.ExtendedChunkBytes]byte
	if c.extended {
		chunk.Type, chunk.PayloadBytes = wire.ChunkBlockStatusExt, uint64(8+16*len(extents))
		out = append(out, header[:chunk.Put(header[:], true)]...)
		out = binary.BigEndian.AppendUint32(out, id)
		out = binary.BigEndian.AppendUint32(out, uint32(len(extents)))
		for _, e := range extents {
			out = binary.BigEndian.AppendUint64(out, uint64(e.LengthBytes))
			out = binary.BigEndian.AppendUint64(out, e.Flags)
		}
		return out
	}
	for i := range extents {
		if extents[i].LengthBytes > compactExtent {
			extents[i].LengthBytes = compactExtent
			extents = extents[:i+1] // what follows would be at the wrong place
			break
		}
	}
	chunk.PayloadBytes = uint64(4 + 8*len(extents))
	out = append(out, header[:chunk.Put(header[:], false)]...)
	out = binary.BigEndian.AppendUint32(out, id)
	for _, e := range extents {
		out = binary.BigEndian.AppendUint32(out, uint32(e.LengthBytes))
		out = binary.BigEndian.AppendUint32(out, uint32(e.Flags))
	}
	return out
}

// compactExtent is the longest extent of a compact reply: less than 2^32, and a multiple of any block size in use.
const compactExtent = 1<<32 - 64<<20
