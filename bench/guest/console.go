// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/luksgate/luksgate/bench/guest/measure"
	"github.com/luksgate/luksgate/bench/stats"
)

// A console is what the guest has said.
type console struct {
	echo    io.Writer // nil: nobody wants to see it
	about   []string
	results []measure.Result
}

// read reads the guest's lines until it powers off. It is an error if the guest had one, or was not done.
func (c *console) read(from io.Reader) error {
	done := false
	var errs []error
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if c.echo != nil {
			fmt.Fprintln(c.echo, line)
		}
		if text, ok := strings.CutPrefix(line, measure.ResultPrefix); ok {
			var r measure.Result
			errs = append(errs, json.Unmarshal([]byte(text), &r))
			c.results = append(c.results, r)
		} else if text, ok := strings.CutPrefix(line, measure.AboutPrefix); ok {
			c.about = append(c.about, text)
		} else if text, ok := strings.CutPrefix(line, measure.ErrorPrefix); ok {
			errs = append(errs, errors.New(text))
		}
		done = done || line == measure.Done
	}
	if err := errors.Join(append(errs, lines.Err())...); err != nil {
		return err
	}
	if !done {
		return errors.New("it ended before it was done (-v shows its console)")
	}
	return nil
}

// table is Markdown: a row for each contestant, with medians over the rounds.
func (c *console) table() string {
	type cell struct {
		contestant string
		workload   measure.Workload
	}
	var contestants []string
	var workloads []measure.Workload
	values := map[cell][]float64{}
	for _, r := range c.results {
		if !slices.Contains(contestants, r.Contestant) {
			contestants = append(contestants, r.Contestant)
		}
		if !slices.Contains(workloads, r.Workload) {
			workloads = append(workloads, r.Workload)
		}
		at := cell{r.Contestant, r.Workload}
		values[at] = append(values[at], r.Instructions)
	}
	var b strings.Builder
	b.WriteString("Thousand instructions of the guest for a request:\n\n| |")
	for _, w := range workloads {
		fmt.Fprintf(&b, " %s, %d KiB |", w.Kind.Words(), w.BlockBytes>>10)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(workloads)) + "\n")
	spread := 0.0
	for _, name := range contestants {
		fmt.Fprintf(&b, "| %s |", name)
		for _, w := range workloads {
			list := values[cell{name, w}]
			fmt.Fprintf(&b, " %.0f |", stats.Median(list)/1e3)
			spread = max(spread, stats.Spread(list))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\nSpread of the rounds: at most %.1f %%. In the guest: %s.\n", spread*100, strings.Join(c.about, "; "))
	return b.String()
}
