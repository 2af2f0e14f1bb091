// SPDX-License-Identifier: Apache-2.0

// Command nbd compares luksgate's NBD server with others: one connection over a unix socket, plaintext in memory, the
// same client (fio's nbd engine), in turns, so that what else the machine does hits all of them.
//
// The ceiling among them is no server, but what this client can do at the best (bench/nbd/ceiling): where luksgate is at
// 1.00 of it, a larger ratio to anything else cannot be measured with it.
//
// It prints medians, ratios to the goals, and the server's own processor time for each request. It needs fio with the
// nbd engine, nbdkit, qemu-nbd, nbdcopy and a C compiler.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// workload is one fio job.
type workload struct {
	rw    string
	block string
	depth int
	// goals are ratios of luksgate to the server of that name; below 1 they are for latency.
	goals map[string]float64
}

var workloads = []workload{
	{"randread", "4k", 16, map[string]float64{"nbdkit": 1.3, "qemu-nbd": 2.5}},
	{"randwrite", "4k", 16, map[string]float64{"nbdkit": 1.3, "qemu-nbd": 2.5}},
	{"randread", "64k", 16, map[string]float64{"nbdkit": 1.2}},
	{"randwrite", "64k", 16, map[string]float64{"nbdkit": 1.2}},
	{"randread", "1m", 8, map[string]float64{"nbdkit": 1.2}},
	{"randwrite", "1m", 8, map[string]float64{"nbdkit": 1.2}},
	{"randread", "4k", 1, map[string]float64{"nbdkit": 0.7}},
	{"randwrite", "4k", 1, map[string]float64{"nbdkit": 0.7}},
}

func (w workload) String() string { return fmt.Sprintf("%s %s depth %d", w.rw, w.block, w.depth) }

// latency says that the goal is about the median latency, not the rate.
func (w workload) latency() bool { return w.depth == 1 }

func main() {
	rounds := flag.Int("rounds", 5, "rounds over all servers for each workload")
	seconds := flag.Int("seconds", 2, "seconds of one run")
	only := flag.String("only", "", "only workloads whose name contains it")
	servers := flag.String("servers", "", "only these servers, comma-separated")
	check := flag.Bool("check", false, "exit with 1 when a goal is missed")
	flag.Parse()
	// A signal ends the servers and removes their images, which are in memory.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	missed, err := bench(ctx, *rounds, *seconds, *only, *servers)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/nbd:", err)
		os.Exit(1)
	}
	if *check && missed > 0 {
		os.Exit(1)
	}
}

// median of a list that is not empty.
func median(list []float64) float64 {
	s := slices.Clone(list)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
