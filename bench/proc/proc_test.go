// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"os"
	"testing"
	"time"
)

func TestCPUCountsThisProcess(t *testing.T) {
	before, err := CPU(0)
	if err != nil {
		t.Fatal(err)
	}
	x := uint64(1)
	for at := before; at-before < 20*time.Millisecond; {
		for range 100000 {
			x = x*6364136223846793005 + 1
		}
		if at, err = CPU(os.Getpid()); err != nil { // by its number, as another process would be asked for
			t.Fatal(err)
		}
	}
	after, err := CPU(0)
	if err != nil || after-before < 20*time.Millisecond || x == 0 {
		t.Errorf("20 ms of work count as %v (%v)", after-before, err)
	}
	if _, err := CPU(1 << 22); err == nil {
		t.Error("there is processor time of a process that cannot be")
	}
}

func TestMachine(t *testing.T) {
	m, err := parseMachine("cpu  100 10 50 1000 20 5 5 30 7 0\n")
	if want := (Machine{1700 * time.Millisecond, 300 * time.Millisecond, 12200 * time.Millisecond}); err != nil || m != want {
		t.Errorf("got %+v, %v; expected %+v", m, err, want)
	}
	for _, line := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 7 x"} {
		if _, err := parseMachine(line); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
	before, err := ReadMachine()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	after, err := ReadMachine()
	if d := after.Since(before); err != nil || d.All <= 0 {
		t.Errorf("after 50 ms: %+v, %v", d, err)
	}
}
