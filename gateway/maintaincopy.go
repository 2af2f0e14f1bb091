// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// copyUpRaw creates all objects of a clone that are not there with what they show, byte for byte.
func copyUpRaw(ctx context.Context, img *rbd.Image, progress Progress) (err error) {
	if img.ObjectBytes() == 0 {
		return fmt.Errorf("%w: it is striped over several objects at a time and has an object map, which may be wrong after a crash "+
			"and which librbd believes: disable it first (rbd feature disable IMAGE object-map fast-diff)", luks.ErrUnsupported)
	}
	objects, err := img.Objects()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, objects.Close()) }()
	if err := objects.Own(); err != nil {
		return err
	}
	return copyUpFrom(ctx, rawCopier{img, objects}, 0, progress.of("copy up"))
}

// A rawCopier copies bytes as they are. It is a copier.
type rawCopier struct {
	img     *rbd.Image
	objects *rbd.Objects
}

// ObjectsShowing implements copier.
func (c rawCopier) ObjectsShowing() (int64, error) {
	raw, err := c.objects.OverlapBytes()
	size := c.objects.ObjectBytes()
	return (raw + size - 1) / size, err
}

// maxCopyTries bounds how often an object is begun anew because another client took the lock.
const maxCopyTries = 16

var errLockLost = errors.New("another client takes the exclusive lock again and again")

// CopyUp implements copier. An object that shows zeros is left out: it shows them without a parent too.
func (c rawCopier) CopyUp(number int64) error {
	for range maxCopyTries {
		epoch, err := c.objects.Lock()
		if err != nil {
			return err
		}
		exists, _, err := c.objects.Stat(number)
		if exists || err != nil {
			return err
		}
		data, err := c.shown(number)
		if len(data) == 0 || err != nil {
			return err
		}
		if now, ok := c.objects.Epoch(); ok && now == epoch {
			return c.objects.Create(number, data, 0)
		}
	}
	return fmt.Errorf("object %d: %w", number, errLockLost)
}

// shown is what an object that does not exist shows, without zeros at its end.
func (c rawCopier) shown(number int64) ([]byte, error) {
	raw, err := c.objects.OverlapBytes()
	start := number * c.objects.ObjectBytes()
	n := min(c.objects.ObjectBytes(), raw-start, c.img.SizeBytes()-start)
	if n <= 0 || err != nil {
		return nil, err
	}
	data := make([]byte, n)
	if err := c.img.ReadAt([][]byte{data}, start); err != nil {
		return nil, err
	}
	return bytes.TrimRight(data, "\x00"), nil
}
