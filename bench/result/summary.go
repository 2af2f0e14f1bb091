// SPDX-License-Identifier: Apache-2.0

package result

import (
	"fmt"
	"slices"

	"github.com/luksgate/luksgate/bench/stats"
)

// Limits beyond which a run says that it is not clean.
const (
	maxSpread     = 0.15
	maxOtherShare = 0.10 // of all processors
	maxStolen     = 0.02 // of all processors
	fewProcessors = 4
)

// Summarize computes what follows from the rounds: medians, ratios and remarks.
func (d *Document) Summarize() {
	for i := range d.Results {
		d.Results[i].summarize()
	}
	for i := range d.Results {
		r := &d.Results[i]
		r.Ratio = nil
		if ref := d.Find(r.Workload, d.Contestant(r.Contestant).Reference); ref != nil && ref != r {
			if e, ok := stats.PairedRatio(r.Rates(), ref.Rates()); ok {
				r.Ratio = &e
			}
		}
	}
	d.remark()
}

func (r *Result) summarize() {
	rates := r.Rates()
	r.IOPS, r.IOPSSpread = stats.Median(rates), stats.Spread(rates)
	r.BytesPerSecond = r.IOPS * float64(r.Workload.BlockBytes)
	of := func(f func(Latency) float64) float64 {
		return stats.Median(r.Values(func(x Round) float64 { return f(x.Latency) }))
	}
	r.Latency = Latency{
		Mean: of(func(l Latency) float64 { return l.Mean }),
		P50:  of(func(l Latency) float64 { return l.P50 }),
		P90:  of(func(l Latency) float64 { return l.P90 }),
		P99:  of(func(l Latency) float64 { return l.P99 }),
		P999: of(func(l Latency) float64 { return l.P999 }),
		Max:  of(func(l Latency) float64 { return l.Max }),
	}
	r.CPU = nil
	for i, c := range r.Rounds[0].CPU {
		r.CPU = append(r.CPU, CPU{c.Process, stats.Median(r.Values(func(x Round) float64 {
			if i < len(x.CPU) {
				return x.CPU[i].Micros
			}
			return 0
		}))})
	}
}

// remark adds what the rounds show about the machine.
func (d *Document) remark() {
	say := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); !slices.Contains(d.Remarks, text) {
			d.Remarks = append(d.Remarks, text)
		}
	}
	n := float64(max(d.Machine.Processors, 1))
	if d.Machine.Processors < fewProcessors {
		say("%d processors carry the client and the server (and a local cluster, if there is one): rates depend on what "+
			"the client costs too; processor time for each request is the fairer comparison", d.Machine.Processors)
	}
	if n := d.Settings.Rounds; n > 0 && n < stats.LeastRepeats {
		say("too few rounds (%d) to tell how certain a ratio is: it takes %d", n, stats.LeastRepeats)
	}
	var other, stolen []float64
	wide := 0
	for i := range d.Results {
		r := &d.Results[i]
		other = append(other, r.Values(func(x Round) float64 { return x.OtherCPUs })...)
		stolen = append(stolen, r.Values(func(x Round) float64 { return x.StolenCPUs })...)
		if r.Noisy() {
			wide++
		}
	}
	if m := stats.Median(other); m > maxOtherShare*n {
		say("other processes (a local cluster's among them) used %.1f of %.0f processors during the measurements", m, n)
	}
	if m := stats.Median(stolen); m > maxStolen*n {
		say("the hypervisor gave %.1f of %.0f processors to others during the measurements", m, n)
	}
	if wide > 0 {
		say("%d of %d results differ by more than %.0f %% between rounds (marked ~): repeat them with more --rounds or --seconds",
			wide, len(d.Results), maxSpread*100)
	}
	if !d.Complete {
		say("the run was interrupted, or something in it failed: what is missing was not measured")
	}
}

// Noisy tells that the rounds differ too much for the median to mean much.
func (r *Result) Noisy() bool { return r.IOPSSpread > maxSpread }
