// SPDX-License-Identifier: Apache-2.0

package result

import (
	"fmt"
	"slices"

	"github.com/luksgate/luksgate/bench/stats"
	"github.com/luksgate/luksgate/bench/workload"
)

// A Metric is what two runs are compared by.
type Metric string

// The metrics.
const (
	// ByRate compares requests a second.
	ByRate Metric = "rate"
	// ByLatency compares the median latency.
	ByLatency Metric = "latency"
	// ByCPU compares the processor time of all processes for each request.
	ByCPU Metric = "cpu"
	// ByRatio compares the ratio of the rate to the contestant's reference, which forgives a slower machine.
	ByRatio Metric = "ratio"
)

// Metrics are all of them.
var Metrics = []Metric{ByRate, ByLatency, ByCPU, ByRatio}

// more tells whether more of it is better.
func (m Metric) more() bool { return m == ByRate || m == ByRatio }

// A Verdict says how a result differs from an older one.
type Verdict string

// The verdicts. Only Worse counts as a regression: there even the friendly end of the interval is beyond the threshold.
const (
	Worse   Verdict = "worse"
	Better  Verdict = "better"
	Same    Verdict = "same"    // the whole interval lies within the threshold
	Unclear Verdict = "unclear" // the interval is too wide to tell, or there is none
)

// A Change is one result in two runs.
type Change struct {
	Workload   workload.Workload
	Contestant string
	Old, New   float64 // medians
	// Ratio of new to old.
	Ratio   stats.Estimate
	Verdict Verdict
}

// Compare compares what both runs have. threshold is the share by which a result may be worse, such as 0.1. It is an
// error if they have nothing in common.
func Compare(older, newer *Document, by Metric, threshold float64) ([]Change, error) {
	if !slices.Contains(Metrics, by) {
		return nil, fmt.Errorf("compare by %q: expected one of %v", by, Metrics)
	}
	var all []Change
	for i := range newer.Results {
		now := &newer.Results[i]
		before := older.Find(now.Workload, now.Contestant)
		if before == nil {
			continue
		}
		was, is := by.values(older, before), by.values(newer, now)
		e, ok := stats.Ratio(is, was)
		if !ok {
			continue // without a reference there is no ratio
		}
		all = append(all, Change{
			Workload: now.Workload, Contestant: now.Contestant, Old: stats.Median(was), New: stats.Median(is), Ratio: e,
			Verdict: by.judge(e, threshold),
		})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the two runs have no workload and contestant in common of which there is a %s", by)
	}
	return all, nil
}

// values are one number of each round.
func (m Metric) values(d *Document, r *Result) []float64 {
	switch m {
	case ByLatency:
		return r.Values(func(x Round) float64 { return x.Latency.P50 })
	case ByCPU:
		return r.Values(func(x Round) float64 { return sum(x.CPU) })
	case ByRatio:
		ref := d.Find(r.Workload, d.Contestant(r.Contestant).Reference)
		if ref == nil {
			return nil
		}
		var list []float64
		rates, base := r.Rates(), ref.Rates()
		for i := range min(len(rates), len(base)) {
			if base[i] > 0 {
				list = append(list, rates[i]/base[i])
			}
		}
		return list
	default:
		return r.Rates()
	}
}

func (m Metric) judge(e stats.Estimate, threshold float64) Verdict {
	low, high := 1-threshold, 1+threshold
	if !m.more() {
		// As much worse as a rate that falls by the threshold.
		low, high = 1/(1+threshold), 1/(1-threshold)
	}
	switch {
	case e.Below(low) && m.more(), e.Above(high) && !m.more():
		return Worse
	case e.Above(high) && m.more(), e.Below(low) && !m.more():
		return Better
	case e.Within(low, high):
		return Same
	default:
		return Unclear
	}
}
