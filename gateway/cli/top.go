// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/metrics"
)

func newTop(s std) *cobra.Command {
	var admin adminFlags
	var every time.Duration
	var rounds int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what the exports do, as it happens",
		Long: `Show what the exports do, as it happens: requests and bytes per second, how long half and 99 of 100 requests took at
most, how many are in flight, and who decrypts. The busiest are on top. Ctrl-C ends it.`,
		Example: `  luksgate top
  luksgate top --every 5s --rounds 1    # one table over five seconds, for a script`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return usage("--every %v: expected at least 100ms", every)
			}
			ctx, stop := signal.NotifyContext(background(cmd.Context()), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return top(ctx, s.out, admin.client(), every, rounds)
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "time between two tables")
	cmd.Flags().IntVar(&rounds, "rounds", 0, "how many tables to show (0: until Ctrl-C)")
	return cmd
}

// top prints a table each round. On a terminal each takes the place of the one before.
func top(ctx context.Context, out io.Writer, c *api.Client, every time.Duration, rounds int) error {
	before, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	tty, live := isTerminal(out)
	for round := 1; rounds == 0 || round <= rounds; round++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		now, err := c.Stats(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		lines := topTable(before, now)
		if live {
			if _, height, err := term.GetSize(int(tty.Fd())); err == nil && len(lines) > height-1 {
				lines = lines[:max(height-1, 1)]
			}
			fmt.Fprint(out, "\x1b[H\x1b[2J")
		}
		fmt.Fprintln(out, strings.Join(lines, "\n"))
		before = now
	}
	return nil
}

// A topRow is what one export did between two moments.
type topRow struct {
	name, engine string
	iops, rate   [2]float64 // reads, writes
	took         metrics.Durations
	inFlight     int64
	clients      int64
	errors       uint64
}

func topTable(before, now api.Stats) []string {
	seconds := max(now.At.Sub(before.At).Seconds(), 0.001)
	old := map[string]metrics.Snapshot{}
	if before.Since.Equal(now.Since) { // a new process counts from 0
		for _, e := range before.Exports {
			old[e.Export] = e
		}
	}
	var rows []topRow
	var sum topRow
	for _, e := range now.Exports {
		r := rowOf(old[e.Export], e, seconds)
		for i := range 2 {
			sum.iops[i] += r.iops[i]
			sum.rate[i] += r.rate[i]
		}
		sum.took, sum.inFlight, sum.clients = sum.took.Plus(r.took), sum.inFlight+r.inFlight, sum.clients+r.clients
		sum.errors += r.errors
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b topRow) int {
		x, y := a.iops[0]+a.iops[1], b.iops[0]+b.iops[1]
		switch {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	sum.name = fmt.Sprintf("all %d", len(rows))
	const head = "%-24s %8s %8s %9s %9s %9s %9s %6s %6s %6s  %s"
	out := []string{
		"luksgate " + now.At.Local().Format("15:04:05"),
		fmt.Sprintf(head, "EXPORT", "READ/s", "WRITE/s", "READ MB/s", "WRIT MB/s", "P50", "P99", "FLIGHT", "CLIENT", "ERRORS", "ENGINE"),
	}
	for _, r := range append([]topRow{sum}, rows...) {
		out = append(out, fmt.Sprintf("%-24.24s %8.0f %8.0f %9.2f %9.2f %9s %9s %6d %6d %6d  %s", r.name, r.iops[0], r.iops[1],
			r.rate[0]/1e6, r.rate[1]/1e6, shortTime(r.took.Quantile(0.5)), shortTime(r.took.Quantile(0.99)), r.inFlight, r.clients, r.errors, r.engine))
	}
	return out
}

func rowOf(old, now metrics.Snapshot, seconds float64) topRow {
	r := topRow{name: now.Export, engine: now.Engine, inFlight: now.InFlight, clients: now.Connections}
	for name, o := range now.Ops {
		was := old.Ops[name]
		r.errors += o.Errors - min(was.Errors, o.Errors)
		i := 0
		switch name {
		case "read":
		case "write":
			i = 1
		default:
			continue
		}
		took := o.Took.Since(was.Took)
		r.took = r.took.Plus(took)
		r.iops[i] = float64(took.Count()) / seconds
		r.rate[i] = float64(o.Bytes-min(was.Bytes, o.Bytes)) / seconds
	}
	return r
}

// shortTime is a duration of at most seven characters.
func shortTime(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}
