// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// filled is an image with data in each object of 64 KiB, and a clone of it.
func filled(t *testing.T, c *Cluster, sizeMiB int64) (clone string) {
	t.Helper()
	spec := testenv.NewImage(t, sizeMiB, "--object-size", "64K")
	m := open(t, c, spec, OpenOptions{})
	for at := int64(0); at < m.SizeBytes(); at += 64 << 10 {
		if err := m.WriteAt([][]byte{[]byte("data")}, at, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	testenv.RBD(t, "snap", "create", "--no-progress", spec+"@s")
	clone = testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, "clone", "--rbd-default-clone-format", "2", spec+"@s", clone)
	testenv.OwnImage(t, clone)
	return clone
}

// TestFlattenIsGivenUp ends a flatten in the middle, sees that the parent is there still, and goes on.
func TestFlattenIsGivenUp(t *testing.T) {
	c := connect(t)
	clone := filled(t, c, 128)
	m := open(t, c, clone, OpenOptions{Lock: LockExclusive})
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Flatten(gone, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("before it begins: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	steps := 0
	err := m.Flatten(ctx, func(done, total int64) {
		if done < 0 || done > total || total != 2048 {
			t.Errorf("%d of %d", done, total)
		}
		steps++
		cancel()
	})
	if !errors.Is(err, context.Canceled) || steps == 0 {
		t.Fatalf("after %d steps: %v", steps, err)
	}
	if n, err := m.OverlapBytes(); n != 128<<20 || err != nil {
		t.Errorf("an overlap of %d bytes is left (%v)", n, err)
	}
	if err := m.Flatten(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if n, err := m.OverlapBytes(); n != 0 || err != nil {
		t.Errorf("an overlap of %d bytes is left (%v)", n, err)
	}
	if err := m.Flatten(t.Context(), nil); err != nil {
		t.Errorf("once more: %v", err)
	}
	if err := m.RebuildObjectMap(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestResize changes sizes with and without librbd's engine, which has another idea of a size.
func TestResize(t *testing.T) {
	c := connect(t)
	for _, engine := range []bool{false, true} {
		t.Run(fmt.Sprint(engine), func(t *testing.T) {
			spec := testenv.NewImage(t, 20)
			m, header := open(t, c, spec, OpenOptions{}), int64(0)
			if engine {
				header = 4 << 20
				key := testenv.WriteFile(t, filepath.Join(t.TempDir(), "key"), []byte("correct horse"))
				testenv.RBD(t, "encryption", "format", spec, "luks1", key)
				passphrase, err := secret.Copy([]byte("correct horse"))
				if err != nil {
					t.Fatal(err)
				}
				defer passphrase.Release()
				if err := m.LoadEncryption(1, passphrase); err != nil {
					t.Fatal(err)
				}
			}
			told := make(chan int64, 10)
			m.opts.Resized = func(n int64) { told <- n }
			for _, size := range []int64{64 << 20, 33 << 20, 0, 1 << 40, 12 << 20} {
				if err := m.Resize(t.Context(), size, size < m.SizeBytes(), nil); err != nil {
					t.Fatal(err)
				}
				if m.SizeBytes() != size || <-told != size {
					t.Errorf("it has %d bytes, want %d", m.SizeBytes(), size)
				}
			}
			if err := m.Resize(t.Context(), 4<<20, false, nil); err == nil || m.SizeBytes() != 12<<20 {
				t.Errorf("it shrinks unasked (%v)", err)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf(`"size":%d,`, 12<<20+header); !strings.Contains(testenv.RBD(t, "info", "--format", "json", spec), want) {
				t.Errorf("the image has another size than %s", want)
			}
		})
	}
}

// TestOwnsData tells a clone that was written to from one that only shows its parent.
func TestOwnsData(t *testing.T) {
	c := connect(t)
	for _, features := range []string{"layering", "layering,exclusive-lock,object-map,fast-diff"} {
		parent := testenv.NewImage(t, 8)
		m := open(t, c, parent, OpenOptions{})
		if err := m.WriteAt([][]byte{[]byte("data")}, 0, false); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		testenv.RBD(t, "snap", "create", "--no-progress", parent+"@s")
		clone := testenv.Pool + "/" + testenv.UniqueName(t)
		testenv.RBD(t, "clone", "--rbd-default-clone-format", "2", "--image-feature", features, parent+"@s", clone)
		testenv.OwnImage(t, clone)
		m = open(t, c, clone, OpenOptions{})
		if owns, err := m.OwnsData(); owns || err != nil {
			t.Errorf("%s: a fresh clone: %v %v", features, owns, err)
		}
		if err := m.WriteAt([][]byte{[]byte("data")}, 5<<20, false); err != nil {
			t.Fatal(err)
		}
		if owns, err := m.OwnsData(); !owns || err != nil {
			t.Errorf("%s: one that was written to: %v %v", features, owns, err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
