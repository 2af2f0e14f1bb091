// SPDX-License-Identifier: Apache-2.0

// Package memdevice is a block device in memory for tests and benchmarks of the server.
package memdevice

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/blocks"
)

// Device is a nbdserver.Device in memory, and a nbdserver.Lender.
type Device struct {
	*blocks.Memory
	props nbdserver.Properties
}

// New returns a device of sizeBytes zeros that can do everything. It lives as long as the process, or somebody uses it.
func New(sizeBytes int64) *Device {
	m, err := blocks.New(sizeBytes)
	if err != nil {
		panic(err) // of a test that asks for more than there is
	}
	return &Device{
		Memory: m,
		props: nbdserver.Properties{
			Flush: true, FUA: true, Trim: true, WriteZeroes: true, FastZero: true, Cache: true, MultiConn: true,
			Immediate: true,
			Contexts:  []string{nbdserver.ContextAllocation},
		},
	}
}

// With changes what the device says of itself; call it before the device is served.
func (d *Device) With(change func(*nbdserver.Properties)) *Device {
	change(&d.props)
	return d
}

// Properties implements nbdserver.Device.
func (d *Device) Properties() nbdserver.Properties { return d.props }

// ReadAt implements nbdserver.Device.
func (d *Device) ReadAt(p []byte, offset int64) error {
	d.Memory.ReadAt(p, offset)
	return nil
}

// WriteAt implements nbdserver.Device.
func (d *Device) WriteAt(p []byte, offset int64, _ bool) error {
	d.Memory.WriteAt(p, offset)
	return nil
}

// Adopt implements nbdserver.Lender.
func (d *Device) Adopt(offset int64, pieces [][]byte, _ bool) error {
	d.Memory.Adopt(offset, pieces)
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
	d.Zero(offset, length)
	return nil
}

// Cache implements nbdserver.Device.
func (d *Device) Cache(int64, int64) error { return nil }

// Extents implements nbdserver.Device: runs of blocks of 4096 bytes that are zero or not.
func (d *Device) Extents(_ string, offset, length int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	const block = 4096
	var zero [block]byte
	for end := offset + length; offset < end; {
		hi := min((offset/block+1)*block, d.SizeBytes())
		flags := uint64(0)
		if bytes.Equal(d.Lend(offset, hi-offset), zero[:hi-offset]) {
			flags = nbdserver.StateHole | nbdserver.StateZero
		}
		d.TakeBack(offset)
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
