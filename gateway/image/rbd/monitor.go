// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	monitorEvery = time.Second
	// idleEvery is how often an image is looked after that nobody has used since the last time: hundreds of them are to cost
	// next to nothing.
	idleEvery = 5 * time.Second
	// lookGrid is what the moments of looking are multiples of, for all images: they cost a few microseconds, but to wake a
	// process in which all sleep costs a quarter of a millisecond.
	lookGrid = 250 * time.Millisecond
	// lockCheckPause is how long there was no write before one looks whether the lock is still ours.
	lockCheckPause = 200 * time.Millisecond
	// SlowAfter is how long a request waits for the cluster until that is said.
	SlowAfter = 10 * time.Second
	// passesToWarn is how many times the lock goes away until that is called two writers at work.
	passesToWarn = 3
)

// A monitor watches over one open image: its size, its lock, requests that wait, and the errors that end its use.
type monitor struct {
	m    *Image
	quit chan struct{}
	wg   sync.WaitGroup
	used [2]attention // of the two goroutines that look

	taken, lost atomic.Uint64
	waiting     atomic.Int64
	inFlight    atomic.Bool // requests of any image of the connection, when we last looked

	lockMu    sync.Mutex
	owner     bool         // whether the lock was ours when we last looked; under lockMu
	lastWrite atomic.Int64 // when the last write began, since epoch
	wrote     atomic.Bool  // a write has succeeded since then, so the lock was ours
	asking    atomic.Int64 // since when a write waits for the answer whose the lock is, since epoch; 0: none does

	mu    sync.Mutex
	cause error         // why the image is dead
	dead  chan struct{} // closed when cause is set
	noUse atomic.Uint32 // copy of "dead" for the data path: 1 no writing, 2 no use
}

const (
	useReadOnly = 1
	useNothing  = 2
)

func startMonitor(m *Image) *monitor {
	w := &monitor{m: m, quit: make(chan struct{}), dead: make(chan struct{})}
	w.owner = m.opts.Lock == LockExclusive && !m.opts.ReadOnly && !m.opts.Standby
	w.every(&w.used[0], func() {
		w.checkSize()
		if m.hasLock && !m.opts.ReadOnly {
			w.checkLock()
		}
	})
	w.every(&w.used[1], w.checkWaiting) // on its own, since what librbd is asked above waits for the cluster too
	return w
}

// An attention tells a goroutine of the monitor that the image is in use.
type attention struct {
	since atomic.Bool // there were requests since the goroutine looked last
	wake  chan struct{}
}

