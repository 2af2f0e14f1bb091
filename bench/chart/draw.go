// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"html"
	"strings"
)

// Style are the rules for all drawings, with colours that tell apart for most kinds of colour blindness (after Okabe and
// Ito), darker on light pages and lighter on dark ones.
const Style = `
.chart{--c0:#0072b2;--c1:#c04a00;--c2:#00805d;--c3:#a8428a;--c4:#946500;--c5:#2f8fc9;--c6:#6a51a3;--c7:#5f6368;
 --ink:#1f2328;--soft:#59636e;--grid:#d1d9e0;--paper:#ffffff}
@media (prefers-color-scheme:dark){.chart{--c0:#58a6ff;--c1:#ff9a5c;--c2:#3fcf9f;--c3:#e692cf;--c4:#e3b341;--c5:#9ad5ff;
 --c6:#b8a3ec;--c7:#a8b0b8;--ink:#e6edf3;--soft:#9da7b3;--grid:#363d46;--paper:#12161c}}
.chart text{font:12px system-ui,sans-serif;fill:var(--ink)}
.chart .soft{fill:var(--soft);font-size:11px}
.chart .title{font-weight:600;font-size:13px}
.chart .grid{stroke:var(--grid);stroke-width:1;fill:none}
.chart .axis{stroke:var(--soft);stroke-width:1;fill:none}
.chart .one{stroke:var(--ink);stroke-width:1;stroke-dasharray:4 3}
.chart .line{fill:none;stroke-width:2}
.chart .thin{fill:none;stroke-width:1.2}
.chart .k0{stroke:var(--c0)}.chart .f0{fill:var(--c0);stroke:var(--paper);stroke-width:1}
.chart .k1{stroke:var(--c1)}.chart .f1{fill:var(--c1);stroke:var(--paper);stroke-width:1}
.chart .k2{stroke:var(--c2)}.chart .f2{fill:var(--c2);stroke:var(--paper);stroke-width:1}
.chart .k3{stroke:var(--c3)}.chart .f3{fill:var(--c3);stroke:var(--paper);stroke-width:1}
.chart .k4{stroke:var(--c4)}.chart .f4{fill:var(--c4);stroke:var(--paper);stroke-width:1}
.chart .k5{stroke:var(--c5)}.chart .f5{fill:var(--c5);stroke:var(--paper);stroke-width:1}
.chart .k6{stroke:var(--c6)}.chart .f6{fill:var(--c6);stroke:var(--paper);stroke-width:1}
.chart .k7{stroke:var(--c7)}.chart .f7{fill:var(--c7);stroke:var(--paper);stroke-width:1}
`

// colours is how many there are; further series begin anew, with other marks.
const colours = 8

// A canvas collects the elements of one drawing.
type canvas struct {
	strings.Builder
	width, height float64
}

// newCanvas begins a drawing that says what it is to those who cannot see it.
func newCanvas(width, height float64, title string) *canvas {
	c := &canvas{width: width, height: height}
	fmt.Fprintf(c, `<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`+"\n",
		width, height, html.EscapeString(title))
	return c
}

func (c *canvas) end() string {
	c.WriteString("</svg>\n")
	return c.String()
}

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(c, `<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", class, x1, y1, x2, y2)
}

// text writes s at a place; anchor is start, middle or end.
func (c *canvas) text(class, anchor string, x, y float64, s string) {
	fmt.Fprintf(c, `<text class="%s" text-anchor="%s" x="%.1f" y="%.1f">%s</text>`+"\n", class, anchor, x, y, html.EscapeString(s))
}

// upright writes s from below to above.
func (c *canvas) upright(x, y float64, s string) {
	fmt.Fprintf(c, `<text class="soft" text-anchor="middle" transform="translate(%.1f %.1f) rotate(-90)">%s</text>`+"\n",
		x, y, html.EscapeString(s))
}

// mark draws the mark of series i, with a text that shows when it is pointed at.
func (c *canvas) mark(i int, x, y float64, hint string) {
	class := fmt.Sprintf("f%d", i%colours)
	title := ""
	if hint != "" {
		title = "<title>" + html.EscapeString(hint) + "</title>"
	}
	const r = 4.2
	switch i % 4 {
	case 0:
		fmt.Fprintf(c, `<circle class="%s" cx="%.1f" cy="%.1f" r="%.1f">%s</circle>`+"\n", class, x, y, r, title)
	case 1:
		fmt.Fprintf(c, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f">%s</rect>`+"\n", class, x-r+0.4, y-r+0.4, 2*r-0.8, 2*r-0.8, title)
	case 2:
		fmt.Fprintf(c, `<path class="%s" d="M%.1f %.1fl%.1f %.1fh%.1fz">%s</path>`+"\n", class, x, y-r-0.8, r+0.8, 2*r+0.6, -2*r-1.6, title)
	default:
		fmt.Fprintf(c, `<path class="%s" d="M%.1f %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz">%s</path>`+"\n",
			class, x, y-r-1, r+1, r+1, -r-1, r+1, -r-1, -r-1, title)
	}
}

// dash makes every further round of the colours another line.
func dash(i int) string {
	if i < colours {
		return ""
	}
	return ` stroke-dasharray="5 3"`
}

// legend writes the series' names in rows below each other's ends, and returns the height that it took.
func (c *canvas) legend(x, y, width float64, names []string, numbers []int) float64 {
	const row, perLetter, gap = 17.0, 7.2, 28.0
	at, height := x, row
	for i, name := range names {
		w := gap + perLetter*float64(len([]rune(name)))
		if at > x && at+w > x+width {
			at, height = x, height+row
		}
		c.mark(numbers[i], at+6, y+height-8, "")
		c.text("", "start", at+15, y+height-4, name)
		at += w
	}
	return height
}

// Document makes a file of one drawing, on its own background.
func Document(svg string) string {
	head, rest, _ := strings.Cut(svg, ">\n")
	return head + ">\n<style>" + Style + "</style>\n" + `<rect width="100%" height="100%" fill="var(--paper)"/>` + "\n" + rest
}
