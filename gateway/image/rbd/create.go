// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"errors"
	"fmt"
	"math/bits"
	"syscall"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/luksgate/luksgate/gateway/image"
)

// copiedFeatures are those that a new image may have like another one: what the other one is besides is its own business.
const copiedFeatures = librbd.FeatureLayering | librbd.FeatureExclusiveLock | librbd.FeatureObjectMap |
	librbd.FeatureFastDiff | librbd.FeatureDeepFlatten

// Create makes an empty image. With like, an image of the same cluster that may be missing, it has that one's object size,
// striping, features and data pool; otherwise the cluster's defaults. An image that is there already is image.ErrBusy, and
// is left alone.
func (c *Cluster) Create(ref image.Ref, sizeBytes int64, like image.Ref) error {
	io, err := c.ioctx(ref)
	if err != nil {
		return err
	}
	defer io.Destroy()
	options := librbd.NewRbdImageOptions()
	defer options.Destroy()
	if err := c.copyOptions(options, like); err != nil {
		return err
	}
	err = librbd.CreateImage(io, ref.Image, uint64(sizeBytes), options)
	if errno(err) == syscall.EEXIST {
		return fmt.Errorf("%s: %w: there is an image of that name already", ref, image.ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("%s: making it: %w", ref, err)
	}
	return nil
}

// copyOptions fills in what like is; nothing if there is no such image.
func (c *Cluster) copyOptions(options *librbd.ImageOptions, like image.Ref) error {
	if like.Image == "" {
		return nil
	}
	io, err := c.ioctx(like)
	if err != nil {
		return err
	}
	defer io.Destroy()
	img, err := librbd.OpenImageReadOnly(io, like.Image, like.Snapshot)
	if errors.Is(err, librbd.ErrNotFound) {
		return nil
	}
	if err != nil {
		return openError(like, err)
	}
	defer func() { _ = img.Close() }()
	if err := c.copyFrom(options, img); err != nil {
		return fmt.Errorf("%s: %w", like, err)
	}
	return nil
}

func (c *Cluster) copyFrom(options *librbd.ImageOptions, img *librbd.Image) error {
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
	features, err := img.GetFeatures()
	if err != nil {
		return err
	}
	values := map[librbd.ImageOption]uint64{
		librbd.ImageOptionOrder:    uint64(bits.Len64(st.Obj_size) - 1),
		librbd.ImageOptionFeatures: features & copiedFeatures,
	}
	if count > 1 {
		values[librbd.ImageOptionStripeUnit] = unit
		values[librbd.ImageOptionStripeCount] = count
		values[librbd.ImageOptionFeatures] |= librbd.FeatureStripingV2
	}
	for option, value := range values {
		if err := options.SetUint64(option, value); err != nil {
			return err
		}
	}
	if features&librbd.FeatureDataPool == 0 {
		return nil
	}
	id, err := img.GetDataPoolID()
	if err != nil {
		return err
	}
	pool, err := c.conn.GetPoolByID(id)
	if err != nil {
		return fmt.Errorf("the name of data pool %d: %w", id, err)
	}
	return options.SetString(librbd.ImageOptionDataPool, pool)
}

// Remove removes an image, which nobody may have open. An image that is not there is image.ErrUnreachable.
func (c *Cluster) Remove(ref image.Ref) error {
	io, err := c.ioctx(ref)
	if err != nil {
		return err
	}
	defer io.Destroy()
	switch err := librbd.RemoveImage(io, ref.Image); {
	case err == nil:
		return nil
	case errno(err) == syscall.EBUSY:
		return fmt.Errorf("%s: %w: somebody has it open, or a client that died had it less than half a minute ago", ref, image.ErrBusy)
	case errors.Is(err, librbd.ErrNotFound):
		return openError(ref, err)
	default:
		return fmt.Errorf("%s: removing it: %w", ref, err)
	}
}
