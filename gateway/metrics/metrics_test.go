// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBuckets makes sure that every duration is in exactly one bucket, which ends less than a quarter above it.
func TestBuckets(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		d := time.Duration(rng.Int64N(int64(1) << rng.IntN(42)))
		i := bucketOf(d)
		if end := bucketEnd(i); d >= end || i > 0 && d < bucketEnd(i-1) {
			t.Fatalf("%v is in bucket %d, which ends at %v", d, i, end)
		}
		if d > 4*time.Microsecond && bucketEnd(i) > d+d/4+time.Microsecond {
			t.Fatalf("bucket %d of %v ends at %v", i, d, bucketEnd(i))
		}
	}
	if bucketOf(-1) != 0 || bucketOf(1<<62) != buckets-1 {
		t.Error("a duration out of range has no bucket")
	}
	for _, b := range bounds {
		if i := bucketOf(b); bucketEnd(i-1) != b {
			t.Errorf("Prometheus's bound %v is not the end of a bucket", b)
		}
	}
}

// TestQuantiles compares with a sorted list.
func TestQuantiles(t *testing.T) {
	var h histogram
	rng := rand.New(rand.NewPCG(3, 4))
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(rng.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	s := h.snapshot()
	for _, q := range []float64{0, 0.5, 0.9, 0.99, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := s.Quantile(q); got < want || got > want+want/4+time.Microsecond {
			t.Errorf("quantile %v: got %v, want about %v", q, got, want)
		}
	}
	if s.Count() != 10_000 || s.upTo(bounds[len(bounds)-1]) != 10_000 {
		t.Errorf("count %d", s.Count())
	}
	before := s
	h.add(time.Hour)
	if d := h.snapshot().Since(before); d.Count() != 1 || d.Quantile(0.5) < time.Hour {
		t.Errorf("since: %+v", d)
	}
	if d := h.snapshot().Plus(before); d.Count() != 20_001 {
		t.Errorf("plus: %d", d.Count())
	}
	if (Durations{}).Quantile(0.5) != 0 {
		t.Error("no requests have a quantile")
	}
}

func TestConnectionTotals(t *testing.T) {
	s := NewSet(Build{}, nil)
	c := s.Connected("a")
	c.Request("read", 4096, 0, time.Millisecond, 0)
	c.Request("read", 4096, 0, time.Millisecond, 5)
	c.Request("nonsense", 1, 0, time.Millisecond, 0)
	s.HandshakeFailed("nonsense")
	got := c.(slog.LogValuer).LogValue().String()
	for _, want := range []string{"read=2", "read_bytes=4096", "other=1", "errors=1"} {
		if !strings.Contains(got, want) {
			t.Errorf("totals %s have no %s", got, want)
		}
	}
	snap := s.Snapshots()[0]
	if snap.Connections != 1 || snap.Ops["read"].Requests != 2 || snap.Ops["read"].Errors != 1 || snap.Ops["read"].Bytes != 4096 {
		t.Errorf("%+v", snap)
	}
	c.Closed()
	if s.failures["other"] != 1 || s.Snapshots()[0].Connections != 0 {
		t.Error("not counted")
	}
	s.Forget("a")
	if len(s.Snapshots()) != 0 {
		t.Error("not forgotten")
	}
}

// TestRBDCountersOutliveImages makes sure that counters never fall: Prometheus would miss what an image counted last.
func TestRBDCountersOutliveImages(t *testing.T) {
	e := NewSet(Build{}, nil).Export("a")
	lost := Failure{"write", "ESHUTDOWN"}
	e.RBD(RBD{LockTaken: 2, LockLost: 1, Waiting: 3, Failures: map[Failure]uint64{lost: 4}})
	e.Closed()
	if e.rbd.Waiting != 0 || e.Snapshot().LockLost != 1 {
		t.Errorf("closed: %+v", e.rbd)
	}
	for range 2 { // what the next image has counted so far is not added twice
		e.RBD(RBD{LockTaken: 1, Failures: map[Failure]uint64{lost: 1, {"read", "EIO"}: 1}})
	}
	if e.rbd.LockTaken != 3 || e.rbd.LockLost != 1 || e.rbd.Failures[lost] != 5 || e.rbd.Failures[Failure{"read", "EIO"}] != 1 {
		t.Errorf("opened again: %+v", e.rbd)
	}
}

func BenchmarkRequest(b *testing.B) {
	c := NewSet(Build{}, nil).Connected("a")
	for b.Loop() {
		c.Request("read", 4096, time.Microsecond, time.Millisecond, 0)
	}
}
