// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"math"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// ResizeOptions say how.
type ResizeOptions struct {
	// AllowShrink lets an image become smaller; what lies beyond its new end is lost.
	AllowShrink bool
	Progress    Progress // nil is allowed
}

// Resized is what became of an image.
type Resized struct {
	Image string `json:"image"`
	// BeforeBytes and SizeBytes are the sizes that a guest sees; ImageBytes is that of the image with its header.
	BeforeBytes int64 `json:"size_before"`
	SizeBytes   int64 `json:"size"`
	ImageBytes  int64 `json:"image_size"`
}

// Resize gives an RBD image that nobody else has open for writing another size: sizeBytes is what a guest sees, to which
// the room for the header is added. No key is needed, except to shrink a clone that has another key than its parent.
// Its errors are those of Open; when ctx ends, shrinking stops in between, and the image has its old size still.
func Resize(ctx context.Context, cfg Config, sizeBytes int64, opts ResizeOptions) (Resized, error) {
	e, err := openAlone(ctx, cfg, opts.AllowShrink)
	if err != nil {
		return Resized{}, err
	}
	r, err := e.Resize(ctx, sizeBytes, opts)
	if closeErr := e.Close(); err == nil {
		err = closeErr
	}
	return r, err
}

// Resize is the function Resize for an image that is open, and perhaps in use: connections keep the size that they were
// told, new ones see the new size.
func (e *Export) Resize(ctx context.Context, sizeBytes int64, opts ResizeOptions) (Resized, error) {
	img, err := e.changeable()
	if err != nil {
		return Resized{}, err
	}
	r := Resized{Image: e.nature.name, BeforeBytes: e.plainBytes(), SizeBytes: sizeBytes}
	if r.ImageBytes, err = e.nature.imageBytes(sizeBytes); err != nil {
		return Resized{}, err
	}
	if sizeBytes < r.BeforeBytes {
		if !opts.AllowShrink {
			return Resized{}, NewUsageError("%s has %d bytes of data, and what lies beyond byte %d would be lost: --allow-shrink does it all the same",
				r.Image, r.BeforeBytes, sizeBytes)
		}
		if err := e.beforeShrinking(ctx, r.ImageBytes, opts.Progress); err != nil {
			return Resized{}, err
		}
	}
	target := r.ImageBytes
	if e.foreign() {
		target = sizeBytes
	}
	if err := img.Resize(ctx, target, opts.AllowShrink, opts.Progress.of("resize")); err != nil {
		return Resized{}, err
	}
	if now := e.plainBytes(); now != sizeBytes {
		return Resized{}, fmt.Errorf("%s: it has %d bytes of data after it was to have %d; librbd %s", r.Image, now, sizeBytes, rbd.Version())
	}
	return r, nil
}

// imageBytes is the size of an image with so much plaintext.
func (n *nature) imageBytes(sizeBytes int64) (int64, error) {
	if n.header == nil {
		return sizeBytes, checkSize(n.name, sizeBytes, 1, 0)
	}
	h := n.header
	if h.DataLengthBytes != 0 {
		return 0, fmt.Errorf("%s: %w: its header says that the data are %d bytes long, whatever the size of the image",
			n.name, luks.ErrUnsupported, h.DataLengthBytes)
	}
	return sizeBytes + h.DataOffsetBytes, checkSize(n.name, sizeBytes, int64(h.SectorBytes), h.DataOffsetBytes)
}

func checkSize(name string, sizeBytes, unitBytes, offsetBytes int64) error {
	switch {
	case sizeBytes < 0 || sizeBytes > math.MaxInt64-offsetBytes:
		return NewUsageError("%s: a size of %d bytes is out of range", name, sizeBytes)
	case sizeBytes%unitBytes != 0:
		return NewUsageError("%s: %d bytes are no whole number of its sectors of %d bytes: %d would be",
			name, sizeBytes, unitBytes, sizeBytes-sizeBytes%unitBytes)
	}
	return nil
}

// beforeShrinking has librbd find, where an image has another key than its parent, no object that it would have to copy up
// from the parent: neither the one that is cut, nor those that a snapshot, which may be made any time, is to keep.
func (e *Export) beforeShrinking(ctx context.Context, imageBytes int64, progress Progress) error {
	if !e.nature.layered || e.foreign() {
		return nil
	}
	c, objectBytes, err := e.copier()
	if err != nil {
		return err
	}
	err = copyUpFrom(ctx, c, max(imageBytes/objectBytes, e.nature.headerObjects(objectBytes)), progress.of("copy up"))
	if err != nil {
		return err
	}
	// librbd removes no object of which its map says that there is none: it would be there again when the image grows.
	return e.src.rbd.RebuildObjectMap(ctx, progress.of("object map"))
}

// headerObjects is the number of objects with nothing but header in them.
func (n *nature) headerObjects(objectBytes int64) int64 {
	return n.header.DataOffsetBytes / objectBytes
}
