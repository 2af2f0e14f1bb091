// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

// Command driver does the random requests of bench/rbd on one LUKS image with luksgate's engine in its own process,
// without NBD. It prints one line of JSON, as bench/rbd/loop does for librbd.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

// job is what to do.
type job struct {
	pool, image string
	keyFile     string
	write       bool
	blockBytes  int
	depth       int
	sizeBytes   int64
	duration    time.Duration
}

// Result is what is printed.
type Result struct {
	IOPS      float64 `json:"iops"`
	P50Micros float64 `json:"p50_us"`
	CPUMicros float64 `json:"cpu_us"` // of this process, for each request
}

func main() {
	var j job
	flag.StringVar(&j.pool, "pool", "rbd", "pool")
	flag.StringVar(&j.image, "image", "", "image")
	flag.StringVar(&j.keyFile, "key-file", "", "file with the passphrase")
	flag.BoolVar(&j.write, "write", false, "write instead of read")
	flag.IntVar(&j.blockBytes, "block", 4096, "bytes of a request")
	flag.IntVar(&j.depth, "depth", 16, "requests in flight")
	flag.Int64Var(&j.sizeBytes, "size", 256<<20, "bytes of the image that are used")
	flag.DurationVar(&j.duration, "duration", 2*time.Second, "for how long")
	flag.Parse()
	r, err := j.native()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

// result makes a Result of what was counted. It sorts latencies.
func result(requests int, elapsed, cpu time.Duration, latencies []time.Duration) (Result, error) {
	if requests == 0 || len(latencies) == 0 {
		return Result{}, fmt.Errorf("no request came to its end within %v", elapsed)
	}
	slices.Sort(latencies)
	return Result{
		IOPS:      float64(requests) / elapsed.Seconds(),
		P50Micros: float64(latencies[len(latencies)/2]) / 1e3,
		CPUMicros: float64(cpu) / 1e3 / float64(requests),
	}, nil
}
