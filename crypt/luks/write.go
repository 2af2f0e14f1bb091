// SPDX-License-Identifier: Apache-2.0

package luks

// How headers are changed on the disk.
//
// LUKS2, both copies, the sequence number raised by one:
//
//  1. compare the device with what was read (ErrChanged);
//  2. write the new keyslot area into free space, Sync;
//  3. write the copy that is NOT the one in use, Sync;
//  4. write the copy that was in use, Sync;
//  5. overwrite areas that nothing refers to any more, Sync.
//
// A loss before 3 leaves the old header. In 3, torn or not, the copy in use still stands; once 3 is complete the written
// copy wins by its sequence number. In 4 the copy of 3 stands. That holds also where one copy was damaged before, because
// the good one is written last.
//
// LUKS1 has one copy and no checksum, so one write changes the bytes of one keyslot only. Torn, it spoils that keyslot,
// never another; changing a passphrase therefore is an addition, Sync, and a removal.
//
// Removal overwrites the area before the header forgets it: a keyslot that is gone must not be recoverable from an old
// header. A loss in between leaves a keyslot that does not open, to be removed again.

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math"

	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
)

// chunkBytes is how much is wiped in one write.
const chunkBytes = 1 << 20

// reread reads the header again, after a change.
func (h *Header) reread(dev Device) (*Header, error) {
	fresh, err := read(dev, h.sizeBytes, ReadOptions{Detached: h.Detached})
	if err != nil {
		return nil, fmt.Errorf("read the header back: %w", err)
	}
	return fresh, nil
}

// unchanged compares the header on the device with h.
func (h *Header) unchanged(dev Device) error {
	now, err := h.reread(dev)
	if err != nil {
		return err
	}
	changed := now.Version != h.Version
	if !changed && h.Version == 1 {
		changed = !bytes.Equal(now.v1.Encode(), h.v1.Encode())
	}
	if !changed && h.Version == 2 {
		a, errA := h.v2.Used().Meta.JSON()
		b, errB := now.v2.Used().Meta.JSON()
		changed = errA != nil || errB != nil || !bytes.Equal(a, b) || *now.v2.Used().Binary != *h.v2.Used().Binary
	}
	if changed {
		return fmt.Errorf("%w: read it again", ErrChanged)
	}
	return nil
}

// ready tells whether the header may be changed at all.
func (h *Header) ready(dev Device) error {
	if h.refused != nil {
		return h.refused
	}
	return h.unchanged(dev)
}

// commit2 writes both copies of a LUKS2 header, in the safe order.
func (h *Header) commit2(dev Device, meta *luks2.Metadata) error {
	used, other := h.v2.Used().Binary, h.v2.Other().Binary
	seq := used.SeqID
	if other != nil {
		seq = max(seq, other.SeqID)
	}
	if seq == math.MaxUint64 {
		return fmt.Errorf("%w: the sequence number is at its end", ErrDamaged)
	}
	first, second := *used, *used
	first.Secondary = !used.Secondary
	for _, c := range []*luks2.Binary{&first, &second} {
		c.SeqID = seq + 1
		if err := writeCopy(dev, c, meta); err != nil {
			return err
		}
	}
	return nil
}

// writeCopy writes one copy with a fresh salt and waits until it is stable.
func writeCopy(dev Device, bin *luks2.Binary, meta *luks2.Metadata) error {
	if _, err := rand.Read(bin.Salt[:]); err != nil {
		return err
	}
	text, err := meta.JSON()
	if err != nil {
		return err
	}
	b, err := bin.Encode(text)
	if err != nil {
		return err
	}
	if err := writeStable(dev, b, bin.OffsetBytes()); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	return nil
}

// commit1 writes a LUKS1 header.
func commit1(dev Device, v1 *luks1.Header) error {
	if err := writeStable(dev, v1.Encode(), 0); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	return nil
}

func writeStable(dev Device, b []byte, offsetBytes int64) error {
	if _, err := dev.WriteAt(b, offsetBytes); err != nil {
		return err
	}
	return dev.Sync()
}

// wipe overwrites a range with random bytes, or zeros, and waits until that is stable.
func wipe(dev Device, offsetBytes, lengthBytes int64, random bool) error {
	buf := make([]byte, min(lengthBytes, chunkBytes))
	for done := int64(0); done < lengthBytes; {
		piece := buf[:min(lengthBytes-done, chunkBytes)]
		if random {
			if _, err := rand.Read(piece); err != nil {
				return err
			}
		}
		if _, err := dev.WriteAt(piece, offsetBytes+done); err != nil {
			return fmt.Errorf("overwrite %d bytes at %d: %w", len(piece), offsetBytes+done, err)
		}
		done += int64(len(piece))
	}
	return dev.Sync()
}

// Repair makes both copies of a LUKS2 header equal to the one in use, what "cryptsetup repair" does, and returns the header
// as it then is. A header without anything to repair, and any LUKS1 header, is left as it is.
func (h *Header) Repair(dev Device) (*Header, error) {
	if h.Version != 2 {
		return h, nil
	}
	// Not ready(): a header that we refuse to unlock may be repaired all the same.
	if err := h.unchanged(dev); err != nil {
		return nil, wrap(err)
	}
	used, other := h.v2.Used(), h.v2.Other()
	if other.State == luks2.OK && !used.Meta.Repaired {
		return h, nil
	}
	copies := []luks2.Binary{*used.Binary}
	copies[0].Secondary = !used.Binary.Secondary
	if used.Meta.Repaired {
		copies = append(copies, *used.Binary)
	}
	for i := range copies {
		if err := writeCopy(dev, &copies[i], used.Meta); err != nil {
			return nil, wrap(err)
		}
	}
	fresh, err := h.reread(dev)
	return fresh, wrap(err)
}
