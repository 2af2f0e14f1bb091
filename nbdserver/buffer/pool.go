// SPDX-License-Identifier: Apache-2.0

// Package buffer gives out memory that lives outside the Go heap, within a budget, and moves it through sockets.
//
// A [Pool] maps anonymous memory in size classes and keeps what comes back for the next request. Everything mapped,
// given out or kept, counts against one budget: who asks for more waits in line. The memory is left out of core dumps,
// because it holds plaintext.
package buffer

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"
)

// Size classes are the powers of two from MinBytes to MaxBytes.
const (
	MinBytes = 16 << 10
	MaxBytes = 64 << 20

	minShift = 14
	classes  = 26 - minShift + 1
)

// ErrTooLarge says that one buffer of that size can never be had.
var ErrTooLarge = errors.New("buffer: larger than the pool gives out")

// errClosed is what waiters get when the pool is closed.
var errClosed = errors.New("buffer: pool is closed")

// Buffer is memory with one owner. Whoever has it may use Bytes until Release, from one goroutine at a time.
type Buffer struct {
	mem  []byte
	pool *Pool
	next *Buffer // in the pool's list of its class
	free bool    // guarded by pool.mu
}

// Bytes is the whole buffer: at least as long as what was asked for, with undefined content.
func (b *Buffer) Bytes() []byte { return b.mem }

// Release gives the buffer back. Releasing it twice is a mistake of the caller that panics.
func (b *Buffer) Release() { b.pool.put(b) }

// Pool is a bounded set of buffers. Its methods may be called by many goroutines at once.
type Pool struct {
	budgetBytes int64

	mu       sync.Mutex
	free     [classes]*Buffer
	used     int64 // bytes given out
	kept     int64 // bytes in free lists
	waiters  waitList
	poison   bool
	closed   bool
	waitings uint64
}

// waiter is somebody who waits for a buffer of one class.
type waiter struct {
	class int
	got   *Buffer
	ready chan struct{}
	next  *waiter
}

// waitList is first come, first served, so that a large buffer is not starved by small ones.
type waitList struct{ head, tail *waiter }

// New returns a pool that maps at most budgetBytes. A budget below the largest buffer anyone asks for makes such requests
// fail with ErrTooLarge.
func New(budgetBytes int64) *Pool { return &Pool{budgetBytes: budgetBytes} }

// Poison makes the pool overwrite what comes back, so that tests find use after release.
func (p *Pool) Poison() {
	p.mu.Lock()
	p.poison = true
	p.mu.Unlock()
}

// Stats is a pool's state in bytes.
type Stats struct {
	BudgetBytes int64
	UsedBytes   int64 // given out
	KeptBytes   int64 // mapped and free
	Waiting     int   // who waits now
	Waited      uint64
}

// Stats returns the state.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{BudgetBytes: p.budgetBytes, UsedBytes: p.used, KeptBytes: p.kept, Waited: p.waitings}
	for w := p.waiters.head; w != nil; w = w.next {
		s.Waiting++
	}
	return s
}

// SizeBytes is what a buffer for n bytes counts against the budget.
func SizeBytes(n int) int64 { return int64(1) << (classOf(n) + minShift) }

func classOf(n int) int {
	if n <= MinBytes {
		return 0
	}
	return bits.Len(uint(n-1)) - minShift
}

// TryGet returns a buffer of at least n bytes, or nil if that would mean to wait or cannot be had.
func (p *Pool) TryGet(n int) *Buffer {
	if n > MaxBytes {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.waiters.head != nil {
		return nil
	}
	b, _ := p.take(classOf(n))
	return b
}

// Get returns a buffer of at least n bytes and waits for one if need be.
func (p *Pool) Get(ctx context.Context, n int) (*Buffer, error) {
	if n > MaxBytes || SizeBytes(n) > p.budgetBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
	}
	class := classOf(n)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed
	}
	if p.waiters.head == nil {
		b, err := p.take(class)
		if b != nil || err != nil {
			p.mu.Unlock()
			return b, err
		}
	}
	w := &waiter{class: class, ready: make(chan struct{})}
	p.waiters.push(w)
	p.waitings++
	p.mu.Unlock()
	return p.wait(ctx, w)
}

