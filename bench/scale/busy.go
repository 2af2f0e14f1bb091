// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/serve"
	"github.com/luksgate/luksgate/bench/stats"
	"github.com/luksgate/luksgate/bench/workload"
)

const (
	warmUp = 200 * time.Millisecond
	seed   = 1
)

// workloads of the busy clients: one request at a time, and several.
func (s *scale) workloads() []workload.Workload {
	one := workload.Workload{Kind: workload.RandomRead, BlockBytes: 4096, Depth: 1, Clients: 1, Images: s.busy}
	several, writes := one, one
	several.Depth, writes.Depth, writes.Kind = 4, 4, workload.RandomWrite
	return []workload.Workload{one, several, writes}
}

// A contestant is the busy clients of one daemon, which is stopped while nothing is measured on it.
type contestant struct {
	engine.OverNBD
	pid int
}

func newContestant(name string, d *serve.Daemon, from, n int) *contestant {
	c := &contestant{pid: d.PID()}
	c.What = result.Contestant{Name: name}
	c.SizeBytes = serve.ImageBytes
	c.Servers = []engine.Process{{Name: "server", PID: c.pid}}
	for i := range n {
		c.Endpoints = append(c.Endpoints, d.Endpoint(from+i))
	}
	return c
}

// Run implements engine.Contestant.
func (c *contestant) Run(ctx context.Context, w workload.Workload, seed uint64, win engine.Window) (result.Round, error) {
	if err := syscall.Kill(c.pid, syscall.SIGCONT); err != nil {
		return result.Round{}, err
	}
	r, err := c.OverNBD.Run(ctx, w, seed, win)
	return r, errors.Join(err, syscall.Kill(c.pid, syscall.SIGSTOP))
}

// compare is step 6.
func (s *scale) compare(ctx context.Context, crowd *serve.Daemon) (err error) {
	few, err := s.start("few", s.exports, s.exports+s.busy)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, few.Stop()) }()
	beside := newContestant("beside the idle ones", crowd, 0, s.busy)
	alone := newContestant("alone", few, s.exports, s.busy)
	defer func() { // or they would not end
		err = errors.Join(err, syscall.Kill(beside.pid, syscall.SIGCONT), syscall.Kill(alone.pid, syscall.SIGCONT))
	}()
	for _, c := range []*contestant{beside, alone} {
		if err := syscall.Kill(c.pid, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	p := engine.Plan{
		Workloads: s.workloads(), Contestants: []engine.Contestant{alone, beside},
		Rounds: s.rounds, WarmUp: warmUp, Length: s.seconds, Seed: seed, Progress: func(string, int, int) {},
	}
	results, err := p.Run(ctx)
	s.report(results)
	return err
}

// report prints pairs of results: alone, and beside.
func (s *scale) report(results []result.Result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%d busy clients\talone: requests/s\tp50, us\tp99, us\tbeside: requests/s\tp50, us\tp99, us\trate, ratio\tp50, ratio\tp99, ratio\tserver CPU, ratio\n", s.busy)
	rate := func(r result.Round) float64 { return r.IOPS }
	p50 := func(r result.Round) float64 { return r.Latency.P50 }
	p99 := func(r result.Round) float64 { return r.Latency.P99 }
	for i := 0; i+1 < len(results); i += 2 {
		alone, beside := results[i], results[i+1]
		fmt.Fprintf(w, "%s", alone.Workload)
		for _, r := range []result.Result{alone, beside} {
			fmt.Fprintf(w, "\t%.0f\t%.0f\t%.0f", stats.Median(each(r, rate)), stats.Median(each(r, p50)), stats.Median(each(r, p99)))
		}
		for _, of := range []func(result.Round) float64{rate, p50, p99, serverCPU} {
			e, _ := stats.PairedRatio(each(beside, of), each(alone, of))
			fmt.Fprintf(w, "\t%v", e)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // standard output
}

func serverCPU(r result.Round) float64 {
	for _, c := range r.CPU {
		if c.Process == "server" {
			return c.Micros
		}
	}
	return 0
}

func each(r result.Result, of func(result.Round) float64) []float64 {
	list := make([]float64, len(r.Rounds))
	for i, round := range r.Rounds {
		list[i] = of(round)
	}
	return list
}
