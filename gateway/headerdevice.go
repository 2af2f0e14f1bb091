// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"io"

	"github.com/luksgate/luksgate/crypt/luks"
)

var _ luks.Device = headerDevice{}

// headerDevice is a store as package luks writes it.
type headerDevice struct{ readerAt }

// WriteAt implements io.WriterAt. The store does not grow.
func (d headerDevice) WriteAt(p []byte, off int64) (int, error) {
	if size := d.store.SizeBytes(); off < 0 || off > size || int64(len(p)) > size-off {
		return 0, fmt.Errorf("%d bytes at %d, the image has %d: %w", len(p), off, size, io.ErrShortWrite)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := d.store.WriteAt([][]byte{p}, off, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Sync implements luks.Device.
func (d headerDevice) Sync() error { return d.store.Flush() }
