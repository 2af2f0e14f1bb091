// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"html"

	"github.com/luksgate/luksgate/bench/stats"
)

// A Bar is one row of stacked values.
type Bar struct {
	Name   string
	Values []float64 // for each entry of Bars.Parts
}

// Bars is a plot of rows of stacked values.
type Bars struct {
	Title, XLabel string
	Parts         []string // what the values of a bar are
	Rows          []Bar
	Unit          string
}

const rowHeight, nameWidth, valueWidth = 24.0, 128.0, 52.0

// SVG draws it.
func (b Bars) SVG() string {
	left, right, bottom := nameWidth, plotWidth-valueWidth, topMargin+rowHeight*float64(len(b.Rows))
	numbers := make([]int, len(b.Parts))
	for i := range numbers {
		numbers[i] = i
	}
	c := newCanvas(plotWidth, bottom+axisHeight+22, b.Title)
	c.text("title", "start", 8, 18, b.Title)
	var totals []float64
	for _, row := range b.Rows {
		totals = append(totals, total(row.Values))
	}
	x := newScale(totals, false, left, right)
	for _, v := range x.ticks {
		c.line("grid", x.at(v), topMargin, x.at(v), bottom)
		c.text("soft", "middle", x.at(v), bottom+16, Number(v))
	}
	for i, row := range b.Rows {
		y := topMargin + rowHeight*float64(i)
		c.text("", "end", left-8, y+16, row.Name)
		sum := 0.0
		for k, v := range row.Values {
			if v > 0 {
				fmt.Fprintf(c, `<rect class="f%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`+"\n", k%colours,
					x.at(sum), y+4, x.at(sum+v)-x.at(sum), rowHeight-8,
					html.EscapeString(fmt.Sprintf("%s, %s: %s %s", row.Name, b.Parts[k], Number(v), b.Unit)))
			}
			sum += v
		}
		c.text("soft", "start", x.at(sum)+5, y+16, Number(sum))
	}
	c.line("axis", left, topMargin, left, bottom)
	c.text("soft", "middle", (left+right)/2, bottom+33, b.XLabel)
	c.legend(left, bottom+axisHeight-4, right-left, b.Parts, numbers)
	return c.end()
}

func total(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum
}

// An Interval is one row of a comparison: a ratio and where it may lie.
type Interval struct {
	Name   string
	Number int // colour and mark
	stats.Estimate
}

// Intervals is a plot of ratios around 1.
type Intervals struct {
	Title, XLabel string
	Rows          []Interval
	// Ends are further values that the axis covers, so that several plots have the same.
	Ends []float64
}

const (
	estimateWidth = 118.0
	axisWidth     = 406.0 // of the axis of ratios
	// letterWidth is more than letters have on average, whatever the browser's font.
	letterWidth = 6.8
)

// SVG draws it. What lies right of the line is faster.
func (p Intervals) SVG() string {
	left := nameWidth
	for _, r := range p.Rows {
		left = max(left, 16+letterWidth*float64(len(r.Name)))
	}
	right, bottom := left+axisWidth, topMargin+rowHeight*float64(len(p.Rows))
	width := right + estimateWidth
	c := newCanvas(width, bottom+axisHeight, p.Title)
	c.text("title", "start", 8, 18, p.Title)
	values := append([]float64{1}, p.Ends...)
	for _, r := range p.Rows {
		values = append(values, r.Value)
		if r.Bounded() {
			values = append(values, r.Low, r.High)
		}
	}
	x := newScale(values, true, left, right)
	for _, v := range x.ticks {
		c.line("grid", x.at(v), topMargin, x.at(v), bottom)
		c.text("soft", "middle", x.at(v), bottom+16, Number(v))
	}
	c.line("one", x.at(1), topMargin-4, x.at(1), bottom)
	for i, r := range p.Rows {
		y := topMargin + rowHeight*(float64(i)+0.5)
		c.text("", "end", left-8, y+4, r.Name)
		if r.Bounded() {
			for _, end := range []float64{r.Low, r.High} {
				c.line(fmt.Sprintf("thin k%d", r.Number%colours), x.at(end), y-4, x.at(end), y+4)
			}
			c.line(fmt.Sprintf("line k%d", r.Number%colours), x.at(r.Low), y, x.at(r.High), y)
		}
		c.mark(r.Number, x.at(r.Value), y, r.Name+": "+r.String())
		c.text("soft", "end", width-6, y+4, r.String())
	}
	c.text("soft", "middle", (left+right)/2, bottom+33, p.XLabel)
	return c.end()
}
