// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
)

// report prints a workload's table and returns how many goals it missed.
func report(w workload, list []*contestant, results []series) (missed int) {
	by := map[string]series{}
	for i, c := range list {
		by[c.name] = results[i]
	}
	us := by[gateNative]
	fmt.Printf("\n%s\n  %-20s %9s %17s %9s %11s %11s %8s  %s\n", w, "", "IOPS", "least-most", "p50 [us]", "server CPU", "client CPU", "OSD CPU",
		"rate of luksgate native")
	for _, c := range list {
		s := by[c.name]
		rates := s.values(func(x sample) float64 { return x.iops })
		line := fmt.Sprintf("  %-20s %9.0f %8.0f-%-8.0f %9.0f %11.1f %11.1f %8.1f", c.name, median(rates), slices.Min(rates), slices.Max(rates),
			median(s.values(func(x sample) float64 { return x.p50Micros })),
			median(s.values(func(x sample) float64 { return x.serverMicros })),
			median(s.values(func(x sample) float64 { return x.clientMicros + x.loopMicros })),
			median(s.values(func(x sample) float64 { return x.osdMicros })))
		if len(us) > 0 && c.name != gateNative {
			verdict, ok := judge(w, c.name, us, s)
			if !ok {
				missed++
			}
			line += "  " + verdict
		}
		fmt.Println(line)
	}
	reportLimit(us, by)
	return missed + reportCPU(w, by)
}

// reportLimit compares the processor time of all for a request, the OSDs' included: where they share saturated processors,
// it is what rates come from. It also says what a server would reach that needs no more than librbd alone.
func reportLimit(us series, by map[string]series) {
	alone := by[loopPlain]
	if len(us) == 0 || len(alone) == 0 || us[0].osdMicros == 0 {
		return
	}
	least := slices.Clone(us)
	for i := range least {
		least[i].serverMicros = alone[i].loopMicros
	}
	for _, name := range []string{fioRBD, loopLibrbd, qemuNBD} {
		if them := by[name]; len(them) > 0 {
			fmt.Printf("  by the processor time of all, to %s: %.2fx; if luksgate needed no more than librbd alone: %.2fx\n", name,
				median(ratios(them, us, sample.totalMicros)), median(ratios(them, least, sample.totalMicros)))
		}
	}
}

// judge compares luksgate's rate with another's. The ratio is the median of the rounds' ratios, because neighbours in
// time saw the same machine.
func judge(w workload, name string, us, them series) (string, bool) {
	ratio := median(ratios(us, them, func(x sample) float64 { return x.iops }))
	text := fmt.Sprintf("%.2fx", ratio)
	goal, has := w.goals[name]
	if !has {
		return text, true
	}
	return text + fmt.Sprintf(" (goal >= %.2f: %s)", goal, met(ratio >= goal)), ratio >= goal
}

// reportCPU prints what luksgate adds to librbd, and whether it decrypts cheaper than others.
func reportCPU(w workload, by map[string]series) (missed int) {
	us, plain := by[gateNative], by[loopPlain]
	if len(us) == 0 {
		return 0
	}
	if len(plain) > 0 {
		own := make([]float64, len(us))
		for i := range us {
			own[i] = us[i].serverMicros - plain[i].loopMicros
		}
		line := fmt.Sprintf("  luksgate's own CPU for a request: %.1f us (its process less the plain librbd loop)", median(own))
		if w.blockBytes == 4<<10 {
			ok := median(own) <= ownCPUMicros
			line += fmt.Sprintf(" (goal <= %.1f: %s)", ownCPUMicros, met(ok))
			missed += count(!ok)
		}
		fmt.Println(line)
	}
	for _, name := range []string{gateLibrbd, qemuNBD, qemuStorage, loopLibrbd} {
		them, ok := by[name]
		if !ok {
			continue
		}
		// The loop has nothing but librbd in its process; all others have the NBD server in theirs.
		cost := func(x sample) float64 { return x.serverMicros + x.loopMicros }
		ratio := median(ratios(us, them, cost))
		fmt.Printf("  CPU for a byte, to %s: %.2fx (goal < 1: %s)\n", name, ratio, met(ratio < 1))
		missed += count(ratio >= 1)
	}
	return missed
}

func ratios(a, b series, f func(sample) float64) []float64 {
	list := make([]float64, min(len(a), len(b)))
	for i := range list {
		list[i] = f(a[i]) / f(b[i])
	}
	return list
}

func met(ok bool) string {
	if ok {
		return "reached"
	}
	return "MISSED"
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// median of a list that is not empty.
func median(list []float64) float64 {
	s := slices.Clone(list)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
