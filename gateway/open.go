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
		return nil, errors.Join(err, src.close())
	}
	return &Export{device: dev, src: src, release: o.release}, nil
}

// An opener carries one Open from step to step.
type opener struct {
	cfg     Config
	src     *source
	log     *slog.Logger
	release func() // wipes what the device needed
	header  io.ReaderAt
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
	if err := o.checkChain(header); err != nil {
		return nil, err
	}
	if o.cfg.Key == nil {
		return nil, NewUsageError("%s is a LUKS%d image: name its passphrase with --key-file or --key-fd", o.cfg.Image, header.Version)
	}
	passphrase, err := o.cfg.Key.Passphrase(ctx)
	if err != nil {
		return nil, err
	}
	defer passphrase.Release()
	warnUnlocked(o.log)
	if o.cfg.Engine == EngineLibrbd {
		return o.librbd(header, passphrase)
	}
	return o.native(ctx, header, passphrase)
}

func (o *opener) readOnly() bool { return o.cfg.ReadOnly || o.cfg.Image.Snapshot != "" }

// checkChain makes sure that all bytes that can be seen through the image are encrypted with its volume key. A clone
// without a header of its own shows its parent's, so the same UUID means the same key.
func (o *opener) checkChain(header *luks.Header) error {
	if header.CloneMagic {
		return fmt.Errorf("%s: %w: it is a clone that was formatted with a key of its own", o.cfg.Image, luks.ErrUnsupported)
	}
	if o.src.info == nil || o.src.info.Parent == nil {
		return nil
	}
	for parent := o.src.info.Parent; parent != nil; parent = parent.Parent {
		ref, err := image.ParseRef(parent.Name)
		if err != nil {
			return err
		}
		theirs, err := o.src.headerOf(ref)
		if err != nil && !errors.Is(err, luks.ErrNotLUKS) {
			return fmt.Errorf("%s: its parent %s: %w", o.cfg.Image, ref, err)
		}
		if err != nil && header.Detached {
			continue // what the header says goes for the whole chain
		}
		if err != nil || theirs.UUID != header.UUID || theirs.DataOffsetBytes != header.DataOffsetBytes {
			return fmt.Errorf("%s: %w: its parent %s is not encrypted with the same volume key", o.cfg.Image, luks.ErrUnsupported, ref)
		}
	}
	return nil
}

func (o *opener) native(ctx context.Context, header *luks.Header, passphrase *secret.Bytes) (nbdserver.Device, error) {
	vk, err := header.Unlock(ctx, o.header, passphrase, luks.UnlockOptions{KDFMemoryLimitBytes: o.cfg.KDFMemoryLimitBytes})
	if err != nil {
		return nil, unlockError(o.cfg.headerName(), o.cfg.Key, err, passphrase)
	}
	defer vk.Key.Release()
	geo, err := volume.NewGeometry(o.src.store.SizeBytes(), header.DataOffsetBytes, header.DataLengthBytes,
		header.SectorBytes, header.IVOffset)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", o.cfg.Image, luks.ErrDamaged, err)
	}
	cipher, err := xts.New(vk.Key.Bytes(), header.SectorBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.cfg.Image, err)
	}
	vol, err := volume.New(o.src.store, cipher, pool(), volume.Options{
		Geometry: geo, Holes: o.cfg.Holes, Zeroes: o.cfg.Zeroes, ReadOnly: o.readOnly(),
		Shared: o.src.rbd != nil && o.src.rbd.Shared(),
	})
	if err != nil {
		cipher.Release()
		return nil, fmt.Errorf("%s: %w", o.cfg.Image, err)
	}
	o.release = cipher.Release
	if header.DataLengthBytes == 0 {
		o.src.whenResized(func() {
			if err := vol.Resize(); err != nil {
				o.log.Error("the image's new size does not fit its header", "error", err)
			}
		})
	}
	return newVolumeDevice(vol, o.readOnly()), nil
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
	if o.src.rbd.OnErasureCode() {
		o.log.Warn("the data are in an erasure-coded pool: there librbd's engine reads noise from holes inside objects, " +
			"where the native engine reads zeros")
	}
	dev := newPlainDevice(o.src.store, o.readOnly(), false)
	dev.foreign = true
	return dev, nil
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
