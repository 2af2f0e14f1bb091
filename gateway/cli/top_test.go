// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

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
	lines := topTable(before, before, now, 0, 0)
	if len(lines) != 5 || !strings.HasPrefix(lines[3], "busy") || !strings.HasPrefix(lines[4], "quiet") {
		t.Fatalf("order:\n%s", strings.Join(lines, "\n"))
	}
	if got := strings.Fields(lines[3]); strings.Join(got, " ") != "busy 100 1.0 4.00 0.00 12 µs 12 µs 3 2 !1 native" {
		t.Errorf("got %q", got)
	}
	if got := strings.Fields(lines[4]); got[1] != "0" || got[5] != "-" || got[len(got)-1] != "-" {
		t.Errorf("quiet: %q", got)
	}
	// An error stays to be seen, until top is started anew.
	later := now
	later.At = at.Add(4 * time.Second)
	if got := topTable(before, now, later, 0, 0); !strings.Contains(strings.Join(got, "\n"), " !1 ") {
		t.Errorf("two seconds after an error:\n%s", strings.Join(got, "\n"))
	}
	// After an upgrade the counters begin at 0 again.
	now.Since = at.Add(time.Second)
	if got := strings.Fields(topTable(before, before, now, 0, 0)[3]); got[1] != "150" {
		t.Errorf("after an upgrade: %q", got)
	}
}

// TestTopFits has tables for terminals of many sizes: no line is wider, no table higher, and what does not fit is told.
func TestTopFits(t *testing.T) {
	now := api.Stats{At: time.Unix(1000, 0)}
	for i := range 40 {
		now.Exports = append(now.Exports, metrics.Snapshot{
			Export: fmt.Sprintf("an-export-with-a-rather-long-name-%02d", i), Engine: "native",
			Ops: map[string]metrics.Op{"read": {Requests: uint64(i) * 1e6, Errors: uint64(i % 2)}},
		})
	}
	for width := 34; width < 200; width++ {
		for _, height := range []int{4, 10, 24, 50} {
			lines := topTable(api.Stats{}, api.Stats{}, now, width, height)
			if len(lines) != min(height, 43) {
				t.Fatalf("%d lines at a height of %d", len(lines), height)
			}
			for _, line := range lines {
				if utf8.RuneCountInString(line) > width {
					t.Fatalf("%d characters at a width of %d: %q", utf8.RuneCountInString(line), width, line)
				}
			}
			if last := lines[len(lines)-1]; strings.HasSuffix(last, "more below") != (height < 43) {
				t.Fatalf("the last line at a height of %d: %q", height, last)
			}
			if width >= 80 && (!strings.Contains(lines[1], "P99") || !strings.Contains(lines[1], "ERRORS")) {
				t.Fatalf("the head at a width of %d: %q", width, lines[1])
			}
		}
	}
	if got := shortened("instance-0000-vdb", 9); got != "inst…-vdb" {
		t.Errorf("shortened: %q", got)
	}
}

// TestTopNames has names that are longer than their column: none looks like another, and errors without a column are seen.
func TestTopNames(t *testing.T) {
	rows := []topRow{
		{name: "all"}, {name: "instance-0000004a-disk-1-of-the-database-in-zone-b"}, {name: "short"},
		{name: "instance-0000004a-disk-2-of-the-database-in-zone-b", errors: 1},
		{name: "instance-0000004a-disk-3-of-the-database-in-zone-b"}, {name: "instance-0000004b-disk-1-of-the-database-in-zone-b"},
		{name: "x" + strings.Repeat("é", 40) + "1"}, {name: "x" + strings.Repeat("é", 40) + "2"}, {name: "x" + strings.Repeat("é", 40) + "12"},
	}
	for n := 12; n < 60; n++ {
		names := shortNames(rows, n, false)
		seen := map[string]bool{}
		for i, name := range names {
			if utf8.RuneCountInString(name) > n || seen[name] {
				t.Errorf("%d characters: %q", n, names)
			}
			seen[name] = true
			if strings.HasPrefix(name, failedMark) != (i == 3) {
				t.Errorf("%q begins with the mark, or lacks it", name)
			}
		}
	}
	if got := shortNames(rows, 16, true); got[1] != "insta…isk-1-of-…" {
		t.Errorf("got %q", got)
	}
}

// TestTopAtTerminal leaves the terminal as it was, after q and after a signal.
func TestTopAtTerminal(t *testing.T) {
	d := serveDaemon(t, "exports:\n  - {name: a, image: \"mem:4M\", socket: DIR/a.sock}\n")
	for _, end := range []func(*typist){
		func(p *typist) { fmt.Fprint(p.keyboard, "q") },
		func(p *typist) { _ = syscall.Kill(p.pid, syscall.SIGINT) },
	} {
		p := atTerminal(t, "top", "--every", "100ms", "--admin", d.socket("admin.sock"))
		d.wait("a table", func() bool { return strings.Contains(p.seen(), "1 exports") })
		p.silent(true)
		end(p)
		if seen := p.ends(0); !strings.HasSuffix(seen, screenEnd) {
			t.Errorf("it leaves the screen with %q", seen[max(0, len(seen)-40):])
		}
		if after, err := unix.IoctlGetTermios(int(p.keyboard.Fd()), unix.TCGETS); err != nil || after.Lflag&(unix.ICANON|unix.ECHO) != unix.ICANON|unix.ECHO {
			t.Errorf("the terminal is not as it was: %v, %v", after, err)
		}
	}
	// A number of tables leaves the last one behind, on the screen that stays.
	p := atTerminal(t, "top", "--every", "100ms", "--rounds", "1", "--admin", d.socket("admin.sock"))
	if _, after, ok := strings.Cut(p.ends(0), screenEnd); !ok || !strings.Contains(after, "EXPORT") {
		t.Errorf("after the end: %q", after)
	}
	d.stop()
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
