// SPDX-License-Identifier: Apache-2.0

// Package blocks is memory for a device: readers see old or new bytes of a block, never a mixture, data can be sent from
// where it lies, and a payload received into a spare block becomes part of the memory without being copied.
package blocks

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Bytes is the size of a block.
const Bytes = 64 << 10

const (
	locks = 256
	// mapBytes is from where on the memory is a mapping of its own, with large pages: random access to small ones spends
	// its time on address translation.
	mapBytes = 128 << 20
	// maxSpare is how many blocks may be lent for payloads at once.
	maxSpare = 64
	pageSize = 4096
)

// Memory is sizeBytes of memory, zeros at first. Its methods may be called by many goroutines at once; ranges must lie
// inside, as for a slice.
type Memory struct {
	sizeBytes int64
	data      []byte // places of a block each
	mapped    bool

	locks [locks]sync.RWMutex // lock i is for the blocks i, i+locks, ...
	place []uint32            // of each block; guarded by its lock

	mu    sync.Mutex
	spare []uint32 // places of no block; what was freed last is used first, because the processor may still have it
}

// New returns memory; pages are used when they are written.
func New(sizeBytes int64) (*Memory, error) {
	n := (sizeBytes + Bytes - 1) / Bytes
	spare := min(maxSpare, (n+1)/2)
	m := &Memory{sizeBytes: sizeBytes, place: make([]uint32, n)}
	for i := range n {
		m.place[i] = uint32(i)
	}
	for i := range spare {
		m.spare = append(m.spare, uint32(n+i))
	}
	total := int((n + spare) * Bytes)
	if total < mapBytes {
		m.data = make([]byte, total)[:total:total]
		return m, nil
	}
	data, err := unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("cannot map %d bytes: %w", total, err)
	}
	_ = unix.Madvise(data, unix.MADV_HUGEPAGE) // best effort
	m.data, m.mapped = data, true
	return m, nil
}

// Close frees the memory. No other method may be under way or follow.
func (m *Memory) Close() error {
	data := m.data
	m.data = nil
	if !m.mapped || data == nil {
		return nil
	}
	return unix.Munmap(data)
}

// SizeBytes is the size.
func (m *Memory) SizeBytes() int64 { return m.sizeBytes }

func (m *Memory) lock(block int64) *sync.RWMutex { return &m.locks[block%locks] }

// part is what of the range lies in its first block. The block's lock is held.
func (m *Memory) part(offsetBytes, lengthBytes int64) []byte {
	in := offsetBytes % Bytes
	at := int64(m.place[offsetBytes/Bytes])*Bytes + in
	return m.data[at : at+min(lengthBytes, Bytes-in)]
}

// ReadAt fills p with the bytes at offsetBytes.
func (m *Memory) ReadAt(p []byte, offsetBytes int64) {
	for len(p) > 0 {
		n := copy(p, m.Lend(offsetBytes, int64(len(p))))
		m.TakeBack(offsetBytes)
		p, offsetBytes = p[n:], offsetBytes+int64(n)
	}
}

// WriteAt writes p at offsetBytes.
func (m *Memory) WriteAt(p []byte, offsetBytes int64) {
	for len(p) > 0 {
		n := m.change(offsetBytes, int64(len(p)), func(part []byte) { copy(part, p) })
		p, offsetBytes = p[n:], offsetBytes+n
	}
}

// Zero makes the range zeros and frees its whole pages.
func (m *Memory) Zero(offsetBytes, lengthBytes int64) {
	for lengthBytes > 0 {
		n := m.change(offsetBytes, lengthBytes, func(part []byte) {
			pages := m.mapped && offsetBytes%pageSize == 0 && len(part)%pageSize == 0
			if !pages || unix.Madvise(part, unix.MADV_DONTNEED) != nil {
				clear(part)
			}
		})
		offsetBytes, lengthBytes = offsetBytes+n, lengthBytes-n
	}
}

// change calls f for what of the range lies in its first block, alone with it, and returns its length.
func (m *Memory) change(offsetBytes, lengthBytes int64, f func(part []byte)) int64 {
	l := m.lock(offsetBytes / Bytes)
	l.Lock()
	defer l.Unlock()
	part := m.part(offsetBytes, lengthBytes)
	f(part)
	return int64(len(part))
}

// Lend returns the memory of what of the range lies in its first block. It does not change until TakeBack.
func (m *Memory) Lend(offsetBytes, lengthBytes int64) []byte {
	m.lock(offsetBytes / Bytes).RLock()
	return m.part(offsetBytes, lengthBytes)
}

// TakeBack ends what Lend of the same offset began.
func (m *Memory) TakeBack(offsetBytes int64) { m.lock(offsetBytes / Bytes).RUnlock() }

// Spare appends to dst pieces of memory for the range, one for each block, whose content is undefined, or nothing if there
// are not enough. They belong to the caller until Adopt or GiveUp gets them, uncut.
func (m *Memory) Spare(offsetBytes, lengthBytes int64, dst [][]byte) [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	end := offsetBytes + lengthBytes
	if last := int64(len(m.spare)) + offsetBytes/Bytes; (end-1)/Bytes >= last {
		return dst
	}
	for offsetBytes < end {
		place := m.spare[len(m.spare)-1]
		m.spare = m.spare[:len(m.spare)-1]
		in := offsetBytes % Bytes
		n := min(Bytes-in, end-offsetBytes)
		at := int64(place)*Bytes + in
		dst = append(dst, m.data[at:at+n])
		offsetBytes += n
	}
	return dst
}

// Adopt makes pieces that Spare returned for the offset the content there: whole blocks by exchange, others by a copy.
func (m *Memory) Adopt(offsetBytes int64, pieces [][]byte) {
	for i, p := range pieces {
		block, n := offsetBytes/Bytes, int64(len(p))
		if offsetBytes%Bytes == 0 && (n == Bytes || offsetBytes+n == m.sizeBytes) {
			l := m.lock(block)
			l.Lock()
			old := int64(m.place[block]) * Bytes
			m.place[block] = m.placeOf(p)
			l.Unlock()
			pieces[i] = m.data[old : old+n]
		} else {
			m.WriteAt(p, offsetBytes)
		}
		offsetBytes += n
	}
	m.GiveUp(pieces)
}

// GiveUp takes back pieces that are not needed.
func (m *Memory) GiveUp(pieces [][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(pieces) - 1; i >= 0; i-- {
		m.spare = append(m.spare, m.placeOf(pieces[i]))
	}
}

// placeOf finds a piece: its capacity goes to the end of the memory.
func (m *Memory) placeOf(piece []byte) uint32 { return uint32((len(m.data) - cap(piece)) / Bytes) }
