// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"fmt"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
)

// faulty is a device that does as it is told before each call.
type faulty struct {
	nbdserver.Device
	before func(op string, offset, length int64) error
}

func (f *faulty) ReadAt(p []byte, offset int64) error {
	if err := f.before("read", offset, int64(len(p))); err != nil {
		return err
	}
	return f.Device.ReadAt(p, offset)
}

func (f *faulty) WriteAt(p []byte, offset int64, fua bool) error {
	op := "write"
	if fua {
		op = "write+fua"
	}
	if err := f.before(op, offset, int64(len(p))); err != nil {
		return err
	}
	err := f.Device.WriteAt(p, offset, fua)
	for i := range p {
		p[i] = 0xAA // the interface allows it, so it must do no harm
	}
	return err
}

func (f *faulty) Flush() error {
	if err := f.before("flush", 0, 0); err != nil {
		return err
	}
	return f.Device.Flush()
}

func (f *faulty) Trim(offset, length int64, fua bool) error {
	op := "trim"
	if fua {
		op = "trim+fua"
	}
	if err := f.before(op, offset, length); err != nil {
		return err
	}
	return f.Device.Trim(offset, length, fua)
}

func (f *faulty) WriteZeroes(offset, length int64, flags nbdserver.ZeroFlags) error {
	if err := f.before(fmt.Sprintf("zero+%d", flags), offset, length); err != nil {
		return err
	}
	return f.Device.WriteZeroes(offset, length, flags)
}

func (f *faulty) Cache(offset, length int64) error {
	if err := f.before("cache", offset, length); err != nil {
		return err
	}
	return f.Device.Cache(offset, length)
}

func (f *faulty) Extents(name string, offset, length int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	if err := f.before("extents", offset, length); err != nil {
		return nil, err
	}
	return f.Device.Extents(name, offset, length, dst)
}

// deferred makes a device that does not promise to answer at once, so that requests go to workers.
func deferred(sizeBytes int64) *memdevice.Device {
	return memdevice.New(sizeBytes).With(func(p *nbdserver.Properties) { p.Immediate = false })
}

// filled writes data into all of d: zeros would be sent as holes, which fit any socket.
func filled(d *memdevice.Device) *memdevice.Device {
	piece := noise(3, 1<<20)
	for offset := int64(0); offset < d.SizeBytes(); offset += int64(len(piece)) {
		_ = d.WriteAt(piece, offset, false)
	}
	return d
}
