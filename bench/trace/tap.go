// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"sync/atomic"

	"github.com/luksgate/luksgate/nbdserver"
)

// A Tap is where the requests to a device can be recorded, from some time on and for a while. The zero value is ready for
// use, by many goroutines.
type Tap struct{ recorder atomic.Pointer[Recorder] }

// Open has r note requests from now on. False means that another recorder does.
func (t *Tap) Open(r *Recorder) bool { return t.recorder.CompareAndSwap(nil, r) }

// Shut has r note no more requests, if it is the one that does.
func (t *Tap) Shut(r *Recorder) { t.recorder.CompareAndSwap(r, nil) }

// Recorder is the one that notes requests, or nil.
func (t *Tap) Recorder() *Recorder { return t.recorder.Load() }

func (t *Tap) note(op Op, flags Flags, offsetBytes, lengthBytes int64) {
	if r := t.recorder.Load(); r != nil {
		r.note(op, flags, offsetBytes, lengthBytes)
	}
}

// Device is d with its requests noted whenever the tap is open.
func (t *Tap) Device(d nbdserver.Device) nbdserver.Device {
	s := tapped{d, t}
	if a, ok := d.(nbdserver.AsyncDevice); ok {
		return tappedAsync{s, a}
	}
	return s
}

// Catalog is c with the requests to all its devices noted.
func (t *Tap) Catalog(c nbdserver.Catalog) nbdserver.Catalog { return tappedCatalog{c, t} }

type tappedCatalog struct {
	nbdserver.Catalog
	tap *Tap
}

// Open implements nbdserver.Catalog.
func (c tappedCatalog) Open(ctx context.Context, name string, peer *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	info, d, err := c.Catalog.Open(ctx, name, peer)
	if err != nil {
		return info, d, err
	}
	return info, c.tap.Device(d), nil
}

type tapped struct {
	nbdserver.Device
	tap *Tap
}

func fua(on bool) Flags {
	if on {
		return FUA
	}
	return 0
}

// ReadAt implements nbdserver.Device.
func (d tapped) ReadAt(p []byte, offsetBytes int64) error {
	d.tap.note(Read, 0, offsetBytes, int64(len(p)))
	return d.Device.ReadAt(p, offsetBytes)
}

// WriteAt implements nbdserver.Device.
func (d tapped) WriteAt(p []byte, offsetBytes int64, on bool) error {
	d.tap.note(Write, fua(on), offsetBytes, int64(len(p)))
	return d.Device.WriteAt(p, offsetBytes, on)
}

// Flush implements nbdserver.Device.
func (d tapped) Flush() error {
	d.tap.note(Flush, 0, 0, 0)
	return d.Device.Flush()
}

// Trim implements nbdserver.Device.
func (d tapped) Trim(offsetBytes, lengthBytes int64, on bool) error {
	d.tap.note(Trim, fua(on), offsetBytes, lengthBytes)
	return d.Device.Trim(offsetBytes, lengthBytes, on)
}

// WriteZeroes implements nbdserver.Device.
func (d tapped) WriteZeroes(offsetBytes, lengthBytes int64, how nbdserver.ZeroFlags) error {
	f := fua(how&nbdserver.ZeroFUA != 0)
	if how&nbdserver.ZeroNoHole != 0 {
		f |= NoHole
	}
	if how&nbdserver.ZeroFast != 0 {
		f |= Fast
	}
	d.tap.note(Zero, f, offsetBytes, lengthBytes)
	return d.Device.WriteZeroes(offsetBytes, lengthBytes, how)
}

// Cache implements nbdserver.Device.
func (d tapped) Cache(offsetBytes, lengthBytes int64) error {
	d.tap.note(Cache, 0, offsetBytes, lengthBytes)
	return d.Device.Cache(offsetBytes, lengthBytes)
}

// tappedAsync is the same of a device that can be asked without waiting.
type tappedAsync struct {
	tapped
	async nbdserver.AsyncDevice
}

// StartRead implements nbdserver.AsyncDevice.
func (d tappedAsync) StartRead(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	began := d.async.StartRead(p, offsetBytes, done)
	if began { // else it comes again, as ReadAt
		d.tap.note(Read, 0, offsetBytes, int64(len(p)))
	}
	return began
}

// StartWrite implements nbdserver.AsyncDevice.
func (d tappedAsync) StartWrite(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	began := d.async.StartWrite(p, offsetBytes, done)
	if began {
		d.tap.note(Write, 0, offsetBytes, int64(len(p)))
	}
	return began
}
