// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
)

// A Recorder notes what all connections to an export ask for, in the order in which the device is asked. If the file cannot
// be written any more it says so once and stops; clients are served all the same.
type Recorder struct {
	started time.Time
	failed  func(error)

	mu   sync.Mutex
	w    *Writer
	file io.WriteCloser
	err  error
}

// NewRecorder writes a trace of a device to file, which it owns from now on. failed is called once, with what went wrong.
func NewRecorder(file io.WriteCloser, name string, sizeBytes int64, failed func(error)) (*Recorder, error) {
	r := &Recorder{started: time.Now(), failed: failed, file: file}
	var err error
	if r.w, err = NewWriter(file, Header{SizeBytes: sizeBytes, Started: r.started, Name: name}); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

func (r *Recorder) note(op Op, flags Flags, offset, length int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = r.w.Append(Record{time.Since(r.started), op, flags, offset, length})
	if r.err != nil {
		r.failed(r.err)
	}
}

// Close ends the trace. No device of it may be in use.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.file.Close() // that it failed has been said
	}
	return errors.Join(r.w.Close(), r.file.Close())
}

// Device is d with its requests noted.
func (r *Recorder) Device(d nbdserver.Device) nbdserver.Device { return recorded{d, r} }

// Catalog is c with the requests to all its devices noted.
func (r *Recorder) Catalog(c nbdserver.Catalog) nbdserver.Catalog { return recordedCatalog{c, r} }

type recordedCatalog struct {
	nbdserver.Catalog
	r *Recorder
}

// Open implements nbdserver.Catalog.
func (c recordedCatalog) Open(ctx context.Context, name string, peer *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	info, d, err := c.Catalog.Open(ctx, name, peer)
	if err != nil {
		return info, d, err
	}
	return info, c.r.Device(d), nil
}

type recorded struct {
	nbdserver.Device
	r *Recorder
}

func fua(on bool) Flags {
	if on {
		return FUA
	}
	return 0
}

// ReadAt implements nbdserver.Device.
func (d recorded) ReadAt(p []byte, offsetBytes int64) error {
	d.r.note(Read, 0, offsetBytes, int64(len(p)))
	return d.Device.ReadAt(p, offsetBytes)
}

// WriteAt implements nbdserver.Device.
func (d recorded) WriteAt(p []byte, offsetBytes int64, on bool) error {
	d.r.note(Write, fua(on), offsetBytes, int64(len(p)))
	return d.Device.WriteAt(p, offsetBytes, on)
}

// Flush implements nbdserver.Device.
func (d recorded) Flush() error {
	d.r.note(Flush, 0, 0, 0)
	return d.Device.Flush()
}

// Trim implements nbdserver.Device.
func (d recorded) Trim(offsetBytes, lengthBytes int64, on bool) error {
	d.r.note(Trim, fua(on), offsetBytes, lengthBytes)
	return d.Device.Trim(offsetBytes, lengthBytes, on)
}

// WriteZeroes implements nbdserver.Device.
func (d recorded) WriteZeroes(offsetBytes, lengthBytes int64, how nbdserver.ZeroFlags) error {
	f := fua(how&nbdserver.ZeroFUA != 0)
	if how&nbdserver.ZeroNoHole != 0 {
		f |= NoHole
	}
	if how&nbdserver.ZeroFast != 0 {
		f |= Fast
	}
	d.r.note(Zero, f, offsetBytes, lengthBytes)
	return d.Device.WriteZeroes(offsetBytes, lengthBytes, how)
}

// Cache implements nbdserver.Device.
func (d recorded) Cache(offsetBytes, lengthBytes int64) error {
	d.r.note(Cache, 0, offsetBytes, lengthBytes)
	return d.Device.Cache(offsetBytes, lengthBytes)
}
