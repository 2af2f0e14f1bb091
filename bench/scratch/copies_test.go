// SPDX-License-Identifier: Apache-2.0

package scratch

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
)

// TestCopies has images that open with the one passphrase and have the same data, until they are removed.
func TestCopies(t *testing.T) {
	dir := t.TempDir()
	m, err := NewMaker(Options{
		Target: image.Ref{Scheme: image.File, Path: filepath.Join(dir, "x")}, SizeBytes: 1 << 20, Version: 2, SectorBytes: 4096,
	})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	images, err := m.Copies(t.Context(), 6, func(int) { told++ })
	if err != nil || len(images) != 6 || told != 6 {
		t.Fatalf("%d images, told of %d, %v", len(images), told, err)
	}
	var first []byte
	for i, img := range images {
		exp, err := gateway.Open(t.Context(), m.Config(img, gateway.EngineNative))
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 1<<20)
		if err := errors.Join(exp.Device().ReadAt(data, 0), exp.Close()); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = data
		}
		if !bytes.Equal(data, first) || bytes.Equal(data, make([]byte, len(data))) {
			t.Errorf("copy %d has other data, or none", i)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestEachEnds at the first error, and tells it.
func TestEachEnds(t *testing.T) {
	failure := errors.New("x")
	if err := each(100, func(i int) error {
		if i >= 10 {
			return failure
		}
		return nil
	}); !errors.Is(err, failure) {
		t.Error(err)
	}
	if err := each(0, func(int) error { return failure }); err != nil {
		t.Error(err)
	}
}
