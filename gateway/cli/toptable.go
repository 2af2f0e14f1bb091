// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/metrics"
)

// A topRow is what one export did between two moments.
type topRow struct {
	name, engine string
	iops, rate   [2]float64 // reads, writes
	took         metrics.Durations
	inFlight     int64
	clients      int64
	errors       uint64
}

// topTable is what happened between two moments, the busiest export first, and the errors since the first.
func topTable(first, before, now api.Stats, width, height int) []string {
	seconds := max(now.At.Sub(before.At).Seconds(), 0.001)
	begin, old := countersOf(first, now), countersOf(before, now)
	var rows []topRow
	var sum topRow
	for _, e := range now.Exports {
		r := rowOf(old[e.Export], e, seconds)
		r.errors = errorsOf(e) - min(errorsOf(begin[e.Export]), errorsOf(e))
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
	sum.name = "all"
	return tableLines(now.At, append([]topRow{sum}, rows...), width, height)
}

// countersOf are the counters of an earlier moment by export. A new process counts from 0.
func countersOf(before, now api.Stats) map[string]metrics.Snapshot {
	out := map[string]metrics.Snapshot{}
	if before.Since.Equal(now.Since) {
		for _, e := range before.Exports {
			out[e.Export] = e
		}
	}
	return out
}

func errorsOf(e metrics.Snapshot) (n uint64) {
	for _, o := range e.Ops {
		n += o.Errors
	}
	return n
}

// failedMark stands before the number of errors in a line that has some, or before the name where that has no room.
const failedMark = "!"

// A topColumn is one column right of the name. Where there is no room for all, those of higher rank go first.
type topColumn struct {
	head  string
	width int // with the blank before it
	rank  int
	text  func(*topRow) string
}

var topColumns = []topColumn{
	{"READ/s", 8, 0, func(r *topRow) string { return countText(r.iops[0]) }},
	{"WRITE/s", 8, 0, func(r *topRow) string { return countText(r.iops[1]) }},
	{"RD MB/s", 9, 1, func(r *topRow) string { return fmt.Sprintf("%.2f", r.rate[0]/1e6) }},
	{"WR MB/s", 9, 1, func(r *topRow) string { return fmt.Sprintf("%.2f", r.rate[1]/1e6) }},
	{"P50", 8, 3, func(r *topRow) string { return shortTime(r.took.Quantile(0.5)) }},
	{"P99", 8, 2, func(r *topRow) string { return shortTime(r.took.Quantile(0.99)) }},
	{"FLIGHT", 7, 5, func(r *topRow) string { return strconv.FormatInt(r.inFlight, 10) }},
	{"CLIENTS", 8, 6, func(r *topRow) string { return strconv.FormatInt(r.clients, 10) }},
	{errorsHead, 7, 4, func(r *topRow) string {
		if r.errors > 0 {
			return failedMark + strconv.FormatUint(r.errors, 10)
		}
		return "0"
	}},
	{"ENGINE", 8, 7, func(r *topRow) string { return cmp.Or(r.engine, "-") }},
}

const errorsHead = "ERRORS"

// leastName is the room that a name has before a column goes.
const leastName = 16

// tableLines is the table for a terminal of a width and height, or without a limit where they are 0: a line about the table,
// its head, the sum, the rows.
func tableLines(at time.Time, rows []topRow, width, height int) []string {
	name := len("EXPORT")
	for _, r := range rows {
		name = max(name, utf8.RuneCountInString(r.name))
	}
	columns := fitting(width)
	if width > 0 {
		room := width
		for _, c := range columns {
			room -= c.width
		}
		name = max(min(name, room), 1)
	}
	names := shortNames(rows, name, slices.ContainsFunc(columns, func(c topColumn) bool { return c.head == errorsHead }))
	line := func(first string, text func(topColumn) string) string {
		var b strings.Builder
		fmt.Fprintf(&b, "%-*s", name, shortened(first, name))
		for _, c := range columns {
			fmt.Fprintf(&b, "%*s", c.width, text(c))
		}
		return b.String()
	}
	busy := 0
	for _, r := range rows[1:] {
		if r.iops[0]+r.iops[1] > 0 {
			busy++
		}
	}
	title := fmt.Sprintf("luksgate %s  %d exports, %d busy", at.Local().Format("15:04:05"), len(rows)-1, busy)
	if height > 0 { // at a terminal, in place
		title += "  (q quits)"
	}
	if width > 0 {
		title = shortened(title, width)
	}
	out := []string{title, line("EXPORT", func(c topColumn) string { return c.head })}
	for i := range rows {
		if left := len(rows) - i; height > 0 && len(out) == height-1 && left > 1 {
			return append(out, shortened(fmt.Sprintf("%d more below", left), width))
		}
		out = append(out, line(names[i], func(c topColumn) string { return c.text(&rows[i]) }))
	}
	return out
}

// fitting are the columns for a width, 0 being any.
func fitting(width int) []topColumn {
	columns := slices.Clone(topColumns)
	for width > 0 && len(columns) > 2 {
		used, last := leastName, 0
		for i, c := range columns {
			used += c.width
			if c.rank >= columns[last].rank {
				last = i
			}
		}
		if used <= width {
			break
		}
		columns = slices.Delete(columns, last, last+1)
	}
	return columns
}

// shortened is a text of at most n characters. What is left out is in the middle: names differ at their ends.
func shortened(text string, n int) string {
	r := []rune(text)
	if len(r) <= n || n < 3 {
		return string(r[:min(len(r), max(n, 0))])
	}
	tail := (n - 1) / 2
	return string(r[:n-1-tail]) + "…" + string(r[len(r)-tail:])
}

// shortNames are the names of rows in n characters. Names that would look the same show the part in which they differ. The
// mark for errors is in front where they have no column.
func shortNames(rows []topRow, n int, errorsShown bool) []string {
	full, out := make([]string, len(rows)), make([]string, len(rows))
	same := map[string][]int{}
	for i, r := range rows {
		full[i] = r.name
		if r.errors > 0 && !errorsShown {
			full[i] = failedMark + r.name
		}
		out[i] = shortened(full[i], n)
		same[out[i]] = append(same[out[i]], i)
	}
	for _, group := range same {
		for _, i := range group {
			at := 0 // where it differs from the one that is most like it
			for _, j := range group {
				if i != j {
					at = max(at, differAt(full[i], full[j]))
				}
			}
			if len(group) > 1 {
				out[i] = shortenedAround(full[i], n, at)
			}
		}
	}
	return out
}

// differAt is the number of characters in which two texts begin alike.
func differAt(a, b string) int {
	x, y := []rune(a), []rune(b)
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	return n
}

// shortenedAround is a longer text in n characters that show how it begins, and what is at a place in it.
func shortenedAround(text string, n, at int) string {
	r := []rune(text)
	head := n / 3
	room := n - head - 2 // two signs for what is left out
	if room < 1 || at <= head {
		return string(r[:max(n-1, 0)]) + "…"
	}
	from := min(max(at-room/2, head), len(r)-room)
	end := "…"
	if from+room >= len(r)-1 {
		from, end = len(r)-room-1, string(r[len(r)-1:])
	}
	return string(r[:head]) + "…" + string(r[from:from+room]) + end
}

// countText is a number per second; less than one is not none.
func countText(n float64) string {
	if n > 0 && n < 10 {
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.0f", n)
}

func rowOf(old, now metrics.Snapshot, seconds float64) topRow {
	r := topRow{name: now.Export, engine: now.Engine, inFlight: now.InFlight, clients: now.Connections}
	for name, o := range now.Ops {
		was := old.Ops[name]
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
