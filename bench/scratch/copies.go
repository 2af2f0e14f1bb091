// SPDX-License-Identifier: Apache-2.0

package scratch

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/nbdserver"
)

const (
	// atOnce is how many images are made or removed at the same time: enough to wait for the cluster, not to overrun it.
	atOnce = 4
	// pieceBytes is the grain of a copy: what is zero in an image is left out.
	pieceBytes = 64 << 10
)

// A piece is bytes of a raw image.
type piece struct {
	at    int64
	bytes []byte
}

// Copies makes an image as New does, and n-1 copies of it, header and all, which takes a fraction of the time. progress is
// told how many there are, by one goroutine at a time; nil is allowed. Of mem: there are none.
func (m *Maker) Copies(ctx context.Context, n int, progress func(made int)) ([]*Image, error) {
	if progress == nil {
		progress = func(int) {}
	}
	first, err := m.New(ctx, nil)
	if err != nil {
		return nil, err
	}
	progress(1)
	var pieces []piece
	err = m.raw(ctx, first, func(d nbdserver.Device) (err error) {
		pieces, err = readPieces(d, first.DataOffsetBytes+m.opts.SizeBytes)
		return err
	})
	if err != nil {
		return nil, err
	}
	images := []*Image{first}
	var mu sync.Mutex // of images and m.images
	err = each(n-1, func(int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		img, err := m.create()
		if err != nil {
			return err
		}
		img.DataOffsetBytes, img.SectorBytes = first.DataOffsetBytes, first.SectorBytes
		mu.Lock()
		m.images = append(m.images, img)
		mu.Unlock()
		if err := m.raw(ctx, img, func(d nbdserver.Device) error { return writePieces(d, pieces) }); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		images = append(images, img)
		progress(len(images))
		return nil
	})
	return images, err
}

// raw calls f with an image as it is stored.
func (m *Maker) raw(ctx context.Context, img *Image, f func(nbdserver.Device) error) error {
	cfg := m.Config(img, gateway.EngineNative)
	cfg.Key, cfg.Plain = nil, true
	exp, err := gateway.Open(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(f(exp.Device()), exp.Close())
}

// readPieces reads what is not zero in the first lengthBytes.
func readPieces(d nbdserver.Device, lengthBytes int64) ([]piece, error) {
	var out []piece
	zeros := make([]byte, pieceBytes)
	for at := int64(0); at < lengthBytes; at += pieceBytes {
		p := make([]byte, min(pieceBytes, lengthBytes-at))
		if err := d.ReadAt(p, at); err != nil {
			return nil, err
		}
		if !bytes.Equal(p, zeros[:len(p)]) {
			out = append(out, piece{at, p})
		}
	}
	return out, nil
}

// writePieces writes them. A device may change what it is given to write.
func writePieces(d nbdserver.Device, pieces []piece) error {
	for _, p := range pieces {
		if err := d.WriteAt(bytes.Clone(p.bytes), p.at, false); err != nil {
			return err
		}
	}
	return d.Flush()
}

// each calls f with 0 to n-1, some at once, until one fails.
func each(n int, f func(i int) error) error {
	numbers, failed := make(chan int), make(chan struct{})
	var once sync.Once
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for range min(atOnce, n) {
		wg.Go(func() {
			for i := range numbers {
				if err := f(i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					once.Do(func() { close(failed) })
				}
			}
		})
	}
	for i := range n {
		select {
		case numbers <- i:
			continue
		case <-failed:
		}
		break
	}
	close(numbers)
	wg.Wait()
	return errors.Join(errs...)
}
