// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/luksgate/luksgate/crypt/workers"
	"github.com/luksgate/luksgate/crypt/xts"
)

const poolSectorBytes = 4096

// cryptTask encrypts a buffer in place, one sector a unit.
type cryptTask struct {
	c   *xts.Cipher
	buf []byte
}

func (t *cryptTask) Do(lo, hi int) {
	b := t.buf[lo*poolSectorBytes : hi*poolSectorBytes]
	t.c.Encrypt(b, b, uint64(lo*poolSectorBytes/xts.IVUnitBytes))
}

// newTask returns a task of n bytes on the kernel that New selects.
func newTask(n int) (*cryptTask, error) {
	c, err := xts.New(make([]byte, 64), poolSectorBytes)
	if err != nil {
		return nil, err
	}
	t := &cryptTask{c: c, buf: make([]byte, n)}
	clear(t.buf) // touch the pages
	return t, nil
}

// scalingTable prints how a large request profits from more cores.
func scalingTable(rounds int, turn time.Duration) error {
	const bytes = 4 << 20
	task, err := newTask(bytes)
	if err != nil {
		return err
	}
	defer task.c.Release()
	cores := []int{1, 2, runtime.GOMAXPROCS(0)}
	slices.Sort(cores)
	cores = slices.DeleteFunc(slices.Compact(cores), func(n int) bool { return n > runtime.GOMAXPROCS(0) })
	rates := make([][]float64, len(cores))
	for range rounds {
		for i, n := range cores {
			pool := workers.New(n)
			rates[i] = append(rates[i], bytesPerSecond(turn, bytes, func() {
				pool.Run(task, bytes/poolSectorBytes, grainBytes/poolSectorBytes)
			}))
			pool.Close()
		}
	}
	fmt.Printf("\nworker pool, requests of %d MiB, kernel %s, grain %d KiB\n  cores     GB/s    of one core\n",
		bytes>>20, xts.Kernel(), grainBytes>>10)
	for i, n := range cores {
		ratios := make([]float64, rounds)
		for r := range ratios {
			ratios[r] = rates[i][r] / rates[0][r]
		}
		fmt.Printf("  %5d   %6.2f    %.2fx\n", n, median(rates[i])/1e9, median(ratios))
	}
	return nil
}

// grainBytes is what crypt/volume gives the pool: a request of twice that is the
// smallest which is split.
const grainBytes = 256 << 10

// thresholdTable prints from which size on it is worth to split a request in two,
// with a helper that has just been busy and with one that has gone to sleep.
func thresholdTable(rounds int) error {
	if runtime.GOMAXPROCS(0) < 2 {
		fmt.Println("\nsplit threshold: needs two cores")
		return nil
	}
	pool := workers.New(2)
	defer pool.Close()
	fmt.Printf("\nsplitting a request in two: time of the split one to that of the whole one, µs and ratio\n" +
		"  KiB   helper busy before          helper asleep for 1 ms\n")
	for kib := 16; kib <= 4096; kib *= 2 {
		task, err := newTask(kib << 10)
		if err != nil {
			return err
		}
		fmt.Printf("  %4d", kib)
		for _, pause := range []time.Duration{0, time.Millisecond} {
			whole, split, ratio := splitTimes(rounds, pool, task, pause)
			fmt.Printf("   %7.1f %7.1f  %5.2fx", whole, split, ratio)
		}
		fmt.Println()
		task.c.Release()
	}
	return nil
}

// splitTimes returns median microseconds of a whole and of a split run, taken
// alternately, and the median of their ratios.
func splitTimes(rounds int, pool *workers.Pool, task *cryptTask, pause time.Duration) (whole, split, ratio float64) {
	units := len(task.buf) / poolSectorBytes
	var wholes, splits, ratios []float64
	for range 40 * rounds {
		w := timeOf(pause, func() { pool.Run(task, units, units) })
		s := timeOf(pause, func() { pool.Run(task, units, units/2) })
		wholes, splits, ratios = append(wholes, w), append(splits, s), append(ratios, s/w)
	}
	return median(wholes), median(splits), median(ratios)
}

// latencyTable prints how long a small request takes while others keep all
// processors busy with large ones.
func latencyTable(rounds int) error {
	const largeBytes, smallBytes = 32 << 20, 4 << 10
	large, err := newTask(largeBytes)
	if err != nil {
		return err
	}
	defer large.c.Release()
	small, err := newTask(smallBytes)
	if err != nil {
		return err
	}
	defer small.c.Release()
	pool := workers.New(runtime.GOMAXPROCS(0))
	defer pool.Close()

	fmt.Printf("\na %d KiB request that comes every millisecond, µs from when it is due\n  beside              median   99 %%\n", smallBytes>>10)
	latencies := func(label string) {
		var list []float64
		for range 100 * rounds {
			due := time.Now().Add(time.Millisecond)
			time.Sleep(time.Millisecond)
			pool.Run(small, smallBytes/poolSectorBytes, grainBytes/poolSectorBytes)
			list = append(list, float64(time.Since(due).Nanoseconds())/1e3)
		}
		slices.Sort(list)
		fmt.Printf("  %-16s  %8.1f  %7.1f\n", label, median(list), list[len(list)*99/100])
	}
	latencies("nothing")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				pool.Run(large, largeBytes/poolSectorBytes, grainBytes/poolSectorBytes)
			}
		}
	}()
	latencies(fmt.Sprintf("%d MiB requests", largeBytes>>20))
	close(stop)
	<-stopped
	return nil
}

// timeOf returns the microseconds that f takes after a pause.
func timeOf(pause time.Duration, f func()) float64 {
	if pause > 0 {
		time.Sleep(pause)
	}
	start := time.Now()
	f()
	return float64(time.Since(start).Nanoseconds()) / 1e3
}
