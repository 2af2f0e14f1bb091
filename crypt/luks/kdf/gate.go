// SPDX-License-Identifier: Apache-2.0

package kdf

import (
	"container/list"
	"context"
	"runtime"
	"sync"
)

// Gate bounds the key derivations at work at once: their number and the sum of their memory. Waiters are served in the
// order in which they came, so that a large one is not starved by small ones. Its methods may be called concurrently.
type Gate struct {
	mu          sync.Mutex
	memoryBytes uint64 // capacity
	runs        int    // capacity
	usedBytes   uint64
	usedRuns    int
	waiters     list.List // of *waiter, first come first
}

// waiter is one Acquire in the queue. ready is closed, with the mutex held, when its share is taken for it.
type waiter struct {
	bytes uint64
	ready chan struct{}
}

// NewGate returns a gate for runs derivations at once that use memoryBytes together. Both are at least 1.
func NewGate(memoryBytes uint64, runs int) *Gate {
	return &Gate{memoryBytes: max(memoryBytes, 1), runs: max(runs, 1)}
}

// processGate is the gate of everybody who brings none: the memory of one derivation by default limits, one run per CPU.
var processGate = sync.OnceValue(func() *Gate {
	return NewGate(DefaultMemoryLimitBytes, runtime.GOMAXPROCS(0))
})

// Acquire waits until a derivation of memoryBytes may start and returns the function that ends it, to be called once. One
// that needs more than the whole gate waits until it is alone. The error is that of ctx.
func (g *Gate) Acquire(ctx context.Context, memoryBytes uint64) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{bytes: min(memoryBytes, g.memoryBytes), ready: make(chan struct{})}
	g.mu.Lock()
	place := g.waiters.PushBack(w)
	g.admit()
	g.mu.Unlock()
	release := func() { g.release(w.bytes) }
	select {
	case <-w.ready:
		return release, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.ready: // its turn came at the same moment: give it back
		g.usedBytes -= w.bytes
		g.usedRuns--
	default:
		g.waiters.Remove(place)
	}
	g.admit()
	return nil, ctx.Err()
}

// release gives a share back.
func (g *Gate) release(bytes uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.usedBytes -= bytes
	g.usedRuns--
	g.admit()
}

// admit starts waiters from the front while they fit. The mutex is held.
func (g *Gate) admit() {
	for e := g.waiters.Front(); e != nil; e = g.waiters.Front() {
		w := e.Value.(*waiter)
		if g.usedRuns >= g.runs || w.bytes > g.memoryBytes-g.usedBytes {
			return
		}
		g.usedBytes += w.bytes
		g.usedRuns++
		g.waiters.Remove(e)
		close(w.ready)
	}
}
