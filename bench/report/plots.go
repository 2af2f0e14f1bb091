// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/luksgate/luksgate/bench/chart"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
)

// A plotter draws a document's results.
type plotter struct {
	d      *result.Document
	number map[string]int // of the contestants that are drawn
}

// A measure is what a plot shows of a result.
type measure struct {
	label, unit string
	of          func(*result.Result) float64
}

var (
	rate       = measure{"requests a second", "requests/s", func(r *result.Result) float64 { return r.IOPS }}
	throughput = measure{"MiB a second", "MiB/s", func(r *result.Result) float64 { return r.BytesPerSecond / (1 << 20) }}
)

// lines draws a measure over workloads that differ in one thing. Package chart escapes all texts, so that drawings may go
// into the page as they are.
func (p *plotter) lines(title, xLabel string, list []workload.Workload, label func(workload.Workload) string, m measure) template.HTML {
	l := chart.Lines{Title: title, XLabel: xLabel, YLabel: m.label, Unit: m.unit}
	for _, w := range list {
		l.X = append(l.X, label(w))
	}
	for _, c := range p.d.Contestants {
		n, drawn := p.number[c.Name]
		if !drawn {
			continue
		}
		s := chart.Series{Name: c.Name, Number: n}
		for _, w := range list {
			v := 0.0
			if r := p.d.Find(w, c.Name); r != nil {
				v = m.of(r)
			}
			s.Y = append(s.Y, v)
		}
		l.Series = append(l.Series, s)
	}
	return template.HTML(l.SVG())
}

// deepest are the workloads of one client and one image at the largest depth: what most plots show.
func (p *plotter) deepest(kind workload.Kind) []workload.Workload {
	all := p.d.Workloads()
	depth := 0
	for _, w := range all {
		depth = max(depth, w.Depth)
	}
	least := leastOf(all)
	list := slices.DeleteFunc(all, func(w workload.Workload) bool {
		return w.Kind != kind || w.Depth != depth || w.Clients != least.Clients || w.Images != least.Images
	})
	slices.SortFunc(list, func(a, b workload.Workload) int { return a.BlockBytes - b.BlockBytes })
	return list
}

// leastOf has the smallest number of clients and images of all.
func leastOf(all []workload.Workload) workload.Workload {
	least := workload.Workload{Clients: 1 << 30, Images: 1 << 30}
	for _, w := range all {
		least.Clients, least.Images = min(least.Clients, w.Clients), min(least.Images, w.Images)
	}
	return least
}

// bySize draws a measure over the sizes of requests.
func (p *plotter) bySize(m measure) []template.HTML {
	var all []template.HTML
	for _, kind := range kindsOf(p.d.Workloads()) {
		if list := p.deepest(kind); len(list) > 0 {
			title := upper(kind.Words()) + ", " + with(list[0], "size")
			all = append(all, p.lines(title, "size of a request", list, sizeOf, m))
		}
	}
	return all
}

// sizeOf is the size of the requests, such as 4 KiB.
func sizeOf(w workload.Workload) string {
	text := strings.ToUpper(workload.SizeText(w.BlockBytes))
	if n := len(text) - 1; text[n] == 'K' || text[n] == 'M' {
		return text[:n] + " " + text[n:] + "iB"
	}
	return text + " B"
}

