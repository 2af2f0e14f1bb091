// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// Progress is told how far one step of an operation is, in units of its own, from one goroutine at a time.
type Progress func(step string, done, total int64)

// of is the progress of one step.
func (p Progress) of(step string) rbd.Progress {
	return func(done, total int64) {
		if p != nil {
			p(step, done, total)
		}
	}
}

// A nature is what resizing and flattening need to know of an image besides the image itself.
type nature struct {
	name   string
	header *luks.Header // nil: plaintext
	// layered: not all that can be seen through it has the same key.
	layered bool
}

// nature is that of what was opened; of one that was opened as it is, the header is left out.
func (o *opener) nature() nature {
	n := nature{name: o.cfg.Image.String()}
	if len(o.chain) > 0 {
		n.header, n.layered = o.chain[0].header, o.layered()
	}
	return n
}

// openAlone opens an RBD image that nobody else has open for writing, for changing its size or its parent. Keys are used
// only if withKeys is set and the image has a parent with another key; else the device shows the image as it is. The engine
// is the native one: librbd's believes the object map.
func openAlone(ctx context.Context, cfg Config, withKeys bool) (*Export, error) {
	if cfg.Image.Scheme != image.RBD {
		return nil, NewUsageError("%s: this is for rbd: images only", cfg.Image)
	}
	cfg, err := holdable(cfg)
	if err != nil {
		return nil, err
	}
	src, err := openSource(cfg)
	if err != nil {
		return nil, err
	}
	o := opener{cfg: cfg, src: src, log: cfg.Logger.With("image", cfg.Image.String())}
	e, err := o.alone(ctx, withKeys)
	if err != nil {
		err = errors.Join(err, o.src.close())
		o.release()
		return nil, err
	}
	return e, nil
}

func (o *opener) alone(ctx context.Context, withKeys bool) (*Export, error) {
	if o.src.info.Parent == nil {
		o.cfg.ParentKeys = nil // they were for a parent that is gone: this is done already
	}
	e := &Export{src: o.src, release: o.release, device: newPlainDevice(o.src.store, false, false)}
	if !o.cfg.Plain {
		at, done, err := o.src.headerPlace(o.cfg)
		if err != nil {
			return nil, err
		}
		defer done()
		o.header = at
		header, err := luks.Read(at, at.store.SizeBytes(), luks.ReadOptions{Detached: o.cfg.Header != ""})
		if errors.Is(err, luks.ErrNotLUKS) {
			return nil, fmt.Errorf("%s: %w; for an image that is not encrypted give --plain", o.cfg.headerName(), err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.cfg.headerName(), err)
		}
		if err := o.readChain(header); err != nil {
			return nil, err
		}
		if withKeys && o.layered() {
			return o.aloneLayered(ctx, e)
		}
	}
	e.nature = o.nature()
	return e, nil
}

// aloneLayered opens an image whose parent has another key.
func (o *opener) aloneLayered(ctx context.Context, e *Export) (*Export, error) {
	if o.cfg.Key == nil {
		return nil, NewUsageError("%s has another key than its parent %s: name the passphrases of both with --key-file, its own first",
			o.cfg.Image, o.chain[1].name)
	}
	dev, err := o.encrypted(ctx, o.chain[0].header)
	if err != nil {
		return nil, err
	}
	e.device, e.src, e.nature = dev, o.src, o.nature()
	return e, nil
}

// changeable is the image whose size and parent can be changed; an error says why they cannot.
func (e *Export) changeable() (*rbd.Image, error) {
	switch {
	case e.src.rbd == nil:
		return nil, NewUsageError("%s: this is for rbd: images only", e.nature.name)
	case e.device.Properties().ReadOnly:
		return nil, NewUsageError("%s is open read-only and cannot be changed", e.nature.name)
	}
	return e.src.rbd, e.Err()
}

// foreign tells that librbd decrypts, so that sizes are those of the plaintext for it.
func (e *Export) foreign() bool {
	d, ok := e.device.(*plainDevice)
	return ok && d.foreign
}

// plainBytes is the size of the plaintext now.
func (e *Export) plainBytes() int64 {
	if h := e.nature.header; h != nil && !e.foreign() {
		return dataBytes(&h.Info, e.src.rbd.SizeBytes())
	}
	return e.src.rbd.SizeBytes()
}

// ClusterID is the fsid of the cluster of an RBD image, "" for others.
func (e *Export) ClusterID() (string, error) {
	if e.src.rbd == nil {
		return "", nil
	}
	return e.src.rbd.ClusterID()
}

// ClusterOf is the fsid of the cluster that cfg names.
func ClusterOf(cfg Config) (string, error) {
	cluster, release, err := rbd.Acquire(cfg.Ceph)
	if err != nil {
		return "", err
	}
	defer release()
	return cluster.FSID()
}
