// SPDX-License-Identifier: Apache-2.0

package histogram

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestPercentilesAreWithinTheirBound(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h, a, b Histogram
	var all []time.Duration
	for i := range 20000 {
		d := time.Duration(random.ExpFloat64() * float64(100*time.Microsecond))
		all = append(all, d)
		h.Record(d)
		if i%2 == 0 {
			a.Record(d)
		} else {
			b.Record(d)
		}
	}
	a.Add(&b)
	if a != h {
		t.Error("the sum of two halves is not the whole")
	}
	slices.Sort(all)
	for _, p := range []float64{0.001, 1, 50, 90, 99, 99.9, 100} {
		exact := all[max(int(p/100*float64(len(all))+0.999999), 1)-1]
		got := h.Percentile(p)
		if off := (got - exact).Abs(); off > exact/subBuckets+1 {
			t.Errorf("percentile %v: %v, exactly %v", p, got, exact)
		}
	}
	if h.Max() != all[len(all)-1] || h.Percentile(100) != h.Max() || h.Count() != uint64(len(all)) {
		t.Errorf("max %v, p100 %v, count %d", h.Max(), h.Percentile(100), h.Count())
	}
}

func TestEveryValueHasItsBucket(t *testing.T) {
	last := -1
	for _, v := range []uint64{0, 1, 63, 64, 65, 127, 128, 129, 130, 255, 256, 1 << 20, 1<<20 + 1<<14, 1<<42 - 1, 1 << 42, 1 << 62} {
		i := index(v)
		if i < last || i >= buckets {
			t.Fatalf("value %d: bucket %d after %d of %d", v, i, last, buckets)
		}
		last = i
		if v < 1<<maxBits {
			if m := uint64(middle(i)); max(m, v)-min(m, v) > v/subBuckets {
				t.Errorf("value %d is in the bucket of %d", v, m)
			}
		}
	}
	if index(1<<62) != buckets-1 {
		t.Errorf("the longest value is in bucket %d of %d", index(1<<62), buckets)
	}
}

func TestEmptyAndNegative(t *testing.T) {
	var h Histogram
	if h.Percentile(50) != 0 || h.Mean() != 0 {
		t.Error("an empty histogram knows something")
	}
	h.Record(-time.Second)
	if h.Percentile(50) != 0 || h.Count() != 1 {
		t.Error("a clock that went back was not counted as zero")
	}
}
