// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/layered"
	"github.com/luksgate/luksgate/nbdserver"
)

// ownStore is an image without what it shows of its parent: it reads objects that exist, one at a time, and writes through
// librbd. The image is not embedded, so that it cannot lend its own way of reading.
type ownStore struct {
	image   *rbd.Image
	objects *rbd.Objects
}

func (s ownStore) SizeBytes() int64   { return s.image.SizeBytes() }
func (s ownStore) ObjectBytes() int64 { return s.image.ObjectBytes() }
func (s ownStore) Flush() error       { return s.image.Flush() }

func (s ownStore) WriteAt(iov [][]byte, offsetBytes int64, fua bool) error {
	return s.image.WriteAt(iov, offsetBytes, fua)
}

func (s ownStore) Discard(offsetBytes, lengthBytes int64) error {
	return s.image.Discard(offsetBytes, lengthBytes)
}

func (s ownStore) Zero(offsetBytes, lengthBytes int64) error {
	return s.image.Zero(offsetBytes, lengthBytes)
}

func (s ownStore) Extents(offsetBytes, lengthBytes int64, dst []volume.Extent) ([]volume.Extent, error) {
	return s.image.Extents(offsetBytes, lengthBytes, dst)
}

// ReadAt implements volume.Store, for ranges inside one object. Without that object its error is layered.ErrAbsent, unless
// it lies where the parent cannot be seen: there it reads as zeros.
func (s ownStore) ReadAt(iov [][]byte, offsetBytes int64) error {
	size := s.objects.ObjectBytes()
	number := offsetBytes / size
	exists, err := s.objects.Read(number, iov, offsetBytes%size)
	if err != nil || exists {
		return err
	}
	overlap, err := s.objects.OverlapBytes()
	if err != nil {
		return err
	}
	if number*size < overlap {
		return layered.ErrAbsent
	}
	for _, b := range iov {
		clear(b)
	}
	return nil
}

// topVolume is a volume as package layered wants it.
type topVolume struct{ *volume.Volume }

// WriteZeroes implements layered.Target.
func (v topVolume) WriteZeroes(offsetBytes, lengthBytes int64, opts layered.ZeroOptions) error {
	return v.Volume.WriteZeroes(offsetBytes, lengthBytes, volume.ZeroOptions(opts))
}

// mapped is a level that knows its holes.
type mapped struct {
	layered.Source
	mapper mapper
}

// Holes implements layered.Mapper.
func (m mapped) Holes(offsetBytes, lengthBytes int64, dst []layered.Extent) ([]layered.Extent, error) {
	found, err := m.mapper.Extents(offsetBytes, lengthBytes, make([]volume.Extent, 0, cap(dst)-len(dst)))
	for _, e := range found {
		depth := 1
		if e.Hole {
			depth = 0
		}
		dst = append(dst, layered.Extent{LengthBytes: e.LengthBytes, Depth: depth})
	}
	return dst, err
}

// layeredDevice serves a chain of levels with keys of their own. The volume of the first level is not embedded: whatever it
// can do besides, it does without the parent.
type layeredDevice struct {
	top   *volumeDevice
	stack *layered.Stack
}

func newLayeredDevice(top topVolume, stack *layered.Stack, readOnly bool) *layeredDevice {
	return &layeredDevice{newVolumeDevice(top.Volume, stack, readOnly), stack}
}

func (d *layeredDevice) SizeBytes() int64                 { return d.top.SizeBytes() }
func (d *layeredDevice) Properties() nbdserver.Properties { return d.top.Properties() }
func (d *layeredDevice) Flush() error                     { return d.top.Flush() }
func (d *layeredDevice) Cache(int64, int64) error         { return nil }
func (d *layeredDevice) Close() error                     { return nil }

// ReadAt implements nbdserver.Device.
func (d *layeredDevice) ReadAt(p []byte, offsetBytes int64) error {
	if err := d.top.Check(offsetBytes, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	return d.stack.ReadAt(p, offsetBytes)
}

// WriteAt implements nbdserver.Device.
func (d *layeredDevice) WriteAt(p []byte, offsetBytes int64, fua bool) error {
	if err := d.top.Check(offsetBytes, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	return d.stack.WriteAt(p, offsetBytes, fua)
}

// Trim implements nbdserver.Device.
func (d *layeredDevice) Trim(offsetBytes, lengthBytes int64, fua bool) error {
	err := d.top.Check(offsetBytes, lengthBytes)
	if err == nil {
		err = d.stack.Trim(offsetBytes, lengthBytes)
	}
	if err != nil || !fua {
		return err
	}
	return d.Flush()
}

// WriteZeroes implements nbdserver.Device.
func (d *layeredDevice) WriteZeroes(offsetBytes, lengthBytes int64, flags nbdserver.ZeroFlags) error {
	if err := d.top.Check(offsetBytes, lengthBytes); err != nil {
		return err
	}
	return d.stack.WriteZeroes(offsetBytes, lengthBytes, layered.ZeroOptions(zeroOptions(flags)))
}

// Extents implements nbdserver.Device, to whole objects.
func (d *layeredDevice) Extents(metaContext string, offsetBytes, lengthBytes int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	if err := d.top.Check(offsetBytes, lengthBytes); err != nil {
		return dst, err
	}
	return layeredExtents(d.stack, metaContext, offsetBytes, lengthBytes, dst)
}

func layeredExtents(s *layered.Stack, metaContext string, offsetBytes, lengthBytes int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	found, err := s.Extents(offsetBytes, lengthBytes, make([]layered.Extent, 0, cap(dst)-len(dst)))
	if err != nil {
		return dst, err
	}
	for _, e := range found {
		flags := uint64(e.Depth)
		if metaContext == nbdserver.ContextAllocation {
			flags = 0
			if e.Depth == 0 || e.Zero {
				flags = nbdserver.StateHole | nbdserver.StateZero
			}
		}
		dst = append(dst, nbdserver.Extent{LengthBytes: e.LengthBytes, Flags: flags})
	}
	return dst, nil
}
