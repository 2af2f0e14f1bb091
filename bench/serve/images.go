// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/scratch"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// ImageBytes is how much plaintext each of Images has.
const ImageBytes = 1 << 20

// sectorBytes of the images, as rbd formats them.
const sectorBytes = 4096

// Images are small LUKS2 images of one passphrase.
type Images struct {
	// Dir is a folder for the daemons that export them; it is removed with the images.
	Dir string

	maker   *scratch.Maker
	refs    []image.Ref
	release func() // the connection to the cluster, which one image after the other uses
}

// sayEvery is after how many images one is told of them.
const sayEvery = 100

// MakeImages makes n images beside target, file:PATH or rbd:POOL/IMAGE. It tells on standard error how far it is.
func MakeImages(ctx context.Context, target string, n int) (*Images, error) {
	ref, err := image.ParseRef(target)
	if err != nil {
		return nil, err
	}
	ceph := rbd.Config{ImagesPerConnection: 2}
	m := &Images{release: func() {}}
	if ref.Scheme == image.RBD {
		if _, m.release, err = rbd.Acquire(ceph); err != nil {
			return nil, err
		}
	}
	m.maker, err = scratch.NewMaker(scratch.Options{
		Target: ref, SizeBytes: ImageBytes, Version: 2, SectorBytes: sectorBytes, Ceph: ceph,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		m.release()
		return nil, err
	}
	if m.Dir, err = os.MkdirTemp("", "lgbench"); err == nil {
		err = os.WriteFile(m.keyFile(), m.maker.Key.Bytes(), 0o600)
	}
	var images []*scratch.Image
	if err == nil {
		images, err = m.maker.Copies(ctx, n, func(made int) {
			if made%sayEvery == 0 || made == n {
				Say("%d of %d images are there", made, n)
			}
		})
	}
	for _, img := range images {
		m.refs = append(m.refs, img.Ref)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Say tells, on standard error, how far a run is.
func Say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

func (m *Images) keyFile() string { return filepath.Join(m.Dir, "key") }

// Close removes the images and the folder, whose daemons have ended.
func (m *Images) Close() error {
	Say("removing %d images", len(m.refs))
	err := m.maker.Close()
	m.release()
	return errors.Join(err, os.RemoveAll(m.Dir))
}

// Conf is a configuration that exports the images from one number on up to another, with a shared socket.
func (m *Images) Conf(from, to int) string {
	var b strings.Builder
	b.WriteString("listen: [{socket: DIR/nbd}]\nexports:\n")
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "  - {name: %s, image: \"%s\", key: {file: %s}}\n", exportName(i), m.refs[i], m.keyFile())
	}
	return b.String()
}

func exportName(i int) string { return fmt.Sprintf("e%d", i) }

// Endpoint is where a daemon with such a configuration has an image.
func (d *Daemon) Endpoint(i int) engine.Endpoint {
	return engine.Endpoint{Network: "unix", Address: d.Socket("nbd"), Export: exportName(i)}
}
