// SPDX-License-Identifier: Apache-2.0

// Package mem is an image in memory, for tests and benchmarks. It is gone when it is closed.
package mem

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/crypt/volume"
)

// maxBytes bounds what a typing error can ask for.
const maxBytes = 1 << 40

// stripeBytes is the unit of locking: smaller requests on different stripes do not wait for each other.
const (
	stripeBytes = 64 << 10
	stripes     = 256
)

// Image is a volume.Store in anonymous memory. Requests are atomic in each 64 KiB stripe.
type Image struct {
	data  []byte
	locks [stripes]sync.RWMutex
}

// New makes an image of zeros; pages are used when they are written.
func New(sizeBytes int64) (*Image, error) {
	if sizeBytes < 0 || sizeBytes > maxBytes {
		return nil, fmt.Errorf("mem: size %d: expected 0 to %d bytes", sizeBytes, int64(maxBytes))
	}
	m := &Image{}
	if sizeBytes == 0 {
		return m, nil
	}
	data, err := unix.Mmap(-1, 0, int(sizeBytes), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mem: cannot map %d bytes: %w", sizeBytes, err)
	}
	// Best effort: large pages spare random requests most of the walks through page tables.
	_ = unix.Madvise(data, unix.MADV_HUGEPAGE)
	m.data = data
	return m, nil
}

// SizeBytes implements volume.Store.
func (m *Image) SizeBytes() int64 { return int64(len(m.data)) }

// each calls f for the parts of iov that lie in one stripe each, with that stripe's lock.
func (m *Image) each(iov [][]byte, off int64, lock, unlock func(*sync.RWMutex), f func(mem, b []byte)) {
	for _, b := range iov {
		for len(b) > 0 {
			n := min(int64(len(b)), stripeBytes-off%stripeBytes)
			l := &m.locks[off/stripeBytes%stripes]
			lock(l)
			f(m.data[off:off+n], b[:n])
			unlock(l)
			b, off = b[n:], off+n
		}
	}
}

// ReadAt implements volume.Store.
func (m *Image) ReadAt(iov [][]byte, offsetBytes int64) error {
	m.each(iov, offsetBytes, (*sync.RWMutex).RLock, (*sync.RWMutex).RUnlock, func(mem, b []byte) { copy(b, mem) })
	return nil
}

// WriteAt implements volume.Store.
func (m *Image) WriteAt(iov [][]byte, offsetBytes int64, _ bool) error {
	m.each(iov, offsetBytes, (*sync.RWMutex).Lock, (*sync.RWMutex).Unlock, func(mem, b []byte) { copy(mem, b) })
	return nil
}

// Flush implements volume.Store; memory is as stable as it gets.
func (m *Image) Flush() error { return nil }

// Discard implements volume.Store: the range reads as zeros, its whole pages are freed.
func (m *Image) Discard(offsetBytes, lengthBytes int64) error {
	const page = 4096
	for lengthBytes > 0 {
		n := min(lengthBytes, stripeBytes-offsetBytes%stripeBytes)
		l := &m.locks[offsetBytes/stripeBytes%stripes]
		l.Lock()
		part := m.data[offsetBytes : offsetBytes+n]
		if offsetBytes%page == 0 && n%page == 0 {
			if err := unix.Madvise(part, unix.MADV_DONTNEED); err != nil {
				clear(part)
			}
		} else {
			clear(part)
		}
		l.Unlock()
		offsetBytes, lengthBytes = offsetBytes+n, lengthBytes-n
	}
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

// Close frees the memory. No other method may be under way or follow.
func (m *Image) Close() error {
	if m.data == nil {
		return nil
	}
	data := m.data
	m.data = nil
	return unix.Munmap(data)
}
