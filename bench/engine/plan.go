// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
)

// A Plan is a whole run.
type Plan struct {
	Workloads   []workload.Workload
	Contestants []Contestant
	Rounds      int
	WarmUp      time.Duration
	Length      time.Duration
	Seed        uint64
	// Progress is told before each measurement what comes, and how many there were and will be.
	Progress func(what string, done, total int)
}

// Duration is how long the run takes, without what it takes to begin and end.
func (p *Plan) Duration() time.Duration {
	return time.Duration(len(p.Workloads)*len(p.Contestants)*p.Rounds) * (p.WarmUp + p.Length)
}

// Run has all contestants do each workload in turns, round by round, the first of a round being another one each time. It
// returns what was measured even with an error; a workload that was not finished is left out. A contestant that fails is left
// out from that workload on, and the others go on: the error says it at the end.
func (p *Plan) Run(ctx context.Context) ([]result.Result, error) {
	r := run{plan: p, left: slices.Clone(p.Contestants), total: len(p.Workloads) * len(p.Contestants) * p.Rounds}
	for _, w := range p.Workloads {
		if err := r.measure(ctx, w); err != nil {
			return r.results, errors.Join(err, errors.Join(r.failures...))
		}
	}
	p.Progress("done", r.done, r.total)
	return r.results, errors.Join(r.failures...)
}

// A run is a plan under way.
type run struct {
	plan        *Plan
	left        []Contestant // those that have not failed
	results     []result.Result
	failures    []error
	done, total int
}

// measure has everybody do one workload. Its error is ctx's.
func (r *run) measure(ctx context.Context, w workload.Workload) error {
	rounds := map[Contestant][]result.Round{}
	for n := range r.plan.Rounds {
		for _, c := range r.turn(n) {
			r.plan.Progress(fmt.Sprintf("%s: %s", w, c.Info().Name), r.done, r.total)
			r.done++
			round, err := r.plan.measure(ctx, c, w, r.plan.Seed+uint64(n))
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				r.failures = append(r.failures, fmt.Errorf("%s, %s: %w", c.Info().Name, w, err))
				r.left = slices.DeleteFunc(r.left, func(other Contestant) bool { return other == c })
				continue
			}
			rounds[c] = append(rounds[c], round)
		}
	}
	for _, c := range r.left {
		r.results = append(r.results, result.Result{Workload: w, Contestant: c.Info().Name, Rounds: rounds[c]})
	}
	return nil
}

// turn is the order of round number n.
func (r *run) turn(n int) []Contestant {
	if len(r.left) == 0 {
		return nil
	}
	first := n % len(r.left)
	return slices.Concat(r.left[first:], r.left[:first])
}

// Tries of one measurement, and how much longer each is than the one before.
const (
	tries  = 4
	longer = 4
)

// measure runs one measurement, and once more for longer where the time was too short for a single request.
func (p *Plan) measure(ctx context.Context, c Contestant, w workload.Workload, seed uint64) (r result.Round, err error) {
	length := p.Length
	for range tries {
		r, err = c.Run(ctx, w, seed, newWindow(p.WarmUp, length))
		if !errors.Is(err, ErrNothing) {
			break
		}
		length *= longer
	}
	return r, err
}
