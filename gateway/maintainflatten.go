// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// How a clone becomes an image of its own:
//
//  1. every object of the data that is not there is created with what it shows. Where the parent has another key, it is
//     encrypted with the clone's own, and where it shows nothing, an empty object is made: that is what any write does
//     before it writes (package layered). Else the parent's bytes are copied as they are: the ciphertext, the IVs and the
//     place of the data stay what they were;
//  2. the header gets the magic of an image that is no clone;
//  3. the object map, if there is one, is rebuilt, since librbd does not know of the objects of 1;
//  4. librbd flattens: it finds nothing to copy but a header that was the parent's, and detaches the parent.
//
// Librbd alone could do 1 where there is one key, and does where there is no object map. Where there is one it believes
// the map, which says that an object exists before it does: after a crash in between, librbd leaves the object out, and
// what it showed is lost with the parent (TestFlattenIsInterrupted).
//
// Whatever ends it on the way, the clone reads as before, and the next attempt goes on where this one ended.

// Flattened is what became of a clone.
type Flattened struct {
	Image string `json:"image"`
	// Parent is the image that it was a clone of; "" if it was none.
	Parent string `json:"parent,omitempty"`
}

// Flatten makes a clone in RBD, which nobody else has open for writing, independent of its parent. Keys are needed only
// where the clone has another one than its parent. Its errors are those of Open. When ctx ends, what has been copied
// stays, and the parent too.
func Flatten(ctx context.Context, cfg Config, progress Progress) (Flattened, error) {
	e, err := openAlone(ctx, cfg, true)
	if err != nil {
		return Flattened{}, err
	}
	f, err := e.Flatten(ctx, progress)
	if closeErr := e.Close(); err == nil {
		err = closeErr
	}
	return f, err
}

// Flatten is the function Flatten for an image that is open, and perhaps in use.
func (e *Export) Flatten(ctx context.Context, progress Progress) (Flattened, error) {
	img, err := e.changeable()
	if err != nil {
		return Flattened{}, err
	}
	f := Flattened{Image: e.nature.name}
	overlap, err := img.OverlapBytes()
	if err != nil {
		return Flattened{}, err
	}
	if p := e.src.info.Parent; p != nil && overlap > 0 {
		f.Parent = p.Name
	}
	if f.Parent != "" {
		err = e.detachable(ctx, img, progress)
	}
	if err == nil {
		err = img.Flatten(ctx, progress.of("flatten"))
	}
	if err != nil {
		return Flattened{}, err
	}
	return f, nil
}

// detachable does the steps 1 to 3, as far as they are needed.
func (e *Export) detachable(ctx context.Context, img *rbd.Image, progress Progress) error {
	mapped := slices.Contains(e.src.info.Features, "object-map")
	switch {
	case !mapped && (e.foreign() || !e.nature.layered):
		return nil
	case e.foreign():
		return fmt.Errorf("%s: %w: librbd's engine serves it, and librbd believes an object map that may be wrong after a crash; "+
			"end the export and flatten the image then", e.nature.name, luks.ErrUnsupported)
	case !e.nature.layered:
		if err := copyUpRaw(ctx, img, progress); err != nil {
			return err
		}
	default:
		if err := e.copyUpOwn(ctx, img, progress); err != nil {
			return err
		}
	}
	return img.RebuildObjectMap(ctx, progress.of("object map"))
}

// copyUpOwn does the steps 1 and 2 of a clone with another key than its parent's.
func (e *Export) copyUpOwn(ctx context.Context, img *rbd.Image, progress Progress) error {
	c, objectBytes, err := e.copier()
	if err != nil {
		return err
	}
	if err := copyUpFrom(ctx, c, e.nature.headerObjects(objectBytes), progress.of("copy up")); err != nil {
		return err
	}
	dev := headerDevice{readerAt{img}}
	header, err := luks.Read(dev, img.SizeBytes(), luks.ReadOptions{})
	if err == nil {
		_, err = header.PlainMagic(dev)
	}
	if err != nil {
		return fmt.Errorf("%s: the header's magic: %w", e.nature.name, err)
	}
	return nil
}

// A copier makes objects of a clone its own. It may be used by many goroutines at once.
type copier interface {
	// CopyUp creates an object, if it is not there, with what it shows.
	CopyUp(number int64) error
	// ObjectsShowing is the number of objects that can show the parent now.
	ObjectsShowing() (int64, error)
}

// copier is that of an image with another key than its parent's, and the size of its objects.
func (e *Export) copier() (copier, int64, error) {
	d, ok := e.device.(*layeredDevice)
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w: it was opened without its keys", e.nature.name, luks.ErrUnsupported)
	}
	objectBytes := e.src.rbd.ObjectBytes()
	if e.nature.header.DataOffsetBytes%objectBytes != 0 {
		return nil, 0, fmt.Errorf("%s: %w: its data begin inside an object (byte %d, objects of %d bytes), which would have to be copied "+
			"from two images", e.nature.name, luks.ErrUnsupported, e.nature.header.DataOffsetBytes, objectBytes)
	}
	return d.stack, objectBytes, nil
}

// copyUps is how many objects are copied up at once.
const copyUps = 4

// copyUpFrom copies up all objects from a number on.
func copyUpFrom(ctx context.Context, c copier, first int64, progress rbd.Progress) error {
	end, err := c.ObjectsShowing()
	if err != nil {
		return err
	}
	var (
		mu   sync.Mutex
		next = first
		errs []error
		wg   sync.WaitGroup
	)
	// take is the next object, or none.
	take := func() (int64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next >= end || len(errs) > 0 || ctx.Err() != nil {
			return 0, false
		}
		next++
		progress(next-1-first, end-first)
		return next - 1, true
	}
	for range copyUps {
		wg.Go(func() {
			for number, ok := take(); ok; number, ok = take() {
				if err := c.CopyUp(number); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, context.Cause(ctx))...)
}
