// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/ceph/go-ceph/rados"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image"
)

// Image is a volume.Store and a volume.Swapper on an RBD image or snapshot.
type Image struct {
	cluster   *Cluster
	ioctx     *rados.IOContext
	handle    C.rbd_image_t
	ref       image.Ref
	opts      OpenOptions
	sizeBytes atomic.Int64
	// id and snapshotID are what it was opened by, "" and 0 where that was its name.
	id         string
	snapshotID uint64
	// objectBytes is the size of an object, 0 where the image is striped over several at a time.
	objectBytes int64
	// loadedBytes is the room for the header that librbd's engine leaves out of the size; 0 without that engine.
	loadedBytes int64
	hasLock     bool // the exclusive-lock feature
	alone       bool // opened with LockAlone: nobody uses it
	monitor     *monitor
	failures    failures
}

// Open opens an image as it is, without any encryption. A snapshot is opened read-only. Its errors wrap
// image.ErrUnreachable or image.ErrBusy.
func (c *Cluster) Open(ref image.Ref, opts OpenOptions) (*Image, error) {
	opts.ReadOnly = opts.ReadOnly || ref.Snapshot != ""
	return c.start(&Image{ref: ref, opts: opts})
}

// start opens what m says.
func (c *Cluster) start(m *Image) (*Image, error) {
	io, err := c.ioctx(m.ref)
	if err != nil {
		return nil, err
	}
	if m.opts.Logger == nil {
		m.opts.Logger = slog.New(slog.DiscardHandler)
	}
	m.cluster, m.ioctx = c, io
	if err := m.open(); err != nil {
		io.Destroy()
		return nil, err
	}
	err = m.readGeometry()
	if err == nil && !m.opts.ReadOnly && !m.opts.Standby {
		err = m.takeLock()
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.monitor = startMonitor(m)
	return m, nil
}

// Hold does for an image that was opened with Standby what the open left out. Its errors are those of Open.
func (m *Image) Hold() error {
	if m.opts.ReadOnly || !m.opts.Standby {
		return nil
	}
	if err := m.takeLock(); err != nil {
		return err
	}
	m.monitor.held()
	return nil
}

func (m *Image) open() error {
	name := C.CString(m.ref.Image)
	defer C.free(unsafe.Pointer(name))
	var snap *C.char
	if m.ref.Snapshot != "" {
		snap = C.CString(m.ref.Snapshot)
		defer C.free(unsafe.Pointer(snap))
	}
	io := C.rados_ioctx_t(m.ioctx.Pointer())
	C.lg_full_is_error(io)
	var r C.int
	switch {
	case m.id != "":
		r = m.openByID(io)
	case m.opts.ReadOnly:
		r = C.rbd_open_read_only(io, name, &m.handle, snap)
	default:
		r = C.rbd_open(io, name, &m.handle, snap)
	}
	if r == 0 {
		return nil
	}
	return openError(m.ref, syscall.Errno(-r))
}

func openError(ref image.Ref, err error) error {
	if !errors.Is(err, syscall.ENOENT) && errno(err) != syscall.ENOENT {
		return fmt.Errorf("%s: %w: opening it: %w", ref, image.ErrUnreachable, err)
	}
	what := "image"
	if ref.Snapshot != "" {
		what = "image or snapshot"
	}
	return fmt.Errorf("%s: %w: there is no such %s", ref, image.ErrUnreachable, what)
}

func (m *Image) readGeometry() error {
	var st C.rbd_image_info_t
	var features, stripes C.uint64_t
	r := C.rbd_stat(m.handle, &st, C.sizeof_rbd_image_info_t)
	if r == 0 {
		r = C.rbd_get_features(m.handle, &features)
	}
	if r == 0 {
		r = C.rbd_get_stripe_count(m.handle, &stripes)
	}
	if r < 0 {
		return fmt.Errorf("%s: reading its geometry: %w", m.ref, syscall.Errno(-r))
	}
	m.sizeBytes.Store(int64(st.size))
	if stripes == 1 {
		m.objectBytes = int64(st.obj_size)
	}
	m.hasLock = features&C.RBD_FEATURE_EXCLUSIVE_LOCK != 0
	return nil
}

// currentSize asks librbd, which keeps up with changes by other clients.
func (m *Image) currentSize() (int64, error) {
	var size C.uint64_t
	if r := C.rbd_get_size(m.handle, &size); r < 0 {
		return 0, fmt.Errorf("%s: reading the size: %w", m.ref, syscall.Errno(-r))
	}
	return int64(size), nil
}

// LoadEncryption hands the image over to librbd's own engine: from now on its bytes are plaintext. luksVersion is 1 or 2.
// Its error wraps ENOSYS where Missing says MissingEngine.
func (m *Image) LoadEncryption(luksVersion int, passphrase *secret.Bytes) error {
	b := passphrase.Bytes()
	if len(b) == 0 {
		return fmt.Errorf("%s: %w: the passphrase is empty", m.ref, syscall.EINVAL)
	}
	r := C.lg_encryption_load(m.handle, C.int(luksVersion), (*C.char)(unsafe.Pointer(&b[0])), C.size_t(len(b)))
	switch err := syscall.Errno(-r); {
	case r == 0:
	case err == syscall.EINVAL:
		return fmt.Errorf("%s: librbd %s refuses the encryption (%w): it wants the data to begin at a multiple of the stripe period; use --engine native",
			m.ref, Version(), err)
	default:
		return fmt.Errorf("%s: librbd %s cannot load the encryption: %w", m.ref, Version(), err)
	}
	return m.loaded()
}

// loaded takes note of the size of the plaintext.
func (m *Image) loaded() error {
	size, err := m.currentSize()
	if err == nil {
		m.loadedBytes = m.sizeBytes.Swap(size) - size
	}
	return err
}

// Shared tells that other clients may write at the same time without a lock that librbd passes on.
func (m *Image) Shared() bool { return !m.opts.ReadOnly && !m.hasLock }

// SizeBytes implements volume.Store.
func (m *Image) SizeBytes() int64 { return m.sizeBytes.Load() }

// ObjectBytes implements volume.Store.
func (m *Image) ObjectBytes() int64 { return m.objectBytes }

// ReadAt implements volume.Store.
func (m *Image) ReadAt(iov [][]byte, offsetBytes int64) error {
	return m.transfer(C.LG_READ, "read", iov, offsetBytes)
}

// WriteAt implements volume.Store.
func (m *Image) WriteAt(iov [][]byte, offsetBytes int64, fua bool) error {
	if err := m.transfer(C.LG_WRITE, "write", iov, offsetBytes); err != nil || !fua {
		return err
	}
	return m.Flush()
}

func (m *Image) transfer(op C.int, verb string, iov [][]byte, offsetBytes int64) error {
	for len(iov) > 0 {
		part := iov[:min(len(iov), C.LG_MAX_IOV)]
		iov = iov[len(part):]
		want := int64(0)
		for _, b := range part {
			want += int64(len(b))
		}
		n, err := m.do(op, part, offsetBytes, want)
		if err == nil && op == C.LG_READ && n != want {
			err = fmt.Errorf("%d of %d bytes: %w", n, want, syscall.EIO)
		}
		if err != nil {
			return fmt.Errorf("%s: %s at %d: %w", m.ref, verb, offsetBytes, err)
		}
		offsetBytes += want
	}
	return nil
}

// do runs one operation, unless the image is beyond use, and looks into its error.
func (m *Image) do(op C.int, iov [][]byte, offsetBytes, lengthBytes int64) (int64, error) {
	if err := m.monitor.usable(op != C.LG_READ); err != nil {
		return 0, err
	}
	if op != C.LG_READ {
		m.monitor.beforeWrite()
	}
	n, err := m.cluster.queue.do(m.handle, op, iov, offsetBytes, lengthBytes)
	if err != nil {
		return n, m.failed(op, err)
	}
	if op != C.LG_READ {
		m.monitor.afterWrite()
	}
	return n, nil
}

// failed counts an error of an operation, draws its consequences, and makes it one that a client can be told.
func (m *Image) failed(op C.int, err error) error {
	m.failures.add(int(op), err)
	return m.monitor.explain(err)
}

// CompareAndWrite implements volume.Swapper. librbd 16 takes no more than 512 bytes.
func (m *Image) CompareAndWrite(old, next []byte, offsetBytes int64) (bool, error) {
	_, err := m.do(C.LG_SWAP, [][]byte{old, next}, offsetBytes, int64(len(old)))
	if errors.Is(err, syscall.EILSEQ) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: compare and write at %d: %w", m.ref, offsetBytes, err)
	}
	return true, nil
}

