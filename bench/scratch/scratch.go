// SPDX-License-Identifier: Apache-2.0

// Package scratch makes the images that are measured, and removes them: never anything else. A scratch image has a random
// name that nothing had before, a LUKS header with a random passphrase that no one else ever sees, and data that do not
// compress, written once from end to end.
package scratch

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

const (
	// headerRoomBytes is what an image is larger than its data: room for a header that is aligned to any usual stripe period.
	headerRoomBytes = 64 << 20
	// A passphrase of 32 random bytes needs no expensive key derivation.
	passphraseBytes = 32
	kdfIterations   = 1000
	// removeTimeout and removePause: an image whose last client has just died stays busy for a while.
	removeTimeout = 45 * time.Second
	removePause   = time.Second
)

// Options say what images are wanted.
type Options struct {
	// Target is the image beside which they are made, or mem:SIZE.
	Target    image.Ref
	SizeBytes int64 // of the plaintext that is used
	// Version and SectorBytes of LUKS.
	Version, SectorBytes int
	Ceph                 rbd.Config
	Seed                 uint64
	Logger               *slog.Logger
}

// A Maker makes images and knows which it made. It is used by one goroutine.
type Maker struct {
	opts   Options
	Key    *secret.Bytes // of all images
	images []*Image
}

// An Image is one scratch image.
type Image struct {
	Ref image.Ref
	// File is the memory behind an image of mem:, which a process can inherit; Ref is valid in this process.
	File *os.File
	// DataOffsetBytes is where its plaintext begins in the raw image.
	DataOffsetBytes int64
	SectorBytes     int
}

// NewMaker checks the options and makes a passphrase. The maker must be closed.
func NewMaker(opts Options) (*Maker, error) {
	if opts.Target.Snapshot != "" {
		return nil, gateway.NewUsageError("%s is a snapshot; name an image, beside which the scratch image is made", opts.Target)
	}
	if opts.SizeBytes < 1<<20 {
		return nil, gateway.NewUsageError("%d bytes are too few to measure on: expected 1 MiB or more", opts.SizeBytes)
	}
	var raw [passphraseBytes]byte
	_, _ = rand.Read(raw[:]) // never fails
	key, err := secret.New(2 * passphraseBytes)
	if err != nil {
		return nil, err
	}
	hex.Encode(key.Bytes(), raw[:]) // text, for programs that take no other
	secret.Wipe(raw[:])
	return &Maker{opts: opts, Key: key}, nil
}

// name is the target's with something that nothing else is called.
func name(base string) string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%s.luksgate-bench-%s", cmp.Or(base, "image"), hex.EncodeToString(b[:]))
}

// New makes an image, formats it and fills it. progress is told of the bytes written so far.
func (m *Maker) New(ctx context.Context, progress func(doneBytes int64)) (*Image, error) {
	img, err := m.create()
	if err != nil {
		return nil, err
	}
	m.images = append(m.images, img) // from now on Close removes it
	if err := m.format(ctx, img); err != nil {
		return nil, err
	}
	exp, err := gateway.Open(ctx, m.Config(img, gateway.EngineNative))
	if err != nil {
		return nil, err
	}
	err = Fill(ctx, exp.Device(), m.opts.SizeBytes, m.opts.Seed+uint64(len(m.images)), progress)
	return img, errors.Join(err, exp.Close())
}

func (m *Maker) create() (*Image, error) {
	size := m.opts.SizeBytes + headerRoomBytes
	ref := m.opts.Target
	switch ref.Scheme {
	case image.Mem:
		fd, err := unix.MemfdCreate("luksgate-bench", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("scratch memory: %w", err)
		}
		f := os.NewFile(uintptr(fd), "scratch memory")
		if err := f.Truncate(size); err != nil {
			return nil, errors.Join(fmt.Errorf("scratch memory: %w", err), f.Close())
		}
		return &Image{Ref: image.Ref{Scheme: image.File, Path: FDPath(fd)}, File: f}, nil
	case image.File:
		ref.Path = name(ref.Path)
		f, err := os.OpenFile(ref.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, fmt.Errorf("scratch file: %w: %w", image.ErrUnreachable, err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			return nil, errors.Join(fmt.Errorf("scratch file: %w", err), os.Remove(ref.Path))
		}
		return &Image{Ref: ref}, nil
	default:
		ref.Image = name(ref.Image)
		cluster, release, err := rbd.Acquire(m.opts.Ceph)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.opts.Target, err)
		}
		defer release()
		if err := cluster.Create(ref, size, m.opts.Target); err != nil {
			return nil, err
		}
		return &Image{Ref: ref}, nil
	}
}

// FDPath is the name under which a process opens a file descriptor of its own anew.
func FDPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func (m *Maker) format(ctx context.Context, img *Image) error {
	held, drop, err := gateway.HoldForFormat(gateway.Config{Image: img.Ref, Ceph: m.opts.Ceph, Logger: m.opts.Logger})
	if err != nil {
		return err
	}
	label := "luksgate-bench"
	if m.opts.Version == 1 {
		label = "" // it has none
	}
	header, err := held.Format(ctx, luks.FormatOptions{
		Version: m.opts.Version, SectorBytes: m.opts.SectorBytes, Label: label,
		KDF: luks.KDFOptions{Type: "pbkdf2", Iterations: kdfIterations}, Passphrase: m.Key,
	})
	if err = errors.Join(err, held.Close()); err != nil {
		drop()
		return err
	}
	img.DataOffsetBytes, img.SectorBytes = header.DataOffsetBytes, header.SectorBytes
	return nil
}

// Config opens an image with one of the engines. The lock goes back and forth between those who measure in turns.
func (m *Maker) Config(img *Image, engine gateway.Engine) gateway.Config {
	return gateway.Config{
		Image: img.Ref, Key: keyInMemory{m.Key}, Engine: engine, Lock: rbd.LockCooperative, Ceph: m.opts.Ceph, Logger: m.opts.Logger,
	}
}

// keyInMemory is a key.Source.
type keyInMemory struct{ key *secret.Bytes }

func (k keyInMemory) Passphrase(context.Context) (*secret.Bytes, error) {
	return secret.Copy(k.key.Bytes())
}

func (k keyInMemory) String() string { return "the scratch image's own passphrase" }

// Close removes every image that New made, and forgets the passphrase. Nobody may have one open.
func (m *Maker) Close() error {
	errs := make([]error, len(m.images))
	_ = each(len(m.images), func(i int) error {
		errs[i] = m.remove(m.images[i])
		return nil // the others are removed all the same
	})
	m.images = nil
	m.Key.Release()
	return errors.Join(errs...)
}

func (m *Maker) remove(img *Image) error {
	switch {
	case img.File != nil:
		return img.File.Close()
	case img.Ref.Scheme == image.File:
		return os.Remove(img.Ref.Path)
	}
	cluster, release, err := rbd.Acquire(m.opts.Ceph)
	if err != nil {
		return fmt.Errorf("scratch image %s was not removed: %w", img.Ref, err)
	}
	defer release()
	for end := time.Now().Add(removeTimeout); ; time.Sleep(removePause) {
		err := cluster.Remove(img.Ref)
		if err == nil {
			return nil
		}
		if !errors.Is(err, image.ErrBusy) || time.Now().After(end) {
			return fmt.Errorf("scratch image was not removed: %w", err)
		}
	}
}
