// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/luks/signature"
)

// newHeaderBytes is how long the file of a new detached header is: what cryptsetup gives LUKS2, and room for any LUKS1.
const newHeaderBytes = 16 << 20

// HoldForFormat is Hold for an image that is to be formatted: with cfg.Header it holds the image too, and creates the file
// if there is none. drop removes a file that was created, for when nothing came of it; it does nothing otherwise.
func HoldForFormat(cfg Config) (h *Held, drop func(), err error) {
	cfg, err = holdable(cfg)
	if err != nil {
		return nil, nil, err
	}
	drop = func() {}
	if cfg.Header == "" {
		h, err = Hold(cfg)
	} else {
		h, drop, err = holdDetached(cfg)
	}
	if err != nil {
		drop()
		return nil, nil, err
	}
	if err := h.formattable(); err != nil {
		err = errors.Join(err, h.Close())
		drop()
		return nil, nil, err
	}
	return h, drop, nil
}

// holdDetached holds the image first, so that no file is left where that cannot be had.
func holdDetached(cfg Config) (*Held, func(), error) {
	drop := func() {}
	data, err := openSource(cfg)
	if err != nil {
		return nil, drop, err
	}
	created, err := createHeader(cfg.Header)
	if created {
		drop = func() { _ = os.Remove(cfg.Header) }
	}
	var h *Held
	if err == nil {
		h, err = Hold(cfg)
	}
	if err != nil {
		return nil, drop, errors.Join(err, data.close())
	}
	h.data = data
	return h, drop, nil
}

// createHeader makes an empty file unless there is one already.
func createHeader(path string) (created bool, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("header file: %w", err)
	}
	return true, errors.Join(f.Truncate(newHeaderBytes), f.Close())
}

// formattable looks at the chain of an image, and refuses those for which a new header would be wrong.
func (h *Held) formattable() error {
	src := h.image()
	if src.info == nil || src.info.Parent == nil {
		return nil
	}
	if h.data != nil {
		return fmt.Errorf("%s: %w: it is a clone of %s, whose bytes are not encrypted with a new key, and with a detached header there is "+
			"one key for all; flatten it first (luksgate flatten --plain)", h.cfg.Image, luks.ErrUnsupported, src.info.Parent.Name)
	}
	c, err := readClone(src)
	if err != nil {
		return fmt.Errorf("%s: %w", h.cfg.Image, err)
	}
	h.clone = c
	return nil
}

// image is the image itself, wherever the header is.
func (h *Held) image() *source {
	if h.data != nil {
		return h.data
	}
	return h.src
}

// InUse tells what formatting would destroy, in an error that matches luks.ErrInUse, as far as can be told at a glance:
// Format looks at every byte.
func (h *Held) InUse() error {
	if h.clone != nil {
		return h.cloneInUse()
	}
	if what := h.Contains(); what != "" {
		return fmt.Errorf("%s: %w: it begins with %s", h.name, luks.ErrInUse, what)
	}
	if h.data == nil {
		return nil
	}
	if what := signature.Detect(readerAt{h.data.store}, h.data.store.SizeBytes()); what != "" {
		return fmt.Errorf("%s: %w: it begins with %s, which would be lost", h.cfg.Image, luks.ErrInUse, what)
	}
	return nil
}

// Format writes a new header, with one keyslot for opts.Passphrase, and returns it. Without opts.Force nothing but zeros
// may be in its place (luks.ErrInUse). The data of an RBD image begin at a multiple of its stripe period, without which
// librbd would not open it. Of opts, Detached and DataAlignmentBytes are filled in here.
func (h *Held) Format(ctx context.Context, opts luks.FormatOptions) (*luks.Header, error) {
	if !opts.Force {
		if err := h.InUse(); err != nil {
			return nil, err
		}
	}
	opts = h.complete(opts)
	warnUnlocked(h.cfg.Logger)
	header, vk, err := luks.Format(ctx, h.dev, h.sizeBytes(), opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.name, err)
	}
	vk.Release()
	h.header, h.headerErr = header, nil
	return header, nil
}

// complete fills in what the image says. What a clone shows where its header goes is its parent's, which stays where it is.
func (h *Held) complete(opts luks.FormatOptions) luks.FormatOptions {
	opts.Detached = h.data != nil
	if h.src.info != nil {
		opts.DataAlignmentBytes = h.src.info.StripePeriodBytes()
	}
	if h.clone != nil {
		opts.CloneMagic, opts.Force = true, true
	}
	return opts
}

// DataBytes is the size of the plaintext under the header that is there.
func (h *Held) DataBytes() int64 {
	return dataBytes(&h.header.Info, h.image().store.SizeBytes())
}
