// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/luksgate/luksgate/bench/trace"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// spoolChunks of a recording wait for its reader, of 64 KiB each.
const spoolChunks = 64

var errSlowReader = errors.New("whoever reads the recording is too slow")

// A spool is the file of a recorder: who reads it may be slow, but clients must not wait for that.
type spool chan []byte

// Write implements io.Writer.
func (s spool) Write(b []byte) (int, error) {
	select {
	case s <- append([]byte(nil), b...):
		return len(b), nil
	default:
		return 0, errSlowReader
	}
}

// Close implements io.Closer.
func (s spool) Close() error {
	close(s)
	return nil
}

// recordLimits are what a recording is bounded by.
func recordLimits(r *http.Request) (length time.Duration, bytes int64, err error) {
	seconds, err := strconv.ParseFloat(r.FormValue("seconds"), 64)
	if err != nil || !(seconds > 0 && seconds <= api.MaxRecordSeconds) {
		return 0, 0, fmt.Errorf("daemon: seconds=%q: expected more than 0, at most %d", r.FormValue("seconds"), api.MaxRecordSeconds)
	}
	bytes, err = strconv.ParseInt(r.FormValue("bytes"), 10, 64)
	if err != nil || bytes < 1 || bytes > api.MaxRecordBytes {
		return 0, 0, fmt.Errorf("daemon: bytes=%q: expected 1 to %d", r.FormValue("bytes"), api.MaxRecordBytes)
	}
	return time.Duration(seconds * float64(time.Second)), bytes, nil
}

// handleRecord answers with a trace of what clients ask of an export, while they do, until one of the limits is reached or
// somebody ends it.
func (d *Daemon) handleRecord(w http.ResponseWriter, r *http.Request) {
	e := d.find(w, r)
	if e == nil {
		return
	}
	length, limitBytes, err := recordLimits(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	device, err := e.acquireAnyway(r.Context()) // only to know how large it is
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	sizeBytes := device.SizeBytes()
	_ = device.Close()
	chunks := make(spool, spoolChunks)
	recorder, err := trace.NewRecorder(chunks, e.name, sizeBytes, limitBytes)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	if !e.tap.Open(recorder) {
		_ = recorder.Close()
		refuse(w, http.StatusConflict, fmt.Errorf("daemon: export %s is being recorded already", e.name))
		return
	}
	e.log.Info("recording begins", "for", length, "limit", limitBytes)
	e.tell(w, r, recorder, chunks, length)
	e.tap.Shut(recorder)
	if err := recorder.Close(); err != nil {
		e.log.Warn("recording has ended early; clients are served all the same", "error", err)
		return
	}
	e.log.Info("recording has ended")
}

// tell sends what is recorded.
func (e *export) tell(w http.ResponseWriter, r *http.Request, recorder *trace.Recorder, chunks spool, length time.Duration) {
	over := time.AfterFunc(length, func() { _ = recorder.Close() })
	defer over.Stop()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // the client is told that it has begun
	for {
		select {
		case chunk, more := <-chunks:
			if !more {
				return
			}
			if _, err := w.Write(chunk); err != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// endRecording ends the recording of an export, in order.
func endRecording(_ *http.Request, e *export) error {
	recorder := e.tap.Recorder()
	if recorder == nil {
		return fmt.Errorf("daemon: export %s is not being recorded", e.name)
	}
	_ = recorder.Close() // whose handler says it
	return nil
}

// endRecordings ends all of them: the daemon leaves.
func (d *Daemon) endRecordings() {
	for _, e := range d.all() {
		_ = endRecording(nil, e)
	}
}
