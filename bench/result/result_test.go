// SPDX-License-Identifier: Apache-2.0

package result

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/bench/workload"
)

var load = workload.Workload{Kind: workload.RandomRead, BlockBytes: 4096, Depth: 16, Clients: 1, Images: 1}

// document is a run of two contestants with these rates.
func document(ours, theirs []float64) *Document {
	rounds := func(rates []float64) []Round {
		var all []Round
		for _, r := range rates {
			all = append(all, Round{Requests: uint64(r), Seconds: 1, IOPS: r, Latency: Latency{P50: 1e6 / r}, CPU: []CPU{{"client", 1}, {"server", 1e5 / r}}})
		}
		return all
	}
	d := &Document{
		Schema: Schema, Version: Version, Complete: true, Machine: Machine{Processors: 8},
		Contestants: []Contestant{{Name: "native", Reference: "librbd"}, {Name: "librbd"}},
		Results: []Result{
			{Workload: load, Contestant: "native", Rounds: rounds(ours)}, {Workload: load, Contestant: "librbd", Rounds: rounds(theirs)},
		},
	}
	d.Summarize()
	return d
}

func TestSummary(t *testing.T) {
	d := document([]float64{200, 220, 210, 200, 220}, []float64{100, 110, 105, 100, 110})
	r := d.Find(load, "native")
	if r.IOPS != 210 || r.BytesPerSecond != 210*4096 || r.Ratio == nil || r.Ratio.Value != 2 || !r.Ratio.Above(1.9) || sum(r.CPU) < 2 {
		t.Errorf("got %+v", r)
	}
	if other := d.Find(load, "librbd"); other.Ratio != nil {
		t.Errorf("the reference is compared with itself: %+v", other.Ratio)
	}
	if len(d.Remarks) != 0 {
		t.Errorf("nothing is wrong, but: %q", d.Remarks)
	}
	d = document([]float64{200, 20, 100}, []float64{100, 110, 105})
	d.Machine.Processors, d.Complete, d.Settings.Rounds = 2, false, 3
	d.Results[1].Rounds[0].OtherCPUs, d.Results[1].Rounds[1].OtherCPUs, d.Results[0].Rounds[0].OtherCPUs, d.Results[0].Rounds[1].OtherCPUs = 1, 1, 1, 1
	d.Summarize()
	d.Summarize() // says nothing twice
	for _, want := range []string{"2 processors carry", "other processes", "1 of 2 results differ", "too few rounds (3)", "interrupted"} {
		if n := len(slices.DeleteFunc(slices.Clone(d.Remarks), func(s string) bool { return !strings.Contains(s, want) })); n != 1 {
			t.Errorf("%q is said %d times in %q", want, n, d.Remarks)
		}
	}
}

func TestFileComesBackAsItWas(t *testing.T) {
	d := document([]float64{200, 220, 210}, []float64{100, 110, 105})
	var file bytes.Buffer
	if err := d.Write(&file); err != nil {
		t.Fatal(err)
	}
	text := file.String()
	got, err := Read(&file)
	if err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("%v; got\n%+v\nexpected\n%+v", err, got, d)
	}
	for name, bad := range map[string]string{
		"nothing": "", "no JSON": "x", "another schema": `{"schema":"x","version":1}`,
		"a later version": strings.Replace(text, `"version": 1`, `"version": 99`, 1),
		"no rounds":       `{"schema":"luksgate-bench","version":1,"results":[{"contestant":"x","rounds":[]}]}`,
	} {
		if _, err := Read(strings.NewReader(bad)); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read(strings.NewReader(strings.Replace(text, `"target"`, `"of_a_later_program": 1, "target"`, 1))); err != nil {
		t.Errorf("a field that is not known: %v", err)
	}
}

func TestCompare(t *testing.T) {
	steady, noisy := []float64{1000, 1010, 990, 1005, 995}, []float64{1000, 300, 1500, 700, 1200}
	scale := func(list []float64, by float64) []float64 {
		out := slices.Clone(list)
		for i := range out {
			out[i] *= by
		}
		return out
	}
	for _, c := range []struct {
		name         string
		ours, theirs []float64 // of the newer run; the older one has steady for both
		by           Metric
		want         Verdict
	}{
		{"as before", steady, steady, ByRate, Same},
		{"a little slower", scale(steady, 0.95), steady, ByRate, Same},
		{"slower", scale(steady, 0.8), steady, ByRate, Worse},
		{"faster", scale(steady, 1.3), steady, ByRate, Better},
		{"perhaps slower", scale(noisy, 0.8), steady, ByRate, Unclear},
		{"slower, by latency", scale(steady, 0.8), steady, ByLatency, Worse},
		{"faster, by latency", scale(steady, 1.3), steady, ByLatency, Better},
		{"more processor time", scale(steady, 0.8), steady, ByCPU, Worse},
		{"a slower machine", scale(steady, 0.5), scale(steady, 0.5), ByRatio, Same},
		{"slower on a faster machine", scale(steady, 1.5), scale(steady, 2), ByRatio, Worse},
	} {
		changes, err := Compare(document(steady, steady), document(c.ours, c.theirs), c.by, 0.1)
		if err != nil || changes[0].Contestant != "native" || changes[0].Verdict != c.want {
			t.Errorf("%s: %+v, %v; expected %s", c.name, changes, err, c.want)
		}
	}
	other := document(steady, steady)
	for i := range other.Results {
		other.Results[i].Workload.Depth = 1
	}
	if _, err := Compare(other, document(steady, steady), ByRate, 0.1); err == nil {
		t.Error("runs with nothing in common were compared")
	}
	if _, err := Compare(other, other, "beauty", 0.1); err == nil {
		t.Error("compared by beauty")
	}
}
