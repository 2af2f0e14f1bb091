// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// A Report is what Inspect finds, fit for JSON.
type Report struct {
	Image string `json:"image"`
	// Format is "luks1", "luks2" or "plain".
	Format string `json:"format"`
	// ImageBytes is the size of the image, DataBytes that of the plaintext that an export of it has.
	ImageBytes int64      `json:"image_bytes"`
	DataBytes  int64      `json:"data_bytes"`
	Header     *luks.Info `json:"header,omitempty"`
	RBD        *rbd.Info  `json:"rbd,omitempty"`
	// Parents are the headers along the chain of an RBD clone, nearest first.
	Parents []Report `json:"parents,omitempty"`
}

// Inspect describes an image without its passphrase. A header that cannot be opened is described too as far as it can
// be read.
func Inspect(cfg Config) (*Report, error) {
	cfg.Engine, cfg.Lock, cfg.ReadOnly = EngineAuto, rbd.LockCooperative, true
	if cfg.Image.Scheme == image.Mem {
		return nil, NewUsageError("%s is empty memory: there is nothing to inspect", cfg.Image)
	}
	src, err := openSource(cfg)
	if err != nil {
		return nil, err
	}
	report, err := src.report(cfg)
	return report, errors.Join(err, src.close())
}

func (s *source) report(cfg Config) (*Report, error) {
	ref := cfg.Image
	at, done, err := s.headerPlace(cfg)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := reportOf(cfg.headerName(), at, s.store.SizeBytes(), cfg.Header != "")
	if r != nil {
		r.Image = ref.String()
	}
	if err != nil || s.info == nil {
		return r, err
	}
	r.RBD = s.info
	for parent := s.info.Parent; parent != nil; parent = parent.Parent {
		p, err := s.reportParent(parent)
		if err != nil {
			return nil, fmt.Errorf("%s: its parent: %w", ref, err)
		}
		r.Parents = append(r.Parents, *p)
	}
	return r, nil
}

func (s *source) reportParent(info *rbd.Info) (*Report, error) {
	m, err := s.cluster.OpenDescribed(info, s.log)
	if err != nil {
		return nil, err
	}
	r, err := reportOf(info.Name, readerAt{m}, m.SizeBytes(), false)
	return r, errors.Join(err, m.Close())
}

// reportOf describes an image of sizeBytes whose header is, or is not, at at.
func reportOf(name string, at readerAt, sizeBytes int64, detached bool) (*Report, error) {
	r := &Report{Image: name, Format: "plain", ImageBytes: sizeBytes, DataBytes: sizeBytes}
	header, err := luks.Read(at, at.store.SizeBytes(), luks.ReadOptions{Detached: detached})
	switch {
	case header != nil:
		r.Header = &header.Info
		r.Format = fmt.Sprintf("luks%d", header.Version)
		r.DataBytes = dataBytes(&header.Info, sizeBytes)
	case detached || !errors.Is(err, luks.ErrNotLUKS):
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// dataBytes is the size of the plaintext of an image of sizeBytes.
func dataBytes(h *luks.Info, sizeBytes int64) int64 {
	n := h.DataLengthBytes
	if n == 0 {
		n = max(sizeBytes-h.DataOffsetBytes, 0)
	}
	if s := int64(h.SectorBytes); s > 0 {
		n -= n % s
	}
	return n
}
