// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sync"

	"github.com/luksgate/luksgate/gateway/metrics"
	"github.com/luksgate/luksgate/nbdserver"
)

// tracked is an export's device for one connection: it counts what is in flight, and its end.
type tracked struct {
	nbdserver.Device
	stats   *metrics.Export
	release func()
	once    sync.Once
}

// ReadAt implements nbdserver.Device.
func (t *tracked) ReadAt(p []byte, offsetBytes int64) error {
	t.stats.Begin()
	defer t.stats.End()
	return t.Device.ReadAt(p, offsetBytes)
}

// WriteAt implements nbdserver.Device.
func (t *tracked) WriteAt(p []byte, offsetBytes int64, fua bool) error {
	t.stats.Begin()
	defer t.stats.End()
	return t.Device.WriteAt(p, offsetBytes, fua)
}

// Flush implements nbdserver.Device.
func (t *tracked) Flush() error {
	t.stats.Begin()
	defer t.stats.End()
	return t.Device.Flush()
}

// Trim implements nbdserver.Device.
func (t *tracked) Trim(offsetBytes, lengthBytes int64, fua bool) error {
	t.stats.Begin()
	defer t.stats.End()
	return t.Device.Trim(offsetBytes, lengthBytes, fua)
}

// WriteZeroes implements nbdserver.Device.
func (t *tracked) WriteZeroes(offsetBytes, lengthBytes int64, flags nbdserver.ZeroFlags) error {
	t.stats.Begin()
	defer t.stats.End()
	return t.Device.WriteZeroes(offsetBytes, lengthBytes, flags)
}

// Extents implements nbdserver.Device.
func (t *tracked) Extents(context string, offsetBytes, lengthBytes int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	t.stats.Begin()
	defer t.stats.End()
	return t.Device.Extents(context, offsetBytes, lengthBytes, dst)
}

// Close implements nbdserver.Device: the image stays open for others.
func (t *tracked) Close() error {
	t.once.Do(t.release)
	return nil
}
