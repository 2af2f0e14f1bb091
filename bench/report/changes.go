// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"

	"github.com/luksgate/luksgate/bench/result"
)

// Changes writes a table of what two runs have in common, and returns how many of them are worse.
func Changes(w io.Writer, changes []result.Change, by result.Metric) (worse int) {
	of := map[result.Verdict]int{}
	unit := map[result.Metric]string{
		result.ByRate: "requests/s", result.ByLatency: "p50 µs", result.ByCPU: "CPU/request µs", result.ByRatio: "ratio",
	}[by]
	fmt.Fprintf(w, "%-44s %-14s %14s %14s  %-22s %s\n", "workload", "contestant", "old "+unit, "new "+unit, "new/old (95 %)", "verdict")
	for _, c := range changes {
		fmt.Fprintf(w, "%-44s %-14s %14s %14s  %-22s %s\n",
			c.Workload, c.Contestant, number(c.Old), number(c.New), c.Ratio, c.Verdict)
		of[c.Verdict]++
	}
	fmt.Fprintf(w, "\n%d worse, %d better, %d the same, %d unclear\n", of[result.Worse], of[result.Better], of[result.Same], of[result.Unclear])
	return of[result.Worse]
}
