// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"github.com/ceph/go-ceph/rados"

	"github.com/luksgate/luksgate/crypt/secret"
)

// maxPrefixBytes is the room for the name of an image's data, of which librbd uses a few dozen bytes.
const maxPrefixBytes = 4096

// Objects are the RADOS objects that an image's data lie in, apart from those of its parents. Its methods may be called by
// many goroutines at once, while the image is open.
type Objects struct {
	m      *Image
	io     *rados.IOContext
	prefix string
	owned  *owned // nil for objects that are only read
}

// Objects opens them. The caller closes them before the image. An image that is striped over several objects at a time is
// refused.
func (m *Image) Objects() (*Objects, error) {
	if m.objectBytes == 0 {
		return nil, fmt.Errorf("%s: it is striped over several objects at a time: which bytes are its own and which its parent's "+
			"can be told of unstriped images only", m.ref)
	}
	prefix := make([]byte, maxPrefixBytes)
	if r := C.rbd_get_block_name_prefix(m.handle, (*C.char)(unsafe.Pointer(&prefix[0])), C.size_t(len(prefix))); r < 0 {
		return nil, fmt.Errorf("%s: reading the name of its objects: %w", m.ref, syscall.Errno(-r))
	}
	pool, err := m.cluster.conn.GetPoolByID(int64(C.rbd_get_data_pool_id(m.handle)))
	if err != nil {
		return nil, fmt.Errorf("%s: finding its data pool: %w", m.ref, err)
	}
	io, err := m.cluster.conn.OpenIOContext(pool)
	if err != nil {
		return nil, fmt.Errorf("%s: opening its data pool %q: %w", m.ref, pool, err)
	}
	io.SetNamespace(m.ref.Namespace)
	C.lg_full_is_error(C.rados_ioctx_t(io.Pointer()))
	o := &Objects{m: m, io: io, prefix: C.GoString((*C.char)(unsafe.Pointer(&prefix[0])))}
	if err := o.readSnapshot(); err != nil {
		io.Destroy()
		return nil, err
	}
	return o, nil
}

// readSnapshot has the objects be those of the image's snapshot, if it is one.
func (o *Objects) readSnapshot() error {
	if !o.fixed() {
		return nil
	}
	id := C.uint64_t(o.m.snapshotID)
	if id == 0 {
		name := C.CString(o.m.ref.Snapshot)
		defer C.free(unsafe.Pointer(name))
		if r := C.lg_snap_id(o.m.handle, name, &id); r < 0 {
			return fmt.Errorf("%s: reading the snapshot's number: %w", o.m.ref, syscall.Errno(-r))
		}
	}
	if err := o.io.SetReadSnap(rados.SnapID(id)); err != nil {
		return fmt.Errorf("%s: choosing the snapshot: %w", o.m.ref, err)
	}
	return nil
}

// ObjectBytes is the size of an object.
func (o *Objects) ObjectBytes() int64 { return o.m.objectBytes }

// fixed tells that nothing changes any more.
func (o *Objects) fixed() bool { return o.m.ref.Snapshot != "" }

// Epoch grows whenever somebody else may have made or removed objects. ok is false while that could happen without a new
// epoch: for an image, unless we hold its lock. A snapshot is one epoch for ever.
func (o *Objects) Epoch() (epoch uint64, ok bool) {
	if o.owned == nil {
		return 0, o.fixed()
	}
	return o.owned.now()
}

// Stat asks the cluster for an object: whether it exists, and where its data end.
func (o *Objects) Stat(number int64) (exists bool, sizeBytes int64, err error) {
	if err := o.m.monitor.usable(false); err != nil {
		return false, 0, err
	}
	st, err := o.io.Stat(string(o.name(number)))
	if errors.Is(err, rados.ErrNotFound) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, o.failed("looking for", number, err)
	}
	return true, int64(st.Size), nil
}

// Read fills iov with what an object holds from offsetBytes on, and zeros behind its end. exists is false, and iov
// undefined, if there is no object. It asks the object itself: librbd, when it holds the lock, asks its object map first,
// which does not know an object that was created without it.
func (o *Objects) Read(number int64, iov [][]byte, offsetBytes int64) (exists bool, err error) {
	for len(iov) > 0 && err == nil {
		part := iov[:min(len(iov), C.LG_MAX_IOV)]
		iov = iov[len(part):]
		if err = o.m.monitor.usable(false); err == nil {
			err = o.m.cluster.queue.readObject(o.io, o.name(number), part, offsetBytes)
		}
		for _, b := range part {
			offsetBytes += int64(len(b))
		}
	}
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, o.failed("reading", number, err)
	}
	return true, nil
}

// name is that of an object, as librados has it.
func (o *Objects) name(number int64) []byte {
	return fmt.Appendf(make([]byte, 0, len(o.prefix)+32), "%s.%016x", o.prefix, number)
}

func (o *Objects) failed(doing string, number int64, err error) error {
	if no := errno(err); no != 0 {
		err = no
	}
	return fmt.Errorf("%s: %s object %d: %w", o.m.ref, doing, number, o.m.monitor.explain(err))
}

// OverlapBytes is how far the parent can be seen, now.
func (o *Objects) OverlapBytes() (int64, error) { return o.m.OverlapBytes() }

// Close closes them.
func (o *Objects) Close() error {
	if o.owned != nil {
		o.owned.close()
	}
	o.io.Destroy()
	return nil
}

// HasLayeredEncryption tells whether this librbd opens clones with keys of their own, as Ceph 18 does.
func HasLayeredEncryption() bool {
	name := C.CString("rbd_encryption_load2")
	defer C.free(unsafe.Pointer(name))
	return C.lg_has(name) != 0
}

// LoadLayeredEncryption is LoadEncryption for a chain: the passphrases are the image's, its parent's and so on, the last
// of which serves for all further ancestors. Its error wraps EPERM where one of them is wrong.
func (m *Image) LoadLayeredEncryption(passphrases []*secret.Bytes) error {
	texts, lengths := make([]*C.char, len(passphrases)), make([]C.size_t, len(passphrases))
	for i, p := range passphrases {
		if p.Len() == 0 {
			return fmt.Errorf("%s: %w: passphrase %d is empty", m.ref, syscall.EINVAL, i+1)
		}
		texts[i], lengths[i] = (*C.char)(unsafe.Pointer(&p.Bytes()[0])), C.size_t(p.Len())
	}
	r := C.lg_encryption_load2(m.handle, &texts[0], &lengths[0], C.size_t(len(texts)))
	if r < 0 {
		return fmt.Errorf("%s: librbd %s cannot load the encryption: %w", m.ref, Version(), syscall.Errno(-r))
	}
	return m.loaded()
}
