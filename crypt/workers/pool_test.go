// SPDX-License-Identifier: Apache-2.0

package workers

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tally counts how often each unit is computed. It is not atomic on purpose:
// the race detector then proves that ranges do not overlap and that Run returns
// after the last one.
type tally struct {
	counts []int32
	calls  atomic.Int32
}

func (c *tally) Do(lo, hi int) {
	c.calls.Add(1)
	for i := lo; i < hi; i++ {
		c.counts[i]++
	}
}

func (c *tally) check(t *testing.T) {
	t.Helper()
	for i, n := range c.counts {
		if n != 1 {
			t.Fatalf("unit %d of %d was computed %d times", i, len(c.counts), n)
		}
	}
}

func TestRunComputesEveryUnitOnce(t *testing.T) {
	for _, n := range []int{-1, 0, 1, 2, 3, 8} {
		p := New(n)
		for _, units := range []int{0, 1, 2, 3, 7, 64, 1000, 4096} {
			for _, grain := range []int{-5, 0, 1, 2, 3, 64, 5000} {
				c := &tally{counts: make([]int32, units)}
				p.Run(c, units, grain)
				c.check(t)
			}
		}
		p.Close()
	}
}

func TestSmallTaskIsOneCallInline(t *testing.T) {
	p := New(4)
	defer p.Close()
	c := &tally{counts: make([]int32, 127)}
	p.Run(c, 127, 64)
	c.check(t)
	if n := c.calls.Load(); n != 1 {
		t.Errorf("127 units at a grain of 64 took %d calls of Do, want 1", n)
	}
}

// gate is a task whose units wait until `want` of them run at the same time.
type gate struct {
	want    int32
	running atomic.Int32
	open    chan struct{}
}

func (g *gate) Do(lo, hi int) {
	if g.running.Add(1) == g.want {
		close(g.open)
	}
	<-g.open
}

// TestHelpersTakePart hangs (and fails by the time limit of go test) if the
// caller and all helpers do not compute at the same time.
func TestHelpersTakePart(t *testing.T) {
	for _, n := range []int{2, 4} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p := New(n)
			defer p.Close()
			waitIdle(p, n-1)
			g := &gate{want: int32(n), open: make(chan struct{})}
			p.Run(g, n, 1)
		})
	}
}

// waitIdle returns once n helpers are parked: each accepts a job without work.
func waitIdle(p *Pool, n int) {
	for range n {
		j := &job{done: make(chan struct{}, 1)}
		j.begin(nil, 0, 1)
		j.refs.Store(2) // never returned to the pool
		p.offers <- j
	}
	// They park again soon after; an offer that finds none is not an error but
	// would make the test hang, so give them time.
	time.Sleep(20 * time.Millisecond)
}

// TestSmallRequestPassesLargeOne holds every helper inside a large task and
// shows that other requests, small and large, still complete.
func TestSmallRequestPassesLargeOne(t *testing.T) {
	p := New(3)
	defer p.Close()
	waitIdle(p, 2)
	hold := &gate{want: 4, open: make(chan struct{})}
	finished := make(chan struct{})
	go func() {
		p.Run(hold, 3, 1) // caller and both helpers, all stuck
		close(finished)
	}()
	for hold.running.Load() != 3 {
		time.Sleep(time.Millisecond)
	}
	for _, units := range []int{1, 1000} {
		c := &tally{counts: make([]int32, units)}
		p.Run(c, units, 8)
		c.check(t)
	}
	// Only the first task found idle helpers.
	if s := p.Stats(); s != (Stats{Helpers: 2, Busy: 2, Split: 2, Shared: 1}) {
		t.Errorf("while all helpers are busy: %+v", s)
	}
	hold.Do(0, 1) // the fourth opens the gate
	<-finished
}

func TestManyCallers(t *testing.T) {
	p := New(4)
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(1, uint64(caller)))
			for range 200 {
				c := &tally{counts: make([]int32, rnd.IntN(600))}
				p.Run(c, len(c.counts), rnd.IntN(40))
				c.check(t)
			}
		}()
	}
	wg.Wait()
	p.Close()
	if got, want := len(p.free), cap(p.free); got != want {
		t.Errorf("%d of %d jobs came back", got, want)
	}
}

func TestCloseWhileRunning(t *testing.T) {
	p := New(4)
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 300 {
				c := &tally{counts: make([]int32, 100)}
				p.Run(c, 100, 1)
				c.check(t)
			}
		}()
	}
	p.Close()
	p.Close()
	wg.Wait()
	c := &tally{counts: make([]int32, 100)}
	p.Run(c, 100, 1)
	c.check(t)
}

// bomb panics in the slice that holds unit 0 while helpers compute the others.
type bomb struct {
	tally
	active atomic.Int32
}

func (b *bomb) Do(lo, hi int) {
	b.active.Add(1)
	defer b.active.Add(-1)
	if lo == 0 {
		panic("unit 0")
	}
	time.Sleep(time.Millisecond)
	b.tally.Do(lo, hi)
}

func TestPanicOfCallerWaitsForHelpers(t *testing.T) {
	p := New(3)
	defer p.Close()
	for range 20 {
		b := &bomb{tally: tally{counts: make([]int32, 50)}}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic of the task was lost")
				}
			}()
			// Whoever claims unit 0 panics. A helper's panic would end the
			// process, so claim it as the caller before anybody is recruited.
			j := p.take()
			j.begin(b, 50, 1)
			defer func() { j.settle(); p.put(j) }()
			j.next.Store(1)
			j.callerClaimed = 1
			p.offer(j)
			b.Do(0, 1)
		}()
		if n := b.active.Load(); n != 0 {
			t.Fatalf("%d helpers still work on the task after Run", n)
		}
	}
}

func TestRunDoesNotAllocate(t *testing.T) {
	p := New(2)
	defer p.Close()
	c := &tally{counts: make([]int32, 4096)}
	if n := testing.AllocsPerRun(200, func() { p.Run(c, 4096, 64) }); n != 0 {
		t.Errorf("a split Run allocates %v times", n)
	}
	if n := testing.AllocsPerRun(200, func() { p.Run(c, 64, 64) }); n != 0 {
		t.Errorf("an inline Run allocates %v times", n)
	}
}

// spinner is a task whose units take longer than yieldAfter each.
type spinner struct{ units atomic.Int32 }

func (s *spinner) Do(lo, hi int) {
	for start := time.Now(); time.Since(start) < yieldAfter; {
	}
	s.units.Add(int32(hi - lo))
}

// TestLargeTaskYields has one processor for a large task and a goroutine that
// counts its own turns. It gets one after every slice, or every second one while
// a helper competes; if Run did not yield it would get one in 10 ms, which is 50
// slices.
func TestLargeTaskYields(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, n := range []int{1, 2} {
		p := New(n)
		var turns atomic.Int32
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					turns.Add(1)
					runtime.Gosched()
				}
			}
		}()
		s := &spinner{}
		p.Run(s, 200, 1)
		got := turns.Load()
		close(stop)
		<-stopped
		p.Close()
		if s.units.Load() != 200 || got < 50 {
			t.Errorf("pool of %d: another goroutine had %d turns in %d slices, want at least 50", n, got, s.units.Load())
		}
	}
}
