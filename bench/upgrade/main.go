// SPDX-License-Identifier: Apache-2.0

// Command upgrade measures what clients see of `luksgate upgrade`: a daemon with a few encrypted images, each of which has
// a client that reads and writes all the time, is replaced again and again. For each client it takes the longest time
// without a reply, around an upgrade and, to compare, in an equal time before. An error or the end of a connection is a
// failure.
//
// It makes its images and removes them. For images on Ceph it wants a cluster in $CEPH_CONF.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/luksgate/luksgate/bench/command"
	"github.com/luksgate/luksgate/bench/serve"
)

// goal is what 99 of 100 gaps are to stay below.
const goal = time.Second

// A bench is a run.
type bench struct {
	program, target string
	counts          []int
	upgrades, depth int
	lock            string
	check           bool
	images          *serve.Images
	w               *tabwriter.Writer
}

func main() {
	b := &bench{w: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	flag.StringVar(&b.program, "luksgate", "bin/luksgate", "the program to be measured")
	flag.StringVar(&b.target, "image", "rbd:rbd/upgrade", "where the images are made: rbd:POOL/IMAGE or file:PATH, beside it")
	exports := flag.String("exports", "1,20", "numbers of exports, each with an image and a client, comma-separated")
	flag.IntVar(&b.upgrades, "upgrades", 20, "upgrades of each")
	flag.IntVar(&b.depth, "depth", 4, "requests in flight of each client")
	flag.StringVar(&b.lock, "lock", "cooperative", "lock of the images, as in luksgate.conf")
	flag.BoolVar(&b.check, "check", false, "exit with 1 when the goal is missed")
	flag.Parse()
	for _, text := range strings.Split(*exports, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "upgrade: -exports %s: expected numbers\n", *exports)
			os.Exit(2)
		}
		b.counts = append(b.counts, n)
	}
	command.Main("upgrade", b.run)
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.images, err = serve.MakeImages(ctx, b.target, slices.Max(b.counts)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.images.Close()) }()
	fmt.Fprintln(b.w, "exports\t\tp50, ms\tp99, ms\tmax, ms")
	var missed error
	for _, n := range b.counts {
		gaps, err := b.measure(ctx, n)
		if err != nil {
			return errors.Join(err, b.w.Flush())
		}
		if p99 := quantile(gaps.upgrade, 0.99); b.check && p99 >= goal {
			missed = errors.Join(missed, fmt.Errorf("%d exports: p99 %v: expected less than %v", n, p99, goal))
		}
	}
	return errors.Join(b.w.Flush(), missed)
}

// gaps are the longest times without a reply, of each client at each upgrade.
type gaps struct {
	upgrade, before  []time.Duration
	pauses, prepared []time.Duration // what the daemon says of itself
}

func (b *bench) measure(ctx context.Context, n int) (g gaps, err error) {
	dir, err := os.MkdirTemp(b.images.Dir, "serve")
	if err != nil {
		return g, err
	}
	d, err := serve.Start(b.program, dir, fmt.Sprintf("defaults: {lock: %s}\n", b.lock)+b.images.Conf(0, n))
	if err != nil {
		return g, err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	l, err := startLoad(ctx, d, n, b.depth)
	if err != nil {
		return g, err
	}
	for range b.upgrades {
		if err := g.one(ctx, d, l); err != nil {
			return g, errors.Join(err, l.stop())
		}
	}
	if err := l.stop(); err != nil {
		text, _ := d.Log()
		return g, fmt.Errorf("%w\n%s", err, text)
	}
	b.print(n, "longest gap at an upgrade", g.upgrade)
	b.print(n, "longest gap before, in a second", g.before)
	b.print(n, "pause, as the daemon has it", g.pauses)
	b.print(n, "preparation, beside clients", g.prepared)
	return g, nil
}

// Around an upgrade: a second without one, which is also the time that the successor of the last one has to settle, and a
// while after the answer in which the last clients are served.
const (
	quiet   = time.Second
	goingOn = 300 * time.Millisecond
)

// one does one upgrade.
func (g *gaps) one(ctx context.Context, d *serve.Daemon, l *load) error {
	l.longest()
	select {
	case <-time.After(quiet):
	case <-ctx.Done():
		return ctx.Err()
	}
	g.before = append(g.before, l.longest()...)
	u, err := d.Upgrade(ctx)
	if err != nil {
		return err
	}
	time.Sleep(goingOn)
	g.upgrade = append(g.upgrade, l.longest()...)
	g.pauses, g.prepared = append(g.pauses, u.Pause), append(g.prepared, u.Prepared)
	return nil
}

func quantile(list []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (b *bench) print(n int, what string, list []time.Duration) {
	ms := func(q float64) float64 { return quantile(list, q).Seconds() * 1e3 }
	fmt.Fprintf(b.w, "%d\t%s\t%.0f\t%.0f\t%.0f\n", n, what, ms(0.5), ms(0.99), ms(1))
}
