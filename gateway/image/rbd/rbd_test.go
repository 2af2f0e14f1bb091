// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/image"
)

func connect(t *testing.T) *Cluster {
	t.Helper()
	c, err := Connect(Config{ConfFile: testenv.CephConf(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ref(t *testing.T, spec string) image.Ref {
	t.Helper()
	r, err := image.ParseRef("rbd:" + spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t *testing.T, c *Cluster, spec string, opts OpenOptions) *Image {
	t.Helper()
	m, err := c.Open(ref(t, spec), opts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRandomOperations holds an image against a byte slice, with many goroutines on ranges of their own, and then
// against what the rbd tool exports.
func TestRandomOperations(t *testing.T) {
	c := connect(t)
	const sizeMiB, writers = 16, 8
	spec := testenv.NewImage(t, sizeMiB, "--object-size", "1M")
	m := open(t, c, spec, OpenOptions{})
	model := make([]byte, sizeMiB<<20)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			const span = sizeMiB << 20 / writers
			if err := randomOperations(m, model[w*span:(w+1)*span], int64(w*span), uint64(w)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	exported := filepath.Join(t.TempDir(), "exported")
	testenv.RBD(t, "export", "--no-progress", spec, exported)
	got, err := os.ReadFile(exported)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, model) {
		t.Error("what rbd exports is not what was written")
	}
}

func randomOperations(m *Image, model []byte, base int64, seed uint64) error {
	rng := rand.New(rand.NewPCG(7, seed))
	for range 60 {
		off := rng.Int64N(int64(len(model)))
		n := rng.Int64N(min(int64(len(model))-off, 400_000) + 1)
		p := make([]byte, n)
		a, b := rng.Int64N(n+1), rng.Int64N(n+1)
		iov := [][]byte{p[:min(a, b)], p[min(a, b):max(a, b)], p[max(a, b):]}
		var err error
		switch rng.IntN(6) {
		case 0, 1:
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			copy(model[off:], p)
			err = m.WriteAt(iov, base+off, rng.IntN(4) == 0)
		case 2:
			// Aligned to what librbd discards whatever its granularity is.
			lo := (off + 65535) &^ 65535
			if hi := (off + n) &^ 65535; lo < hi {
				clear(model[lo:hi])
				err = m.Discard(base+lo, hi-lo)
			}
		case 3:
			err = m.Flush()
		default:
			if err = m.ReadAt(iov, base+off); err == nil && !bytes.Equal(p, model[off:off+n]) {
				err = fmt.Errorf("read %d+%d differs from what was written", base+off, n)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func TestExtents(t *testing.T) {
	c := connect(t)
	m := open(t, c, testenv.NewImage(t, 64), OpenOptions{})
	defer m.Close()
	if err := m.WriteAt([][]byte{make([]byte, 4096)}, 9<<20, false); err != nil {
		t.Fatal(err)
	}
	got, err := m.Extents(1<<20, 40<<20, make([]volume.Extent, 0, 8))
	want := []volume.Extent{{LengthBytes: 7 << 20, Hole: true}, {LengthBytes: 4 << 20}, {LengthBytes: 29 << 20, Hole: true}}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v %v, want %v", got, err, want)
	}
}

func TestSnapshotAndClone(t *testing.T) {
	c := connect(t)
	parent := testenv.NewImage(t, 8)
	m := open(t, c, parent, OpenOptions{})
	old := bytes.Repeat([]byte("old "), 1024)
	if err := m.WriteAt([][]byte{old}, 4096, true); err != nil {
		t.Fatal(err)
	}
	testenv.RBD(t, "snap", "create", "--no-progress", parent+"@s")
	if err := m.WriteAt([][]byte{bytes.Repeat([]byte("new "), 1024)}, 4096, true); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	child := testenv.Pool + "/" + testenv.UniqueName(t)
	testenv.RBD(t, "clone", "--rbd-default-clone-format", "2", parent+"@s", child)
	testenv.OwnImage(t, child)
	for _, spec := range []string{parent + "@s", child} {
		m := open(t, c, spec, OpenOptions{ReadOnly: spec == child})
		got := make([]byte, 4096)
		if err := m.ReadAt([][]byte{got}, 4096); err != nil || !bytes.Equal(got, old) {
			t.Errorf("%s: reads something else than the snapshot (%v)", spec, err)
		}
		if err := m.WriteAt([][]byte{got}, 0, false); err == nil {
			t.Errorf("%s: opened read-only and written", spec)
		}
		m.Close()
	}
	info, err := c.Describe(ref(t, child))
	if err != nil || info.Parent == nil || info.Parent.Name != "rbd:"+parent+"@s" || info.OverlapBytes != 8<<20 {
		t.Errorf("the clone is described as %+v, %v", info, err)
	}
	if info.StripePeriodBytes() != 4<<20 {
		t.Errorf("stripe period %d", info.StripePeriodBytes())
	}
}

func TestOpenErrors(t *testing.T) {
	c := connect(t)
	spec := testenv.NewImage(t, 4)
	for _, s := range []string{"no-such-pool/x", "rbd/no-such-image", spec + "@no-such-snapshot", "rbd/no-such-ns/x"} {
		_, err := c.Open(ref(t, s), OpenOptions{})
		if !errors.Is(err, image.ErrUnreachable) || !strings.Contains(err.Error(), s) {
			t.Errorf("%s: got %v, want ErrUnreachable that names it", s, err)
		}
	}
	for _, cfg := range []Config{
		{ConfFile: "/nonexistent/ceph.conf"},
		{ConfFile: testenv.CephConf(t), User: "nobody"},
		{ConfFile: testenv.CephConf(t), Options: map[string]string{"rbd_cache": "perhaps"}},
	} {
		if c, err := Connect(cfg); !errors.Is(err, image.ErrUnreachable) {
			t.Errorf("%+v: got %v, want ErrUnreachable", cfg, err)
			if err == nil {
				c.Close()
			}
		}
	}
}

func TestExclusiveLock(t *testing.T) {
	a, b := connect(t), connect(t)
	spec := testenv.NewImage(t, 4)
	first := open(t, a, spec, OpenOptions{Lock: LockExclusive})
	_, err := b.Open(ref(t, spec), OpenOptions{Lock: LockExclusive})
	if !errors.Is(err, image.ErrBusy) || !strings.Contains(err.Error(), "client") {
		t.Errorf("second exclusive open: got %v, want ErrBusy that names the holder", err)
	}
	reader := open(t, b, spec, OpenOptions{ReadOnly: true})
	reader.Close()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, b, spec, OpenOptions{Lock: LockExclusive})
	second.Close()
}

// TestSharedConnections counts connections: as few as the limit allows, apart by configuration, gone with the last user.
func TestSharedConnections(t *testing.T) {
	cfg := Config{ConfFile: testenv.CephConf(t), ImagesPerConnection: 2}
	open := func() int {
		connections.mu.Lock()
		defer connections.mu.Unlock()
		n := 0
		for _, same := range connections.byName {
			n += len(same)
		}
		return n
	}
	before := open()
	var releases []func()
	clusters := make(map[*Cluster]int)
	acquire := func(cfg Config) {
		c, release, err := Acquire(cfg)
		if err != nil {
			t.Fatal(err)
		}
		clusters[c]++
		releases = append(releases, release)
	}
	for range 3 {
		acquire(cfg)
	}
	other := cfg
	other.Options = map[string]string{"rbd_cache": "true"}
	acquire(other)
	if len(clusters) != 3 || open() != before+3 {
		t.Errorf("4 images of 2 configurations have %d connections, want 3", len(clusters))
	}
	for _, release := range releases {
		release()
		release() // again does nothing
	}
	bad := Config{ConfFile: "/nonexistent"}
	if _, _, err := Acquire(bad); !errors.Is(err, image.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	if open() != before {
		t.Errorf("%d connections are left over", open()-before)
	}
}

// TestTakeoverOfOneself opens an image twice on one connection: breaking the lock would block us.
func TestTakeoverOfOneself(t *testing.T) {
	c := connect(t)
	spec := testenv.NewImage(t, 4)
	first := open(t, c, spec, OpenOptions{Lock: LockExclusive})
	defer first.Close()
	_, err := c.Open(ref(t, spec), OpenOptions{Lock: LockExclusive, Takeover: true})
	if !errors.Is(err, image.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if err := first.WriteAt([][]byte{make([]byte, 512)}, 0, true); err != nil {
		t.Errorf("the first one can no longer write: %v", err)
	}
}

func BenchmarkRead4K(b *testing.B) {
	c, err := Connect(Config{ConfFile: testenv.CephConf(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	r, _ := image.ParseRef("rbd:" + testenv.NewImage(b, 64))
	m, err := c.Open(r, OpenOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	if err := m.WriteAt([][]byte{make([]byte, 16<<20)}, 0, false); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		iov := [][]byte{make([]byte, 4096)}
		for pb.Next() {
			if err := m.ReadAt(iov, rand.Int64N(4096)*4096); err != nil {
				b.Error(err)
			}
		}
	})
}
