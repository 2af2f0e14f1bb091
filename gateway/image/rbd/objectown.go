// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include <stdlib.h>
#include "objectio.h"
*/
import "C"

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/ceph/go-ceph/rados"
)

// owned is what it takes to change an image's objects beside librbd: to know that librbd holds the image's lock.
//
// librbd does not tell when it gives the lock to another client, but that client asks for it by an announcement on the
// image's header object, as everything is announced there. So the header is watched, and whatever is announced begins a
// new epoch, in which the lock must be looked at once more before anything is done or remembered.
type owned struct {
	m         *Image
	mapName   string // of the object map; "" without
	fastDiff  bool   // the object map tells clean objects from others
	lockMu    sync.Mutex
	confirmed atomic.Uint64 // 1 + the epoch in which the lock was seen to be ours

	mu     sync.Mutex // for the watch, while it is renewed
	watch  *C.lg_watch
	news   *uint64 // of the watch
	before uint64  // epochs of the watches before
	quit   chan struct{}
	done   chan struct{}
}

// broken is the bit of a watch's news that says that some may be missing.
const broken = C.LG_WATCH_BROKEN

// maxLockTries bounds how often the lock is taken, and gone again before we look.
const maxLockTries = 16

// Own prepares objects for Lock and Create. It refuses images that cannot be written object by object: without a lock that
// is one client's at a time, with a journal, under migration, or with a cache between librbd and the objects.
func (o *Objects) Own() error {
	if err := o.m.checkOwnable(); err != nil {
		return err
	}
	var id [maxPrefixBytes]byte
	if r := C.rbd_get_id(o.m.handle, (*C.char)(unsafe.Pointer(&id[0])), C.size_t(len(id))); r < 0 {
		return fmt.Errorf("%s: reading its id: %w", o.m.ref, syscall.Errno(-r))
	}
	name := C.GoString((*C.char)(unsafe.Pointer(&id[0])))
	w := &owned{m: o.m, quit: make(chan struct{}), done: make(chan struct{})}
	features, err := o.m.features()
	if err != nil {
		return err
	}
	if features&C.RBD_FEATURE_OBJECT_MAP != 0 {
		w.mapName, w.fastDiff = "rbd_object_map."+name, features&C.RBD_FEATURE_FAST_DIFF != 0
	}
	header := "rbd_header." + name
	if err := w.begin(header); err != nil {
		return fmt.Errorf("%s: watching its header: %w", o.m.ref, err)
	}
	go w.renew(header)
	o.owned = w
	return nil
}

func (m *Image) features() (uint64, error) {
	var features C.uint64_t
	if r := C.rbd_get_features(m.handle, &features); r < 0 {
		return 0, fmt.Errorf("%s: reading its features: %w", m.ref, syscall.Errno(-r))
	}
	return uint64(features), nil
}

// featureMigrating is RBD_FEATURE_MIGRATING, which old headers do not have.
const featureMigrating = 1 << 9

func (m *Image) checkOwnable() error {
	features, err := m.features()
	switch {
	case err != nil:
		return err
	case m.opts.ReadOnly:
		return fmt.Errorf("%s: %w: it is opened for reading", m.ref, syscall.EROFS)
	case !m.hasLock:
		return fmt.Errorf("%s: %w: it has no exclusive-lock feature, without which nobody can write it safely together with its "+
			"parent's data: enable it (rbd feature enable)", m.ref, ErrNotOwnable)
	case features&C.RBD_FEATURE_JOURNALING != 0:
		return fmt.Errorf("%s: %w: it has the journaling feature, and what is copied up would not be in the journal: disable it "+
			"(rbd feature disable)", m.ref, ErrNotOwnable)
	case features&featureMigrating != 0:
		return fmt.Errorf("%s: %w: it is being migrated: end that first (rbd migration)", m.ref, ErrNotOwnable)
	}
	for name, wanted := range map[string]string{"rbd_cache": "false", "rbd_persistent_cache_mode": "disabled"} {
		value := make([]byte, 256)
		key := C.CString(name)
		r := C.lg_effective(m.handle, key, (*C.char)(unsafe.Pointer(&value[0])), C.size_t(len(value)))
		C.free(unsafe.Pointer(key))
		if syscall.Errno(-r) == syscall.ENOENT {
			continue // this librbd has no such cache
		}
		if r < 0 {
			return fmt.Errorf("%s: reading its setting %s: %w", m.ref, name, syscall.Errno(-r))
		}
		if got := C.GoString((*C.char)(unsafe.Pointer(&value[0]))); got != wanted {
			return fmt.Errorf("%s: %w: %s is %q for it, and must be %q (rbd config image ls, rbd config image rm)",
				m.ref, ErrNotOwnable, name, got, wanted)
		}
	}
	return nil
}

