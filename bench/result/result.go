// SPDX-License-Identifier: Apache-2.0

// Package result is what a benchmark found, as it goes into a file (docs/bench-format.md describes the JSON), and what
// follows from it.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/luksgate/luksgate/bench/histogram"
	"github.com/luksgate/luksgate/bench/stats"
	"github.com/luksgate/luksgate/bench/workload"
)

// Schema and Version are what a file begins with. Version goes up when a field changes its meaning or goes away; a reader
// ignores fields that it does not know.
const (
	Schema  = "luksgate-bench"
	Version = 1
)

// maxFileBytes bounds what Read takes.
const maxFileBytes = 64 << 20

// A Document is one run.
type Document struct {
	Schema  string    `json:"schema"`
	Version int       `json:"version"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	// Target is the image or URI that was asked for.
	Target string `json:"target"`
	// Complete is false where the run was interrupted.
	Complete    bool              `json:"complete"`
	Machine     Machine           `json:"machine"`
	Versions    map[string]string `json:"versions"`
	Settings    Settings          `json:"settings"`
	Contestants []Contestant      `json:"contestants"`
	Skipped     []Skipped         `json:"skipped,omitempty"`
	Results     []Result          `json:"results"`
	// Remarks say what the run could not measure cleanly.
	Remarks []string `json:"remarks,omitempty"`
}

// Machine is what it ran on.
type Machine struct {
	Processor  string `json:"processor"`
	Processors int    `json:"processors"`
	MemoryMiB  int64  `json:"memory_mib"`
	System     string `json:"system"`
	Kernel     string `json:"kernel"`
	// Hypervisor is its name, "yes" where it has none, "" on bare metal.
	Hypervisor string `json:"hypervisor,omitempty"`
	Governor   string `json:"governor,omitempty"`
}

// Settings are what the run was told.
type Settings struct {
	Matrix          workload.Matrix   `json:"matrix"`
	Rounds          int               `json:"rounds"`
	SecondsEach     float64           `json:"seconds_each"`
	WarmUpSeconds   float64           `json:"warm_up_seconds"`
	Seed            uint64            `json:"seed"`
	ImageBytes      int64             `json:"image_bytes"`
	LUKSVersion     int               `json:"luks_version,omitempty"`
	SectorBytes     int               `json:"sector_bytes,omitempty"`
	DataOffsetBytes int64             `json:"data_offset_bytes,omitempty"`
	Against         string            `json:"against,omitempty"`
	CephOptions     map[string]string `json:"ceph_options,omitempty"`
}

// A Contestant is one layer of luksgate, or somebody else.
type Contestant struct {
	Name string `json:"name"`
	Text string `json:"text"`
	// Reference is the contestant that it is compared with, if it is there.
	Reference string `json:"reference,omitempty"`
}

// Skipped is a contestant that was asked for and could not be measured.
type Skipped struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// A Result is one contestant's rounds of one workload.
type Result struct {
	Workload   workload.Workload `json:"workload"`
	Contestant string            `json:"contestant"`
	Rounds     []Round           `json:"rounds"`
	// What follows are medians over the rounds; see Summarize.
	IOPS           float64 `json:"iops"`
	IOPSSpread     float64 `json:"iops_spread"` // distance of the quartiles to the median
	BytesPerSecond float64 `json:"bytes_per_second"`
	Latency        Latency `json:"latency"`
	CPU            []CPU   `json:"cpu"`
	// Ratio of the rate to that of the contestant's reference, in the same rounds.
	Ratio *stats.Estimate `json:"ratio,omitempty"`
}

// A Round is one measurement.
type Round struct {
	Requests uint64  `json:"requests"`
	Seconds  float64 `json:"seconds"`
	IOPS     float64 `json:"iops"`
	Latency  Latency `json:"latency"`
	CPU      []CPU   `json:"cpu"`
	// OtherCPUs are the processors that were busy with other processes' work, for example a local cluster's; StolenCPUs
	// those that the hypervisor gave to others.
	OtherCPUs  float64 `json:"other_cpus"`
	StolenCPUs float64 `json:"stolen_cpus"`
}

// Latency is in microseconds.
type Latency struct {
	Mean float64 `json:"mean_us"`
	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	Max  float64 `json:"max_us"`
}

// LatencyOf is what a histogram of durations says.
func LatencyOf(h *histogram.Histogram) Latency {
	return Latency{
		Mean: Micros(h.Mean()), P50: Micros(h.Percentile(50)), P90: Micros(h.Percentile(90)), P99: Micros(h.Percentile(99)),
		P999: Micros(h.Percentile(99.9)), Max: Micros(h.Max()),
	}
}

// Micros is a duration in microseconds.
func Micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// CPU is the processor time of one process for each request.
type CPU struct {
	Process string  `json:"process"`
	Micros  float64 `json:"us_per_request"`
}

// sum is the processor time of all processes for each request.
func sum(list []CPU) float64 {
	total := 0.0
	for _, c := range list {
		total += c.Micros
	}
	return total
}

// Values are one number of each round.
func (r *Result) Values(f func(Round) float64) []float64 {
	list := make([]float64, len(r.Rounds))
	for i, x := range r.Rounds {
		list[i] = f(x)
	}
	return list
}

// Rates are the requests a second of each round.
func (r *Result) Rates() []float64 { return r.Values(func(x Round) float64 { return x.IOPS }) }

// Find is the result of one workload and contestant, or nil.
func (d *Document) Find(w workload.Workload, contestant string) *Result {
	for i := range d.Results {
		if r := &d.Results[i]; r.Workload == w && r.Contestant == contestant {
			return r
		}
	}
	return nil
}

// Workloads are those of which there are results, in order.
func (d *Document) Workloads() []workload.Workload {
	var list []workload.Workload
	seen := map[workload.Workload]bool{}
	for _, r := range d.Results {
		if !seen[r.Workload] {
			seen[r.Workload] = true
			list = append(list, r.Workload)
		}
	}
	return list
}

// Contestant is the one of that name; the zero value if there is none.
func (d *Document) Contestant(name string) Contestant {
	for _, c := range d.Contestants {
		if c.Name == name {
			return c
		}
	}
	return Contestant{}
}

// Write writes the file.
func (d *Document) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(d)
}

// ErrForeign is a file that is none of ours, or of a version that this program does not know.
var ErrForeign = errors.New("not a result of luksgate bench that this version reads")

// Read reads a file and checks what the rest of this package relies on.
func Read(r io.Reader) (*Document, error) {
	var d Document
	if err := json.NewDecoder(io.LimitReader(r, maxFileBytes)).Decode(&d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if d.Schema != Schema || d.Version != Version {
		return nil, fmt.Errorf("%w: schema %q version %d, expected %q version %d", ErrForeign, d.Schema, d.Version, Schema, Version)
	}
	for _, x := range d.Results {
		if len(x.Rounds) == 0 {
			return nil, fmt.Errorf("%w: %s, %s has no rounds", ErrForeign, x.Workload, x.Contestant)
		}
	}
	return &d, nil
}
