// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what the daemon does and tells it to Prometheus, to `luksgate stats` and to `luksgate top`.
//
// A request costs a few additions to counters of its export; everything else happens when somebody asks. The number of
// time series is bounded by the exports that are configured: labels are names of exports and constants of the program,
// never names that clients make up.
package metrics

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// The operations, and the labels that they have.
const (
	opRead = iota
	opWrite
	opFlush
	opTrim
	opCache
	opZero
	opStatus
	opOther
	ops
)

var opNames = [ops]string{"read", "write", "flush", "trim", "cache", "write_zeroes", "block_status", "other"}

func opOf(command string) int {
	for i, name := range opNames {
		if name == command {
			return i
		}
	}
	return opOther
}

// Durations are counted in buckets of a quarter of a power of two of microseconds: exact to 25 %, from 1 µs to more than
// an hour.
const (
	subBits    = 2
	firstNanos = 1000
	buckets    = 33 << subBits
)

// A histogram of durations. The zero value is empty. Its methods may be called by many goroutines at once.
type histogram struct {
	counts   [buckets]atomic.Uint64
	sumNanos atomic.Uint64
}

func bucketOf(d time.Duration) int {
	micros := uint64(max(d, 0)) / firstNanos
	if micros < 1<<subBits {
		return int(micros)
	}
	shift := bits.Len64(micros) - 1 - subBits
	return min((shift+1)<<subBits|int(micros>>shift)&(1<<subBits-1), buckets-1)
}

// bucketEnd is the duration that a bucket ends before.
func bucketEnd(i int) time.Duration {
	if i < 1<<subBits {
		return time.Duration(i+1) * firstNanos
	}
	shift := i>>subBits - 1
	return time.Duration((1<<subBits|i&(1<<subBits-1))+1) << shift * firstNanos
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(d)].Add(1)
	h.sumNanos.Add(uint64(max(d, 0)))
}

// Durations is a histogram at one moment: Counts has the number of requests by bucket, up to the last that is not empty.
type Durations struct {
	Counts   []uint64 `json:"counts"`
	SumNanos uint64   `json:"sum_nanos"`
}

func (h *histogram) snapshot() Durations {
	d := Durations{Counts: make([]uint64, buckets), SumNanos: h.sumNanos.Load()}
	last := 0
	for i := range h.counts {
		if d.Counts[i] = h.counts[i].Load(); d.Counts[i] > 0 {
			last = i + 1
		}
	}
	d.Counts = d.Counts[:last]
	return d
}

// Count is the number of requests.
func (d Durations) Count() uint64 {
	var n uint64
	for _, c := range d.Counts {
		n += c
	}
	return n
}

// Since is what came to d since an earlier moment.
func (d Durations) Since(before Durations) Durations {
	out := Durations{Counts: make([]uint64, len(d.Counts)), SumNanos: d.SumNanos - min(before.SumNanos, d.SumNanos)}
	for i, c := range d.Counts {
		if i < len(before.Counts) {
			c -= min(before.Counts[i], c)
		}
		out.Counts[i] = c
	}
	return out
}

// Plus joins two histograms.
func (d Durations) Plus(o Durations) Durations {
	out := Durations{Counts: make([]uint64, max(len(d.Counts), len(o.Counts))), SumNanos: d.SumNanos + o.SumNanos}
	copy(out.Counts, d.Counts)
	for i, c := range o.Counts {
		out.Counts[i] += c
	}
	return out
}

// Quantile is a duration that the fraction q of all requests did not exceed, to within a bucket; 0 if there were none.
func (d Durations) Quantile(q float64) time.Duration {
	total := d.Count()
	if total == 0 {
		return 0
	}
	rank := uint64(q * float64(total))
	var seen uint64
	for i, c := range d.Counts {
		if seen += c; seen > rank || seen == total {
			return bucketEnd(i)
		}
	}
	return bucketEnd(buckets - 1)
}

// upTo is the number of requests that were faster than a bound which is the end of a bucket.
func (d Durations) upTo(bound time.Duration) uint64 {
	var n uint64
	for i, c := range d.Counts {
		if bucketEnd(i) > bound {
			break
		}
		n += c
	}
	return n
}