func (p *Pool) wait(ctx context.Context, w *waiter) (*Buffer, error) {
	select {
	case <-w.ready:
	case <-ctx.Done():
		p.mu.Lock()
		p.waiters.remove(w)
		if w.got != nil { // both happened
			p.release(w.got)
		}
		p.serve()
		p.mu.Unlock()
		return nil, ctx.Err()
	}
	if w.got == nil {
		return nil, errClosed
	}
	return w.got, nil
}

// take returns a buffer of the class if there is one or the budget has room for one; p.mu is held.
func (p *Pool) take(class int) (*Buffer, error) {
	size := int64(1) << (class + minShift)
	if b := p.free[class]; b != nil {
		p.free[class], b.next, b.free = b.next, nil, false
		p.kept -= size
		p.used += size
		return b, nil
	}
	if p.used+size > p.budgetBytes {
		return nil, nil
	}
	p.evict(p.used + p.kept + size - p.budgetBytes)
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("buffer: map %d bytes: %w", size, err)
	}
	// Best effort: a kernel without it only makes core dumps larger, and the program turns those off anyway.
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	p.used += size
	return &Buffer{mem: mem, pool: p}, nil
}

// evict unmaps free buffers, large ones first, until n bytes are gone; p.mu is held.
func (p *Pool) evict(n int64) {
	for class := classes - 1; class >= 0 && n > 0; class-- {
		for b := p.free[class]; b != nil && n > 0; b = p.free[class] {
			p.free[class] = b.next
			size := int64(len(b.mem))
			p.kept -= size
			n -= size
			unmap(b)
		}
	}
}

func unmap(b *Buffer) {
	mem := b.mem
	b.mem, b.next = nil, nil
	if err := unix.Munmap(mem); err != nil {
		panic(fmt.Sprintf("buffer: BUG: munmap of own mapping: %v", err))
	}
}

func (p *Pool) put(b *Buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(b)
	if p.waiters.head != nil {
		p.serve()
	}
}

// release puts a buffer back into its list; p.mu is held.
func (p *Pool) release(b *Buffer) {
	if b.free || b.mem == nil {
		panic("buffer: BUG: released twice")
	}
	size := int64(len(b.mem))
	class := classOf(len(b.mem))
	b.free = true
	p.used -= size
	if p.poison {
		for i := range b.mem {
			b.mem[i] = 0xDB
		}
	}
	if p.closed {
		unmap(b)
		return
	}
	b.next, p.free[class] = p.free[class], b
	p.kept += size
}

// serve gives buffers to those who wait, in their order; p.mu is held.
func (p *Pool) serve() {
	for w := p.waiters.head; w != nil; w = p.waiters.head {
		b, err := p.take(w.class)
		if b == nil && (err == nil || p.used > 0) {
			return
		}
		p.waiters.pop()
		w.got = b
		close(w.ready)
	}
}

// Close unmaps what is free, now, and what is in use when it comes back. Who waits gets an error.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.evict(p.kept)
	for w := p.waiters.pop(); w != nil; w = p.waiters.pop() {
		close(w.ready)
	}
}

// Trim unmaps what is free, for quiet times.
func (p *Pool) Trim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.evict(p.kept)
}

func (l *waitList) push(w *waiter) {
	if l.tail == nil {
		l.head, l.tail = w, w
		return
	}
	l.tail.next = w
	l.tail = w
}

func (l *waitList) pop() *waiter {
	w := l.head
	if w == nil {
		return nil
	}
	l.head = w.next
	if l.head == nil {
		l.tail = nil
	}
	return w
}

func (l *waitList) remove(gone *waiter) {
	var prev *waiter
	for w := l.head; w != nil; prev, w = w, w.next {
		if w != gone {
			continue
		}
		if prev == nil {
			l.pop()
			return
		}
		prev.next = w.next
		if l.tail == w {
			l.tail = prev
		}
		return
	}
}
