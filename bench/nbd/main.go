// SPDX-License-Identifier: Apache-2.0

// Command nbd compares luksgate's NBD server with others: one connection over a unix socket, the same client (fio's nbd
// engine), in turns, so that what else the machine does hits all of them. There are two groups of servers: plaintext in
// memory, and LUKS images in files on tmpfs.
//
// The ceiling of the first group is no server, but what this client can do at the best (bench/nbd/ceiling): where luksgate
// is at 1.00 of it, a larger ratio to anything else cannot be measured with it.
//
// It prints medians, ratios to the goals, the server's own processor time for each request, how much of the time the
// client was busy, and how much the server allocates for a request. It needs fio with the nbd engine, nbdkit, qemu-nbd,
// nbdcopy, cryptsetup and a C compiler.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// workload is one fio job.
type workload struct {
	rw    string
	block string
	depth int
	// goals are ratios of luksgate to the server of that name; below 1 they are for latency.
	goals map[string]float64
}

// group is servers that do the same work, and what they are asked for.
type group struct {
	name      string
	servers   []server
	workloads []workload
}

var groups = []group{
	{"memory", memoryServers, []workload{
		{"randread", "4k", 16, map[string]float64{nbdkit: 1.3, qemu: 2.5}},
		{"randwrite", "4k", 16, map[string]float64{nbdkit: 1.3, qemu: 2.5}},
		{"randread", "64k", 16, map[string]float64{nbdkit: 1.2}},
		{"randwrite", "64k", 16, map[string]float64{nbdkit: 1.2}},
		{"randread", "1m", 8, map[string]float64{nbdkit: 1.2}},
		{"randwrite", "1m", 8, map[string]float64{nbdkit: 1.2}},
		{"randread", "4k", 1, map[string]float64{nbdkit: 0.7}},
		{"randwrite", "4k", 1, map[string]float64{nbdkit: 0.7}},
	}},
	{"luks", luksServers, []workload{
		{"randread", "4k", 16, map[string]float64{nbdkit: 1.5, qemu: 1.5}},
		{"randwrite", "4k", 16, map[string]float64{nbdkit: 1.5, qemu: 1.5}},
		{"randread", "1m", 8, map[string]float64{nbdkit: 3, qemu: 3}},
		{"randwrite", "1m", 8, map[string]float64{nbdkit: 3, qemu: 3}},
	}},
}

// title names a workload of a group; -only looks for it.
func (w workload) title(g *group) string {
	return fmt.Sprintf("%s: %s %s depth %d", g.name, w.rw, w.block, w.depth)
}

// latency says that the goal is about the median latency, not the rate.
func (w workload) latency() bool { return w.depth == 1 }

// options are the flags.
type options struct {
	rounds  int
	runtime time.Duration
	only    *regexp.Regexp
	servers string
	program string
	beside  string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds over all servers for each workload")
	flag.DurationVar(&o.runtime, "runtime", 2*time.Second, "length of one run")
	only := flag.String("only", "", "only workloads whose name matches this regular expression; \"allocations\" for these alone")
	flag.StringVar(&o.servers, "servers", "", "only these servers, comma-separated")
	flag.StringVar(&o.program, "luksgate", "", "program to measure, instead of building one from this tree")
	flag.StringVar(&o.beside, "beside", "", "another build of luksgate to measure beside this one")
	check := flag.Bool("check", false, "exit with 1 when a goal is missed")
	flag.Parse()
	o.only = regexp.MustCompile(*only)
	// A signal ends the servers and removes their images, which are in memory.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	missed, err := bench(ctx, &o)
	err = errors.Join(err, allocations(ctx, &o))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/nbd:", err)
		os.Exit(1)
	}
	if *check && missed > 0 {
		os.Exit(1)
	}
}
