// SPDX-License-Identifier: Apache-2.0

// Package stats says what a few repeats of a measurement are worth.
package stats

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

const (
	// resamples of a bootstrap, and how much of them the interval holds.
	resamples  = 4000
	confidence = 0.95
	// seed makes the same samples give the same interval.
	seed = 20261124
)

// Median of a list; 0 of none.
func Median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	return quantile(sorted(list), 0.5)
}

// Spread is the distance between the quartiles in relation to the median: how far repeats differ. It is 0 of fewer than
// two.
func Spread(list []float64) float64 {
	m := Median(list)
	if len(list) < 2 || m == 0 {
		return 0
	}
	s := sorted(list)
	return (quantile(s, 0.75) - quantile(s, 0.25)) / math.Abs(m)
}

func sorted(list []float64) []float64 {
	s := slices.Clone(list)
	slices.Sort(s)
	return s
}

// quantile interpolates in a sorted list that is not empty.
func quantile(s []float64, q float64) float64 {
	at := q * float64(len(s)-1)
	low := int(at)
	if low+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[low] + (at-float64(low))*(s[low+1]-s[low])
}

// LeastRepeats are how many repeats an interval of 95 % takes: the median lies between the least and the most of five with
// 94 % (each of them is on the same side of it with one half to the fifth), of four with 88 %, of three with 75 %.
const LeastRepeats = 5

// An Estimate is a value and the interval that holds the true one with 95 % confidence, as far as the repeats can tell. Of
// fewer than LeastRepeats there is no interval.
type Estimate struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low,omitempty"`
	High  float64 `json:"high,omitempty"`
}

// Bounded tells whether there is an interval.
func (e Estimate) Bounded() bool { return e.High != 0 }

// Above tells that even the low end is above x.
func (e Estimate) Above(x float64) bool { return e.Bounded() && e.Low > x }

// Below tells that even the high end is below x.
func (e Estimate) Below(x float64) bool { return e.Bounded() && e.High < x }

// Within tells that both ends lie between two values, or on them.
func (e Estimate) Within(low, high float64) bool {
	return e.Bounded() && e.Low >= low && e.High <= high
}

// String is the value, and its interval if there is one.
func (e Estimate) String() string {
	if !e.Bounded() {
		return fmt.Sprintf("%.2f", e.Value)
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", e.Value, e.Low, e.High)
}

// PairedRatio is the median of the ratios of a to b, which were measured in turns: the n-th of both saw the same machine.
// ok is false if there are no pairs or b has a zero.
func PairedRatio(a, b []float64) (e Estimate, ok bool) {
	n := min(len(a), len(b))
	ratios := make([]float64, n)
	for i := range ratios {
		if b[i] == 0 {
			return e, false
		}
		ratios[i] = a[i] / b[i]
	}
	if n == 0 {
		return e, false
	}
	if n < LeastRepeats {
		return Estimate{Value: Median(ratios)}, true
	}
	random := rand.New(rand.NewPCG(seed, 1))
	found := make([]float64, resamples)
	for i := range found {
		found[i] = Median(resample(random, ratios))
	}
	return interval(Median(ratios), found), true
}

// Ratio is the ratio of the medians of a and b, which were measured apart from each other. ok is false if one is empty or
// b's median is zero.
func Ratio(a, b []float64) (e Estimate, ok bool) {
	if len(a) == 0 || Median(b) == 0 {
		return e, false
	}
	if min(len(a), len(b)) < LeastRepeats {
		return Estimate{Value: Median(a) / Median(b)}, true
	}
	random := rand.New(rand.NewPCG(seed, 2))
	found := make([]float64, 0, resamples)
	for range resamples {
		if below := Median(resample(random, b)); below != 0 {
			found = append(found, Median(resample(random, a))/below)
		}
	}
	return interval(Median(a)/Median(b), found), true
}

func resample(random *rand.Rand, list []float64) []float64 {
	s := make([]float64, len(list))
	for i := range s {
		s[i] = list[random.IntN(len(list))]
	}
	return s
}

func interval(value float64, found []float64) Estimate {
	slices.Sort(found)
	return Estimate{value, quantile(found, (1-confidence)/2), quantile(found, (1+confidence)/2)}
}
