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
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"github.com/ceph/go-ceph/rados"
	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image"
)

// Image is a volume.Store on an RBD image or snapshot. The size is what it was at the open.
type Image struct {
	cluster   *Cluster
	ioctx     *rados.IOContext
	handle    C.rbd_image_t
	ref       image.Ref
	sizeBytes int64
}

// Open opens an image as it is, without any encryption. A snapshot is opened read-only. Its errors wrap
// image.ErrUnreachable or image.ErrBusy.
func (c *Cluster) Open(ref image.Ref, opts OpenOptions) (*Image, error) {
	io, err := c.ioctx(ref)
	if err != nil {
		return nil, err
	}
	m := &Image{cluster: c, ioctx: io, ref: ref}
	if err := m.open(opts.ReadOnly || ref.Snapshot != ""); err != nil {
		io.Destroy()
		return nil, err
	}
	if opts.Lock == LockExclusive && !opts.ReadOnly && ref.Snapshot == "" {
		err = m.lockExclusive()
	}
	if err == nil {
		err = m.readSize()
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Image) open(readOnly bool) error {
	name := C.CString(m.ref.Image)
	defer C.free(unsafe.Pointer(name))
	var snap *C.char
	if m.ref.Snapshot != "" {
		snap = C.CString(m.ref.Snapshot)
		defer C.free(unsafe.Pointer(snap))
	}
	io := C.rados_ioctx_t(m.ioctx.Pointer())
	var r C.int
	if readOnly {
		r = C.rbd_open_read_only(io, name, &m.handle, snap)
	} else {
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

func (m *Image) readSize() error {
	var size C.uint64_t
	if r := C.rbd_get_size(m.handle, &size); r < 0 {
		return fmt.Errorf("%s: reading the size: %w", m.ref, syscall.Errno(-r))
	}
	m.sizeBytes = int64(size)
	return nil
}

func (m *Image) lockExclusive() error {
	r := C.rbd_lock_acquire(m.handle, C.RBD_LOCK_MODE_EXCLUSIVE)
	switch err := syscall.Errno(-r); {
	case r == 0:
		return nil
	case err == syscall.EBUSY || err == syscall.EROFS || err == syscall.EAGAIN:
		return fmt.Errorf("%s: %w: the exclusive lock is held by %s", m.ref, image.ErrBusy, m.holder())
	case err == syscall.EINVAL:
		return fmt.Errorf("%s: the image has no exclusive-lock feature; enable it with rbd feature enable, or use another lock mode", m.ref)
	default:
		return fmt.Errorf("%s: taking the exclusive lock: %w", m.ref, err)
	}
}

// holder names the clients that have the image open, for a message.
func (m *Image) holder() string {
	img, err := librbd.OpenImageReadOnly(m.ioctx, m.ref.Image, librbd.NoSnapshot)
	if err != nil {
		return "another client"
	}
	defer func() { _ = img.Close() }()
	owners, err := img.LockGetOwners()
	if err != nil || len(owners) == 0 {
		return "another client"
	}
	names := make([]string, 0, len(owners))
	for _, o := range owners {
		names = append(names, o.Owner)
	}
	return strings.Join(names, ", ")
}

// LoadEncryption hands the image over to librbd's own engine: from now on its bytes are plaintext. luksVersion is 1 or 2.
func (m *Image) LoadEncryption(luksVersion int, passphrase *secret.Bytes) error {
	b := passphrase.Bytes()
	if len(b) == 0 {
		return fmt.Errorf("%s: %w: the passphrase is empty", m.ref, syscall.EINVAL)
	}
	r := C.lg_encryption_load(m.handle, C.int(luksVersion), (*C.char)(unsafe.Pointer(&b[0])), C.size_t(len(b)))
	if r < 0 {
		return fmt.Errorf("%s: librbd %s cannot load the encryption: %w", m.ref, Version(), syscall.Errno(-r))
	}
	return m.readSize()
}

// SizeBytes implements volume.Store.
func (m *Image) SizeBytes() int64 { return m.sizeBytes }

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
		n, err := m.cluster.queue.do(m.handle, op, part, offsetBytes, want)
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

// Flush implements volume.Store.
func (m *Image) Flush() error {
	if _, err := m.cluster.queue.do(m.handle, C.LG_FLUSH, nil, 0, 0); err != nil {
		return fmt.Errorf("%s: flush: %w", m.ref, err)
	}
	return nil
}

// Discard implements volume.Store.
func (m *Image) Discard(offsetBytes, lengthBytes int64) error {
	if _, err := m.cluster.queue.do(m.handle, C.LG_DISCARD, nil, offsetBytes, lengthBytes); err != nil {
		return fmt.Errorf("%s: discard %d bytes at %d: %w", m.ref, lengthBytes, offsetBytes, err)
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
		return dst, fmt.Errorf("%s: extents at %d: %w", m.ref, offsetBytes, syscall.Errno(-n))
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

// Close closes the image, after everything in flight. No other method may be under way or follow.
func (m *Image) Close() error {
	r := C.rbd_close(m.handle)
	m.ioctx.Destroy()
	if r < 0 {
		return fmt.Errorf("%s: closing: %w", m.ref, syscall.Errno(-r))
	}
	return nil
}
