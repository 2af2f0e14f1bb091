// SPDX-License-Identifier: Apache-2.0

// Package mem is an image in memory, for tests and benchmarks. It is gone when it is closed.
package mem

import (
	"fmt"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/nbdserver/blocks"
)

// maxBytes bounds what a typing error can ask for.
const maxBytes = 1 << 40

// Image is a volume.Store in anonymous memory. Requests are atomic in each block. What else blocks.Memory can do, lending
// its memory and adopting payloads, the image can.
type Image struct{ *blocks.Memory }

// New makes an image of zeros; pages are used when they are written.
func New(sizeBytes int64) (*Image, error) {
	if sizeBytes < 0 || sizeBytes > maxBytes {
		return nil, fmt.Errorf("mem: size %d: expected 0 to %d bytes", sizeBytes, int64(maxBytes))
	}
	m, err := blocks.New(sizeBytes)
	if err != nil {
		return nil, fmt.Errorf("mem: %w", err)
	}
	return &Image{m}, nil
}

// ReadAt implements volume.Store.
func (m *Image) ReadAt(iov [][]byte, offsetBytes int64) error {
	for _, p := range iov {
		m.Memory.ReadAt(p, offsetBytes)
		offsetBytes += int64(len(p))
	}
	return nil
}

// WriteAt implements volume.Store.
func (m *Image) WriteAt(iov [][]byte, offsetBytes int64, _ bool) error {
	for _, p := range iov {
		m.Memory.WriteAt(p, offsetBytes)
		offsetBytes += int64(len(p))
	}
	return nil
}

// Flush implements volume.Store; memory is as stable as it gets.
func (m *Image) Flush() error { return nil }

// Discard implements volume.Store: the range reads as zeros, its whole pages are freed.
func (m *Image) Discard(offsetBytes, lengthBytes int64) error {
	m.Memory.Zero(offsetBytes, lengthBytes)
	return nil
}

// Zero implements volume.Store.
func (m *Image) Zero(offsetBytes, lengthBytes int64) error {
	return m.Discard(offsetBytes, lengthBytes)
}

// ObjectBytes implements volume.Store.
func (m *Image) ObjectBytes() int64 { return 0 }

// Extents implements volume.Store: memory does not tell what was written, so everything is data.
func (m *Image) Extents(_, lengthBytes int64, dst []volume.Extent) ([]volume.Extent, error) {
	return append(dst, volume.Extent{LengthBytes: lengthBytes}), nil
}
