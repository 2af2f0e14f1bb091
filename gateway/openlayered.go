// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/layered"
	"github.com/luksgate/luksgate/nbdserver"
)

// layeredDevice opens a chain with more than one key: with librbd's engine where it can, else with ours. On erasure-coded
// pools librbd's reads noise from holes, so there it is ours too.
func (o *opener) layeredDevice(ctx context.Context, passphrases []*secret.Bytes) (nbdserver.Device, error) {
	if o.cfg.Holes != volume.HolesZero {
		return nil, NewUsageError("%s: --holes decrypt is not for clones of images with another key: "+
			"what they have not written is their parent's", o.cfg.Image)
	}
	if o.cfg.Engine == EngineLibrbd || o.cfg.Engine == EngineAuto && rbd.HasLayeredEncryption() && !o.onErasureCode() {
		return o.layeredLibrbd(ctx, passphrases)
	}
	return o.layeredNative(ctx, passphrases)
}

// onErasureCode tells whether an image of the chain has its data in an erasure-coded pool.
func (o *opener) onErasureCode() bool {
	return slices.ContainsFunc(o.chain, func(l *link) bool { return l.rbd.OnErasureCode() })
}

func (o *opener) layeredLibrbd(ctx context.Context, passphrases []*secret.Bytes) (nbdserver.Device, error) {
	if !rbd.HasLayeredEncryption() {
		return nil, fmt.Errorf("%s: %w: it is a clone with a key of its own of %s, which librbd opens from Ceph 18 on, and here is %s; "+
			"use --engine native", o.cfg.Image, luks.ErrUnsupported, o.chain[1].name, rbd.Version())
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

// reopenFor opens the image again with the settings of another engine. Its parents are closed.
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
	o.chain[0].rbd, o.chain[0].at = src.rbd, readerAt{src.store}
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
	var layers []*layered.Layer
	var vk *luks.VolumeKey
	defer func() {
		if vk != nil {
			vk.Key.Release()
		}
	}()
	var bottom layered.Source
	for level := 0; level <= last; level++ {
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
		var err error
		switch {
		case level < base:
			var l *layered.Layer
			if l, err = o.layer(level, vk); err == nil {
				layers = append(layers, l)
			}
		case level == base:
			bottom, err = o.baseOf(o.chain[level], vk)
		default: // its key was tried, and that was all
		}
		if err != nil {
			return nil, err
		}
	}
	return o.stack(layers, bottom)
}

// stack is the device on the levels.
func (o *opener) stack(layers []*layered.Layer, bottom layered.Source) (nbdserver.Device, error) {
	top := layers[0].Source.(topVolume)
	if o.readOnly() {
		return newLayeredDevice(top, layered.New(layers, bottom), true), nil
	}
	s, err := layered.NewWritable(layers, bottom)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", o.cfg.Image, luks.ErrUnsupported, err)
	}
	return newLayeredDevice(top, s, false), nil
}

// layer is a level that has another one with another key below it. The first one may be written.
func (o *opener) layer(level int, vk *luks.VolumeKey) (*layered.Layer, error) {
	l := o.chain[level]
	o.src.need(l)
	if l.rbd.ObjectBytes() == 0 {
		return nil, fmt.Errorf("%s: %w: it is striped over several objects at a time, and which bytes are its own and which its "+
			"parent's can be told of unstriped images only", l.name, luks.ErrUnsupported)
	}
	objects, err := o.objects(l)
	if err != nil {
		return nil, err
	}
	writable := level == 0 && !o.readOnly()
	if writable {
		if err = o.src.info.CheckChain(); err == nil {
			err = objects.Own()
		}
		if errors.Is(err, rbd.ErrNotOwnable) {
			err = fmt.Errorf("%w: %w; --read-only serves it", luks.ErrUnsupported, err)
		}
		if err != nil {
			return nil, err
		}
	}
	vol, err := o.volume(ownStore{l.rbd, objects}, l.header, vk, !writable)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	if level == 0 && l.header.DataLengthBytes == 0 {
		o.follow(vol)
	}
	return layerOf(l.header, vol, objects), nil
}

// objects are those of a level. They are closed with the source.
func (o *opener) objects(l *link) (*rbd.Objects, error) {
	objects, err := l.rbd.Objects()
	if err != nil {
		return nil, err
	}
	o.src.closers = append(o.src.closers, objects.Close)
	return objects, nil
}

func layerOf(header *luks.Header, vol *volume.Volume, objects *rbd.Objects) *layered.Layer {
	return &layered.Layer{
		Source: topVolume{vol}, Objects: objects,
		DataOffsetBytes: header.DataOffsetBytes, SectorBytes: int64(header.SectorBytes),
	}
}

// hasOwnKey tells whether a level is to be unlocked, and not known to have the key of the one above it.
func (o *opener) hasOwnKey(level int) bool {
	l := o.chain[level]
	_, assumed := o.cfg.keyOf(level)
	return l.header != nil && (level == 0 || !assumed || !l.same(o.chain[level-1]))
}

// baseOf is what the last level holds, with what can be seen through it without another key.
func (o *opener) baseOf(l *link, vk *luks.VolumeKey) (layered.Source, error) {
	o.src.need(l)
	if l.header == nil {
		d := newPlainDevice(l.rbd, true, false)
		return mapped{d, d.Store}, nil
	}
	vol, err := o.volume(l.rbd, l.header, vk, true)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	return mapped{vol, vol}, nil
}

// depths knows which image of a chain holds what, where all are encrypted alike and librbd puts them together. It is nil for
// an image without a parent, and where objects are striped.
func (o *opener) depths(top *volume.Volume, cipher volume.Cipher) (*layered.Stack, error) {
	last := len(o.chain) - 1
	if last < 1 || slices.ContainsFunc(o.chain[:last], func(l *link) bool { return l.rbd.ObjectBytes() == 0 }) {
		return nil, nil
	}
	var layers []*layered.Layer
	above := top
	for level, l := range o.chain[1:] {
		objects, err := o.objects(o.chain[level])
		if err != nil {
			return nil, err
		}
		layers = append(layers, layerOf(o.chain[level].header, above, objects))
		if above, err = o.volumeOf(l.rbd, l.header, cipher, true); err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return layered.New(layers, mapped{above, above}), nil
}
