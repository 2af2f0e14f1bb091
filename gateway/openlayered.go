// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/layered"
	"github.com/luksgate/luksgate/nbdserver"
)

// layeredDevice opens a chain with more than one key: with librbd's engine where it can, which writes too, else with
// ours, which reads.
func (o *opener) layeredDevice(ctx context.Context, passphrases []*secret.Bytes) (nbdserver.Device, error) {
	if o.cfg.Holes != volume.HolesZero {
		return nil, NewUsageError("%s: --holes decrypt is not for clones of images with another key: "+
			"what they have not written is their parent's", o.cfg.Image)
	}
	if o.cfg.Engine == EngineLibrbd || o.cfg.Engine == EngineAuto && rbd.HasLayeredEncryption() {
		return o.layeredLibrbd(ctx, passphrases)
	}
	if !o.readOnly() {
		return nil, fmt.Errorf("%s: %w: it is a clone with a key of its own of %s, and writing to such an image takes librbd 18 "+
			"and its engine (here is librbd %s, engine %s); --read-only serves it",
			o.cfg.Image, luks.ErrUnsupported, o.chain[1].name, rbd.Version(), o.cfg.Engine)
	}
	return o.layeredNative(ctx, passphrases)
}

func (o *opener) layeredLibrbd(ctx context.Context, passphrases []*secret.Bytes) (nbdserver.Device, error) {
	if !rbd.HasLayeredEncryption() {
		return nil, fmt.Errorf("%s: %w: it is a clone with a key of its own of %s, which librbd opens from Ceph 18 on, and here is %s; "+
			"use --engine native with --read-only", o.cfg.Image, luks.ErrUnsupported, o.chain[1].name, rbd.Version())
	}
	if err := o.reopenFor(EngineLibrbd); err != nil {
		return nil, err
	}
	if err := o.src.rbd.LoadLayeredEncryption(passphrases); err != nil {
		return nil, o.wrongKey(ctx, passphrases, err)
	}
	o.warnErasureCode()
	dev := newPlainDevice(o.src.store, o.readOnly(), false)
	dev.foreign = true
	return dev, nil
}

// reopenFor opens the image again with the settings of another engine.
func (o *opener) reopenFor(engine Engine) error {
	if o.cfg.Engine == engine {
		return nil
	}
	if err := o.src.close(); err != nil {
		return err
	}
	o.src.closers = nil
	o.cfg.Engine = engine
	src, err := openSource(o.cfg)
	if err != nil {
		return err
	}
	o.src = src
	// What messages are made of must be readable still.
	for i, l := range o.chain {
		if i == 0 {
			l.rbd, l.at = src.rbd, readerAt{src.store}
			continue
		}
		ref, err := image.ParseRef(l.name)
		if err != nil {
			return err
		}
		if l.rbd, err = src.cluster.Open(ref, rbd.OpenOptions{ReadOnly: true, Logger: o.log}); err != nil {
			return err
		}
		src.closers = append(src.closers, l.rbd.Close)
		l.at = readerAt{l.rbd}
	}
	return nil
}

// layeredNative puts the plaintext of each level over that of the next. The levels at the end of the chain that are
// encrypted alike are one, since librbd puts their ciphertext together.
func (o *opener) layeredNative(ctx context.Context, passphrases []*secret.Bytes) (nbdserver.Device, error) {
	last := len(o.chain) - 1
	base := last
	for base > 0 && o.chain[base-1].same(o.chain[last]) {
		base--
	}
	var top *volume.Volume
	var layers []*layered.Layer
	var vk *luks.VolumeKey
	defer func() {
		if vk != nil {
			vk.Key.Release()
		}
	}()
	var bottom layered.Source
	for level := 0; level <= last; level++ {
		l := o.chain[level]
		if o.hasOwnKey(level) {
			next, err := o.unlock(ctx, level, passphrases)
			if err != nil {
				return nil, err
			}
			if vk != nil {
				vk.Key.Release()
			}
			vk = next
		}
		if level > base {
			continue // its key was tried, and that was all
		}
		source, err := o.plaintext(l, vk)
		if err != nil {
			return nil, err
		}
		if level == base {
			bottom = source
			continue
		}
		if level == 0 {
			top = source.(*volume.Volume)
		}
		objects, err := l.rbd.Objects()
		if err != nil {
			return nil, err
		}
		o.src.closers = append(o.src.closers, objects.Close)
		layers = append(layers, &layered.Layer{Source: source, Objects: objects, DataOffsetBytes: l.header.DataOffsetBytes})
	}
	return &layeredDevice{newVolumeDevice(top, true), layered.New(layers, bottom)}, nil
}

// hasOwnKey tells whether a level is to be unlocked, and not known to have the key of the one above it.
func (o *opener) hasOwnKey(level int) bool {
	l := o.chain[level]
	_, assumed := o.cfg.keyOf(level)
	return l.header != nil && (level == 0 || !assumed || !l.same(o.chain[level-1]))
}

// plaintext is what one level holds, with what can be seen through it in ciphertext.
func (o *opener) plaintext(l *link, vk *luks.VolumeKey) (layered.Source, error) {
	if l.header == nil {
		return newPlainDevice(l.rbd, true, false), nil
	}
	vol, err := o.volume(l.rbd, l.header, vk, true)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	return vol, nil
}

// layeredDevice serves a chain of levels, read-only.
type layeredDevice struct {
	*volumeDevice // of the first level
	stack         *layered.Stack
}

// ReadAt implements nbdserver.Device.
func (d *layeredDevice) ReadAt(p []byte, offsetBytes int64) error {
	if err := d.Check(offsetBytes, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	return d.stack.ReadAt(p, offsetBytes)
}

// Extents implements nbdserver.Device: nothing is known to be a hole.
func (d *layeredDevice) Extents(_ string, _, lengthBytes int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	return append(dst, nbdserver.Extent{LengthBytes: lengthBytes}), nil
}
