// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/luksgate/luksgate/bench/replay"
	"github.com/luksgate/luksgate/bench/result"
)

// A Replay is a replayed trace and who served it.
type Replay struct {
	Name   string
	Report *replay.Report
}

// Replays writes one table for each.
func Replays(w io.Writer, all []Replay) {
	for _, x := range all {
		r := x.Report
		fmt.Fprintf(w, "%s: %d requests in %.3f s, recorded over %.3f s\n", x.Name, r.Requests, r.Elapsed.Seconds(), r.Recorded.Seconds())
		fmt.Fprintf(w, "  %-8s %10s %12s %10s %10s %10s %10s %10s\n", "", "requests", "requests/s", "MiB/s", "p50 µs", "p99 µs", "p99.9 µs", "max µs")
		for _, op := range slices.Sorted(maps.Keys(r.Latency)) {
			h, l := r.Latency[op], result.LatencyOf(r.Latency[op])
			seconds := max(r.Elapsed.Seconds(), 1e-9)
			fmt.Fprintf(w, "  %-8s %10d %12s %10s %10s %10s %10s %10s\n", op, h.Count(), number(float64(h.Count())/seconds),
				number(float64(r.Bytes[op])/seconds/(1<<20)), number(l.P50), number(l.P99), number(l.P999), number(l.Max))
		}
		for _, name := range slices.Sorted(maps.Keys(r.CPU)) {
			fmt.Fprintf(w, "  processor time of the %s: %s µs for a request\n", name, number(result.Micros(r.CPU[name])/float64(max(r.Requests, 1))))
		}
		if r.Late.Count() > 0 {
			fmt.Fprintf(w, "  sent later than due: median %s µs, at most %s µs\n", number(result.Micros(r.Late.Percentile(50))), number(result.Micros(r.Late.Max())))
		}
		for _, what := range slices.Sorted(maps.Keys(r.Left)) {
			fmt.Fprintf(w, "  left out: %d of %s\n", r.Left[what], what)
		}
		if r.Incomplete {
			fmt.Fprintln(w, "  The trace has no end: its recorder died. What it holds was replayed.")
		}
	}
}

// replaySchema and replayVersion begin the JSON of a replay.
const (
	replaySchema  = "luksgate-replay"
	replayVersion = 1
)

// A ReplayDocument is the JSON of a replay.
type ReplayDocument struct {
	Schema      string         `json:"schema"`
	Version     int            `json:"version"`
	Trace       string         `json:"trace"`
	Target      string         `json:"target"`
	Connections int            `json:"connections"`
	Depth       int            `json:"depth"`
	Speed       float64        `json:"speed"` // 0: as fast as possible
	Replays     []ReplayFigure `json:"replays"`
}

// A ReplayFigure is one replay of it.
type ReplayFigure struct {
	Name            string                    `json:"name"`
	Requests        uint64                    `json:"requests"`
	Seconds         float64                   `json:"seconds"`
	RecordedSeconds float64                   `json:"recorded_seconds"`
	Latency         map[string]result.Latency `json:"latency"`
	Bytes           map[string]int64          `json:"bytes"`
	Counts          map[string]uint64         `json:"counts"`
	CPU             []result.CPU              `json:"cpu"`
	LateMicros      *result.Latency           `json:"late,omitempty"`
	LeftOut         map[string]uint64         `json:"left_out,omitempty"`
	Incomplete      bool                      `json:"incomplete,omitempty"`
}

// NewReplayDocument collects what is written.
func NewReplayDocument(path, target string, o replay.Options, all []Replay) *ReplayDocument {
	d := &ReplayDocument{
		Schema: replaySchema, Version: replayVersion, Trace: path, Target: target,
		Connections: o.Connections, Depth: o.Depth, Speed: o.Speed,
	}
	for _, x := range all {
		r := x.Report
		f := ReplayFigure{
			Name: x.Name, Requests: r.Requests, Seconds: r.Elapsed.Seconds(), RecordedSeconds: r.Recorded.Seconds(),
			Latency: map[string]result.Latency{}, Bytes: map[string]int64{}, Counts: map[string]uint64{}, LeftOut: r.Left, Incomplete: r.Incomplete,
		}
		for op, h := range r.Latency {
			f.Latency[op.String()], f.Counts[op.String()], f.Bytes[op.String()] = result.LatencyOf(h), h.Count(), r.Bytes[op]
		}
		for name, used := range r.CPU {
			f.CPU = append(f.CPU, result.CPU{Process: name, Micros: result.Micros(used) / float64(max(r.Requests, 1))})
		}
		slices.SortFunc(f.CPU, func(a, b result.CPU) int { return cmp.Compare(a.Process, b.Process) })
		if r.Late.Count() > 0 {
			late := result.LatencyOf(&r.Late)
			f.LateMicros = &late
		}
		d.Replays = append(d.Replays, f)
	}
	return d
}
