// SPDX-License-Identifier: Apache-2.0

package workers

import (
	"runtime"
	"time"
)

// yieldAfter is how long a goroutine computes before it lets others run on its
// processor, give or take a slice; Go's scheduler alone would wait 10 ms. Less
// would cost too much: where another processor sleeps, yielding wakes it to look
// for work, which takes 10 µs in a virtual machine.
const yieldAfter = 200 * time.Microsecond

// turn is the time for which a goroutine has computed without yielding.
type turn struct{ start time.Time }

func newTurn() turn { return turn{time.Now()} }

func (t *turn) yieldIfOver() {
	if time.Since(t.start) >= yieldAfter {
		t.yield()
	}
}

func (t *turn) yield() {
	runtime.Gosched()
	t.start = time.Now()
}
