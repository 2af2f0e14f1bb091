// SPDX-License-Identifier: Apache-2.0

// Package engine runs workloads on contestants, in turns, and counts.
package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/luksgate/luksgate/bench/histogram"
	"github.com/luksgate/luksgate/bench/proc"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
)

// A Contestant can be asked to run a workload.
type Contestant interface {
	// Info names it.
	Info() result.Contestant
	// Run does the workload's requests until the window ends and returns what it counted in it. It returns early when ctx
	// ends, with its error.
	Run(ctx context.Context, w workload.Workload, seed uint64, win Window) (result.Round, error)
	// Close ends what it started.
	Close() error
}

// A Window is the time in which requests count: those that end in it.
type Window struct{ From, To time.Time }

// newWindow begins after a warm-up from now on.
func newWindow(warmUp, length time.Duration) Window {
	from := time.Now().Add(warmUp)
	return Window{from, from.Add(length)}
}

// holds tells whether something that ended then counts.
func (w Window) holds(t time.Time) bool { return !t.Before(w.From) && t.Before(w.To) }

// Seconds is its length.
func (w Window) Seconds() float64 { return w.To.Sub(w.From).Seconds() }

// A Process is one whose processor time is taken. PID 0 is this one.
type Process struct {
	Name string
	PID  int
}

// A reading of all clocks.
type reading struct {
	at      time.Time
	cpu     []time.Duration
	machine proc.Machine
}

func read(processes []Process) (r reading, err error) {
	for _, p := range processes {
		used, err := proc.CPU(p.PID)
		if err != nil {
			return r, fmt.Errorf("%s: %w", p.Name, err)
		}
		r.cpu = append(r.cpu, used)
	}
	r.machine, err = proc.ReadMachine()
	r.at = time.Now()
	return r, err
}

// edges reads the clocks at both ends of a window. Whoever comes first does it: a goroutine that waits for the time, or one
// that does requests, which has a processor at that moment where the other may wait for one.
type edges struct {
	win       Window
	processes []Process
	marks     [2]mark // its beginning and its end
}

type mark struct {
	passed atomic.Bool // nobody needs to look any more
	once   sync.Once
	what   reading
	err    error
}

// tick is called with the time by whoever has looked at a clock. It costs nothing but at the edges.
func (e *edges) tick(now time.Time) {
	for i, at := range [2]time.Time{e.win.From, e.win.To} {
		m := &e.marks[i]
		if m.passed.Load() || now.Before(at) {
			continue
		}
		m.once.Do(func() {
			m.what, m.err = read(e.processes)
			m.passed.Store(true)
		})
	}
}

// wait returns at the end of the window, or early with ctx's error.
func (e *edges) wait(ctx context.Context) error {
	for _, at := range [2]time.Time{e.win.From, e.win.To} {
		select {
		case <-time.After(time.Until(at)):
			e.tick(time.Now())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(e.marks[0].err, e.marks[1].err)
}

// ErrNothing is a window in which nothing came of it: errors.Is.
var ErrNothing = errors.New("no request came to its end")

// round joins what was counted in the window. Processes of one name are one.
func (e *edges) round(h *histogram.Histogram) (result.Round, error) {
	win, processes, from, to := e.win, e.processes, e.marks[0].what, e.marks[1].what
	if h.Count() == 0 {
		return result.Round{}, fmt.Errorf("%w within %v: give it more --seconds", ErrNothing, win.To.Sub(win.From))
	}
	r := result.Round{
		Requests: h.Count(), Seconds: win.Seconds(), IOPS: float64(h.Count()) / win.Seconds(),
		Latency: result.LatencyOf(h),
	}
	elapsed := to.at.Sub(from.at).Seconds()
	requests := r.IOPS * elapsed // the clocks were read a little off the window's ends
	ours := 0.0
	byName := map[string]int{}
	for i, p := range processes {
		used := to.cpu[i] - from.cpu[i]
		ours += used.Seconds()
		at, seen := byName[p.Name]
		if !seen {
			at = len(r.CPU)
			byName[p.Name] = at
			r.CPU = append(r.CPU, result.CPU{Process: p.Name})
		}
		r.CPU[at].Micros += result.Micros(used) / requests
	}
	m := to.machine.Since(from.machine)
	r.OtherCPUs = max(m.Busy.Seconds()-ours, 0) / elapsed
	r.StolenCPUs = m.Stolen.Seconds() / elapsed
	return r, nil
}
