// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"

	"github.com/luksgate/luksgate/gateway/access"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/nbdserver"
)

// An Export is an open image, ready to be served.
type Export struct {
	device  nbdserver.Device
	src     *source
	release func()
	nature  nature
	// rotational: the image is on a disk that turns.
	rotational bool
}

// Device is the plaintext, for one connection: its size is the image's now, and stays. Closing it does nothing, since
// all connections share the image, which Close closes.
func (e *Export) Device() nbdserver.Device {
	s := sized{e.device, e.device.SizeBytes(), e.rotational}
	switch d := e.device.(type) {
	case *plainDevice:
		return sizedPlain{sizedAsync{d, s}, d}
	case nbdserver.AsyncDevice:
		return sizedAsync{d, s}
	}
	return s
}

// Dead is closed when the image, or a parent that it shows, cannot be used any more, for example because another client took
// it over; Err says why. It is nil for images that stay what they are.
func (e *Export) Dead() <-chan struct{} { return e.src.dead }

// Err is why the image cannot be used any more, or nil.
func (e *Export) Err() error { return e.src.err() }

// Hold makes an export that was opened with Config.Standby one that may be used for writing: it takes what the lock mode
// asks for. Its errors are those of Open; the export is to be closed after one.
func (e *Export) Hold() error {
	if e.src.hold == nil {
		return nil
	}
	return e.src.hold()
}

// RBDStats are the counters of an RBD image; ok is false for others.
func (e *Export) RBDStats() (s rbd.Stats, ok bool) {
	if e.src.rbd == nil {
		return s, false
	}
	return e.src.rbd.Stats(), true
}

// sized is a device with the size that it had when a connection opened it.
type sized struct {
	nbdserver.Device
	sizeBytes  int64
	rotational bool
}

// Properties implements nbdserver.Device.
func (s sized) Properties() nbdserver.Properties {
	p := s.Device.Properties()
	p.Rotational = s.rotational
	return p
}

// sizedAsync is the same of a device that can be asked without waiting.
type sizedAsync struct {
	nbdserver.AsyncDevice
	sized
}

// sizedPlain is the same of a device that may also lend its memory.
type sizedPlain struct {
	sizedAsync
	nbdserver.Lender
}

// SizeBytes implements nbdserver.Device.
func (s sized) SizeBytes() int64 { return s.sizeBytes }

// Close writes back, closes the image and wipes the key. No method of the device may be under way.
func (e *Export) Close() error {
	var err error
	if !e.device.Properties().ReadOnly && (e.src.rbd == nil || e.src.rbd.Err() == nil) {
		err = e.device.Flush()
	}
	if closeErr := e.src.close(); err == nil {
		err = closeErr
	}
	if e.release != nil {
		e.release()
	}
	return err
}

// Single is a catalog of one export. It answers to its name and to the empty one.
type Single struct {
	Info   nbdserver.ExportInfo
	Export *Export
	// Policy says who may have it; nil is everybody.
	Policy *access.Policy
}

// List implements nbdserver.Catalog. Who may not have the export is not told of it.
func (s Single) List(_ context.Context, peer *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	if s.Policy.Check(peer) != nil {
		return nil, nil
	}
	return []nbdserver.ExportInfo{s.Info}, nil
}

// Open implements nbdserver.Catalog.
func (s Single) Open(_ context.Context, name string, peer *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	if err := s.Policy.Check(peer); err != nil {
		return nbdserver.ExportInfo{}, nil, err
	}
	if name != "" && name != s.Info.Name {
		return nbdserver.ExportInfo{}, nil, nbdserver.ErrUnknownExport
	}
	return s.Info, s.Export.Device(), nil
}
