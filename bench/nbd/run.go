// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/luksgate/luksgate/bench/fio"
	"github.com/luksgate/luksgate/bench/proc"
	"github.com/luksgate/luksgate/bench/stats"
)

// sample is the outcome of one fio run.
type sample struct {
	iops      float64
	p50Micros float64
	cpuMicros float64 // of the server, for each request
	client    float64 // percent of the time that fio's thread was busy
}

// series are the samples of one server and one workload.
type series struct{ iops, p50, cpu, client []float64 }

func (s *series) add(x sample) {
	s.iops = append(s.iops, x.iops)
	s.p50 = append(s.p50, x.p50Micros)
	s.cpu = append(s.cpu, x.cpuMicros)
	s.client = append(s.client, x.client)
}

// bench runs all workloads and returns how many goals were missed.
func bench(ctx context.Context, o *options) (missed int, err error) {
	var l *lab
	for i := range groups {
		g := &groups[i]
		workloads := slices.DeleteFunc(slices.Clone(g.workloads), func(w workload) bool { return !o.only.MatchString(w.title(g)) })
		if len(workloads) == 0 {
			continue
		}
		if l == nil {
			if l, err = newLab(ctx, o); err != nil {
				return missed, err
			}
			defer l.remove()
		}
		list, stop, err := l.start(ctx, g, o.servers)
		if err != nil {
			return missed, err
		}
		for _, w := range workloads {
			n, err := measure(ctx, o, w.title(g), w, list)
			missed += n
			if err != nil {
				stop()
				return missed, err
			}
		}
		stop()
	}
	return missed, nil
}

// measure runs one workload against all servers in turns, reports, and returns how many goals were missed.
func measure(ctx context.Context, o *options, title string, w workload, list []*contestant) (int, error) {
	if w.depth == 0 {
		return 0, idle(ctx, o, title, w.clients, list)
	}
	stop, err := spin(ctx, w.load)
	if err != nil {
		return 0, err
	}
	defer stop()
	results := make([]series, len(list))
	for range o.rounds {
		for i, c := range list {
			x, err := c.fio(ctx, w, o.runtime)
			if err != nil {
				return 0, fmt.Errorf("%s, %s: %w", c.name, title, err)
			}
			results[i].add(x)
		}
	}
	return report(w, title, list, results), nil
}

// fioTime is how long fio may take besides the time that it measures.
const fioTime = 30 * time.Second

// fio runs one workload against one server.
func (c *contestant) fio(ctx context.Context, w workload, runtime time.Duration) (sample, error) {
	before, err := proc.CPU(c.cmd.Process.Pid)
	if err != nil {
		return sample{}, err
	}
	out, err := output(ctx, runtime+fioTime, "fio", "--name=x", "--ioengine=nbd", "--uri="+c.uri(), "--rw="+w.rw, "--bs="+w.block,
		fmt.Sprintf("--iodepth=%d", w.depth), "--size="+size, "--time_based", "--randrepeat=0",
		fmt.Sprintf("--runtime=%dms", runtime.Milliseconds()), "--lat_percentiles=1", "--clat_percentiles=0",
		fmt.Sprintf("--numjobs=%d", max(w.clients, 1)), "--group_reporting", "--output-format=json")
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
	return sample{d.IOPS, d.Micros("50.000000"), cpu.Seconds() / d.Total * 1e6, job.UserPercent + job.SystemPercent}, nil
}

// report prints a workload's table and returns how many goals it missed.
func report(w workload, title string, list []*contestant, results []series) int {
	fmt.Printf("\n%s\n", title)
	fmt.Printf("  %-10s %10s %12s %14s %14s %s\n", "server", "IOPS", "p50 [us]", "CPU/req [us]", "client busy", "luksgate/server")
	us := slices.IndexFunc(list, func(c *contestant) bool { return c.name == luksgate })
	missed := 0
	for i, c := range list {
		r := results[i]
		line := fmt.Sprintf("  %-10s %10.0f %12.1f %14.2f %12.0f %%", c.name, stats.Median(r.iops), stats.Median(r.p50),
			stats.Median(r.cpu), stats.Median(r.client))
		if us >= 0 && i != us {
			verdict, ok := judge(w, c.name, &results[us], &r)
			if !ok {
				missed++
			}
			line += "  " + verdict
		}
		fmt.Println(line)
	}
	return missed
}

// judge compares luksgate with another server. The ratio is the median of the rounds' ratios, because neighbours in time
// saw the same machine.
func judge(w workload, name string, us, them *series) (string, bool) {
	what, ours, theirs := "rate", us.iops, them.iops
	if w.latency() {
		what, ours, theirs = "p50", us.p50, them.p50
	}
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i] / theirs[i]
	}
	ratio := stats.Median(ratios)
	text := fmt.Sprintf("%.2fx %s, %.2fx CPU", ratio, what, stats.Median(us.cpu)/stats.Median(them.cpu))
	goal, has := w.goals[name]
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