// scaling draws the rate over each of the other numbers that has several values.
func (p *plotter) scaling() []template.HTML {
	var all []template.HTML
	for _, axis := range []struct {
		name, label string
		of          func(*workload.Workload) *int
	}{
		{"depth", "requests in flight of each client", func(w *workload.Workload) *int { return &w.Depth }},
		{"clients", "clients of each image", func(w *workload.Workload) *int { return &w.Clients }},
		{"images", "images", func(w *workload.Workload) *int { return &w.Images }},
	} {
		// Workloads that are the same but for that number are one plot.
		groups := map[workload.Workload][]workload.Workload{}
		var order []workload.Workload
		for _, w := range p.d.Workloads() {
			rest := w
			*axis.of(&rest) = 0
			if groups[rest] == nil {
				order = append(order, rest)
			}
			groups[rest] = append(groups[rest], w)
		}
		for _, rest := range order {
			list := groups[rest]
			if len(list) < 2 {
				continue
			}
			slices.SortFunc(list, func(a, b workload.Workload) int { return *axis.of(&a) - *axis.of(&b) })
			all = append(all, p.lines(upper(rest.Kind.Words())+", "+with(list[0], axis.name), axis.label, list,
				func(w workload.Workload) string { return fmt.Sprint(*axis.of(&w)) }, rate))
		}
	}
	return all
}

// latency draws percentiles for the smallest and the largest request of each kind.
func (p *plotter) latency() []template.HTML {
	var all []template.HTML
	for _, kind := range kindsOf(p.d.Workloads()) {
		list := p.deepest(kind)
		if len(list) > 2 {
			list = []workload.Workload{list[0], list[len(list)-1]}
		}
		for _, w := range list {
			l := chart.Lines{
				Title: upper(kind.Words()) + ", " + with(w, ""), XLabel: "share of the requests that took no longer", YLabel: "µs", Unit: "µs",
				X: []string{"50 %", "90 %", "99 %", "99.9 %"}, LogY: true,
			}
			for _, c := range p.d.Contestants {
				n, drawn := p.number[c.Name]
				if r := p.d.Find(w, c.Name); r != nil && drawn {
					l.Series = append(l.Series, chart.Series{
						Name: c.Name, Number: n, Y: []float64{r.Latency.P50, r.Latency.P90, r.Latency.P99, r.Latency.P999},
					})
				}
			}
			all = append(all, template.HTML(l.SVG()))
		}
	}
	return all
}

// cpu draws what requests cost.
func (p *plotter) cpu() []template.HTML {
	var parts []string
	for i := range p.d.Results {
		for _, c := range p.d.Results[i].CPU {
			if !slices.Contains(parts, c.Process) {
				parts = append(parts, c.Process)
			}
		}
	}
	var all []template.HTML
	for _, kind := range kindsOf(p.d.Workloads()) {
		for _, w := range p.deepest(kind) {
			b := chart.Bars{
				Title: upper(kind.Words()) + ", " + with(w, ""), XLabel: "µs of processor time for each request", Parts: parts, Unit: "µs",
			}
			for _, c := range p.d.Contestants {
				r := p.d.Find(w, c.Name)
				if r == nil || len(r.CPU) == 0 {
					continue
				}
				bar := chart.Bar{Name: c.Name, Values: make([]float64, len(parts))}
				for _, used := range r.CPU {
					bar.Values[slices.Index(parts, used.Process)] += used.Micros
				}
				b.Rows = append(b.Rows, bar)
			}
			all = append(all, template.HTML(b.SVG()))
		}
	}
	return all
}

// ratios draws one comparison for each contestant that has a reference.
func (p *plotter) ratios() []template.HTML {
	var all []template.HTML
	var ends []float64
	for _, r := range p.d.Results {
		if r.Ratio != nil && r.Ratio.Bounded() {
			ends = append(ends, r.Ratio.Low, r.Ratio.High)
		}
	}
	for _, c := range p.d.Contestants {
		plot := chart.Intervals{Title: c.Name + " to " + c.Reference, XLabel: "ratio of the rates, logarithmic", Ends: ends}
		for _, w := range p.d.Workloads() {
			if r := p.d.Find(w, c.Name); r != nil && r.Ratio != nil {
				plot.Rows = append(plot.Rows, chart.Interval{
					Name: upper(w.Kind.Words()) + ", " + with(w, ""), Number: p.number[c.Name], Estimate: *r.Ratio,
				})
			}
		}
		if len(plot.Rows) > 0 {
			all = append(all, template.HTML(plot.SVG()))
		}
	}
	return all
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
