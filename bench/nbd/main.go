// SPDX-License-Identifier: Apache-2.0

// Command nbd compares luksgate's NBD server with others: one connection over a unix socket, the same client (fio's nbd
// engine), in turns, so that what else the machine does hits all of them. There are three groups of servers: plaintext in
// memory; LUKS images in files on tmpfs; and luksgate with and without looking at its sockets before it sleeps, where there
// are more clients and other work too.
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
	// clients at once, one if it is 0; with depth 0 they are idle.
	clients int
	// load is how many other processes want a processor.
	load int
}

// group is servers that do the same work, and what they are asked for.
type group struct {
	name      string
	servers   []server
	workloads []workload
}

var groups = []group{
	{"memory", memoryServers, []workload{
		{rw: "randread", block: "4k", depth: 16, goals: map[string]float64{nbdkit: 1.3, qemu: 2.5}},
		{rw: "randwrite", block: "4k", depth: 16, goals: map[string]float64{nbdkit: 1.3, qemu: 2.5}},
		{rw: "randread", block: "64k", depth: 16, goals: map[string]float64{nbdkit: 1.2}},
		{rw: "randwrite", block: "64k", depth: 16, goals: map[string]float64{nbdkit: 1.2}},
		{rw: "randread", block: "1m", depth: 8, goals: map[string]float64{nbdkit: 1.2}},
		{rw: "randwrite", block: "1m", depth: 8, goals: map[string]float64{nbdkit: 1.2}},
		{rw: "randread", block: "4k", depth: 1, goals: map[string]float64{nbdkit: 0.7}},
		{rw: "randwrite", block: "4k", depth: 1, goals: map[string]float64{nbdkit: 0.7}},
	}},
	{"luks", luksServers, []workload{
		{rw: "randread", block: "4k", depth: 16, goals: map[string]float64{nbdkit: 1.5, qemu: 1.5}},
		{rw: "randwrite", block: "4k", depth: 16, goals: map[string]float64{nbdkit: 1.5, qemu: 1.5}},
		{rw: "randread", block: "1m", depth: 8, goals: map[string]float64{nbdkit: 3, qemu: 3}},
		{rw: "randwrite", block: "1m", depth: 8, goals: map[string]float64{nbdkit: 3, qemu: 3}},
	}},
	{"polling", pollingServers, []workload{
		{rw: "randread", block: "4k", depth: 1},
		{rw: "randread", block: "4k", depth: 1, clients: 4},
		{rw: "randread", block: "4k", depth: 1, clients: 16},
		{rw: "randread", block: "4k", depth: 1, clients: 64},
		{rw: "randread", block: "4k", depth: 16, clients: 4},
		{rw: "randwrite", block: "64k", depth: 4, clients: 4},
		{rw: "randread", block: "4k", depth: 1, load: 2},
		{rw: "randread", block: "4k", depth: 1, clients: 4, load: 2},
		{rw: "randwrite", block: "64k", depth: 16, load: 2},
		{rw: "nothing", clients: 64},
	}},
}

// title names a workload of a group; -only looks for it.
func (w workload) title(g *group) string {
	s := g.name + ": " + w.rw
	if w.depth > 0 {
		s += fmt.Sprintf(" %s depth %d", w.block, w.depth)
	}
	if w.clients > 0 {
		s += fmt.Sprintf(", %d clients", w.clients)
	}
	if w.load > 0 {
		s += fmt.Sprintf(", %d other processes", w.load)
	}
	return s
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
