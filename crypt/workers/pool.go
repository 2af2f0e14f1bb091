// SPDX-License-Identifier: Apache-2.0

// Package workers splits large computations over idle processor cores.
//
// One Pool serves a whole process. A caller brings its own goroutine and always
// computes on it; the pool only lends helpers that have nothing else to do, and
// it never queues. So a small request can not wait behind a large one: whatever
// the helpers are busy with, the caller starts at once.
//
// The flow of a large Run:
//
//  1. the caller takes a job from a fixed set (none free: it computes alone)
//  2. it offers the job to helpers; only one that is parked right now accepts
//  3. caller and helpers claim slices from a shared counter
//  4. between slices they yield to other goroutines from time to time, and the
//     caller offers the job again to helpers that have become idle
//  5. whoever finishes the last slice completes the job; the caller waits for
//     that, not for helpers which woke up too late to get a slice
package workers

import (
	"sync"
	"sync/atomic"
)

// Task is a computation over independent units, for example sectors.
type Task interface {
	// Do computes units loUnit up to, but without, hiUnit. It is called from
	// several goroutines at once with ranges that do not overlap. It must not
	// block, and a panic in it outside the calling goroutine ends the process.
	Do(loUnit, hiUnit int)
}

// slicesPerGrain trades even shares for the cost of claiming a slice.
const slicesPerGrain = 4

// Pool lends helper goroutines to large tasks. All methods are safe for
// concurrent use.
type Pool struct {
	offers chan *job // unbuffered: a send succeeds only if a helper is parked
	free   chan *job // jobs not in use
	quit   chan struct{}
	stop   sync.Once
	wg     sync.WaitGroup

	helpers int
	busy    atomic.Int64
	split   atomic.Uint64
	shared  atomic.Uint64
}

// Stats are what a pool has done so far.
type Stats struct {
	Helpers int // goroutines that help callers
	Busy    int // of them, those that do
	// Split counts the tasks that were large enough to be split, and Shared those of them that a helper took part in.
	Split, Shared uint64
}

// Stats returns the counters.
func (p *Pool) Stats() Stats {
	return Stats{Helpers: p.helpers, Busy: int(p.busy.Load()), Split: p.split.Load(), Shared: p.shared.Load()}
}

// New returns a pool that spreads a task over at most n goroutines, the
// caller's included; it starts n-1 helpers that live until Close. With n of 1
// or less everything runs on the caller's goroutine. The useful value is
// runtime.GOMAXPROCS(0).
func New(n int) *Pool {
	helpers := max(n-1, 0)
	// A job is in use while a caller or a helper refers to it. Twice the number
	// of helpers lets each have a current job and one it was too late for.
	p := &Pool{
		offers: make(chan *job),
		free:   make(chan *job, 2*helpers),
		quit:   make(chan struct{}),

		helpers: helpers,
	}
	for range cap(p.free) {
		p.free <- &job{done: make(chan struct{}, 1)}
	}
	p.wg.Add(helpers)
	for range helpers {
		go p.help()
	}
	return p
}

// Run computes all units of task and returns when each is done. grainUnits is
// the least that is worth waking another processor for. A task of fewer than
// 2*grainUnits units runs on the calling goroutine in a single call of Do. A
// larger one is cut into slices, a quarter of grainUnits each, at least one unit
// (the last may be shorter); every yieldAfter, other goroutines get their turn
// between two slices, also when no helper is idle. A grainUnits below 1 counts as 1. Run allocates
// nothing; to keep it so, task should be a pointer to memory that the caller
// uses again.
//
// If Do panics on the calling goroutine, Run waits until no helper works on the
// task any more before the panic goes on.
func (p *Pool) Run(task Task, units, grainUnits int) {
	if units <= 0 {
		return
	}
	grainUnits = max(grainUnits, 1)
	if units/2 < grainUnits {
		task.Do(0, units)
		return
	}
	sliceUnits := max(grainUnits/slicesPerGrain, 1)
	p.split.Add(1)
	j := p.take()
	if j == nil {
		runAlone(task, units, sliceUnits)
		return
	}
	j.begin(task, units, sliceUnits)
	p.lead(j)
}

// Close stops the helpers and waits for them; each finishes the slice and job
// that it is working on. Run may still be called afterwards and works without
// helpers. Closing again does nothing.
func (p *Pool) Close() {
	p.stop.Do(func() { close(p.quit) })
	p.wg.Wait()
}

// take returns an unused job or nil.
func (p *Pool) take() *job {
	select {
	case j := <-p.free:
		return j
	default:
		return nil
	}
}

// put gives up one reference to j; the last one makes j available again. No one
// blocks here: free has room for every job.
func (p *Pool) put(j *job) {
	if j.refs.Add(-1) == 0 {
		j.task = nil
		p.free <- j
	}
}

// lead is the caller's side of a job: recruit, compute, wait.
func (p *Pool) lead(j *job) {
	defer func() {
		j.settle()
		p.put(j)
	}()
	turn, shared := newTurn(), false
	for {
		if p.offer(j) {
			if !shared {
				shared = true
				p.shared.Add(1)
			}
			// The scheduler keeps the goroutine made ready last for this
			// processor, and another one that looks for work steals it only
			// after some 50 µs. So let it run here now; it is this goroutine
			// that moves, which costs no more than waking the other processor.
			turn.yield()
		}
		if !j.step() {
			return
		}
		turn.yieldIfOver()
	}
}

// offer hands j to every helper that is parked, as long as there is a slice for
// each beside the caller's own. It tells whether one accepted.
func (p *Pool) offer(j *job) (accepted bool) {
	for slices := j.slicesLeft() - 1; slices > 0; slices-- {
		j.refs.Add(1)
		select {
		case p.offers <- j:
			accepted = true
		default:
			j.refs.Add(-1) // not the last: the caller holds one
			return accepted
		}
	}
	return accepted
}

// help is the life of one helper.
func (p *Pool) help() {
	defer p.wg.Done()
	for {
		select {
		case <-p.quit:
			return
		case j := <-p.offers:
			p.busy.Add(1)
			for turn := newTurn(); j.assist(); {
				turn.yieldIfOver()
			}
			p.busy.Add(-1)
			p.put(j)
		}
	}
}

// runAlone computes a large task without helpers, yielding between slices as
// the others do.
func runAlone(task Task, units, sliceUnits int) {
	lo := 0
	for turn := newTurn(); units-lo > sliceUnits; lo += sliceUnits {
		task.Do(lo, lo+sliceUnits)
		turn.yieldIfOver()
	}
	task.Do(lo, units)
}
