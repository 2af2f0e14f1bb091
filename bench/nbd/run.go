// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/luksgate/luksgate/bench/fio"
	"github.com/luksgate/luksgate/bench/proc"
)

// sample is the outcome of one fio run.
type sample struct {
	iops      float64
	p50Micros float64
	cpuMicros float64 // of the server, for each request
}

// series are the samples of one server and one workload.
type series struct{ iops, p50, cpu []float64 }

func (s *series) add(x sample) {
	s.iops = append(s.iops, x.iops)
	s.p50 = append(s.p50, x.p50Micros)
	s.cpu = append(s.cpu, x.cpuMicros)
}

// bench runs all workloads and returns how many goals were missed.
func bench(ctx context.Context, rounds, seconds int, only, servers string) (int, error) {
	dir, err := os.MkdirTemp("/dev/shm", "luksgate-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	list, stop, err := startAll(ctx, dir, servers)
	if err != nil {
		return 0, err
	}
	defer stop()
	missed := 0
	for _, w := range workloads {
		if !strings.Contains(w.String(), only) {
			continue
		}
		results := make([]series, len(list))
		for range rounds {
			for i, c := range list {
				x, err := c.fio(ctx, w, seconds)
				if err != nil {
					return missed, fmt.Errorf("%s, %s: %w", c.name, w, err)
				}
				results[i].add(x)
			}
		}
		missed += report(w, list, results)
	}
	return missed, nil
}

// fio runs one workload against one server.
func (c *contestant) fio(ctx context.Context, w workload, seconds int) (sample, error) {
	before, err := proc.CPU(c.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	cmd := exec.CommandContext(ctx, "fio", "--name=x", "--ioengine=nbd", "--uri="+c.uri(), "--rw="+w.rw, "--bs="+w.block,
		fmt.Sprintf("--iodepth=%d", w.depth), fmt.Sprintf("--size=%d", sizeBytes), "--time_based", "--randrepeat=0",
		fmt.Sprintf("--runtime=%d", seconds), "--lat_percentiles=1", "--clat_percentiles=0", "--output-format=json")
	out, err := cmd.Output()
	if err != nil {
		return sample{}, fmt.Errorf("fio: %w\n%s", err, out)
	}
	after, err := proc.CPU(c.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	return parse(out, w, after-before)
}

// parse takes the numbers out of fio's output.
func parse(out []byte, w workload, cpu time.Duration) (sample, error) {
	job, err := fio.Parse(out)
	if err != nil {
		return sample{}, err
	}
	d := job.Read
	if strings.Contains(w.rw, "write") {
		d = job.Write
	}
	if d.Total == 0 {
		return sample{}, fmt.Errorf("fio: it made no requests\n%s", out)
	}
	return sample{d.IOPS, d.Micros("50.000000"), cpu.Seconds() / d.Total * 1e6}, nil
}

// report prints a workload's table and returns how many goals it missed.
func report(w workload, list []*contestant, results []series) int {
	fmt.Printf("\n%s\n", w)
	fmt.Printf("  %-10s %10s %12s %14s %s\n", "server", "IOPS", "p50 [us]", "CPU/req [us]", "luksgate/server")
	us := slices.IndexFunc(list, func(c *contestant) bool { return c.name == "luksgate" })
	missed := 0
	for i, c := range list {
		r := results[i]
		line := fmt.Sprintf("  %-10s %10.0f %12.1f %14.2f", c.name, median(r.iops), median(r.p50), median(r.cpu))
		if us >= 0 && i != us {
			verdict, ok := judge(w, c.name, &results[us], &r)
			if !ok {
				missed++
			}
			line += " " + verdict
		}
		fmt.Println(line)
	}
	return missed
}

// judge compares luksgate with another server. The ratio is the median of the rounds' ratios, because neighbours in time
// saw the same machine.
func judge(w workload, name string, us, them *series) (string, bool) {
	var ratios []float64
	for i := range us.iops {
		if w.latency() {
			ratios = append(ratios, us.p50[i]/them.p50[i])
		} else {
			ratios = append(ratios, us.iops[i]/them.iops[i])
		}
	}
	ratio := median(ratios)
	goal, has := w.goals[name]
	what := "rate"
	if w.latency() {
		what = "p50"
	}
	text := fmt.Sprintf("%.2fx %s, %.2fx CPU", ratio, what, median(us.cpu)/median(them.cpu))
	if !has {
		return text, true
	}
	ok := ratio >= goal
	sign := ">="
	if w.latency() {
		ok, sign = ratio <= goal, "<="
	}
	verdict := "reached"
	if !ok {
		verdict = "MISSED"
	}
	return fmt.Sprintf("%s (goal %s %.2f: %s)", text, sign, goal, verdict), ok
}
