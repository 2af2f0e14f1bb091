// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"

	"github.com/luksgate/luksgate/nbdserver"
)

// An Export is an open image, ready to be served.
type Export struct {
	device  nbdserver.Device
	src     *source
	release func()
}

// Device is the plaintext. Closing it does nothing: all connections share it, and Close ends it.
func (e *Export) Device() nbdserver.Device { return e.device }

// Close writes back, closes the image and wipes the key. No method of the device may be under way.
func (e *Export) Close() error {
	var err error
	if !e.device.Properties().ReadOnly {
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
	Device nbdserver.Device
}

// List implements nbdserver.Catalog.
func (s Single) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	return []nbdserver.ExportInfo{s.Info}, nil
}

// Open implements nbdserver.Catalog.
func (s Single) Open(_ context.Context, name string, _ *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	if name != "" && name != s.Info.Name {
		return nbdserver.ExportInfo{}, nil, nbdserver.ErrUnknownExport
	}
	return s.Info, s.Device, nil
}
