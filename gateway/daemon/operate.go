// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/image"
)

const (
	// maxResizeBytes bounds the body of a resize.
	maxResizeBytes = 4 << 10
	// eventEvery is how often a client is told how far an operation is.
	eventEvery = 200 * time.Millisecond
)

var (
	errOperating = errors.New("it is being resized or flattened already")
	errLeaving   = errors.New("the daemon closes the image: run the command again when it is back")
)

func (d *Daemon) handleResize(w http.ResponseWriter, r *http.Request) {
	var want api.ResizeRequest
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxResizeBytes))
	body.DisallowUnknownFields()
	if err := body.Decode(&want); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("daemon: resize: %w", err))
		return
	}
	d.operate(w, r, func(ctx context.Context, x *gateway.Export, progress gateway.Progress) (any, error) {
		return x.Resize(ctx, want.SizeBytes, gateway.ResizeOptions{AllowShrink: want.AllowShrink, Progress: progress})
	})
}

func (d *Daemon) handleFlatten(w http.ResponseWriter, r *http.Request) {
	d.operate(w, r, func(ctx context.Context, x *gateway.Export, progress gateway.Progress) (any, error) {
		return x.Flatten(ctx, progress)
	})
}

// operate runs an operation on the image of the export in the path, and answers with a line for each event.
func (d *Daemon) operate(w http.ResponseWriter, r *http.Request, f func(context.Context, *gateway.Export, gateway.Progress) (any, error)) {
	e := d.find(w, r)
	if e == nil {
		return
	}
	events := &eventWriter{w: w}
	ctx, done, img, err := e.beginOperation(r.Context())
	if err == nil {
		var result any
		result, err = f(ctx, img.export, events.progress)
		done()
		if err == nil {
			e.log.Info("image changed", "operation", r.URL.Path, "size", img.export.Device().SizeBytes())
			events.result(result)
			return
		}
	}
	e.log.Error("cannot change the image", "operation", r.URL.Path, "error", err)
	events.fail(err)
}

// beginOperation opens the image of an export, if it is not open, and keeps it open until done. The context ends with
// that of the caller, and when the image must be closed.
func (e *export) beginOperation(caller context.Context) (ctx context.Context, done func(), img *openImage, err error) {
	dev, err := e.acquireAnyway(caller)
	if err != nil {
		return nil, nil, nil, err
	}
	e.mu.Lock()
	img = e.image
	switch {
	case img == nil || e.ended:
		err = errLeaving
	case img.busy:
		err = fmt.Errorf("daemon: export %s: %w: %w", e.name, image.ErrBusy, errOperating)
	default:
		img.busy = true
		img.watch.Add(1) // closing waits for it
	}
	e.mu.Unlock()
	if err != nil {
		return nil, nil, nil, errors.Join(err, dev.Close())
	}
	ctx, cancel := context.WithCancelCause(caller)
	over := make(chan struct{})
	go func() {
		select {
		case <-img.quit:
			cancel(errLeaving)
		case <-over:
			cancel(nil)
		}
	}()
	return ctx, func() {
		close(over)
		e.mu.Lock()
		img.busy = false
		e.mu.Unlock()
		img.watch.Done()
		_ = dev.Close()
	}, img, nil
}

// An eventWriter writes the events of one operation. Its first event is the success of the request; before that, an
// error is an answer like any other.
type eventWriter struct {
	w       http.ResponseWriter
	started bool
	last    time.Time
	step    string
}

func (v *eventWriter) write(e api.Event) {
	if !v.started {
		v.started = true
		v.w.Header().Set("Content-Type", "application/x-ndjson")
		v.w.WriteHeader(http.StatusOK)
	}
	_ = json.NewEncoder(v.w).Encode(e) // the client may be gone, which its context tells
	_ = http.NewResponseController(v.w).Flush()
}

// progress is a gateway.Progress.
func (v *eventWriter) progress(step string, done, total int64) {
	if now := time.Now(); step != v.step || now.Sub(v.last) >= eventEvery {
		v.step, v.last = step, now
		v.write(api.Event{Step: step, Done: done, Total: total})
	}
}

func (v *eventWriter) result(result any) {
	text, err := json.Marshal(result)
	if err != nil {
		v.fail(err)
		return
	}
	v.write(api.Event{Result: text})
}

func (v *eventWriter) fail(err error) {
	status := http.StatusInternalServerError
	var misuse *gateway.UsageError
	switch {
	case errors.As(err, &misuse):
		status = http.StatusBadRequest
	case errors.Is(err, image.ErrBusy):
		status = http.StatusConflict
	}
	if !v.started {
		refuse(v.w, status, err)
		return
	}
	v.write(api.Event{Error: err.Error(), Status: status})
}
