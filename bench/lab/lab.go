// SPDX-License-Identifier: Apache-2.0

// Package lab prepares what a benchmark compares: scratch images, and the layers of luksgate and other programs on them.
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/scratch"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// The layers. Those that begin with nbd are a server in a process of its own, with this program's client.
const (
	Cipher    = "cipher"
	Plain     = "plain"
	Native    = "native"
	Librbd    = "librbd"
	NBDPlain  = "nbd-plain"
	NBDNative = "nbd-native"
	NBDLibrbd = "nbd-librbd"
)

// Layers are those that an image of the scheme can have, in order.
func Layers(scheme image.Scheme) []string {
	all := []string{Cipher, Plain, Native, Librbd, NBDPlain, NBDNative, NBDLibrbd}
	if scheme != image.RBD {
		all = slices.DeleteFunc(all, func(s string) bool { return s == Librbd || s == NBDLibrbd })
	}
	return all
}

// DefaultLayers are those that are measured where nothing else is asked for.
func DefaultLayers(scheme image.Scheme) []string {
	all := Layers(scheme)
	if scheme == image.RBD {
		all = slices.DeleteFunc(all, func(s string) bool { return s == NBDPlain })
	}
	return all
}

// Options say what is to be compared.
type Options struct {
	Target image.Ref
	Images int
	// SizeBytes is how much of each image is used.
	SizeBytes int64
	Layers    []string
	// Against is the engine that the others are compared with: plain, native or librbd.
	Against              string
	Version, SectorBytes int // of LUKS
	Ceph                 rbd.Config
	Seed                 uint64
	// Program is luksgate, to be started as a server.
	Program string
	// Peers are other programs to be measured too.
	Peers  []Peer
	Logger *slog.Logger
	// Progress is told what is prepared, and how far it is, from several goroutines.
	Progress func(what string, doneBytes, totalBytes int64)
}

// A Peer is another program that can be measured on scratch images.
type Peer interface {
	// Name is what the report calls it.
	Name() string
	// Start starts it on what setup has. An error that wraps ErrAbsent leaves it out of the run.
	Start(ctx context.Context, setup *Setup) (engine.Contestant, error)
}

// ErrAbsent is a peer that cannot be measured here.
var ErrAbsent = errors.New("not measured")

// Setup is what a peer is started with.
type Setup struct {
	Options
	// Dir is a folder for sockets.
	Dir string
	// Maker knows the passphrase.
	Maker *scratch.Maker
	lab   *Lab
}

// NewImages are encrypted images for one contestant: those that all share if it is RBD, where the exclusive lock goes back
// and forth, and others of its own otherwise, since a file is locked as long as it is open.
func (s *Setup) NewImages(ctx context.Context) ([]*scratch.Image, error) { return s.lab.images(ctx) }

// Reference is what a peer is compared with: the engine of Options.Against over NBD, or in process.
func (s *Setup) Reference(overNBD bool) string {
	if overNBD {
		return "nbd-" + s.Against
	}
	return s.Against
}

// A Lab is prepared. It must be closed.
type Lab struct {
	Contestants []engine.Contestant
	Skipped     []result.Skipped
	// DataOffsetBytes and SectorBytes are those of the encrypted images; 0 if there are none.
	DataOffsetBytes int64
	SectorBytes     int

	setup  Setup
	shared []*scratch.Image
	done   int64 // bytes filled so far
}

// Open prepares everything. A peer that is not there is skipped; everything else is an error.
func Open(ctx context.Context, opts Options) (*Lab, error) {
	dir, err := os.MkdirTemp("", "luksgate-bench-")
	if err != nil {
		return nil, err
	}
	maker, err := scratch.NewMaker(scratch.Options{
		Target: opts.Target, SizeBytes: opts.SizeBytes, Version: opts.Version, SectorBytes: opts.SectorBytes, Ceph: opts.Ceph,
		Seed: opts.Seed, Logger: opts.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	l := &Lab{}
	l.setup = Setup{Options: opts, Dir: dir, Maker: maker, lab: l}
	for _, name := range opts.Layers {
		c, err := l.layer(ctx, name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", name, err), l.Close())
		}
		l.Contestants = append(l.Contestants, c)
	}
	for _, p := range opts.Peers {
		c, err := p.Start(ctx, &l.setup)
		switch {
		case errors.Is(err, ErrAbsent):
			l.Skipped = append(l.Skipped, result.Skipped{Name: p.Name(), Why: err.Error()})
		case err != nil:
			return nil, errors.Join(fmt.Errorf("%s: %w", p.Name(), err), l.Close())
		default:
			l.Contestants = append(l.Contestants, c)
		}
	}
	return l, nil
}

// Close ends everybody and removes the images.
func (l *Lab) Close() error {
	var errs []error
	for _, c := range slices.Backward(l.Contestants) {
		errs = append(errs, c.Close())
	}
	errs = append(errs, l.setup.Maker.Close(), os.RemoveAll(l.setup.Dir))
	return errors.Join(errs...)
}

// images are those of a contestant; see Setup.NewImages.
func (l *Lab) images(ctx context.Context) ([]*scratch.Image, error) {
	if l.shared != nil {
		return l.shared, nil
	}
	var list []*scratch.Image
	for range l.setup.Images {
		img, err := l.setup.Maker.New(ctx, func(n int64) { l.progress(l.done + n) })
		if err != nil {
			return nil, err
		}
		l.done += l.setup.SizeBytes
		l.DataOffsetBytes, l.SectorBytes = img.DataOffsetBytes, img.SectorBytes
		list = append(list, img)
	}
	if l.setup.Target.Scheme == image.RBD {
		l.shared = list
	}
	return list, nil
}

// progress is of those images that are known to be needed; peers may need more.
func (l *Lab) progress(doneBytes int64) {
	sets := int64(1)
	if l.setup.Target.Scheme != image.RBD {
		sets = int64(len(slices.DeleteFunc(slices.Clone(l.setup.Layers), func(s string) bool { return s == Cipher })))
	}
	total := max(sets*int64(l.setup.Images)*l.setup.SizeBytes, doneBytes)
	l.setup.Progress("writing scratch images", doneBytes, total)
}

// layer opens one layer of luksgate.
func (l *Lab) layer(ctx context.Context, name string) (engine.Contestant, error) {
	switch name {
	case Cipher:
		sector := l.setup.SectorBytes
		if sector == 0 {
			sector = 4096
		}
		if l.setup.Version == 1 {
			sector = 512
		}
		return engine.NewCipher(sector, runtime.GOMAXPROCS(0))
	case Plain, Native, Librbd:
		return l.inProcess(ctx, name)
	case NBDPlain, NBDNative, NBDLibrbd:
		return l.overNBD(ctx, name)
	}
	return nil, gateway.NewUsageError("--layers %q: expected some of %v", name, Layers(l.setup.Target.Scheme))
}

// what describes a layer in the report.
func (l *Lab) what(name string) result.Contestant {
	texts := map[string]string{
		Plain:     "the raw image through luksgate's image layer, in process, nothing encrypted",
		Native:    "luksgate's engine, in process",
		Librbd:    "librbd's engine, in process",
		NBDPlain:  "gateway with a plain image, over NBD",
		NBDNative: "gateway with luksgate's engine, over NBD",
		NBDLibrbd: "gateway with librbd's engine, over NBD",
	}
	c := result.Contestant{Name: name, Text: texts[name]}
	overNBD := name == NBDPlain || name == NBDNative || name == NBDLibrbd
	if ref := l.setup.Reference(overNBD); ref != name {
		c.Reference = ref
	}
	return c
}
