// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include <errno.h>
#include "shim.h"
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"syscall"
	"unsafe"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/luksgate/luksgate/gateway/image"
)

// maxLevels bounds how far a chain of parents is followed (Ceph's own limit is far lower in practice).
const maxLevels = 64

// Describe tells what an image is and where it comes from, up to its last parent.
func (c *Cluster) Describe(ref image.Ref) (*Info, error) {
	m, err := c.Open(ref, OpenOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	info, err := m.Describe()
	return info, errors.Join(err, m.Close())
}

// Describe is Cluster.Describe for an image that is open. Parents are opened for it and closed: a snapshot does not change,
// but what its own parent is does, when that one's clone is flattened.
func (m *Image) Describe() (*Info, error) {
	top := &Info{Name: m.ref.String()}
	parent, err := m.describe(top)
	if err != nil {
		return nil, err
	}
	at := &top.Parent
	for range maxLevels {
		if parent == nil {
			return top, nil
		}
		*at, at = parent, &parent.Parent
		if parent, err = m.cluster.describeParent(parent); err != nil {
			return nil, fmt.Errorf("%s: its parent: %w", top.Name, err)
		}
	}
	return nil, fmt.Errorf("%s: more than %d parents", top.Name, maxLevels)
}

func (c *Cluster) describeParent(info *Info) (next *Info, err error) {
	m, err := c.OpenDescribed(info, nil)
	if err != nil {
		return nil, err
	}
	next, err = m.describe(info)
	return next, errors.Join(err, m.Close())
}

// OnErasureCode tells whether the image's data lie in an erasure-coded pool, as far as the user may ask.
func (m *Image) OnErasureCode() bool {
	pool, err := m.cluster.conn.GetPoolByID(int64(C.rbd_get_data_pool_id(m.handle)))
	if err != nil {
		return false
	}
	ask, err := json.Marshal(map[string]string{"prefix": "osd pool get", "pool": pool, "var": "erasure_code_profile"})
	if err != nil {
		return false
	}
	_, _, err = m.cluster.conn.MonCommand(ask) // EACCES for replicated pools
	return err == nil
}

// describe fills in what an image is. It returns what is known of its parent, or nil.
func (m *Image) describe(info *Info) (parent *Info, err error) {
	var st C.rbd_image_info_t
	var unit, count, features, overlap C.uint64_t
	id := make([]byte, maxPrefixBytes)
	for _, r := range []C.int{
		C.rbd_stat(m.handle, &st, C.sizeof_rbd_image_info_t), C.rbd_get_stripe_unit(m.handle, &unit),
		C.rbd_get_stripe_count(m.handle, &count), C.rbd_get_features(m.handle, &features), C.rbd_get_overlap(m.handle, &overlap),
		C.rbd_get_id(m.handle, (*C.char)(unsafe.Pointer(&id[0])), C.size_t(len(id))),
	} {
		if r < 0 {
			return nil, fmt.Errorf("%s: reading what it is: %w", m.ref, syscall.Errno(-r))
		}
	}
	info.ID = C.GoString((*C.char)(unsafe.Pointer(&id[0])))
	info.SizeBytes, info.ObjectBytes = int64(st.size), int64(st.obj_size)
	info.StripeUnit, info.StripeCount = int64(unit), int64(count)
	info.OverlapBytes = int64(overlap)
	set := librbd.FeatureSet(features)
	info.Features = set.Names()
	sort.Strings(info.Features)
	if overlap == 0 {
		return nil, nil
	}
	var linked C.rbd_linked_image_spec_t
	var snap C.rbd_snap_spec_t
	r := C.rbd_get_parent(m.handle, &linked, &snap)
	switch {
	case r == -C.ENOENT:
		return nil, nil
	case r < 0:
		return nil, fmt.Errorf("%s: reading the parent: %w", m.ref, syscall.Errno(-r))
	}
	defer C.rbd_linked_image_spec_cleanup(&linked)
	defer C.rbd_snap_spec_cleanup(&snap)
	return parentInfo(&linked, &snap), nil
}

func parentInfo(parent *C.rbd_linked_image_spec_t, snap *C.rbd_snap_spec_t) *Info {
	ref := image.Ref{
		Scheme: image.RBD, Pool: C.GoString(parent.pool_name), Namespace: C.GoString(parent.pool_namespace),
		Image: C.GoString(parent.image_name), Snapshot: C.GoString(snap.name),
	}
	return &Info{Name: ref.String(), ID: C.GoString(parent.image_id), SnapshotID: uint64(snap.id)}
}
