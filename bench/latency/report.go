// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/luksgate/luksgate/bench/chart"
	"github.com/luksgate/luksgate/bench/report"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
)

// A way is a number of connections with a depth.
type way struct{ depth, connections int }

func (w way) String() string {
	if w.connections == 1 {
		return fmt.Sprintf("depth %d", w.depth)
	}
	return fmt.Sprintf("%d connections of depth %d", w.connections, w.depth)
}

var ways = []way{{1, 1}, {4, 1}, {16, 1}, {16, 2}, {16, 4}, {16, 8}}

// sizes of the requests.
var sizes = []int{4 << 10, 64 << 10}

// A measured is one run of luksgate bench.
type measured struct {
	rtt string
	doc *result.Document
}

// depths measures random reads.
func (l *lab) depths(ctx context.Context) ([]measured, error) {
	var all []measured
	for _, rtt := range l.rtts {
		file := filepath.Join(l.dir, "bench.json")
		// The numbers of connections are tried with the first size at the last depth only: so once for each size.
		doc := &result.Document{}
		for _, size := range sizes {
			err := l.apart(ctx, rtt, "bench", "nbd://"+server+"/x", "--workloads", "randread", "--sizes", fmt.Sprint(size), "--depths", "1,4,16",
				"--clients", "1,2,4,8", "--rounds", fmt.Sprint(l.rounds), "--seconds", fmt.Sprint(l.seconds), "--json", file)
			if err != nil {
				return nil, err
			}
			d, err := readBench(file)
			if err != nil {
				return nil, err
			}
			d.Results = append(doc.Results, d.Results...)
			doc = d
		}
		all = append(all, measured{rtt, doc})
	}
	return all, nil
}

func readBench(path string) (*result.Document, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return result.Read(f)
}

// at is what was measured for one size and way.
func (m measured) at(size int, w way) *result.Result {
	return m.doc.Find(workload.Workload{Kind: workload.RandomRead, BlockBytes: size, Depth: w.depth, Clients: w.connections, Images: 1}, "server")
}

// depthTable has a row for each round trip and size.
func depthTable(all []measured) string {
	var b strings.Builder
	b.WriteString("Random reads a second (and MiB/s) over a network:\n\n| round trip | size |")
	for _, w := range ways {
		fmt.Fprintf(&b, " %s |", w)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(ways)) + "\n")
	for _, m := range all {
		for _, size := range sizes {
			fmt.Fprintf(&b, "| %s ms | %d KiB |", m.rtt, size>>10)
			for _, w := range ways {
				if r := m.at(size, w); r != nil {
					fmt.Fprintf(&b, " %.0f (%.0f) |", r.IOPS, r.BytesPerSecond/(1<<20))
				} else {
					b.WriteString(" |")
				}
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// drawing shows the small reads.
func drawing(all []measured) string {
	l := chart.Lines{
		Title: "4 KiB random reads over a network, for three round trips", XLabel: "connections x requests in flight on each",
		YLabel: "requests a second, logarithmic", Unit: "requests/s", LogY: true,
	}
	for _, w := range ways {
		l.X = append(l.X, fmt.Sprintf("%d x %d", w.connections, w.depth))
	}
	for i, m := range all {
		s := chart.Series{Name: m.rtt + " ms", Number: i}
		for _, w := range ways {
			v := 0.0
			if r := m.at(sizes[0], w); r != nil {
				v = r.IOPS
			}
			s.Y = append(s.Y, v)
		}
		l.Series = append(l.Series, s)
	}
	return chart.Document(l.SVG())
}

// figures are those of a replay.
type figures = report.ReplayFigure

func readFigures(path string) (figures, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return figures{}, err
	}
	var d report.ReplayDocument
	if err := json.Unmarshal(b, &d); err != nil || len(d.Replays) != 1 {
		return figures{}, fmt.Errorf("%s: %d replays, expected 1 (%w)", path, len(d.Replays), err)
	}
	return d.Replays[0], nil
}

// replayTable has a row for each replay.
func replayTable(all []replayed) string {
	var b strings.Builder
	if len(all) > 0 {
		fmt.Fprintf(&b, "\nA trace of %d requests, recorded over %.2f s, replayed as fast as it goes:\n\n", all[0].figures.Requests, all[0].figures.RecordedSeconds)
	}
	b.WriteString("| round trip | | seconds | read p50, µs | read p99, µs | write p50, µs | write p99, µs |\n|---|---|---|---|---|---|---|\n")
	for _, r := range all {
		read, write := r.figures.Latency["read"], r.figures.Latency["write"]
		fmt.Fprintf(&b, "| %s ms | %s | %.2f | %.0f | %.0f | %.0f | %.0f |\n", r.rtt, way{r.depth, r.connections}, r.figures.Seconds,
			read.P50, read.P99, write.P50, write.P99)
	}
	return b.String()
}