// call is on the path of every request; only the first one after a look does more than read.
func (a *attention) call() {
	if a.since.Load() || a.since.Swap(true) {
		return
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// every calls f again and again until stop: often while the image is in use.
func (w *monitor) every(a *attention, f func()) {
	a.wake = make(chan struct{}, 1)
	w.wg.Go(func() {
		timer := time.NewTimer(onGrid(monitorEvery))
		defer timer.Stop()
		for {
			select {
			case <-w.quit:
				return
			case <-a.wake:
				timer.Reset(onGrid(monitorEvery))
				continue
			case <-timer.C:
			}
			used := a.since.Swap(false)
			f()
			pause := idleEvery
			if used || w.inFlight.Load() {
				pause = monitorEvery
			}
			timer.Reset(onGrid(pause))
		}
	})
}

// onGrid is pause, and as much more as it is from then to the next moment at which images are looked after.
func onGrid(pause time.Duration) time.Duration {
	then := time.Since(epoch) + pause
	return pause + (lookGrid-then%lookGrid)%lookGrid
}

// held notes that an image in standby has become one in use.
func (w *monitor) held() {
	w.lockMu.Lock()
	defer w.lockMu.Unlock()
	w.owner = w.m.opts.Lock == LockExclusive
}

func (w *monitor) stop() {
	close(w.quit)
	w.wg.Wait()
}

func (w *monitor) checkSize() {
	now, err := w.m.currentSize()
	if err != nil {
		_ = w.explain(err)
		return
	}
	if before := w.m.sizeBytes.Swap(now); before != now {
		level := slog.LevelWarn
		if w.m.alone {
			level = slog.LevelDebug // nobody is connected
		}
		w.m.opts.Logger.Log(context.Background(), level, "the image was resized; connections keep the size that they were told, new ones see the new one",
			"before", before, "now", now)
		if w.m.opts.Resized != nil {
			w.m.opts.Resized(now)
		}
	}
}

func (w *monitor) checkWaiting() {
	n, oldest := w.slow()
	before := w.waiting.Swap(int64(n))
	w.inFlight.Store(oldest > 0)
	switch {
	case n > 0 && before == 0:
		w.m.opts.Logger.Warn("the cluster does not answer: requests wait and go on when it does", "requests", n, "for", oldest.Round(time.Second))
	case n == 0 && before > 0:
		w.m.opts.Logger.Info("the cluster answers again")
	}
}

// beforeWrite looks whether the lock is still ours at the first write after a pause: another client may have borrowed it
// meanwhile, and by the next tick it would be ours again. Asking costs a round trip, so a busy writer is left to the
// ticks, and where somebody asks already (the cluster may not answer), nobody waits for it.
func (w *monitor) beforeWrite() {
	if w == nil || !w.m.hasLock || w.m.opts.ReadOnly {
		return
	}
	now := int64(time.Since(epoch))
	if now-w.lastWrite.Swap(now) > int64(lockCheckPause) && w.lockMu.TryLock() {
		w.asking.Store(now)
		w.checkLockLocked()
		w.asking.Store(0)
		w.lockMu.Unlock()
	}
}

// slow counts the requests of the connection that have waited longer than SlowAfter, and tells how long the oldest of all
// has. A write of ours that has not yet come to the queue, because of beforeWrite, is one of them.
func (w *monitor) slow() (n int, oldest time.Duration) {
	n, oldest = w.m.cluster.queue.waiting(SlowAfter)
	if since := w.asking.Load(); since != 0 {
		took := time.Since(epoch) - time.Duration(since)
		oldest = max(oldest, took)
		if took > SlowAfter {
			n++
		}
	}
	return n, oldest
}

// afterWrite notes that a write succeeded, as it does only with the lock.
func (w *monitor) afterWrite() {
	if w != nil && !w.wrote.Load() {
		w.wrote.Store(true)
	}
}

// checkLock counts how the lock comes and goes.
func (w *monitor) checkLock() {
	w.lockMu.Lock()
	defer w.lockMu.Unlock()
	w.checkLockLocked()
}

func (w *monitor) checkLockLocked() {
	now, err := w.m.ownsLock()
	if err != nil {
		_ = w.explain(err)
		return
	}
	had := w.wrote.Swap(false) || w.owner
	switch {
	case now && !w.owner:
		w.taken.Add(1)
		w.m.opts.Logger.Debug("took the exclusive lock")
	case had && !now:
		w.lockGone()
	}
	w.owner = now
}

func (w *monitor) lockGone() {
	n := w.lost.Add(1)
	if w.m.opts.Lock == LockExclusive {
		w.kill(ErrLockLost, useReadOnly)
	}
	w.m.forgetLock()
	if w.m.opts.Lock == LockCooperative {
		w.m.opts.Logger.Info("another client took the exclusive lock", "times", n)
		if n >= passesToWarn {
			w.m.opts.Logger.Warn("the exclusive lock goes back and forth: two clients write to this image", "times", n)
		}
	}
}

// kill ends the use of the image, once.
func (w *monitor) kill(cause error, use uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return
	}
	w.cause = fmt.Errorf("%s: %w", w.m.ref, cause)
	w.noUse.Store(use)
	w.m.opts.Logger.Error("the image can no longer be used; start luksgate again when no other client uses it", "error", cause)
	close(w.dead)
}

func (w *monitor) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

// usable refuses requests to an image that is beyond use. It is on the path of every request. An image that is still
// being opened has no monitor.
func (w *monitor) usable(write bool) error {
	if w == nil {
		return nil
	}
	for i := range w.used {
		w.used[i].call()
	}
	use := w.noUse.Load()
	if use == 0 || use == useReadOnly && !write {
		return nil
	}
	return fmt.Errorf("%w: %w", w.err(), syscall.EIO)
}

// explain draws the consequences of an error of librbd, and makes it one that a client can be told.
func (w *monitor) explain(err error) error {
	if w == nil {
		return err
	}
	switch {
	case errors.Is(err, syscall.ESHUTDOWN): // EBLOCKLISTED
		w.m.cluster.blocked.Store(true)
		w.kill(ErrBlocked, useNothing)
		return fmt.Errorf("%w: %w", ErrBlocked, syscall.EIO)
	case errors.Is(err, syscall.EROFS) && !w.m.opts.ReadOnly:
		if w.m.opts.Lock == LockExclusive {
			w.kill(ErrLockLost, useReadOnly)
			return fmt.Errorf("%w: %w", ErrLockLost, syscall.EIO)
		}
		return fmt.Errorf("another client keeps the exclusive lock: %w", syscall.EIO)
	}
	return err
}

func (w *monitor) stats() Stats {
	waiting, oldest := w.slow()
	return Stats{
		LockTaken: w.taken.Load(), LockLost: w.lost.Load(), Waiting: waiting, Oldest: oldest, Failures: w.m.failures.all(),
	}
}
