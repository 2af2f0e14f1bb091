// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/bench/guest/measure"
	"github.com/luksgate/luksgate/bench/workload"
)

// A contestant is one way to the plaintext.
type contestant struct {
	name string
	// mapped makes a block device: of the plaintext, or of the image as it is, on which dm-crypt comes then.
	mapped func(device string) error
	crypt  bool
	path   string // where the plaintext is, when it has started
}

// contestants are all of them. Each has one connection between the kernel's NBD client and its server.
func contestants(p measure.Plan) []*contestant {
	return []*contestant{
		{name: "luksgate", mapped: gateway(p, "native")},
		{name: "luksgate, librbd's engine", mapped: gateway(p, "librbd")},
		{name: "luksgate --plain, dm-crypt", mapped: gateway(p, ""), crypt: true},
		{name: "rbd-nbd, dm-crypt", mapped: rbdNBD(p), crypt: true},
		{name: "rbd-nbd, librbd's engine",
			mapped: rbdNBD(p, "--encryption-format", "luks2", "--encryption-passphrase-file", measure.KeyPath)},
	}
}

// gateway exports the image by an engine, or as it is.
func gateway(p measure.Plan, engine string) func(device string) error {
	return func(device string) error {
		socket := "/run/luksgate" + engine + ".sock"
		args := []string{"export", "rbd:" + p.Image, "--ceph-conf", p.Conf, "--socket", socket, "--name", "x"}
		if engine == "" {
			args = append(args, "--plain")
		} else {
			args = append(args, "--engine", engine, "--key-file", measure.KeyPath)
		}
		if err := background(socket, "luksgate", args...); err != nil {
			return err
		}
		return background("/sys/block"+strings.TrimPrefix(device, "/dev")+"/pid", "luksgate", "attach", "--device", device,
			"--uri", "nbd+unix:///x?socket="+socket, "--connections", "1")
	}
}

func rbdNBD(p measure.Plan, more ...string) func(device string) error {
	return func(device string) error {
		return do("rbd-nbd", append([]string{"map", "-c", p.Conf, "--device", device, p.Image}, more...)...)
	}
}

func (c *contestant) start(device string) error {
	if err := c.mapped(device); err != nil || !c.crypt {
		c.path = device
		return err
	}
	name := strings.TrimPrefix(device, "/dev/")
	c.path = "/dev/mapper/" + name
	return do("cryptsetup", "open", "--type", "luks", "--key-file", measure.KeyPath, device, name)
}

// measure does the requests, with the plan's depth, and counts what the guest did meanwhile.
func (c *contestant) measure(p measure.Plan, w measure.Workload, seed uint64) (measure.Result, error) {
	f, err := os.OpenFile(c.path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return measure.Result{}, err
	}
	defer func() { _ = f.Close() }()
	load := workload.Workload{Kind: w.Kind, BlockBytes: w.BlockBytes, Depth: p.Depth, Clients: 1, Images: 1}
	// The exclusive lock of the image comes from whoever wrote before: that is the first part's.
	if err := request(f, load.NewClient(seed+1000, 0, p.SizeBytes), load, w.Requests/4); err != nil {
		return measure.Result{}, err
	}
	before, err := busy()
	if err != nil {
		return measure.Result{}, err
	}
	if err := request(f, load.NewClient(seed, 0, p.SizeBytes), load, w.Requests); err != nil {
		return measure.Result{}, err
	}
	after, err := busy()
	return measure.Result{Contestant: c.name, Workload: w, Instructions: float64(after-before) / float64(w.Requests)}, err
}

// request does so many requests with as many threads as the depth is.
func request(f *os.File, requests workload.Client, load workload.Workload, count int) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, load.Depth)
	for i := range errs {
		wg.Go(func() {
			buf := make([]byte, load.BlockBytes) // Go aligns whole pages as O_DIRECT wants them
			workload.Noise(uint64(i), buf)
			for n := next.Add(1) - 1; n < int64(count) && errs[i] == nil; n = next.Add(1) - 1 {
				r := requests.At(uint64(n))
				if r.Write {
					_, errs[i] = unix.Pwrite(int(f.Fd()), buf, r.OffsetBytes)
				} else {
					_, errs[i] = unix.Pread(int(f.Fd()), buf, r.OffsetBytes)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// busy is how long the only processor was at work, in nanoseconds: the clock without what it slept, waiting for I/O or not.
// /proc/stat has the same, but in hundredths of seconds. The emulator counts time by instructions, one a nanosecond.
func busy() (int64, error) {
	text, err := os.ReadFile("/proc/timer_list")
	if err != nil {
		return 0, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, err
	}
	left := now.Nano()
	for _, name := range []string{"idle_sleeptime", "iowait_sleeptime"} {
		m := regexp.MustCompile(name + `\s*: (\d+) nsecs`).FindSubmatch(text)
		if m == nil {
			return 0, fmt.Errorf("/proc/timer_list has no %s", name)
		}
		slept, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			return 0, err
		}
		left -= slept
	}
	return left, nil
}
