// SPDX-License-Identifier: Apache-2.0

// Package af is the anti-forensic splitter of LUKS (TKS1): it blows a key up to many stripes of which every bit is
// needed, so that losing any part of the area on disk, for example by overwriting it once, destroys the key.
//
// Reference: LUKS1 On-Disk Format Specification 1.2.3, section 2.4.
package af

import (
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"crypto/subtle"

	"github.com/luksgate/luksgate/crypt/luks/lukserr"
	"github.com/luksgate/luksgate/crypt/secret"
)

// Stripes is the only stripe count that LUKS headers may have.
const Stripes = 4000

const sectorBytes = 512

// SplitBytes is the length of a split key, without padding.
func SplitBytes(keyBytes int) int { return keyBytes * Stripes }

// AreaBytes is the length of a split key in whole 512-byte sectors, as it is encrypted and stored.
func AreaBytes(keyBytes int) int {
	return (SplitBytes(keyBytes) + sectorBytes - 1) / sectorBytes * sectorBytes
}

// Merge recovers the key from its stripes: len(split) must be SplitBytes(len(key)).
func Merge(key, split []byte, newHash func() hash.Hash) error {
	if len(split) != SplitBytes(len(key)) {
		return fmt.Errorf("%w: split key of %d bytes, expected %d", lukserr.Damaged, len(split), SplitBytes(len(key)))
	}
	clear(key)
	d := newDiffuser(newHash)
	defer d.wipe()
	n := len(key)
	for i := range Stripes - 1 {
		subtle.XORBytes(key, key, split[i*n:(i+1)*n])
		d.diffuse(key)
	}
	subtle.XORBytes(key, key, split[(Stripes-1)*n:])
	return nil
}

// Split fills split, of SplitBytes(len(key)), with stripes that Merge turns into key again. All but the last stripe come
// from random, which must be a cryptographic source.
func Split(split, key []byte, newHash func() hash.Hash, random io.Reader) error {
	n := len(key)
	if len(split) != SplitBytes(n) {
		return fmt.Errorf("%w: split key of %d bytes, expected %d", lukserr.Damaged, len(split), SplitBytes(n))
	}
	if _, err := io.ReadFull(random, split[:(Stripes-1)*n]); err != nil {
		return fmt.Errorf("random stripes: %w", err)
	}
	d := newDiffuser(newHash)
	defer d.wipe()
	last := split[(Stripes-1)*n:]
	clear(last)
	for i := range Stripes - 1 {
		subtle.XORBytes(last, last, split[i*n:(i+1)*n])
		d.diffuse(last)
	}
	subtle.XORBytes(last, last, key)
	return nil
}

// diffuser holds the scratch memory of the hash step.
type diffuser struct {
	h   hash.Hash
	sum []byte
}

func newDiffuser(newHash func() hash.Hash) *diffuser {
	h := newHash()
	return &diffuser{h: h, sum: make([]byte, 0, h.Size())}
}

// diffuse replaces each digest-sized piece of b by the hash of its index and itself.
func (d *diffuser) diffuse(b []byte) {
	var index [4]byte
	for i := uint32(0); len(b) > 0; i++ {
		piece := b[:min(d.h.Size(), len(b))]
		b = b[len(piece):]
		binary.BigEndian.PutUint32(index[:], i)
		d.h.Reset()
		_, _ = d.h.Write(index[:])
		_, _ = d.h.Write(piece)
		d.sum = d.h.Sum(d.sum[:0])
		copy(piece, d.sum)
	}
}

func (d *diffuser) wipe() {
	secret.Wipe(d.sum[:cap(d.sum)])
	d.h.Reset()
}
