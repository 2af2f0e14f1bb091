// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		list           []float64
		median, spread float64
	}{
		{nil, 0, 0},
		{[]float64{5}, 5, 0},
		{[]float64{3, 1, 2}, 2, 0.5},
		{[]float64{4, 1, 3, 2}, 2.5, 0.6},
		{[]float64{10, 10, 10, 10, 1000}, 10, 0},
	} {
		if m, s := Median(c.list), Spread(c.list); m != c.median || math.Abs(s-c.spread) > 1e-12 {
			t.Errorf("%v: median %v, spread %v; expected %v, %v", c.list, m, s, c.median, c.spread)
		}
	}
}

func TestPairedRatioIgnoresWhatHitsBoth(t *testing.T) {
	// The machine was five times slower in the middle, for both.
	a, b := []float64{200, 202, 40, 201, 199}, []float64{100, 101, 20, 100, 100}
	e, ok := PairedRatio(a, b)
	if !ok || math.Abs(e.Value-2) > 0.02 || e.Low < 1.95 || e.High > 2.05 {
		t.Errorf("got %+v, %v", e, ok)
	}
	if again, _ := PairedRatio(a, b); again != e {
		t.Errorf("a second time: %+v, not %+v", again, e)
	}
	if e, ok := Ratio(a, b); !ok || e.Low > 1 || e.High < 4 {
		t.Errorf("as if apart, which cannot tell: got %+v, %v", e, ok)
	}
}

// TestFewRepeatsHaveNoInterval: what says nothing about the truth is neither above nor below anything.
func TestFewRepeatsHaveNoInterval(t *testing.T) {
	a, b := []float64{200, 200, 204, 204}, []float64{100, 100, 100, 100}
	for name, ratio := range map[string]func(a, b []float64) (Estimate, bool){"paired": PairedRatio, "apart": Ratio} {
		e, ok := ratio(a, b)
		if !ok || e.Bounded() || e.Above(1) || e.Below(3) || e.Within(0, 9) || e.String() != "2.02" {
			t.Errorf("%s, of 4: %v, %+v", name, ok, e)
		}
		if e, ok := ratio(append(a, 204), append(b, 100)); !ok || !e.Above(1) || !e.Below(3) || !e.Within(2, 2.05) || e.Within(2.01, 3) {
			t.Errorf("%s, of 5: %v, %+v", name, ok, e)
		}
	}
}

func TestNoRatio(t *testing.T) {
	if _, ok := PairedRatio(nil, []float64{1}); ok {
		t.Error("no pairs: a ratio")
	}
	if _, ok := PairedRatio([]float64{1}, []float64{0}); ok {
		t.Error("by zero: a ratio")
	}
	if _, ok := Ratio([]float64{1}, nil); ok {
		t.Error("to nothing: a ratio")
	}
}

// TestIntervalHoldsTheTruth draws samples of a known distribution many times: the interval must hold the true ratio about
// as often as it claims, and be narrower than the spread of single values.
func TestIntervalHoldsTheTruth(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	draw := func(mean float64) []float64 {
		list := make([]float64, 15)
		for i := range list {
			list[i] = mean * (1 + 0.1*random.NormFloat64())
		}
		return list
	}
	const trials = 200
	held := 0
	for range trials {
		e, ok := Ratio(draw(300), draw(200))
		if ok && !e.Above(1.5) && !e.Below(1.5) {
			held++
		}
		if e.High-e.Low > 0.5 {
			t.Fatalf("the interval is as wide as the values: %+v", e)
		}
	}
	if held < trials*85/100 {
		t.Errorf("the interval held the true ratio %d times in %d", held, trials)
	}
}
