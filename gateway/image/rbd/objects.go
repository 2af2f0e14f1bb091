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
	o := &Objects{m: m, io: io, prefix: C.GoString((*C.char)(unsafe.Pointer(&prefix[0])))}
	if err := o.readSnapshot(); err != nil {
		io.Destroy()
		return nil, err
	}
	return o, nil
}

// readSnapshot has the objects be those of the image's snapshot, if it is one.
func (o *Objects) readSnapshot() error {
	if !o.Fixed() {
		return nil
	}
	name := C.CString(o.m.ref.Snapshot)
	defer C.free(unsafe.Pointer(name))
	var id C.uint64_t
	if r := C.lg_snap_id(o.m.handle, name, &id); r < 0 {
		return fmt.Errorf("%s: reading the snapshot's number: %w", o.m.ref, syscall.Errno(-r))
	}
	if err := o.io.SetReadSnap(rados.SnapID(id)); err != nil {
		return fmt.Errorf("%s: choosing the snapshot: %w", o.m.ref, err)
	}
	return nil
}

// ObjectBytes is the size of an object.
func (o *Objects) ObjectBytes() int64 { return o.m.objectBytes }

// Fixed tells that nothing changes any more.
func (o *Objects) Fixed() bool { return o.m.ref.Snapshot != "" }

// Exists asks the cluster for an object.
func (o *Objects) Exists(number int64) (bool, error) {
	_, err := o.io.Stat(fmt.Sprintf("%s.%016x", o.prefix, number))
	if errors.Is(err, rados.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: looking for object %d: %w", o.m.ref, number, err)
	}
	return true, nil
}

// OverlapBytes is how far the parent can be seen, now.
func (o *Objects) OverlapBytes() (int64, error) { return o.m.OverlapBytes() }

// Close closes them.
func (o *Objects) Close() error {
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
