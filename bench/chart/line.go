// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"strings"
)

// A Series is one contestant's points.
type Series struct {
	Name string
	// Number chooses colour and mark; the same contestant has the same in all drawings.
	Number int
	// Y has a value for each entry of Lines.X; one that is 0 is left out.
	Y []float64
}

// Lines is a plot of series over categories in their order, such as sizes or percentiles.
type Lines struct {
	Title, XLabel, YLabel string
	X                     []string
	LogY                  bool
	Series                []Series
	// Unit is what hints say behind a value.
	Unit string
}

// Margins and size of plots.
const (
	plotWidth, plotHeight   = 520.0, 330.0
	leftMargin, rightMargin = 62.0, 16.0
	topMargin               = 34.0
	axisHeight              = 44.0 // below the plot: tick labels and the axis's name
)

// SVG draws it.
func (l Lines) SVG() string {
	c := newCanvas(plotWidth, plotHeight, l.Title)
	c.text("title", "start", 8, 18, l.Title)
	names, numbers := l.names()
	legend := newCanvas(0, 0, "")
	legendHeight := legend.legend(leftMargin, 0, plotWidth-leftMargin-rightMargin, names, numbers)
	bottom := plotHeight - axisHeight - legendHeight
	var values []float64
	for _, s := range l.Series {
		for _, v := range s.Y {
			if v != 0 {
				values = append(values, v)
			}
		}
	}
	y := newScale(values, l.LogY, bottom, topMargin)
	l.frame(c, &y, bottom)
	for _, s := range l.Series {
		l.draw(c, &y, s)
	}
	c.legend(leftMargin, bottom+axisHeight-4, plotWidth-leftMargin-rightMargin, names, numbers)
	return c.end()
}

func (l Lines) names() (names []string, numbers []int) {
	for _, s := range l.Series {
		names, numbers = append(names, s.Name), append(numbers, s.Number)
	}
	return names, numbers
}

// x is the place of category i.
func (l Lines) x(i int) float64 {
	room := plotWidth - leftMargin - rightMargin
	return leftMargin + room*(float64(i)+0.5)/float64(len(l.X))
}

func (l Lines) frame(c *canvas, y *scale, bottom float64) {
	for _, v := range y.ticks {
		at := y.at(v)
		c.line("grid", leftMargin, at, plotWidth-rightMargin, at)
		c.text("soft", "end", leftMargin-6, at+4, Number(v))
	}
	c.line("axis", leftMargin, bottom, plotWidth-rightMargin, bottom)
	for i, label := range l.X {
		c.line("axis", l.x(i), bottom, l.x(i), bottom+4)
		c.text("soft", "middle", l.x(i), bottom+17, label)
	}
	c.text("soft", "middle", (leftMargin+plotWidth-rightMargin)/2, bottom+33, l.XLabel)
	c.upright(14, (topMargin+bottom)/2, l.YLabel)
}

func (l Lines) draw(c *canvas, y *scale, s Series) {
	var points []string
	for i, v := range s.Y {
		if v != 0 {
			points = append(points, fmt.Sprintf("%.1f,%.1f", l.x(i), y.at(v)))
		}
	}
	fmt.Fprintf(c, `<polyline class="line k%d"%s points="%s"/>`+"\n", s.Number%colours, dash(s.Number), strings.Join(points, " "))
	for i, v := range s.Y {
		if v != 0 {
			c.mark(s.Number, l.x(i), y.at(v), fmt.Sprintf("%s, %s: %s %s", s.Name, l.X[i], Number(v), l.Unit))
		}
	}
}
