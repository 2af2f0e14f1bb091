// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/bench/stats"
)

// inside checks that a drawing is well-formed and that every coordinate is a number inside it.
func inside(t *testing.T, svg string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	var width, height float64
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range e.Attr {
			if a.Name.Local == "viewBox" {
				f := strings.Fields(a.Value)
				width, _ = strconv.ParseFloat(f[2], 64)
				height, _ = strconv.ParseFloat(f[3], 64)
			}
			limit := map[string]float64{"x": width, "x1": width, "x2": width, "cx": width, "y": height, "y1": height, "y2": height, "cy": height}[a.Name.Local]
			if limit == 0 {
				continue
			}
			if v, err := strconv.ParseFloat(a.Value, 64); err != nil || v < 0 || v > limit || math.IsNaN(v) {
				t.Errorf("<%s %s=%q> is outside of %v", e.Name.Local, a.Name.Local, a.Value, limit)
			}
		}
	}
}

func TestDrawings(t *testing.T) {
	for name, svg := range map[string]string{
		"lines": Lines{Title: `a < b & "c"`, XLabel: "size", YLabel: "IOPS", X: []string{"4k", "64k"}, Series: []Series{
			{Name: "one", Number: 0, Y: []float64{12345, 50}}, {Name: "<two>", Number: 9, Y: []float64{0, 1e6}},
		}}.SVG(),
		"log lines":    Lines{LogY: true, X: []string{"p50", "p99"}, Series: []Series{{Y: []float64{0.3, 90000}}, {Number: 2, Y: []float64{7, 7}}}}.SVG(),
		"one value":    Lines{LogY: true, X: []string{"p50"}, Series: []Series{{Number: 3, Y: []float64{10}}}}.SVG(),
		"nothing":      Lines{Title: "nothing"}.SVG(),
		"bars":         Bars{Title: "CPU", Parts: []string{"client", "server"}, Rows: []Bar{{"a", []float64{1, 2.5}}, {"b & c", []float64{0, 900}}}}.SVG(),
		"no bars":      Bars{}.SVG(),
		"intervals":    Intervals{Rows: []Interval{{"x", 0, stats.Estimate{Value: 1.2, Low: 0.9, High: 1.4}}, {"y", 1, stats.Estimate{Value: 0.011, Low: 0.01, High: 30}}}}.SVG(),
		"no interval":  Intervals{Rows: []Interval{{"x", 0, stats.Estimate{Value: 2}}}}.SVG(),
		"far from one": Intervals{Rows: []Interval{{"x", 5, stats.Estimate{Value: 4, Low: 3.9, High: 4.1}}}}.SVG(),
		"a file":       Document(Bars{Title: "CPU", Parts: []string{"p"}, Rows: []Bar{{"a", []float64{1}}}}.SVG()),
	} {
		t.Run(name, func(t *testing.T) { inside(t, svg) })
	}
}

func TestScalesCoverTheirValues(t *testing.T) {
	for _, values := range [][]float64{{1, 2}, {0.003, 0.004}, {5, 5}, {1, 1e7}, {99, 101}, {2, 3}, {1e-3}, {123456}} {
		for _, log := range []bool{false, true} {
			s := newScale(values, log, 0, 100)
			if len(s.ticks) < 2 && !log || len(s.ticks) == 0 || len(s.ticks) > 12 {
				t.Errorf("%v, log %t: ticks %v", values, log, s.ticks)
			}
			for _, v := range values {
				if at := s.at(v); at < -1e-9 || at > 100+1e-9 {
					t.Errorf("%v, log %t: %v is at %v of 100", values, log, v, at)
				}
			}
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.05: "0.05", 1.5: "1.5", 2: "2", 12.34: "12.3", 100: "100", 9999: "9999", 12500: "12.5k", 2e6: "2M", -3: "-3", 300000: "300k",
	} {
		if got := Number(v); got != want {
			t.Errorf("%v: %q, expected %q", v, got, want)
		}
	}
}
