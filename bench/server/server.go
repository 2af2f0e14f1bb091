// SPDX-License-Identifier: Apache-2.0

// Package server is the gateway as a child process of its own program, so that its processor time is its own: one process
// for all images, as the daemon is. The parent says on standard input what to serve, and ends it by closing that; the
// passphrase comes on descriptor 3, memory images on those that follow.
package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/luksgate/luksgate/bench/scratch"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/nbdserver"
)

const (
	keyFD      = 3
	firstImage = keyFD + 1
	ready      = "ready\n"
)

// A Spec says what to serve: image number i as the export of that name.
type Spec struct {
	Images []string
	// Files tells that the images are the descriptors from 4 on.
	Files  int
	Engine gateway.Engine
	// Plain serves what is behind OffsetBytes of each image as it is.
	Plain       bool
	OffsetBytes int64
	// FillBytes of each image are written before: for mem: images, which begin empty.
	FillBytes int64
	Seed      uint64
	Ceph      rbd.Config
	Socket    string
}

// ExportName is the name of image number i.
func ExportName(i int) string { return strconv.Itoa(i) }

// Run serves what in says until in ends. It says on out when clients may come.
func Run(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	line := bufio.NewReader(in)
	text, err := line.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("bench serve: this verb is for luksgate bench itself: %w", err)
	}
	var spec Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("bench serve: %w", err)
	}
	var catalog catalog
	defer func() {
		for _, e := range catalog {
			err = errors.Join(err, e.export.Close())
		}
	}()
	if catalog, err = spec.open(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("unix", spec.Socket)
	if err != nil {
		return err
	}
	srv := nbdserver.New(nbdserver.Options{Catalog: catalog})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.WithoutCancel(ctx), listener) }()
	if _, err := io.WriteString(out, ready); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, line) // until the parent closes it, or is gone
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = srv.Shutdown(stopping)
	if served := <-served; !errors.Is(served, nbdserver.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// open opens all images. What it returns must be closed, also with an error.
func (s *Spec) open(ctx context.Context) (catalog, error) {
	var all catalog
	var passphrase *secret.Bytes
	if !s.Plain {
		var err error
		if passphrase, err = key.FD(keyFD).Passphrase(ctx); err != nil {
			return nil, err
		}
		defer passphrase.Release()
	}
	for i, name := range s.Images {
		ref, err := image.ParseRef(name)
		if err != nil {
			return all, err
		}
		if i < s.Files {
			ref = image.Ref{Scheme: image.File, Path: scratch.FDPath(firstImage + i)}
		}
		export, err := gateway.Open(ctx, gateway.Config{
			Image: ref, Key: held{passphrase}, Plain: s.Plain, Engine: s.Engine, Lock: rbd.LockCooperative, Ceph: s.Ceph,
		})
		if err != nil {
			return all, err
		}
		e := entry{export, nbdserver.ExportInfo{Name: ExportName(i)}, s.OffsetBytes}
		all = append(all, e)
		if s.FillBytes > 0 {
			if err := scratch.Fill(ctx, e.device(), s.FillBytes, s.Seed+uint64(i), nil); err != nil {
				return all, err
			}
		}
	}
	return all, nil
}

// held is a key.Source that gives out copies.
type held struct{ passphrase *secret.Bytes }

func (h held) Passphrase(context.Context) (*secret.Bytes, error) {
	return secret.Copy(h.passphrase.Bytes())
}
func (h held) String() string { return key.FD(keyFD).String() }

type entry struct {
	export      *gateway.Export
	info        nbdserver.ExportInfo
	offsetBytes int64
}

func (e entry) device() nbdserver.Device {
	if e.offsetBytes == 0 {
		return e.export.Device()
	}
	return Behind(e.export.Device(), e.offsetBytes)
}

type catalog []entry

// List implements nbdserver.Catalog.
func (c catalog) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	var list []nbdserver.ExportInfo
	for _, e := range c {
		list = append(list, e.info)
	}
	return list, nil
}

// Open implements nbdserver.Catalog.
func (c catalog) Open(_ context.Context, name string, _ *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	for _, e := range c {
		if e.info.Name == name {
			return e.info, e.device(), nil
		}
	}
	return nbdserver.ExportInfo{}, nil, nbdserver.ErrUnknownExport
}

// Behind is what a device holds from an offset on, to read, write and flush.
func Behind(d nbdserver.Device, offsetBytes int64) nbdserver.Device {
	b := behind{d, offsetBytes}
	if a, ok := d.(nbdserver.AsyncDevice); ok {
		return behindAsync{b, a}
	}
	return b
}

type behind struct {
	nbdserver.Device
	offsetBytes int64
}

func (b behind) SizeBytes() int64 { return b.Device.SizeBytes() - b.offsetBytes }

// Properties leaves out what is not shifted.
func (b behind) Properties() nbdserver.Properties {
	p := b.Device.Properties()
	p.Trim, p.WriteZeroes, p.FastZero, p.Contexts = false, false, false, nil
	return p
}

func (b behind) ReadAt(p []byte, offsetBytes int64) error {
	return b.Device.ReadAt(p, offsetBytes+b.offsetBytes)
}

func (b behind) WriteAt(p []byte, offsetBytes int64, fua bool) error {
	return b.Device.WriteAt(p, offsetBytes+b.offsetBytes, fua)
}

// behindAsync is the same of a device that can be asked without waiting.
type behindAsync struct {
	behind
	async nbdserver.AsyncDevice
}

func (b behindAsync) StartRead(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	return b.async.StartRead(p, offsetBytes+b.offsetBytes, done)
}

func (b behindAsync) StartWrite(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	return b.async.StartWrite(p, offsetBytes+b.offsetBytes, done)
}
