// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include "operate.h"
*/
import "C"

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// progressEvery is how often the progress of an operation is told.
const progressEvery = 100 * time.Millisecond

// Resize gives the image another size, in bytes of the image; of one whose encryption librbd has loaded, in bytes of its
// plaintext. It shrinks only with allowShrink. It runs while the image is in use, and takes the exclusive lock where that
// is free. When ctx ends, shrinking stops in between: the size is the old one still, and part of what was to go is gone.
func (m *Image) Resize(ctx context.Context, sizeBytes int64, allowShrink bool, progress Progress) error {
	if !HasLayeredEncryption() {
		sizeBytes += m.loadedBytes // librbd 16 tells the size of the plaintext, and takes that of the image
	}
	op := C.int(C.LG_RESIZE)
	if allowShrink {
		op = C.LG_SHRINK
	}
	if err := m.operate(ctx, op, sizeBytes, progress); err != nil {
		return fmt.Errorf("%s: resizing to %d bytes: %w", m.ref, sizeBytes, err)
	}
	if m.monitor != nil {
		m.monitor.checkSize()
	}
	return nil
}

// Flatten copies what can be seen of the parent into the image, byte for byte, and detaches it. Without a parent it does
// nothing. When ctx ends, what has been copied stays, and the parent too; the next Flatten goes on from there.
func (m *Image) Flatten(ctx context.Context, progress Progress) error {
	n, err := m.OverlapBytes()
	if err != nil || n == 0 {
		return err
	}
	if err := m.operate(ctx, C.LG_FLATTEN, 0, progress); err != nil {
		return fmt.Errorf("%s: flattening: %w", m.ref, err)
	}
	return nil
}

// RebuildObjectMap has the object map, where the image has one, say what is there. It is for after objects were made
// without librbd.
func (m *Image) RebuildObjectMap(ctx context.Context, progress Progress) error {
	var features C.uint64_t
	r := C.rbd_get_features(m.handle, &features)
	if r == 0 && features&C.RBD_FEATURE_OBJECT_MAP == 0 {
		return nil
	}
	err := error(syscall.Errno(-r))
	if r == 0 {
		err = m.operate(ctx, C.LG_REBUILD_OBJECT_MAP, 0, progress)
	}
	if err != nil {
		return fmt.Errorf("%s: rebuilding the object map: %w", m.ref, err)
	}
	return nil
}

// OverlapBytes is how far the parent can be seen, in bytes of the image; 0 without a parent.
func (m *Image) OverlapBytes() (int64, error) {
	var n C.uint64_t
	if r := C.rbd_get_overlap(m.handle, &n); r < 0 {
		return 0, fmt.Errorf("%s: reading the overlap with its parent: %w", m.ref, syscall.Errno(-r))
	}
	return int64(n), nil
}

// OwnsData tells whether the image has data of its own besides what it shows of its parent. Without the fast-diff feature
// that asks for every object until one is found.
func (m *Image) OwnsData() (bool, error) {
	r := C.lg_owns_data(m.handle)
	if r < 0 {
		return false, fmt.Errorf("%s: looking for data of its own: %w", m.ref, syscall.Errno(-r))
	}
	return r > 0, nil
}

// ClusterID is the fsid of the image's cluster.
func (m *Image) ClusterID() (string, error) { return m.cluster.FSID() }

// operate runs an operation on a thread of its own, which librbd blocks, and tells its progress meanwhile.
func (m *Image) operate(ctx context.Context, op C.int, sizeBytes int64, progress Progress) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.monitor.usable(true); err != nil {
		return err
	}
	p := C.lg_progress_new()
	if p == nil {
		return syscall.ENOMEM
	}
	defer C.lg_progress_free(p)
	done := make(chan C.int, 1)
	go func() { done <- C.lg_operate(m.handle, op, C.uint64_t(sizeBytes), p) }()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	ended := ctx.Done()
	for {
		select {
		case r := <-done:
			return m.ended(ctx, syscall.Errno(-r))
		case <-ended:
			C.lg_progress_cancel(p)
			ended = nil
		case <-tick.C:
			var at, total C.uint64_t
			C.lg_progress_get(p, &at, &total)
			if progress != nil && total > 0 {
				progress(int64(min(at, total)), int64(total))
			}
		}
	}
}

// ended is the error of an operation that has returned no, which is 0 for success.
func (m *Image) ended(ctx context.Context, no syscall.Errno) error {
	switch {
	case no == 0:
		return nil
	case ctx.Err() != nil && (no == syscall.ECANCELED || no == syscall.ERESTART):
		return context.Cause(ctx)
	default:
		return m.monitor.explain(no)
	}
}
