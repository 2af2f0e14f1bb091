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

// track tracks an export's device, which may be one that can be asked without waiting.
func (e *export) track(d nbdserver.Device) nbdserver.Device {
	d = e.tap.Device(d)
	t := &tracked{Device: d, stats: e.stats, release: e.release}
	if a, ok := d.(nbdserver.AsyncDevice); ok {
		return &trackedAsync{t, a}
	}
	return t
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

// trackedAsync is the same of a device that can be asked without waiting.
type trackedAsync struct {
	*tracked
	async nbdserver.AsyncDevice
}

// StartRead implements nbdserver.AsyncDevice.
func (t *trackedAsync) StartRead(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	c := begin(t.stats, done)
	return t.async.StartRead(p, offsetBytes, c) || c.never()
}

// StartWrite implements nbdserver.AsyncDevice.
func (t *trackedAsync) StartWrite(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	c := begin(t.stats, done)
	return t.async.StartWrite(p, offsetBytes, c) || c.never()
}

// A completion ends one request in the statistics too.
type completion struct {
	stats *metrics.Export
	done  nbdserver.Completion
}

var completions = sync.Pool{New: func() any { return new(completion) }}

func begin(stats *metrics.Export, done nbdserver.Completion) *completion {
	stats.Begin()
	c := completions.Get().(*completion)
	c.stats, c.done = stats, done
	return c
}

// Done implements nbdserver.Completion.
func (c *completion) Done(err error) nbdserver.Sender {
	done := c.done
	c.end()
	return done.Done(err)
}

// never is for a request that was not begun.
func (c *completion) never() bool {
	c.end()
	return false
}

func (c *completion) end() {
	c.stats.End()
	*c = completion{}
	completions.Put(c)
}
