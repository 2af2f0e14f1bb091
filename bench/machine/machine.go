// SPDX-License-Identifier: Apache-2.0

// Package machine says what a benchmark ran on, and what about it makes figures doubtful.
package machine

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/luksgate/luksgate/bench/proc"
	"github.com/luksgate/luksgate/bench/result"
)

// Describe reads what /proc and /sys say; what they do not say is left empty.
func Describe() result.Machine {
	m := result.Machine{
		Processor: field("/proc/cpuinfo", "model name"), Processors: runtime.GOMAXPROCS(0),
		System: strings.Trim(after("/etc/os-release", "PRETTY_NAME="), `"`),
		Kernel: line("/proc/sys/kernel/osrelease"), Hypervisor: hypervisor(),
		Governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
	}
	if m.Processor == "" {
		m.Processor = runtime.GOARCH
	}
	if kib, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.MemoryMiB = kib >> 10
	}
	return m
}

// hypervisor is what the processor says: its flag is always there, a name only where firmware gives one.
func hypervisor() string {
	if !strings.Contains(" "+field("/proc/cpuinfo", "flags")+" ", " hypervisor ") {
		return ""
	}
	if name := line("/sys/class/dmi/id/sys_vendor"); name != "" {
		return name
	}
	return "yes"
}

// line is the first line of a file.
func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(first)
}

// after is what follows a prefix on the first line that has it.
func after(path, prefix string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// field is the value of "name : value".
func field(path, name string) string {
	return strings.TrimSpace(strings.TrimPrefix(after(path, name), ":"))
}

const (
	// settle is how long the machine is looked at before a run.
	settle = 500 * time.Millisecond
	// maxBusyShare of the processors may be at work before a run.
	maxBusyShare = 0.2
)

// A Watch looks at the machine before and after a run.
type Watch struct{ throttledBefore, slowedBefore int64 }

// Before tells what is wrong already. It takes half a second.
func (w *Watch) Before() []string {
	w.throttledBefore, w.slowedBefore = cgroupThrottled(), thermalThrottled()
	var remarks []string
	if g := line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); g != "" && g != "performance" {
		remarks = append(remarks, fmt.Sprintf("the frequency governor is %q: processors change their speed while they are "+
			"measured; %q would keep it", g, "performance"))
	}
	first, err := proc.ReadMachine()
	if err != nil {
		return append(remarks, err.Error())
	}
	time.Sleep(settle)
	second, err := proc.ReadMachine()
	if err != nil {
		return append(remarks, err.Error())
	}
	if d := second.Since(first); d.All > 0 {
		if share := float64(d.Busy) / float64(d.All); share > maxBusyShare {
			remarks = append(remarks, fmt.Sprintf("before the run, other work used %.0f %% of the processors", share*100))
		}
	}
	return remarks
}

// After tells what happened since Before.
func (w *Watch) After() []string {
	var remarks []string
	if n := cgroupThrottled() - w.throttledBefore; n > 0 {
		remarks = append(remarks, fmt.Sprintf("a quota on processor time (cgroup) stopped this process %d times", n))
	}
	if n := thermalThrottled() - w.slowedBefore; n > 0 {
		remarks = append(remarks, fmt.Sprintf("the processors slowed down %d times because they were hot", n))
	}
	return remarks
}

// cgroupThrottled is how often the process's control group (version 2) ran out of its quota.
func cgroupThrottled() int64 {
	group := after("/proc/self/cgroup", "0::")
	if group == "" {
		return 0
	}
	n, err := strconv.ParseInt(after(filepath.Join("/sys/fs/cgroup", group, "cpu.stat"), "nr_throttled "), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// thermalThrottled sums over the processors.
func thermalThrottled() int64 {
	files, err := filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
	if err != nil {
		return 0
	}
	var total int64
	for _, f := range files {
		if n, err := strconv.ParseInt(line(f), 10, 64); err == nil {
			total += n
		}
	}
	return total
}
