// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Why a recorder has ended before it was closed; errors.Is.
var (
	// ErrLarge is a trace that has reached its limit.
	ErrLarge = errors.New("the trace is as large as it may become")
	// ErrResized is a device that has another size than the trace says.
	ErrResized = errors.New("the device has grown since the recording began")
)

// A Recorder notes what all connections to a device ask for, in the order in which the device is asked. If it cannot go on
// it ends the trace; clients are served all the same. It may be used by many goroutines.
type Recorder struct {
	started    time.Time
	sizeBytes  int64 // of the device
	limitBytes int64
	ended      chan struct{}

	mu   sync.Mutex
	w    *Writer
	file io.WriteCloser
	over bool
	err  error // why it ended
}

// NewRecorder writes a trace of a device to file, which it owns from now on, and which must not make it wait: requests wait
// with it. The trace ends when it has limitBytes.
func NewRecorder(file io.WriteCloser, name string, sizeBytes, limitBytes int64) (*Recorder, error) {
	r := &Recorder{started: time.Now(), sizeBytes: sizeBytes, limitBytes: limitBytes, ended: make(chan struct{}), file: file}
	var err error
	if r.w, err = NewWriter(file, Header{SizeBytes: sizeBytes, Started: r.started, Name: name}); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

func (r *Recorder) note(op Op, flags Flags, offset, length int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.over:
	case r.w.Bytes() >= r.limitBytes:
		r.endLocked(fmt.Errorf("%w: %d bytes", ErrLarge, r.limitBytes))
	case offset+length > r.sizeBytes:
		r.endLocked(ErrResized)
	default:
		if err := r.w.Append(Record{time.Since(r.started), op, flags, offset, length}); err != nil {
			r.endLocked(err)
		}
	}
}

// endLocked writes the end of the trace, if that can be done; why is nil if nothing went wrong.
func (r *Recorder) endLocked(why error) {
	if r.over {
		return
	}
	r.over = true
	r.err = errors.Join(why, r.w.Close(), r.file.Close())
	close(r.ended)
}

// Ended is closed when nothing more is noted.
func (r *Recorder) Ended() <-chan struct{} { return r.ended }

// Close ends the trace, if it has not ended, and returns why it did before.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(nil)
	return r.err
}
