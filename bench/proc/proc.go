// SPDX-License-Identifier: Apache-2.0

// Package proc asks the kernel for processor time: of one process, and of the whole machine.
package proc

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time that all threads of a process, those that ended among them, have used. pid 0 is this process.
func CPU(pid int) (time.Duration, error) {
	clock := int32(unix.CLOCK_PROCESS_CPUTIME_ID)
	if pid != 0 {
		// The clock of another process: the macro MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel.
		clock = int32(^pid)<<3 | 2
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Machine is what all processors together have done since they started.
type Machine struct {
	// Busy is all but idle and waiting for disks; Stolen is what the hypervisor gave to others.
	Busy, Stolen, All time.Duration
}

// clockTick of /proc/stat: USER_HZ is 100 on every Linux.
const clockTick = time.Second / 100

// ReadMachine reads /proc/stat.
func ReadMachine() (Machine, error) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return Machine{}, err
	}
	defer func() { _ = f.Close() }()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return Machine{}, fmt.Errorf("/proc/stat: %w", err)
	}
	return parseMachine(line)
}

// parseMachine reads the line of all processors: user nice system idle iowait irq softirq steal guest guest_nice.
func parseMachine(line string) (Machine, error) {
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return Machine{}, fmt.Errorf("/proc/stat: unexpected line %q", line)
	}
	var m Machine
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Machine{}, fmt.Errorf("/proc/stat: %w", err)
		}
		d := time.Duration(n) * clockTick
		m.All += d
		switch i {
		case 3, 4: // idle, iowait
		case 7:
			m.Stolen += d
		default:
			m.Busy += d
		}
	}
	return m, nil
}

// Since is what was done after an earlier reading.
func (m Machine) Since(before Machine) Machine {
	return Machine{m.Busy - before.Busy, m.Stolen - before.Stolen, m.All - before.All}
}
