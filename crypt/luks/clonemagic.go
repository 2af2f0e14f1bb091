// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"

	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
)

// PlainMagic replaces librbd's magics for clones by those of LUKS, as an image wants them whose parent goes away. It returns
// the header as it is then; a header without clone magics is returned as it is. Nothing but the magics changes, since the
// checksums are those of the plain ones: after a loss in between each copy is valid, with the one magic or the other.
func (h *Header) PlainMagic(dev Device) (*Header, error) {
	plain, err := h.plainMagic(dev)
	return plain, wrap(err)
}

func (h *Header) plainMagic(dev Device) (*Header, error) {
	if err := h.unchanged(dev); err != nil {
		return nil, err
	}
	if h.Version == 1 {
		if !h.CloneMagic {
			return h, nil
		}
		if err := writeStable(dev, []byte(luks1.Magic), 0); err != nil {
			return nil, fmt.Errorf("write the magic: %w", err)
		}
		return h.reread(dev)
	}
	changed := false
	for _, c := range []*luks2.Copy{h.v2.Other(), h.v2.Used()} {
		if c.State != luks2.OK || !c.Binary.CloneMagic {
			continue
		}
		magic := luks2.MagicPrimary
		if c.Binary.Secondary {
			magic = luks2.MagicSecondary
		}
		if err := writeStable(dev, []byte(magic), c.Binary.OffsetBytes()); err != nil {
			return nil, fmt.Errorf("write the magic: %w", err)
		}
		changed = true
	}
	if !changed {
		return h, nil
	}
	return h.reread(dev)
}
