// SPDX-License-Identifier: Apache-2.0

// Package report shows what a benchmark found: as text for a terminal, and as one HTML file.
package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/luksgate/luksgate/bench/result"
)

// Table writes one table for each workload.
func Table(w io.Writer, d *result.Document) {
	fmt.Fprintf(w, "%s, %s\n", d.Target, machineText(d.Machine))
	for _, load := range d.Workloads() {
		fmt.Fprintf(w, "\n%s\n  %-20s %12s %10s %9s %9s  %-26s %s\n", load,
			"", "IOPS", "MiB/s", "p50 µs", "p99 µs", "CPU/request µs", "ratio (95 % interval)")
		for _, c := range d.Contestants {
			if r := d.Find(load, c.Name); r != nil {
				fmt.Fprintf(w, "  %-20s %12s %10s %9s %9s  %-26s %s\n", c.Name, rateText(r), number(r.BytesPerSecond/(1<<20)),
					number(r.Latency.P50), number(r.Latency.P99), cpuText(r), ratioText(r, c))
			}
		}
	}
	notes(w, d)
}

func notes(w io.Writer, d *result.Document) {
	fmt.Fprintln(w)
	for _, c := range d.Contestants {
		fmt.Fprintf(w, "%s: %s\n", c.Name, c.Text)
	}
	for _, s := range d.Skipped {
		fmt.Fprintf(w, "%s: %s\n", s.Name, s.Why)
	}
	for _, text := range d.Remarks {
		fmt.Fprintf(w, "Note: %s.\n", text)
	}
}

// rateText marks a median that means little.
func rateText(r *result.Result) string {
	if r.Noisy() {
		return "~" + number(r.IOPS)
	}
	return number(r.IOPS)
}

func ratioText(r *result.Result, c result.Contestant) string {
	if r.Ratio == nil {
		return ""
	}
	return fmt.Sprintf("%v of %s", *r.Ratio, c.Reference)
}

// cpuText names the processes where there are several.
func cpuText(r *result.Result) string {
	if len(r.CPU) == 1 {
		return number(r.CPU[0].Micros)
	}
	parts := make([]string, len(r.CPU))
	for i, c := range r.CPU {
		parts[i] = c.Process + " " + number(c.Micros)
	}
	return strings.Join(parts, ", ")
}

// number has three significant digits, or all of a whole number.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

func machineText(m result.Machine) string {
	s := fmt.Sprintf("%s, %d processors", m.Processor, m.Processors)
	if m.Hypervisor != "" {
		s += ", virtual"
	}
	return s
}
