// SPDX-License-Identifier: Apache-2.0

// Command latency shows what a network's latency costs NBD clients, and what helps: a server and a client in network
// namespaces of their own, a cable between them on which a round trip takes 0.2, 1 or 5 ms (bench/netem), requests at
// several depths on one and on several connections, and a captured trace that is replayed.
//
// It prints Markdown and, with -svg, writes a drawing. It needs root, and fio for a trace unless -trace names one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/bench/command"
)

// server is where bench/netem puts it.
const server = "192.0.2.1:10809"

// A lab is a run.
type lab struct {
	dir, luksgate string
	rtts          []string // milliseconds, as bench/netem takes them
	rounds        int
	seconds       float64
	trace         string
}

func main() {
	l := lab{}
	rtts := flag.String("rtts", "0.2,1,5", "milliseconds of a round trip, comma-separated")
	flag.IntVar(&l.rounds, "rounds", 3, "rounds of each measurement")
	flag.Float64Var(&l.seconds, "seconds", 0.5, "seconds of one")
	flag.StringVar(&l.luksgate, "luksgate", "", "measure this program instead of one that is built from here")
	flag.StringVar(&l.trace, "trace", "", "replay this trace instead of one that is captured from fio")
	svg := flag.String("svg", "", "file to write the drawing to")
	flag.Parse()
	l.rtts = strings.Split(*rtts, ",")
	command.Main("bench/latency", func(ctx context.Context) error { return l.run(ctx, *svg) })
}

func (l *lab) run(ctx context.Context, svg string) (err error) {
	if l.dir, err = os.MkdirTemp("", "luksgate-latency-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(l.dir)) }()
	if err := l.build(ctx); err != nil {
		return err
	}
	depths, err := l.depths(ctx)
	if err != nil {
		return err
	}
	fmt.Print(depthTable(depths))
	if svg != "" {
		if err := os.WriteFile(svg, []byte(drawing(depths)), 0o644); err != nil {
			return err
		}
	}
	if l.trace == "" {
		if err := l.capture(ctx); err != nil {
			return err
		}
	}
	replays, err := l.replays(ctx)
	if err != nil {
		return err
	}
	fmt.Print(replayTable(replays))
	return nil
}

// build builds what is not given. The programs need no Ceph.
func (l *lab) build(ctx context.Context) error {
	for path, pkg := range map[string]string{"luksgate": ".", "delay": "./bench/delay"} {
		if path == "luksgate" && l.luksgate != "" {
			continue
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-tags", "noceph", "-o", filepath.Join(l.dir, path), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	if l.luksgate == "" {
		l.luksgate = filepath.Join(l.dir, "luksgate")
	}
	return nil
}

// apart runs a client of luksgate so many milliseconds from an export of memory.
func (l *lab) apart(ctx context.Context, rtt string, client ...string) error {
	args := append([]string{rtt, l.luksgate, "export", "mem:256M", "--name", "x", "--listen", server, "--"}, l.luksgate)
	cmd := exec.CommandContext(ctx, "bench/netem", append(args, client...)...)
	cmd.Env = append(os.Environ(), "DELAY="+filepath.Join(l.dir, "delay"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("bench/netem %s: %w\n%s", rtt, err, out)
	}
	return nil
}

// capture records what fio does to an export that is here: sizes and directions as a busy guest's.
func (l *lab) capture(ctx context.Context) error {
	l.trace = filepath.Join(l.dir, "trace")
	socket := filepath.Join(l.dir, "s")
	export := exec.CommandContext(ctx, l.luksgate, "export", "mem:256M", "--name", "x", "--socket", socket, "--record", l.trace)
	if err := export.Start(); err != nil {
		return err
	}
	defer func() { _ = export.Wait() }()
	for range 100 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	out, err := exec.CommandContext(ctx, "fio", "--name=x", "--ioengine=nbd", "--uri=nbd+unix:///x?socket="+socket, "--rw=randrw",
		"--rwmixread=70", "--bssplit=4k/60:16k/25:64k/15", "--iodepth=32", "--size=256m", "--io_size=24m", "--fsync=64",
		"--randseed=1", "--rate_iops=4000").CombinedOutput()
	err = errors.Join(err, export.Process.Signal(syscall.SIGTERM))
	if err != nil {
		return fmt.Errorf("fio: %w\n%s", err, out)
	}
	return nil
}

// A replayed is one way to replay the trace.
type replayed struct {
	rtt                string
	depth, connections int
	figures            figures
}

func (l *lab) replays(ctx context.Context) ([]replayed, error) {
	var all []replayed
	for _, rtt := range l.rtts {
		for _, way := range [][2]int{{1, 1}, {4, 1}, {16, 1}, {16, 4}} {
			file := filepath.Join(l.dir, "replay.json")
			err := l.apart(ctx, rtt, "bench", "replay", l.trace, "nbd://"+server+"/x", "--overwrite", "--fold", "--json", file,
				"--depth", strconv.Itoa(way[0]), "--connections", strconv.Itoa(way[1]))
			if err != nil {
				return nil, err
			}
			f, err := readFigures(file)
			if err != nil {
				return nil, err
			}
			all = append(all, replayed{rtt, way[0], way[1], f})
		}
	}
	return all, nil
}
