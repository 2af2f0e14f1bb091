// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"os"
	"testing"
	"time"
)

// TestThreadCPU has this process work, all threads of which have one name.
func TestThreadCPU(t *testing.T) {
	sum := func() (all time.Duration) {
		threads, err := ThreadCPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if len(threads) == 0 {
			t.Fatal("no threads")
		}
		for _, used := range threads {
			all += used
		}
		return all
	}
	before := sum()
	x := uint64(1)
	for sum()-before < 5*time.Millisecond { // ends only where the time counts
		for range 100000 {
			x = x*6364136223846793005 + 1
		}
	}
	if _, err := ThreadCPU(1 << 22); err == nil || x == 0 {
		t.Error("there are threads of a process that cannot be")
	}
}
