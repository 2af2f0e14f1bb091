// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#cgo LDFLAGS: -lrbd -lrados -ldl
#include <stdlib.h>
#include "shim.h"

#cgo noescape lg_take
#cgo nocallback lg_take
#cgo noescape lg_submit
#cgo nocallback lg_submit
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxInFlight bounds the requests of one cluster connection; further ones wait for a place.
	maxInFlight = 1024
	// batch is how many completions one call fetches at the most.
	batch = 64
)

// A queue owns the requests of a cluster connection and the goroutine that collects what is done.
type queue struct {
	c        *C.lg_queue
	event    *os.File      // eventfd that says that something is done
	requests *C.lg_request // array of maxInFlight
	slots    [maxInFlight]slot
	done     chan struct{} // closed when the collector has ended

	mu    sync.Mutex
	freed sync.Cond
	free  *slot // last used first: it is in the processor's cache
}

// A slot is the Go side of one request. Whoever took it from the free list owns it.
type slot struct {
	c      *C.lg_request
	pinner runtime.Pinner // keeps Go memory in place while librbd uses it
	result int64
	wake   chan struct{}
	next   *slot // in the free list
	async  async
	since  atomic.Int64 // when it was submitted, in nanoseconds of the clock below; 0: it is not in flight
}

func newQueue() (*queue, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("rbd: eventfd: %w", err)
	}
	q := &queue{
		c: C.lg_queue_new(C.int(fd)), event: os.NewFile(uintptr(fd), "eventfd"),
		done: make(chan struct{}),
	}
	q.freed.L = &q.mu
	if q.c != nil {
		q.requests = C.lg_requests_new(q.c, maxInFlight)
	}
	if q.requests == nil {
		C.lg_queue_free(q.c)
		return nil, errors.Join(errors.New("rbd: out of memory"), q.event.Close())
	}
	requests := unsafe.Slice(q.requests, maxInFlight)
	for i := range q.slots {
		s := &q.slots[i]
		s.c = &requests[i]
		s.wake = make(chan struct{}, 1)
		s.next, q.free = q.free, s
	}
	go q.collect()
	return q, nil
}

// take returns a free slot, and waits for one if need be.
func (q *queue) take() *slot {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.free == nil {
		q.freed.Wait()
	}
	s := q.free
	q.free, s.next = s.next, nil
	return s
}

// put gives back a slot whose operation has ended.
func (q *queue) put(s *slot) {
	s.since.Store(0)
	// Emptied while the slices are still held: when the next request overwrites these pointers, the garbage collector may
	// look at the old ones, and must not find memory that it has freed meanwhile (TestBuffersThatAreCollected).
	for i := range s.c.iov_count {
		s.c.iov[i].iov_base = nil
	}
	s.c.iov_count = 0
	s.pinner.Unpin()
	s.async = async{}
	q.mu.Lock()
	s.next, q.free = q.free, s
	q.mu.Unlock()
	q.freed.Signal()
}

// fill lays iov, at most LG_MAX_IOV slices, into the request, and returns how many bytes it has. It may lie in Go memory,
// which is pinned meanwhile.
func (s *slot) fill(iov [][]byte) (bytes int64) {
	for i, b := range iov {
		p := unsafe.Pointer(unsafe.SliceData(b))
		s.pinner.Pin(p)
		s.c.iov[i] = C.struct_iovec{iov_base: p, iov_len: C.size_t(len(b))}
		bytes += int64(len(b))
	}
	s.c.iov_count = C.int32_t(len(iov))
	return bytes
}

// submit starts the operation. Where the result is not 0 it was not started.
func (s *slot) submit(image C.rbd_image_t, op C.int, offsetBytes, lengthBytes int64) C.int {
	s.since.Store(int64(time.Since(epoch)))
	return C.lg_submit(image, s.c, op, C.uint64_t(offsetBytes), C.uint64_t(lengthBytes))
}

// collect ends what nobody waits for and wakes the owners of everything else that is done, until close. The poller's
// registration of the eventfd is edge-triggered, so that nothing needs to be read from it.
func (q *queue) collect() {
	defer close(q.done)
	raw, err := q.event.SyscallConn()
	if err != nil {
		panic("BUG: the eventfd is closed: " + err.Error())
	}
	var slots [batch]C.uint32_t
	var results [batch]C.int64_t
	var waiting senders
	for {
		n := 0
		err := raw.Read(func(uintptr) bool {
			n = int(C.lg_take(q.c, &slots[0], &results[0], batch))
			return n > 0
		})
		if err != nil {
			return // closed
		}
		for i := range n {
			s := &q.slots[slots[i]]
			if s.async.done != nil {
				waiting.add(q.end(s, int64(results[i])))
				continue
			}
			s.result = int64(results[i])
			s.wake <- struct{}{}
		}
		waiting.send()
	}
}

// do runs one operation on image and returns librbd's result. iov has at most LG_MAX_IOV slices.
func (q *queue) do(image C.rbd_image_t, op C.int, iov [][]byte, offsetBytes, lengthBytes int64) (int64, error) {
	s := q.take()
	s.fill(iov)
	return q.await(s, s.submit(image, op, offsetBytes, lengthBytes))
}

// await waits for an operation, of which started is not 0 where it was not started, and frees its slot.
func (q *queue) await(s *slot, started C.int) (int64, error) {
	result := int64(started)
	if started == 0 {
		<-s.wake
		result = s.result
	}
	q.put(s)
	if result < 0 {
		return 0, syscall.Errno(-result)
	}
	return result, nil
}

// epoch is the zero of slot.since.
var epoch = time.Now()

// waiting counts the requests that have been in flight longer than limit, and tells how long the oldest of all has.
func (q *queue) waiting(limit time.Duration) (n int, oldest time.Duration) {
	now := time.Since(epoch)
	for i := range q.slots {
		since := time.Duration(q.slots[i].since.Load())
		if since == 0 {
			continue
		}
		oldest = max(oldest, now-since)
		if now-since > limit {
			n++
		}
	}
	return n, oldest
}

// close ends the collector. Nothing is in flight any more.
func (q *queue) close() {
	_ = q.event.Close()
	<-q.done
	C.free(unsafe.Pointer(q.requests))
	C.lg_queue_free(q.c)
}