// begin starts a watch, and an epoch.
func (w *owned) begin(header string) error {
	name := C.CString(header)
	defer C.free(unsafe.Pointer(name))
	var r C.int
	watch := C.lg_watch_new(C.rados_ioctx_t(w.m.ioctx.Pointer()), name, &r)
	if watch == nil {
		return syscall.Errno(-r)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watch != nil {
		w.before += atomic.LoadUint64(w.news)&^broken + 1
		C.lg_watch_free(w.watch)
	}
	w.watch, w.news = watch, (*uint64)(unsafe.Pointer(C.lg_watch_news(watch)))
	return nil
}

// renew starts a new watch when one has broken.
func (w *owned) renew(header string) {
	defer close(w.done)
	tick := time.NewTicker(monitorEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-tick.C:
		}
		if atomic.LoadUint64(w.news)&broken == 0 {
			continue
		}
		if err := w.begin(header); err != nil {
			w.m.opts.Logger.Warn("the watch on the image's header broke: what is known of its objects is asked for each time", "error", err)
		}
	}
}

func (w *owned) close() {
	close(w.quit)
	<-w.done
	C.lg_watch_free(w.watch)
}

// now is the epoch, and whether the lock has been seen to be ours in it.
func (w *owned) now() (epoch uint64, ok bool) {
	w.mu.Lock()
	news := atomic.LoadUint64(w.news)
	epoch = w.before + news&^broken
	w.mu.Unlock()
	return epoch, news&broken == 0 && w.confirmed.Load() == epoch+1
}

// Lock takes the image's exclusive lock, as a write does, unless it is ours still, and returns the epoch in which it is.
func (o *Objects) Lock() (uint64, error) {
	w := o.owned
	if epoch, ok := w.now(); ok {
		return epoch, w.m.monitor.usable(true)
	}
	w.lockMu.Lock()
	defer w.lockMu.Unlock()
	for range maxLockTries {
		epoch, ok := w.now()
		if ok {
			return epoch, nil
		}
		// librbd takes the lock before it finds that there is nothing to write.
		nothing := make([]byte, 1)[:0]
		if _, err := w.m.do(C.LG_WRITE, [][]byte{nothing}, 0, 0); err != nil {
			return 0, fmt.Errorf("%s: taking its lock: %w", w.m.ref, err)
		}
		ours, err := w.m.ownsLock()
		if err != nil {
			return 0, fmt.Errorf("%s: looking for its lock: %w", w.m.ref, w.m.monitor.explain(err))
		}
		if ours {
			w.confirmed.Store(epoch + 1)
		}
	}
	return 0, fmt.Errorf("%s: another client takes its lock again and again: %w", w.m.ref, syscall.EIO)
}

// HasSnapshots tells whether the image has any, now.
func (o *Objects) HasSnapshots() (bool, error) {
	n, err := o.m.snapshots(nil)
	return n > 0, err
}

// snapshots fills ids with the numbers of the image's snapshots, as far as there is room, and returns how many it has.
func (m *Image) snapshots(ids []C.uint64_t) (int, error) {
	var at *C.uint64_t
	if len(ids) > 0 {
		at = &ids[0]
	}
	n := C.lg_snapshots(m.handle, at, C.int(len(ids)))
	if n < 0 {
		return 0, fmt.Errorf("%s: listing its snapshots: %w", m.ref, m.monitor.explain(syscall.Errno(-n)))
	}
	return int(n), nil
}

