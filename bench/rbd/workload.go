// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// The contestants.
const (
	fioRBD       = "fio rbd, plain"
	loopPlain    = "librbd loop, plain"
	loopLibrbd   = "librbd loop, luks2"
	inNative     = "native in process"
	gateNative   = "luksgate native"
	gateLibrbd   = "luksgate librbd"
	qemuNBD      = "qemu-nbd librbd"
	qemuStorage  = "qemu-sd librbd"
	ownCPUMicros = 6.0 // goal for luksgate's own processor time of a 4 KiB request
)

// workload is what every contestant does for a while.
type workload struct {
	write      bool
	blockBytes int
	depth      int
	// goals are the least ratios of luksgate native's rate to that of the contestant of this name.
	goals map[string]float64
}

var workloads = []workload{
	{false, 4 << 10, 16, map[string]float64{qemuNBD: 4, fioRBD: 0.85, loopLibrbd: 0.95}},
	{true, 4 << 10, 16, map[string]float64{qemuNBD: 2.5, fioRBD: 0.85, loopLibrbd: 0.95}},
	{false, 64 << 10, 16, map[string]float64{qemuNBD: 2.5, fioRBD: 0.85, loopLibrbd: 1}},
	{true, 64 << 10, 16, map[string]float64{qemuNBD: 2.5, fioRBD: 0.85, loopLibrbd: 1}},
	{false, 1 << 20, 8, map[string]float64{qemuNBD: 1.5, fioRBD: 0.85, loopLibrbd: 1}},
	{true, 1 << 20, 8, map[string]float64{qemuNBD: 1.5, fioRBD: 0.85, loopLibrbd: 1}},
}

// rw is the name of the direction in fio.
func (w workload) rw() string {
	if w.write {
		return "randwrite"
	}
	return "randread"
}

func (w workload) String() string {
	return fmt.Sprintf("%s %dk depth %d", w.rw(), w.blockBytes>>10, w.depth)
}

func (w workload) named(part string) bool { return strings.Contains(w.String(), part) }

// sample is the outcome of one run.
type sample struct {
	iops      float64
	p50Micros float64
	// Processor time for each request: of the server, of its client, or of who does it all in one process.
	serverMicros, clientMicros, loopMicros float64
	// osdMicros is the cluster's processor time for each request, 0 where its OSDs run elsewhere.
	osdMicros float64
}

// totalMicros is the processor time of all for a request.
func (x sample) totalMicros() float64 {
	return x.serverMicros + x.clientMicros + x.loopMicros + x.osdMicros
}

// series are the samples of one contestant and one workload, one a round.
type series []sample

func (s series) values(f func(sample) float64) []float64 {
	list := make([]float64, len(s))
	for i, x := range s {
		list[i] = f(x)
	}
	return list
}
