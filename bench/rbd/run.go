// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/luksgate/luksgate/bench/fio"
)

// run has fio's nbd engine send the requests.
func (s *server) run(w workload, d time.Duration) (sample, error) {
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	x, requests, err := runFio(w, d, "--ioengine=nbd", "--uri="+s.uri())
	if err != nil {
		return sample{}, err
	}
	after, err := s.cpu()
	x.serverMicros = (after - before).Seconds() * 1e6 / requests
	return x, err
}

// fioRBD has fio's rbd engine do the requests in its own process. The bytes are plain: this fio knows no encryption.
func (l *lab) fioRBD(image string, w workload, d time.Duration) (sample, error) {
	x, _, err := runFio(w, d, "--ioengine=rbd", "--clientname=admin", "--pool="+l.pool, "--rbdname="+image)
	x.loopMicros, x.clientMicros = x.clientMicros, 0
	return x, err
}

// native does the requests with luksgate's engine in a process of bench/rbd/driver.
func (l *lab) native(image string, w workload, d time.Duration) (sample, error) {
	return inProcess(l.dir+"/driver", "-pool", l.pool, "-image", image, "-key-file", l.key,
		fmt.Sprintf("-write=%t", w.write), fmt.Sprintf("-block=%d", w.blockBytes), fmt.Sprintf("-depth=%d", w.depth),
		fmt.Sprintf("-size=%d", dataBytes), fmt.Sprintf("-duration=%v", d))
}

// loop does the requests with librbd in a process of bench/rbd/loop.
func (l *lab) loop(keyFile string) func(image string, w workload, d time.Duration) (sample, error) {
	return func(image string, w workload, d time.Duration) (sample, error) {
		return inProcess(l.dir+"/loop", l.pool, image, keyFile, strings.TrimPrefix(w.rw(), "rand"), strconv.Itoa(w.blockBytes),
			strconv.Itoa(w.depth), strconv.Itoa(dataBytes), fmt.Sprint(d.Seconds()))
	}
}

func inProcess(argv ...string) (sample, error) {
	out, _, err := output(argv...)
	if err != nil {
		return sample{}, err
	}
	var r struct {
		IOPS      float64 `json:"iops"`
		P50Micros float64 `json:"p50_us"`
		CPUMicros float64 `json:"cpu_us"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return sample{}, fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	return sample{iops: r.IOPS, p50Micros: r.P50Micros, loopMicros: r.CPUMicros}, nil
}

// runFio runs one job and returns how many requests it made.
func runFio(w workload, d time.Duration, engine ...string) (sample, float64, error) {
	argv := append([]string{"fio", "--name=x", "--rw=" + w.rw(), fmt.Sprintf("--bs=%d", w.blockBytes),
		fmt.Sprintf("--iodepth=%d", w.depth), fmt.Sprintf("--size=%d", dataBytes), "--time_based", "--randrepeat=0",
		fmt.Sprintf("--runtime=%dms", d.Milliseconds()), "--lat_percentiles=1", "--clat_percentiles=0", "--output-format=json"},
		engine...)
	out, cpu, err := output(argv...)
	if err != nil {
		return sample{}, 0, err
	}
	return parse(out, w, cpu)
}

// parse takes the numbers out of fio's output, and returns how many requests there were.
func parse(out []byte, w workload, cpu time.Duration) (sample, float64, error) {
	job, err := fio.Parse(out)
	if err != nil {
		return sample{}, 0, err
	}
	r := job.Read
	if w.write {
		r = job.Write
	}
	if r.Total == 0 {
		return sample{}, 0, fmt.Errorf("fio: it made no requests\n%s", out)
	}
	return sample{iops: r.IOPS, p50Micros: r.Micros("50.000000"), clientMicros: cpu.Seconds() * 1e6 / r.Total}, r.Total, nil
}
