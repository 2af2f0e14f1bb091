// SPDX-License-Identifier: Apache-2.0

// Command rbd compares luksgate with others on RBD images of a Ceph cluster: the same requests, in turns, so that what
// else the machine does hits all of them. deploy/devcluster/with-cluster gives it a cluster; it takes the one of $CEPH_CONF.
//
// Every contestant has an image of its own with the same fully written content, in a pool of its own that is removed
// afterwards: "plain" ones hold no encryption, all others are LUKS2 with AES-256. It prints medians, ratios to the goals,
// and the processor time for each request of all processes at this end of the cluster.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

// options of a run.
type options struct {
	rounds  int
	seconds float64
	only    string
	peers   string
	check   bool
	// luksgate is the program to measure; empty: built here.
	luksgate string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds over all contestants for each workload")
	flag.Float64Var(&o.seconds, "seconds", 2, "seconds of one run")
	flag.StringVar(&o.only, "only", "", "only workloads whose name contains it, for example 'randread 4k'")
	flag.StringVar(&o.peers, "peers", "", "only these contestants, comma-separated")
	flag.StringVar(&o.luksgate, "luksgate", "", "measure this program instead of one that is built from here")
	flag.BoolVar(&o.check, "check", false, "exit with 1 when a goal is missed")
	flag.Parse()
	missed, err := bench(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/rbd:", err)
		os.Exit(1)
	}
	if o.check && missed > 0 {
		os.Exit(1)
	}
}

// bench prepares, runs all workloads and returns how many goals were missed.
func bench(o options) (missed int, err error) {
	lab, err := newLab(o.luksgate)
	if err != nil {
		return 0, err
	}
	defer func() {
		if closeErr := lab.close(); err == nil {
			err = closeErr
		}
	}()
	list, err := lab.contestants(o.peers)
	if err != nil {
		return 0, err
	}
	for _, w := range workloads {
		if !w.named(o.only) {
			continue
		}
		results, err := measure(w, list, o)
		if err != nil {
			return missed, err
		}
		missed += report(w, list, results)
	}
	return missed, nil
}

// measure runs one workload on all contestants, in turns; every round begins with another one.
func measure(w workload, list []*contestant, o options) ([]series, error) {
	results := make([]series, len(list))
	for round := range o.rounds {
		for k := range list {
			i := (k + round) % len(list)
			before := osdCPU()
			x, err := list[i].run(w, time.Duration(o.seconds*float64(time.Second)))
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", list[i].name, w, err)
			}
			x.osdMicros = (osdCPU() - before).Seconds() * 1e6 / (x.iops * o.seconds)
			results[i] = append(results[i], x)
		}
	}
	return results, nil
}
