// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway/layered"
)

// A clone is an RBD clone that is to get a key of its own, and what can be seen through it. Its header takes the place of
// its first bytes, and its plaintext goes on where that of its parent does: plaintext byte 0 is plaintext byte 0.
type clone struct {
	parent string // its name
	// level is the parent's plaintext.
	level           layered.Level
	rawOverlapBytes int64
}

// readClone reads the parent's header, if it has one: its key is not needed.
func readClone(src *source) (*clone, error) {
	info := src.info.Parent
	c := &clone{parent: info.Name, level: layered.Level{RawBytes: info.SizeBytes}, rawOverlapBytes: src.info.OverlapBytes}
	header, err := src.headerOf(info)
	switch {
	case errors.Is(err, luks.ErrNotLUKS):
		return c, nil
	case err != nil:
		return nil, fmt.Errorf("its parent %s: %w", info.Name, err)
	}
	c.level.DataOffsetBytes, c.level.SectorBytes = header.DataOffsetBytes, int64(header.SectorBytes)
	return c, nil
}

// cloneInUse refuses a clone that was written to: what it holds would be lost. What it merely shows is its parent's.
func (h *Held) cloneInUse() error {
	owns, err := h.src.rbd.OwnsData()
	if err != nil {
		return err
	}
	if owns {
		return fmt.Errorf("%s: %w: it is a clone of %s and has been written to, which would be lost", h.cfg.Image, luks.ErrInUse, h.clone.parent)
	}
	return nil
}

// A Loss is the part of a parent that cannot be seen through a clone with its own key, because the clone's header takes
// its room.
type Loss struct {
	Parent string // its name, with the snapshot
	// Bytes is the length of the tail that is lost, FromByte the plaintext byte of the parent where it begins.
	Bytes, FromByte int64
	// GrowBytes is by how much the parent must be larger before its snapshot is made, for nothing to be lost.
	GrowBytes int64
}

// Loss tells what of its parent a clone would not show after Format; nil where that is nothing. Formatting itself fails
// where there is an error.
func (h *Held) Loss(opts luks.FormatOptions) (*Loss, error) {
	if h.clone == nil {
		return nil, nil
	}
	begin, err := h.complete(opts).DataBegin(h.sizeBytes())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.name, err)
	}
	child := layered.Level{RawBytes: h.sizeBytes(), DataOffsetBytes: begin, SectorBytes: int64(opts.SectorBytes)}
	parent := h.clone.level
	lost := layered.LostBytes(h.clone.rawOverlapBytes, child, parent)
	// What a clone that was made smaller does not show anyway.
	shown := layered.OverlapBytes(h.clone.rawOverlapBytes, parent.DataOffsetBytes, parent.SizeBytes())
	if lost -= parent.SizeBytes() - shown; lost <= 0 {
		return nil, nil
	}
	return &Loss{
		Parent: h.clone.parent, Bytes: lost, FromByte: shown - lost,
		GrowBytes: begin - parent.DataOffsetBytes,
	}, nil
}
