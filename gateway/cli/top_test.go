// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/metrics"
)

// TestTopTable holds the table against two moments of counters.
func TestTopTable(t *testing.T) {
	at := time.Unix(1000, 0)
	op := func(n, bytes uint64) metrics.Op {
		counts := make([]uint64, 10)
		counts[9] = n // up to 12 µs
		return metrics.Op{Requests: n, Bytes: bytes, Took: metrics.Durations{Counts: counts}}
	}
	before := api.Stats{At: at, Since: at, Exports: []metrics.Snapshot{
		{Export: "quiet", Ops: map[string]metrics.Op{"read": op(5, 500)}},
		{Export: "busy", Ops: map[string]metrics.Op{"read": op(100, 0)}},
	}}
	now := api.Stats{At: at.Add(2 * time.Second), Since: at, Exports: []metrics.Snapshot{
		{Export: "quiet", Ops: map[string]metrics.Op{"read": op(5, 500)}},
		{Export: "busy", Engine: "native", InFlight: 3, Connections: 2, Ops: map[string]metrics.Op{
			"read": op(300, 8_000_000), "write": {Requests: 2, Errors: 1, Took: op(2, 0).Took}, "flush": op(9, 0)}},
	}}
	lines := topTable(before, now)
	if len(lines) != 5 || !strings.HasPrefix(lines[3], "busy") || !strings.HasPrefix(lines[4], "quiet") {
		t.Fatalf("order:\n%s", strings.Join(lines, "\n"))
	}
	if got := strings.Fields(lines[3]); strings.Join(got, " ") != "busy 100 1 4.00 0.00 12 µs 12 µs 3 2 1 native" {
		t.Errorf("got %q", got)
	}
	if got := strings.Fields(lines[4]); got[1] != "0" || got[5] != "-" {
		t.Errorf("quiet: %q", got)
	}
	// After an upgrade the counters begin at 0 again.
	now.Since = at.Add(time.Second)
	if got := strings.Fields(topTable(before, now)[3]); got[1] != "150" {
		t.Errorf("after an upgrade: %q", got)
	}
}

// TestTop runs it against a daemon.
func TestTop(t *testing.T) {
	d := serveDaemon(t, "exports:\n  - {name: a, image: \"mem:4M\", socket: DIR/a.sock}\n")
	dial(t, d.socket("a.sock"))
	if out := d.must("top", "--every", "100ms", "--rounds", "2"); strings.Count(out, "EXPORT") != 2 || !strings.Contains(out, "\na ") {
		t.Errorf("got %s", out)
	}
	d.stop()
}
