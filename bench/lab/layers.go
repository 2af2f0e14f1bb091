// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/scratch"
	"github.com/luksgate/luksgate/bench/server"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// inProcess opens an engine here.
func (l *Lab) inProcess(ctx context.Context, name string) (engine.Contestant, error) {
	c := &engine.InProcess{What: l.what(name), SizeBytes: l.setup.SizeBytes}
	var exports []*gateway.Export
	c.Closer = func() error {
		var errs []error
		for _, e := range exports {
			errs = append(errs, e.Close())
		}
		return errors.Join(errs...)
	}
	configs, offset, err := l.configs(ctx, name)
	if err != nil {
		return nil, err
	}
	for i, cfg := range configs {
		e, err := gateway.Open(ctx, cfg)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		exports = append(exports, e)
		d := e.Device()
		if cfg.Image.Scheme == image.Mem {
			err = scratch.Fill(ctx, d, l.setup.SizeBytes, l.setup.Seed+uint64(i), func(n int64) { l.progress(l.done + n) })
			if err != nil {
				return nil, errors.Join(err, c.Close())
			}
			l.done += l.setup.SizeBytes
		}
		c.Devices = append(c.Devices, server.Behind(d, offset))
	}
	return c, nil
}

// configs are the images of a layer that opens them here, and where their data begin if it opens them plain.
func (l *Lab) configs(ctx context.Context, name string) (list []gateway.Config, offset int64, err error) {
	if name == Plain && l.setup.Target.Scheme == image.Mem {
		for range l.setup.Images {
			list = append(list, gateway.Config{Image: l.setup.Target, Engine: gateway.EngineNative, Lock: rbd.LockCooperative})
		}
		return list, 0, nil
	}
	images, err := l.images(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, img := range images {
		cfg := l.setup.Maker.Config(img, gateway.Engine(name))
		if name == Plain {
			cfg.Engine, cfg.Plain, cfg.Key, cfg.Logger = gateway.EngineNative, true, nil, nil // it would warn that this is LUKS
			offset = img.DataOffsetBytes
		}
		list = append(list, cfg)
	}
	return list, offset, nil
}

// overNBD starts a gateway.
func (l *Lab) overNBD(ctx context.Context, name string) (engine.Contestant, error) {
	spec := server.Spec{Engine: gateway.Engine(strings.TrimPrefix(name, "nbd-")), Ceph: l.setup.Ceph, Seed: l.setup.Seed}
	var files []*os.File
	var key *secret.Bytes
	if name == NBDPlain && l.setup.Target.Scheme == image.Mem {
		spec.Plain, spec.Engine, spec.FillBytes = true, gateway.EngineNative, l.setup.SizeBytes
		for range l.setup.Images {
			spec.Images = append(spec.Images, l.setup.Target.String())
		}
	} else {
		images, err := l.images(ctx)
		if err != nil {
			return nil, err
		}
		key = l.setup.Maker.Key
		for _, img := range images {
			spec.Images = append(spec.Images, img.Ref.String())
			if img.File != nil {
				files = append(files, img.File)
			}
		}
		if name == NBDPlain {
			spec.Plain, spec.Engine, spec.OffsetBytes = true, gateway.EngineNative, images[0].DataOffsetBytes
		}
	}
	child, err := server.Start(ctx, l.setup.Program, l.setup.Dir, spec, key, files)
	if err != nil {
		return nil, err
	}
	c := &engine.OverNBD{
		What: l.what(name), SizeBytes: l.setup.SizeBytes, Closer: child.Stop,
		Servers: []engine.Process{{Name: "server", PID: child.PID()}},
	}
	for i := range spec.Images {
		c.Endpoints = append(c.Endpoints, engine.Endpoint{Network: "unix", Address: child.Socket, Export: server.ExportName(i)})
	}
	return c, nil
}
