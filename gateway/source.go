// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/file"
	"github.com/luksgate/luksgate/gateway/image/mem"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// A source is an open image and what it needs to stay open.
type source struct {
	store   volume.Store
	closers []func() error // called last to first
	hold    func() error   // does what a standby left out; nil where that is nothing

	// Of an RBD image.
	cluster *rbd.Cluster
	rbd     *rbd.Image
	info    *rbd.Info
	ceph    rbd.Config // with what the engine wants
	share   bool       // parents, with other images
	log     *slog.Logger
	needed  []*rbd.Image // parents without which it cannot be read
	dead    <-chan struct{}

	mu       sync.Mutex
	onResize func() // told that the store has another size
}

// resized is called by the image, from a goroutine of its own.
func (s *source) resized() {
	s.mu.Lock()
	f := s.onResize
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// whenResized sets who is told.
func (s *source) whenResized(f func()) {
	s.mu.Lock()
	s.onResize = f
	s.mu.Unlock()
}

func (s *source) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	return errors.Join(errs...)
}

func openSource(cfg Config) (*source, error) {
	switch cfg.Image.Scheme {
	case image.File:
		if cfg.Standby {
			return openFileStandby(cfg.Image.Path, cfg.ReadOnly)
		}
		return openFile(cfg.Image.Path, cfg.ReadOnly)
	case image.Mem:
		m, err := mem.New(cfg.Image.SizeBytes)
		if err != nil {
			return nil, err
		}
		return &source{store: m, closers: []func() error{m.Close}}, nil
	default:
		return openRBD(cfg)
	}
}

func openFileStandby(path string, readOnly bool) (*source, error) {
	f, err := file.OpenStandby(path, readOnly)
	if err != nil {
		return nil, err
	}
	return &source{store: f, closers: []func() error{f.Close}, hold: func() error { return f.Hold(readOnly) }}, nil
}

func openRBD(cfg Config) (*source, error) {
	ceph := cfg.Ceph
	if cfg.Engine == EngineLibrbd {
		if slices.Contains(rbd.Missing(), rbd.MissingEngine) { // which may not know the settings below either
			return nil, fmt.Errorf("%s: %w: librbd %s has no encryption, which came with Ceph 16: use --engine native",
				cfg.Image, luks.ErrUnsupported, rbd.Version())
		}
		// Below this size librbd decrypts holes to noise instead of reading them as zeros.
		ceph.Options = withOption(ceph.Options, "rbd_sparse_read_threshold_bytes", "1")
		ceph.Options = withOption(ceph.Options, "librados_thread_count", "2") // they decrypt
	}
	cluster, release, err := rbd.Acquire(ceph)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Image, err)
	}
	s := &source{
		cluster: cluster, closers: []func() error{func() error { release(); return nil }},
		ceph: ceph, share: cfg.ShareParents, log: cfg.Logger,
	}
	s.rbd, err = cluster.Open(cfg.Image, rbd.OpenOptions{
		ReadOnly: cfg.ReadOnly, Lock: cfg.Lock, Takeover: cfg.Takeover, Standby: cfg.Standby,
		Logger: cfg.Logger.With("image", cfg.Image.String()), Resized: func(int64) { s.resized() },
	})
	if err == nil {
		s.closers = append(s.closers, s.rbd.Close)
		s.info, err = s.rbd.Describe()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.store, s.hold = s.rbd, s.rbd.Hold
	return s, nil
}

func withOption(options map[string]string, name, value string) map[string]string {
	out := map[string]string{name: value}
	for k, v := range options {
		out[k] = v
	}
	return out
}

// openParent opens a parent for as long as the source is open.
func (s *source) openParent(info *rbd.Info) (*rbd.Image, error) {
	log := s.log.With("image", info.Name)
	if s.share {
		m, release, err := rbd.ShareParent(s.ceph, info, log)
		if err == nil {
			s.closers = append(s.closers, release)
		}
		return m, err
	}
	m, err := s.cluster.OpenDescribed(info, log)
	if err == nil {
		s.closers = append(s.closers, m.Close)
	}
	return m, err
}

// headerOf reads the header of another image of the same cluster.
func (s *source) headerOf(info *rbd.Info) (*luks.Header, error) {
	m, err := s.cluster.OpenDescribed(info, s.log)
	if err != nil {
		return nil, err
	}
	header, err := luks.Read(readerAt{m}, m.SizeBytes(), luks.ReadOptions{})
	return header, errors.Join(err, m.Close())
}

// readerAt reads a store as package io wants it.
type readerAt struct{ store volume.Store }

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	size := r.store.SizeBytes()
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), size-off))
	if n > 0 {
		if err := r.store.ReadAt([][]byte{p[:n]}, off); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