// Flush implements volume.Store.
func (m *Image) Flush() error {
	if _, err := m.do(C.LG_FLUSH, nil, 0, 0); err != nil {
		return fmt.Errorf("%s: flush: %w", m.ref, err)
	}
	return nil
}

// Discard implements volume.Store.
func (m *Image) Discard(offsetBytes, lengthBytes int64) error {
	if _, err := m.do(C.LG_DISCARD, nil, offsetBytes, lengthBytes); err != nil {
		return fmt.Errorf("%s: discard %d bytes at %d: %w", m.ref, lengthBytes, offsetBytes, err)
	}
	return nil
}

// Zero implements volume.Store.
func (m *Image) Zero(offsetBytes, lengthBytes int64) error {
	if _, err := m.do(C.LG_ZERO, nil, offsetBytes, lengthBytes); err != nil {
		return fmt.Errorf("%s: zero %d bytes at %d: %w", m.ref, lengthBytes, offsetBytes, err)
	}
	return nil
}

// extentWindowBytes bounds one question for extents: without the fast-diff feature it costs an operation per object.
const extentWindowBytes = 1 << 30

// Extents implements volume.Store, to whole objects.
func (m *Image) Extents(offsetBytes, lengthBytes int64, dst []volume.Extent) ([]volume.Extent, error) {
	lengthBytes = min(lengthBytes, extentWindowBytes)
	var runs [256]C.lg_extent
	var covered C.uint64_t
	n := C.lg_extents(m.handle, C.uint64_t(offsetBytes), C.uint64_t(lengthBytes), &runs[0], C.int(len(runs)), &covered)
	if n < 0 {
		return dst, fmt.Errorf("%s: extents at %d: %w", m.ref, offsetBytes, m.monitor.explain(syscall.Errno(-n)))
	}
	found := runs[:n]
	slices.SortFunc(found, func(a, b C.lg_extent) int { return cmp.Compare(a.offset, b.offset) })
	pos, end := offsetBytes, offsetBytes+int64(covered)
	emit := func(to int64, hole bool) {
		to = min(to, end)
		if to > pos && len(dst) < cap(dst) {
			dst = append(dst, volume.Extent{LengthBytes: to - pos, Hole: hole})
			pos = to
		}
	}
	for _, r := range found {
		emit(int64(r.offset), true)
		emit(int64(r.offset+r.length), false)
	}
	emit(end, true)
	return dst, nil
}

// Stats returns the image's counters.
func (m *Image) Stats() Stats { return m.monitor.stats() }

// Dead is closed when the image cannot be used any more; Err says why.
func (m *Image) Dead() <-chan struct{} { return m.monitor.dead }

// Err is why the image cannot be used any more: it wraps ErrBlocked or ErrLockLost, or is nil.
func (m *Image) Err() error { return m.monitor.err() }

// Close closes the image, after everything in flight. No other method may be under way or follow.
func (m *Image) Close() error {
	if m.monitor != nil {
		m.monitor.stop()
	}
	r := C.rbd_close(m.handle)
	m.ioctx.Destroy()
	if r < 0 {
		return fmt.Errorf("%s: closing: %w", m.ref, syscall.Errno(-r))
	}
	return nil
}
