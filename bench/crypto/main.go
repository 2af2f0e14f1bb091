// SPDX-License-Identifier: Apache-2.0

// Command crypto compares the sector cipher's kernels with OpenSSL, with
// golang.org/x/crypto/xts and, where the kernel of the system offers it, with
// cryptsetup's benchmark; then it measures the worker pool. Everything runs in
// turns and is compared within a turn, so that what else the machine does hits
// all of them; what is printed are medians.
//
// It needs the openssl program.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "turns over everything")
	turn := flag.Duration("turn", 150*time.Millisecond, "length of one measurement of ours")
	keyBits := flag.Int("key", 256, "AES key size in bits, 128 or 256")
	only := flag.String("only", "", "kernels or pool: only these tables")
	check := flag.Bool("check", false, "exit with 1 when a goal is missed")
	flag.Parse()
	missed, err := run(*rounds, *turn, *keyBits, *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/crypto:", err)
		os.Exit(1)
	}
	if *check && missed > 0 {
		os.Exit(1)
	}
}

// run prints all tables and returns how many goals were missed.
func run(rounds int, turn time.Duration, keyBits int, only string) (missed int, err error) {
	if rounds < 1 || (keyBits != 128 && keyBits != 256) {
		return 0, fmt.Errorf("%d rounds with a key of %d bits: want at least 1, and 128 or 256", rounds, keyBits)
	}
	machine()
	if only != "pool" {
		if missed, err = kernelTable(rounds, turn, keyBits); err != nil {
			return missed, err
		}
		cryptsetup(keyBits)
	}
	if only == "kernels" {
		return missed, nil
	}
	if err := scalingTable(rounds, turn); err != nil {
		return missed, err
	}
	if err := thresholdTable(rounds); err != nil {
		return missed, err
	}
	return missed, latencyTable(rounds)
}

// machine prints what the figures are of.
func machine() {
	fmt.Printf("%s, %s, GOMAXPROCS %d, %s\n", time.Now().Format(time.DateOnly), processorName(), runtime.GOMAXPROCS(0), runtime.Version())
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

// bytesPerSecond calls f for about the given time; one call does so many bytes.
func bytesPerSecond(turn time.Duration, bytesPerCall int, f func()) float64 {
	f()
	batch := max(1, (64<<10)/bytesPerCall)
	calls := 0
	start := time.Now()
	for {
		for range batch {
			f()
		}
		calls += batch
		if passed := time.Since(start); passed >= turn {
			return float64(calls) * float64(bytesPerCall) / passed.Seconds()
		}
	}
}
