// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include "shim.h"
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/luksgate/luksgate/gateway/image"
)

// maxLevels bounds how far a chain of parents is followed (Ceph's own limit is far lower in practice).
const maxLevels = 64

// Describe tells what an image is and where it comes from, up to its last parent.
func (c *Cluster) Describe(ref image.Ref) (*Info, error) {
	var top *Info
	at := &top
	for level := range maxLevels {
		info, parent, err := c.describeOne(ref)
		if err != nil && level > 0 {
			return nil, fmt.Errorf("%s: its parent: %w", top.Name, err)
		}
		if err != nil {
			return nil, err
		}
		*at, at = info, &info.Parent
		if parent == nil {
			return top, nil
		}
		ref = *parent
	}
	return nil, fmt.Errorf("%s: more than %d parents", top.Name, maxLevels)
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

func (c *Cluster) describeOne(ref image.Ref) (*Info, *image.Ref, error) {
	io, err := c.ioctx(ref)
	if err != nil {
		return nil, nil, err
	}
	defer io.Destroy()
	img, err := librbd.OpenImageReadOnly(io, ref.Image, ref.Snapshot)
	if err != nil {
		return nil, nil, openError(ref, err)
	}
	defer func() { _ = img.Close() }()
	info := &Info{Name: ref.String()}
	if err := info.fill(img); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", ref, err)
	}
	parent, err := img.GetParent()
	if errors.Is(err, librbd.ErrNotFound) || info.OverlapBytes == 0 {
		return info, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: reading the parent: %w", ref, err)
	}
	p := image.Ref{
		Scheme: image.RBD, Pool: parent.Image.PoolName, Namespace: parent.Image.PoolNamespace,
		Image: parent.Image.ImageName, Snapshot: parent.Snap.SnapName,
	}
	return info, &p, nil
}

func (i *Info) fill(img *librbd.Image) error {
	st, err := img.Stat()
	if err != nil {
		return err
	}
	unit, err := img.GetStripeUnit()
	if err != nil {
		return err
	}
	count, err := img.GetStripeCount()
	if err != nil {
		return err
	}
	bits, err := img.GetFeatures()
	if err != nil {
		return err
	}
	overlap, err := img.GetOverlap()
	if err != nil {
		return err
	}
	features := librbd.FeatureSet(bits)
	i.SizeBytes, i.ObjectBytes = int64(st.Size), int64(st.Obj_size)
	i.StripeUnit, i.StripeCount = int64(unit), int64(count)
	i.OverlapBytes = int64(overlap)
	i.Features = features.Names()
	sort.Strings(i.Features)
	return nil
}
