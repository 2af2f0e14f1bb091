// SPDX-License-Identifier: Apache-2.0

package workers

import "sync/atomic"

// job is one Run in progress. It is used again and again; refs counts the
// goroutines that may still look at it, so that one which accepts an offer late
// finds the finished job and not the next one.
type job struct {
	task       Task
	units      int64
	sliceUnits int64

	next     atomic.Int64 // first unit nobody has claimed; may exceed units
	finished atomic.Int64 // units computed
	refs     atomic.Int32

	// done gets one value from the helper that finishes the last unit. When the
	// caller itself finishes it, nothing is sent.
	done chan struct{}

	// Both belong to the caller alone.
	callerClaimed int64 // units claimed and not yet counted in finished
	complete      bool  // the caller finished the last unit
}

// begin prepares j for a task, with one reference: the caller's.
func (j *job) begin(task Task, units, sliceUnits int) {
	j.task, j.units, j.sliceUnits = task, int64(units), int64(sliceUnits)
	j.next.Store(0)
	j.finished.Store(0)
	j.callerClaimed, j.complete = 0, false
	j.refs.Store(1)
}

// claim takes the next slice; n is 0 when none is left.
func (j *job) claim() (lo, n int64) {
	lo = j.next.Add(j.sliceUnits) - j.sliceUnits
	return lo, max(min(j.sliceUnits, j.units-lo), 0)
}

// slicesLeft counts the slices that nobody has claimed.
func (j *job) slicesLeft() int64 {
	return max(j.units-j.next.Load()+j.sliceUnits-1, 0) / j.sliceUnits
}

// step computes one slice as the caller and reports whether there was one.
func (j *job) step() bool {
	lo, n := j.claim()
	if n == 0 {
		return false
	}
	j.callerClaimed = n
	j.task.Do(int(lo), int(lo+n))
	j.callerClaimed = 0
	j.complete = j.finished.Add(n) == j.units
	return true
}

// assist computes one slice as a helper and reports whether there was one.
func (j *job) assist() bool {
	lo, n := j.claim()
	if n == 0 {
		return false
	}
	j.task.Do(int(lo), int(lo+n))
	if j.finished.Add(n) == j.units {
		j.done <- struct{}{} // never blocks: capacity 1, one send a job
	}
	return true
}

// settle makes the caller wait for slices that helpers are still computing.
// After a panic in the caller's own slice it first withdraws what is unclaimed.
func (j *job) settle() {
	if j.callerClaimed != 0 {
		unclaimed := max(j.units-j.next.Swap(j.units), 0)
		j.complete = j.finished.Add(j.callerClaimed+unclaimed) == j.units
	}
	if !j.complete {
		<-j.done
	}
}
