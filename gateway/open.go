// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"syscall"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/crypt/xts"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/file"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/nbdserver"
)

// Open opens what cfg says. The result must be closed. Its errors wrap those of packages image and luks, or are a
// *UsageError.
func Open(ctx context.Context, cfg Config) (*Export, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	src, err := openSource(cfg)
	if err != nil {
		return nil, err
	}
	o := opener{cfg: cfg, src: src, log: cfg.Logger.With("image", cfg.Image.String())}
	dev, err := o.device(ctx)
	if err != nil {
		err = errors.Join(err, o.src.close())
		o.release()
		return nil, err
	}
	o.src.watch()
	return &Export{
		device: dev, src: o.src, release: o.release, nature: o.nature(),
		rotational: cfg.Image.Scheme == image.File && file.Rotational(cfg.Image.Path),
	}, nil
}

// An opener carries one Open from step to step.
type opener struct {
	cfg     Config
	src     *source
	log     *slog.Logger
	ciphers []*xts.Cipher // that the device uses
	header  io.ReaderAt
	chain   []*link
}

// release wipes what the device needed.
func (o *opener) release() {
	for _, c := range o.ciphers {
		c.Release()
	}
}

func (o *opener) device(ctx context.Context) (nbdserver.Device, error) {
	if o.cfg.Image.Scheme == image.Mem {
		return newPlainDevice(o.src.store, o.readOnly(), true), nil
	}
	at, done, err := o.src.headerPlace(o.cfg)
	if err != nil {
		return nil, err
	}
	defer done()
	o.header = at
	header, err := luks.Read(at, at.store.SizeBytes(), luks.ReadOptions{Detached: o.cfg.Header != ""})
	switch {
	case o.cfg.Plain:
		if err == nil || !errors.Is(err, luks.ErrNotLUKS) {
			o.log.Warn("this is a LUKS image and --plain was given: clients get ciphertext, and what they write is not encrypted")
		}
		return newPlainDevice(o.src.store, o.readOnly(), false), nil
	case errors.Is(err, luks.ErrNotLUKS):
		if o.cfg.Header != "" {
			return nil, fmt.Errorf("%s: %w", o.cfg.headerName(), err)
		}
		return nil, fmt.Errorf("%s: %w; --plain serves the bytes as they are", o.cfg.Image, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", o.cfg.headerName(), err)
	}
	for _, w := range header.Warnings {
		o.log.Warn(w)
	}
	if err := o.readChain(header); err != nil {
		return nil, err
	}
	if o.cfg.Key == nil {
		return nil, NewUsageError("%s is a LUKS%d image: name its passphrase with --key-file or --key-fd", o.cfg.Image, header.Version)
	}
	return o.encrypted(ctx, header)
}

// encrypted opens an image whose chain is known.
func (o *opener) encrypted(ctx context.Context, header *luks.Header) (nbdserver.Device, error) {
	passphrases, err := o.fetch(ctx)
	defer func() {
		for _, p := range passphrases {
			p.Release()
		}
	}()
	if err != nil {
		return nil, err
	}
	warnUnlocked(o.log)
	if o.layered() {
		return o.layeredDevice(ctx, passphrases)
	}
	if err := o.unlockGiven(ctx, passphrases); err != nil {
		return nil, err
	}
	if o.cfg.Engine == EngineLibrbd {
		return o.librbd(header, passphrases[0])
	}
	return o.native(ctx, header, passphrases)
}

func (o *opener) readOnly() bool { return o.cfg.ReadOnly || o.cfg.Image.Snapshot != "" }

func (o *opener) native(ctx context.Context, header *luks.Header, passphrases []*secret.Bytes) (nbdserver.Device, error) {
	vk, err := o.unlock(ctx, 0, passphrases)
	if err != nil {
		return nil, err
	}
	defer vk.Key.Release()
	cipher, err := o.cipher(header, vk)
	if err != nil {
		return nil, err
	}
	vol, err := o.volumeOf(o.src.store, header, cipher, o.readOnly())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.cfg.Image, err)
	}
	depths, err := o.depths(vol, cipher)
	if err != nil {
		return nil, err
	}
	return newVolumeDevice(vol, depths, o.readOnly()), nil
}

