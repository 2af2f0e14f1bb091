// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"time"

	"github.com/luksgate/luksgate/gateway/config"
)

// retry delays of images that are to be open always.
const (
	retryFirst = time.Second
	retryMost  = time.Minute
)

// keepUp has an image that is to be open opened, however long that takes.
func (e *export) keepUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keepUpLocked()
}

// keepUpLocked is keepUp. One goroutine tries, however often it is called.
func (e *export) keepUpLocked() {
	if !e.wantedLocked() {
		return
	}
	if e.keeping {
		select {
		case e.hurry <- struct{}{}:
		default:
		}
		return
	}
	e.keeping = true
	e.daemon.tasks.Go(e.keepOpen)
}

// wantedLocked tells that the image is to be open without a client.
func (e *export) wantedLocked() bool {
	return e.cfg.Open == config.OpenAtStart && !e.drained && !e.ended
}

// keepOpen tries until the image is open, or need not be any more.
func (e *export) keepOpen() {
	ctx := e.daemon.ctx
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		dev, err := e.acquire(ctx)
		if err == nil {
			_ = dev.Close()
		}
		e.mu.Lock()
		e.keeping = err != nil && e.wantedLocked() && ctx.Err() == nil
		goOn := e.keeping
		e.mu.Unlock()
		if !goOn {
			return
		}
		select {
		case <-ctx.Done():
		case <-e.hurry:
			pause = retryFirst
		case <-time.After(pause):
		}
	}
}