// maxSnapshots is how many of an image's object maps are told of a new object; Ceph's own limit is 510.
const maxSnapshots = 1024

// Create makes an object that holds data from byte atBytes on, unless it exists. Snapshots see it too: this is the
// operation with which librbd copies up, and like there it is done without the snapshots' context. The object maps are told
// first, so that they never miss an object; what they have too much is harmless.
func (o *Objects) Create(number int64, data []byte, atBytes int64) error {
	if err := o.m.monitor.usable(true); err != nil {
		return err
	}
	clean, err := o.owned.note(number)
	if err != nil {
		return o.failed("noting in the object map", number, err)
	}
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Exec("rbd", "sparse_copyup", encodeCopyUp(data, atBytes))
	if err := op.Operate(o.io, string(o.name(number)), rados.OperationNoFlag); err != nil {
		return o.failed("creating", number, err)
	}
	if clean {
		if err := o.owned.mark(o.owned.mapName, number, objectExists, objectExistsClean); err != nil {
			return o.failed("noting in the object map", number, err)
		}
	}
	return nil
}

// encodeCopyUp is the input of cls_rbd's sparse_copyup: a map of extents to lengths and their bytes, one after another.
func encodeCopyUp(data []byte, atBytes int64) []byte {
	b := make([]byte, 0, len(data)+32)
	if len(data) == 0 {
		b = binary.LittleEndian.AppendUint32(b, 0)
	} else {
		b = binary.LittleEndian.AppendUint32(b, 1)
		b = binary.LittleEndian.AppendUint64(b, uint64(atBytes))
		b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// States of an object in an object map (cls_rbd_types.h). A clean one has not changed since the newest snapshot.
const (
	objectNonexistent = 0
	objectExists      = 1
	objectExistsClean = 3
)

// note has the object maps of the image and its snapshots say that an object exists, where they say that it does not. clean
// tells that the image's is to say once more, when the object exists, that it belongs to the oldest snapshot.
func (w *owned) note(number int64) (clean bool, err error) {
	if w.mapName == "" {
		return false, nil
	}
	ids := make([]C.uint64_t, maxSnapshots)
	n, err := w.m.snapshots(ids)
	if err != nil {
		return false, err
	}
	ids = ids[:min(n, len(ids))]
	slices.Sort(ids)
	if err := w.mark(w.mapName, number, objectNonexistent, objectExists); err != nil {
		return false, err
	}
	for i, id := range ids {
		state := byte(objectExists)
		if i > 0 && w.fastDiff {
			state = objectExistsClean
		}
		err := w.mark(fmt.Sprintf("%s.%016x", w.mapName, uint64(id)), number, objectNonexistent, state)
		if errno(err) == syscall.ERANGE {
			continue // the snapshot is too small to have it
		}
		if err != nil {
			return false, err
		}
	}
	return w.fastDiff && len(ids) > 0, nil
}

// mark changes what an object map says of an object. One that is not there is left so.
func (w *owned) mark(name string, number int64, from, to byte) error {
	in := binary.LittleEndian.AppendUint64(nil, uint64(number))
	in = binary.LittleEndian.AppendUint64(in, uint64(number)+1)
	in = append(in, to, 1, from)
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Exec("rbd", "object_map_update", in)
	if err := op.Operate(w.m.ioctx, name, rados.OperationNoFlag); err != nil && errno(err) != syscall.ENOENT {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// CheckChain refuses to write an image with a parent that has a journal: what librbd's own engine does not open, this one
// does not either.
func (i *Info) CheckChain() error {
	for p := i; p != nil; p = p.Parent {
		if slices.ContainsFunc(p.Features, func(f string) bool { return strings.Contains(f, "journaling") }) {
			return fmt.Errorf("%s: %w: it has the journaling feature: disable it (rbd feature disable)", p.Name, ErrNotOwnable)
		}
	}
	return nil
}
