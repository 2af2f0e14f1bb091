// SPDX-License-Identifier: Apache-2.0

package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/luksgate/luksgate/bench/chart"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// A section is a heading, a word about it, and drawings.
type section struct {
	Title, Text string
	Wide        bool
	Drawings    []template.HTML
}

// A pair is a line of a table.
type pair struct{ Name, Value string }

// A row is a line of the table of all figures.
type row struct {
	Workload                                        string
	Name, IOPS, Spread, Rate, P50, P99, P999, Ratio string
	CPU                                             string
	Noisy                                           bool
}

// HTML writes one page with everything in it.
func HTML(w io.Writer, d *result.Document) error {
	return page.Execute(w, map[string]any{
		"Doc": d, "Style": template.CSS(chart.Style), "Date": d.Started.Format("2006-01-02 15:04 MST"),
		"Verdicts": verdicts(d), "Sections": sections(d), "Rows": rows(d), "About": about(d),
		"Seconds": fmt.Sprintf("%.0f", d.Seconds),
	})
}

func sections(d *result.Document) []section {
	p := plotter{d: d, number: numbers(d)}
	all := []section{
		{"Requests a second", "Medians over the rounds. More is better.", false, p.bySize(rate)},
		{"Throughput", "The same in bytes. More is better.", false, p.bySize(throughput)},
		{"How it scales", "With requests in flight, clients or images. More is better.", false, p.scaling()},
		{"Latency", "How long a request takes from being sent to its reply, logarithmic. Less is better.", false, p.latency()},
		{"Processor time for each request", "Of all processes at this end: what a request costs the host. Less is better.", false, p.cpu()},
		{"Against " + d.Settings.Against, "Rate in relation to the same thing with the engine that everything is compared with, and the " +
			"interval that holds the true ratio with 95 % confidence. Right of the line is faster; an interval that crosses it says nothing.",
			true, p.ratios()},
	}
	return slices.DeleteFunc(all, func(s section) bool { return len(s.Drawings) == 0 })
}

// verdicts put the ratios in words.
func verdicts(d *result.Document) []string {
	var all []string
	for _, c := range d.Contestants {
		var values []float64
		faster, slower, bounded := 0, 0, 0
		for i := range d.Results {
			r := &d.Results[i]
			if r.Contestant != c.Name || r.Ratio == nil {
				continue
			}
			values = append(values, r.Ratio.Value)
			if r.Ratio.Bounded() {
				bounded++
			}
			switch {
			case r.Ratio.Above(1):
				faster++
			case r.Ratio.Below(1):
				slower++
			}
		}
		if len(values) == 0 {
			continue
		}
		text := fmt.Sprintf("%s (%s) does %.2f to %.2f times the requests of %s", c.Name, c.Text, slices.Min(values), slices.Max(values), c.Reference)
		if bounded > 0 {
			text += fmt.Sprintf(": clearly more in %d of %d workloads, clearly fewer in %d", faster, bounded, slower)
		}
		all = append(all, text+".")
	}
	return all
}

func rows(d *result.Document) []row {
	var all []row
	for _, w := range d.Workloads() {
		for _, c := range d.Contestants {
			r := d.Find(w, c.Name)
			if r == nil {
				continue
			}
			all = append(all, row{
				Workload: w.String(), Name: c.Name, IOPS: number(r.IOPS), Spread: fmt.Sprintf("%.0f %%", r.IOPSSpread*100),
				Rate: number(r.BytesPerSecond / (1 << 20)), P50: number(r.Latency.P50), P99: number(r.Latency.P99),
				P999: number(r.Latency.P999), Ratio: ratioText(r, c), CPU: cpuText(r), Noisy: r.Noisy(),
			})
		}
	}
	return all
}

// about is what the figures are of.
func about(d *result.Document) []pair {
	m, s := d.Machine, d.Settings
	list := []pair{
		{"Target", d.Target}, {"Processor", machineText(m)}, {"Memory", fmt.Sprintf("%d MiB", m.MemoryMiB)},
		{"System", m.System + ", Linux " + m.Kernel},
	}
	if m.Hypervisor != "" {
		list = append(list, pair{"Hypervisor", m.Hypervisor})
	}
	if m.Governor != "" {
		list = append(list, pair{"Frequency governor", m.Governor})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Versions)) {
		list = append(list, pair{name, d.Versions[name]})
	}
	list = append(list,
		pair{"Measurements", fmt.Sprintf("%d rounds of %.2g s each, after %.2g s of warm-up, seed %d", s.Rounds, s.SecondsEach, s.WarmUpSeconds, s.Seed)},
		pair{"Image", fmt.Sprintf("%d MiB, written once with bytes that do not compress", s.ImageBytes>>20)})
	if s.LUKSVersion != 0 {
		list = append(list, pair{"Encryption", fmt.Sprintf("LUKS%d, aes-xts-plain64, 512 key bits, sectors of %d bytes, data from byte %d",
			s.LUKSVersion, s.SectorBytes, s.DataOffsetBytes)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.CephOptions)) {
		list = append(list, pair{name, s.CephOptions[name]})
	}
	return list
}

// numbers give each contestant its colour. The cipher alone is so much faster than the rest that it is in the table only.
func numbers(d *result.Document) map[string]int {
	m := map[string]int{}
	for _, c := range d.Contestants {
		if c.Name != "cipher" {
			m[c.Name] = len(m)
		}
	}
	return m
}

// kindsOf are the kinds of the workloads, in order.
func kindsOf(list []workload.Workload) []workload.Kind {
	var kinds []workload.Kind
	for _, w := range list {
		if !slices.Contains(kinds, w.Kind) {
			kinds = append(kinds, w.Kind)
		}
	}
	return kinds
}

// with describes what is the same in a drawing.
func with(w workload.Workload, but string) string {
	parts := []string{}
	for _, p := range []struct {
		name, text string
		shown      bool
	}{
		{"size", sizeOf(w), true},
		{"depth", fmt.Sprintf("depth %d", w.Depth), true},
		{"clients", fmt.Sprintf("%d clients", w.Clients), w.Clients > 1},
		{"images", fmt.Sprintf("%d images", w.Images), w.Images > 1},
	} {
		if p.name != but && p.shown {
			parts = append(parts, p.text)
		}
	}
	return strings.Join(parts, ", ")
}
