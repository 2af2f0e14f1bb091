// SPDX-License-Identifier: Apache-2.0

// Package chart draws plots as SVG that takes its colours from a style sheet, so that one drawing is readable on light and
// on dark pages. Style has the rules; Document makes a file of its own of a drawing.
package chart

import (
	"fmt"
	"math"
	"strings"
)

// A scale maps values to positions from..to.
type scale struct {
	low, high float64
	log       bool
	from, to  float64
	ticks     []float64
}

// newScale covers all values: from 0 on if it is linear, to whole powers' halves if it is logarithmic.
func newScale(values []float64, log bool, from, to float64) scale {
	s := scale{low: math.Inf(1), high: math.Inf(-1), log: log, from: from, to: to}
	for _, v := range values {
		if log && v <= 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		s.low, s.high = min(s.low, v), max(s.high, v)
	}
	if s.low > s.high {
		s.low, s.high = 1, 2
	}
	if log {
		s.logTicks()
	} else {
		s.linearTicks()
	}
	return s
}

// linearTicks are multiples of 1, 2 or 5 times a power of ten, about five of them.
func (s *scale) linearTicks() {
	s.low = min(s.low, 0)
	if s.high <= s.low {
		s.high = s.low + 1
	}
	step := niceStep((s.high - s.low) / 5)
	s.low = math.Floor(s.low/step) * step
	s.high = math.Ceil(s.high/step) * step
	for i := 0; ; i++ {
		v := s.low + float64(i)*step
		if v > s.high+step/2 {
			return
		}
		s.ticks = append(s.ticks, v)
	}
}

func niceStep(least float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= least {
			return m * power
		}
	}
	return 10 * power
}

// logTicks are 1, 2 and 5 times powers of ten, or powers only where those are many.
func (s *scale) logTicks() {
	first, last := math.Floor(math.Log10(s.low)), math.Ceil(math.Log10(s.high))
	steps := []float64{1, 2, 5}
	if last-first > 3 {
		steps = []float64{1}
	}
	var all []float64
	for p := first; p <= last; p++ {
		for _, m := range steps {
			all = append(all, m*math.Pow(10, p))
		}
	}
	for i, v := range all {
		// From the last one at or below the values to the first at or above.
		if i+1 < len(all) && all[i+1] <= s.low || i > 0 && all[i-1] >= s.high {
			continue
		}
		s.ticks = append(s.ticks, v)
	}
	s.low, s.high = s.ticks[0], s.ticks[len(s.ticks)-1]
	if s.low == s.high {
		s.high *= 10
	}
}

// at is the position of a value.
func (s *scale) at(v float64) float64 {
	share := (v - s.low) / (s.high - s.low)
	if s.log {
		share = (math.Log(max(v, s.low)) - math.Log(s.low)) / (math.Log(s.high) - math.Log(s.low))
	}
	return s.from + share*(s.to-s.from)
}

// Number is a value with at most three digits and a unit prefix: 12.5k, 3M.
func Number(v float64) string {
	suffix := ""
	switch a := math.Abs(v); {
	case a >= 1e6:
		v, suffix = v/1e6, "M"
	case a >= 1e4:
		v, suffix = v/1e3, "k"
	}
	digits := 0
	switch a := math.Abs(v); {
	case a == 0:
	case a < 1:
		digits = 2
	case a < 10:
		digits = 2
	case a < 100:
		digits = 1
	}
	s := fmt.Sprintf("%.*f", digits, v)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s + suffix
}