// volume is the plaintext of one store of the chain. Its key is wiped with the opener's release.
func (o *opener) volume(store volume.Store, header *luks.Header, vk *luks.VolumeKey, readOnly bool) (*volume.Volume, error) {
	cipher, err := o.cipher(header, vk)
	if err != nil {
		return nil, err
	}
	return o.volumeOf(store, header, cipher, readOnly)
}

// cipher is that of a volume key. It is wiped with the opener's release.
func (o *opener) cipher(header *luks.Header, vk *luks.VolumeKey) (volume.Cipher, error) {
	cipher, err := xts.New(vk.Key.Bytes(), header.SectorBytes)
	if err != nil {
		return nil, err
	}
	o.ciphers = append(o.ciphers, cipher)
	if o.cfg.Observer != nil {
		return observed{cipher, o.cfg.Observer}, nil
	}
	return cipher, nil
}

// volumeOf is volume with a cipher that volumes with the same key may share.
func (o *opener) volumeOf(store volume.Store, header *luks.Header, cipher volume.Cipher, readOnly bool) (*volume.Volume, error) {
	geo, err := volume.NewGeometry(store.SizeBytes(), header.DataOffsetBytes, header.DataLengthBytes,
		header.SectorBytes, header.IVOffset)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", luks.ErrDamaged, err)
	}
	vol, err := volume.New(store, cipher, pool(), volume.Options{
		Geometry: geo, Holes: o.cfg.Holes, Zeroes: o.cfg.Zeroes, ReadOnly: readOnly,
		Shared: !readOnly && o.src.rbd != nil && o.src.rbd.Shared(),
	})
	if err != nil {
		return nil, err
	}
	if header.DataLengthBytes == 0 && store == o.src.store {
		o.follow(vol)
	}
	return vol, nil
}

// follow has a volume that goes up to the end of the image keep to its size.
func (o *opener) follow(vol *volume.Volume) {
	o.src.whenResized(func() {
		if err := vol.Resize(); err != nil {
			o.log.Error("the image's new size does not fit its header", "error", err)
		}
	})
}

func (o *opener) librbd(header *luks.Header, passphrase *secret.Bytes) (nbdserver.Device, error) {
	if v := rbd.Version(); o.src.info.StripeCount > 1 && strings.HasPrefix(v, "1.16.") {
		return nil, fmt.Errorf("%s: %w: it is striped, and librbd %s encrypts such images such that it cannot read them back; "+
			"use --engine native", o.cfg.Image, luks.ErrUnsupported, v)
	}
	if err := o.src.rbd.LoadEncryption(header.Version, passphrase); err != nil {
		if errors.Is(err, syscall.EPERM) {
			err = fmt.Errorf("%w: %w", luks.ErrWrongPassphrase, err)
		}
		return nil, unlockError(o.cfg.headerName(), o.cfg.Key, err, passphrase)
	}
	o.warnErasureCode()
	dev := newPlainDevice(o.src.store, o.readOnly(), false)
	dev.foreign = true
	return dev, nil
}

func (o *opener) warnErasureCode() {
	if o.src.rbd.OnErasureCode() {
		o.log.Warn("the data are in an erasure-coded pool: there librbd's engine reads noise from holes inside objects, " +
			"where the native engine reads zeros")
	}
}

// unlockError names the header and where the passphrase is from, and knows the usual mistake.
func unlockError(name string, source key.Source, err error, passphrase *secret.Bytes) error {
	if errors.Is(err, luks.ErrWrongPassphrase) {
		hint := ""
		if key.EndsInNewline(passphrase) {
			hint = "; the passphrase ends in a newline, which is part of it: try --key-trim-newline"
		}
		return fmt.Errorf("%s: %w (from %s)%s", name, err, source, hint)
	}
	return fmt.Errorf("%s: %w", name, err)
}
