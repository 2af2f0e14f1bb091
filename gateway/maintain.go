// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/luks/signature"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/file"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// A Held is the place of a LUKS header, held for changing it: an image, or the file of a detached header. Until Close
// nobody else has it open for writing: an RBD image by its exclusive lock, a file by the locks that qemu uses too. One
// goroutine uses it.
type Held struct {
	cfg Config
	// name is what messages call it.
	name string
	src  *source
	dev  headerDevice
	// data is the image that belongs to a new detached header.
	data *source
	// clone is set where a clone is to be formatted with a key of its own.
	clone *clone
	// header is what is there now; it is nil, with headerErr saying why, or not to be unlocked for what headerErr says.
	header    *luks.Header
	headerErr error
}

// Hold opens what cfg says for changing its header, which may be missing or damaged: see Header. With cfg.Header the
// image itself is left alone. The errors are those of Open; somebody else at work is image.ErrBusy.
func Hold(cfg Config) (*Held, error) {
	cfg, err := holdable(cfg)
	if err != nil {
		return nil, err
	}
	h := &Held{cfg: cfg, name: cfg.headerName()}
	if cfg.Header != "" {
		h.src, err = openFile(cfg.Header, false)
	} else {
		h.src, err = openSource(cfg)
	}
	if err != nil {
		return nil, err
	}
	h.read()
	return h, nil
}

// holdable completes cfg for an image that is to be changed.
func holdable(cfg Config) (Config, error) {
	if cfg.Image.Scheme == image.Mem {
		return cfg, NewUsageError("%s is empty memory: there is no header to be changed", cfg.Image)
	}
	if cfg.Image.Snapshot != "" {
		return cfg, NewUsageError("%s is a snapshot, which cannot be changed", cfg.Image)
	}
	cfg.Engine, cfg.Lock, cfg.ReadOnly, cfg.Takeover = EngineNative, rbd.LockAlone, false, false
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

// headerName is what messages call the place of the header.
func (c *Config) headerName() string {
	if c.Header != "" {
		return fmt.Sprintf("header file %s of %s", c.Header, c.Image)
	}
	return c.Image.String()
}

func openFile(path string, readOnly bool) (*source, error) {
	f, err := file.Open(path, readOnly)
	if err != nil {
		return nil, err
	}
	return &source{store: f, closers: []func() error{f.Close}}, nil
}

func (h *Held) sizeBytes() int64 { return h.src.store.SizeBytes() }

// read reads the header that is there.
func (h *Held) read() {
	h.dev = headerDevice{readerAt{h.src.store}}
	h.header, h.headerErr = luks.Read(h.dev, h.sizeBytes(), luks.ReadOptions{Detached: h.cfg.Header != ""})
	if h.headerErr != nil {
		h.headerErr = fmt.Errorf("%s: %w", h.name, h.headerErr)
	}
}

// Name is what messages call the place.
func (h *Held) Name() string { return h.name }

// Header is the header as it is now. With an error that matches luks.ErrUnsupported there is a header too; with any other
// error it is nil.
func (h *Held) Header() (*luks.Header, error) { return h.header, h.headerErr }

// Contains names what the place begins with, such as a LUKS header or a file system; "" if nothing known is there.
func (h *Held) Contains() string {
	if name := signature.Detect(h.dev, h.sizeBytes()); name != "" {
		return name
	}
	if h.header != nil {
		return "a LUKS header"
	}
	return ""
}

// Unlock gets the passphrase of cfg.Key and unlocks the volume key; keyslot is the only one to try, nil tries all.
func (h *Held) Unlock(ctx context.Context, keyslot *int) (*luks.VolumeKey, error) {
	if h.headerErr != nil {
		return nil, h.headerErr
	}
	if h.cfg.Key == nil {
		return nil, NewUsageError("%s: name a passphrase of it with --key-file or --key-fd", h.name)
	}
	passphrase, err := h.cfg.Key.Passphrase(ctx)
	if err != nil {
		return nil, err
	}
	defer passphrase.Release()
	warnUnlocked(h.cfg.Logger)
	vk, err := h.header.Unlock(ctx, h.dev, passphrase, luks.UnlockOptions{
		Keyslot: keyslot, KDFMemoryLimitBytes: h.cfg.KDFMemoryLimitBytes,
	})
	if err != nil {
		return nil, unlockError(h.name, h.cfg.Key, err, passphrase)
	}
	return vk, nil
}

// AddKey adds a keyslot for a passphrase and returns its number. vk is from Unlock.
func (h *Held) AddKey(ctx context.Context, vk *luks.VolumeKey, passphrase *secret.Bytes, opts luks.KeyslotOptions) (int, error) {
	id, header, err := h.header.AddKey(ctx, h.dev, vk, passphrase, opts)
	return id, h.changed(header, err)
}

// ChangeKey replaces the passphrase of the keyslot that vk was unlocked with and returns the keyslot's number, which is
// another one for LUKS1.
func (h *Held) ChangeKey(ctx context.Context, vk *luks.VolumeKey, passphrase *secret.Bytes, opts luks.KeyslotOptions) (int, error) {
	id, header, err := h.header.ChangeKey(ctx, h.dev, vk, passphrase, opts)
	return id, h.changed(header, err)
}

// RemoveKey destroys a keyslot, the last one only with force.
func (h *Held) RemoveKey(id int, force bool) error {
	if h.headerErr != nil {
		return h.headerErr
	}
	header, err := h.header.RemoveKey(h.dev, id, force)
	return h.changed(header, err)
}

// Repair makes both copies of a LUKS2 header the good one. It returns false if there was nothing to repair. A header that
// is refused for something else is repaired too.
func (h *Held) Repair() (bool, error) {
	if h.header == nil {
		return false, h.headerErr
	}
	header, err := h.header.Repair(h.dev)
	repaired := err == nil && header != h.header
	return repaired, h.changed(header, err)
}

// Restore writes a backup of backupBytes over the header. It must be one of this image, unless force is set.
func (h *Held) Restore(backup io.ReaderAt, backupBytes int64, force bool) error {
	header, err := luks.Restore(h.dev, h.sizeBytes(), backup, backupBytes, force)
	return h.changed(header, err)
}

// changed keeps the header as it is after a change, and names the object of an error.
func (h *Held) changed(header *luks.Header, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	h.header = header
	return nil
}

// Close ends the hold.
func (h *Held) Close() error {
	var errs []error
	for _, s := range []*source{h.data, h.src} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(errs...)
}
