// SPDX-License-Identifier: Apache-2.0

// Package memdevice is a block device in memory for tests and benchmarks of the server. It keeps a lock for each stripe
// of the address space, so that no reader sees half of a write within a stripe.
package memdevice

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/luksgate/luksgate/nbdserver"
	"golang.org/x/sys/unix"
)

// stripeBytes is what one lock covers.
const stripeBytes = 64 << 10

// Device is a nbdserver.Device in memory.
type Device struct {
	data  []byte
	locks []sync.RWMutex
	props nbdserver.Properties
}

// New returns a device of sizeBytes zeros that can do everything.
func New(sizeBytes int64) *Device {
	return &Device{
		data:  allocate(sizeBytes),
		locks: make([]sync.RWMutex, sizeBytes/stripeBytes+1),
		props: nbdserver.Properties{
			Flush: true, FUA: true, Trim: true, WriteZeroes: true, FastZero: true, Cache: true, MultiConn: true,
			Immediate: true,
			Contexts:  []string{nbdserver.ContextAllocation},
		},
	}
}

// allocate maps large devices with huge pages: random access to small ones spends its time on address translation.
// The mapping lives as long as the process.
func allocate(sizeBytes int64) []byte {
	if sizeBytes >= hugeBytes {
		mem, err := unix.Mmap(-1, 0, int(sizeBytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err == nil {
			_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // best effort
			return mem
		}
	}
	return make([]byte, sizeBytes)
}

// hugeBytes is from where on a device has a mapping of its own.
const hugeBytes = 128 << 20

// With changes what the device says of itself; call it before the device is served.
func (d *Device) With(change func(*nbdserver.Properties)) *Device {
	change(&d.props)
	return d
}

// SizeBytes implements nbdserver.Device.
func (d *Device) SizeBytes() int64 { return int64(len(d.data)) }

// Properties implements nbdserver.Device.
func (d *Device) Properties() nbdserver.Properties { return d.props }

// each calls f for the part of a range in each stripe.
func (d *Device) each(offset, length int64, f func(lock *sync.RWMutex, lo, hi int64)) {
	for end := offset + length; offset < end; {
		stripe := offset / stripeBytes
		hi := min((stripe+1)*stripeBytes, end)
		f(&d.locks[stripe], offset, hi)
		offset = hi
	}
}

// ReadAt implements nbdserver.Device.
func (d *Device) ReadAt(p []byte, offset int64) error {
	for len(p) > 0 {
		stripe := offset / stripeBytes
		n := min(int64(len(p)), (stripe+1)*stripeBytes-offset)
		d.locks[stripe].RLock()
		copy(p[:n], d.data[offset:])
		d.locks[stripe].RUnlock()
		p, offset = p[n:], offset+n
	}
	return nil
}

// WriteAt implements nbdserver.Device.
func (d *Device) WriteAt(p []byte, offset int64, _ bool) error {
	for len(p) > 0 {
		stripe := offset / stripeBytes
		n := min(int64(len(p)), (stripe+1)*stripeBytes-offset)
		d.locks[stripe].Lock()
		copy(d.data[offset:], p[:n])
		d.locks[stripe].Unlock()
		p, offset = p[n:], offset+n
	}
	return nil
}

// Flush implements nbdserver.Device.
func (d *Device) Flush() error { return nil }

// Trim implements nbdserver.Device; what is trimmed reads as zeros.
func (d *Device) Trim(offset, length int64, _ bool) error {
	return d.WriteZeroes(offset, length, 0)
}

// WriteZeroes implements nbdserver.Device.
func (d *Device) WriteZeroes(offset, length int64, _ nbdserver.ZeroFlags) error {
	d.each(offset, length, func(lock *sync.RWMutex, lo, hi int64) {
		lock.Lock()
		clear(d.data[lo:hi])
		lock.Unlock()
	})
	return nil
}

// Cache implements nbdserver.Device.
func (d *Device) Cache(int64, int64) error { return nil }

// Extents implements nbdserver.Device: runs of blocks of 4096 bytes that are zero or not.
func (d *Device) Extents(_ string, offset, length int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	const block = 4096
	var zero [block]byte
	for end := offset + length; offset < end; {
		hi := min((offset/block+1)*block, int64(len(d.data)))
		lock := &d.locks[offset/stripeBytes]
		lock.RLock()
		flags := uint64(0)
		if bytes.Equal(d.data[offset:hi], zero[:hi-offset]) {
			flags = nbdserver.StateHole | nbdserver.StateZero
		}
		lock.RUnlock()
		if n := len(dst); n > 0 && dst[n-1].Flags == flags {
			dst[n-1].LengthBytes += hi - offset
		} else {
			if n == cap(dst) {
				break
			}
			dst = append(dst, nbdserver.Extent{LengthBytes: hi - offset, Flags: flags})
		}
		offset = hi
	}
	return dst, nil
}

// Close implements nbdserver.Device; the content stays.
func (d *Device) Close() error { return nil }

// Catalog is a nbdserver.Catalog of devices by name; the one named "" is also the default.
type Catalog map[string]*Device

// List implements nbdserver.Catalog.
func (c Catalog) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	var list []nbdserver.ExportInfo
	for _, name := range slices.Sorted(maps.Keys(c)) {
		list = append(list, nbdserver.ExportInfo{Name: name, Description: "memory"})
	}
	return list, nil
}

// Open implements nbdserver.Catalog.
func (c Catalog) Open(_ context.Context, name string, _ *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	d, ok := c[name]
	if !ok {
		return nbdserver.ExportInfo{}, nil, nbdserver.ErrUnknownExport
	}
	return nbdserver.ExportInfo{Name: name, Description: "memory"}, d, nil
}
