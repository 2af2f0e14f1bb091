// SPDX-License-Identifier: Apache-2.0

// Command storm measures a boot storm: many clones of one golden image, exported at once by one `luksgate serve`. It tells
// how long the gateway takes until clients can read all of them, and how much memory and how many threads each costs.
//
// It wants a Ceph cluster in $CEPH_CONF, the rbd tool, and a built luksgate; it makes its images and removes them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/luksgate/luksgate/bench/proc"
	"github.com/luksgate/luksgate/bench/serve"
)

// A kind of clone.
type kind struct {
	name   string
	own    bool   // a key of its own
	engine string // of the gateway
}

var kinds = []kind{
	{"inherited key", false, "native"},
	{"own key", true, "native"},
}

type storm struct {
	program, pool, dir string
	sizeMiB, clones    int
	images             []string
}

func main() {
	s := &storm{}
	flag.StringVar(&s.program, "luksgate", "bin/luksgate", "the program to be measured")
	flag.StringVar(&s.pool, "pool", "rbd", "pool for the images")
	flag.IntVar(&s.sizeMiB, "size", 1024, "MiB of the golden image")
	flag.IntVar(&s.clones, "clones", 20, "number of clones")
	flag.Parse()
	if err := s.run(); err != nil {
		fmt.Fprintf(os.Stderr, "storm: %v\n", err)
		os.Exit(1)
	}
}

func (s *storm) run() (err error) {
	if s.dir, err = os.MkdirTemp("", "lgstorm"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.clean()) }()
	if err := s.prepare(); err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "clones\tkind\tall open after\tmedian open\tslowest\tRSS\tper clone\tthreads")
	for _, k := range kinds {
		one, err := s.measure(k, 1)
		if err != nil {
			return err
		}
		all, err := s.measure(k, s.clones)
		if err != nil {
			return err
		}
		for _, r := range []result{one, all} {
			each := "-"
			if r.clones > 1 {
				each = fmt.Sprintf("%.1f MiB", float64(all.RSSBytes-one.RSSBytes)/float64(s.clones-1)/(1<<20))
			}
			fmt.Fprintf(w, "%d\t%s\t%v\t%v\t%v\t%d MiB\t%s\t%d\n", r.clones, k.name, r.ready.Round(time.Millisecond),
				r.opens[len(r.opens)/2].Round(time.Millisecond), r.opens[len(r.opens)-1].Round(time.Millisecond), r.RSSBytes>>20, each, r.Threads)
		}
	}
	return w.Flush()
}

// command runs a program and returns what it says if it fails.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// prepare makes the golden image, an image of LUKS1, and two sets of clones.
func (s *storm) prepare() error {
	key := filepath.Join(s.dir, "key")
	if err := os.WriteFile(key, []byte("the storm"), 0o600); err != nil {
		return err
	}
	golden := s.pool + "/" + filepath.Base(s.dir)
	format := func(image string) []string {
		return []string{"format", "rbd:" + image, "--type", "luks1", "--key-file", key, "--kdf", "pbkdf2", "--kdf-iterations", "1000"}
	}
	s.images = append(s.images, golden)
	err := command("rbd", "create", "--size", fmt.Sprint(s.sizeMiB), golden)
	if err == nil {
		err = command(s.program, format(golden)...)
	}
	if err == nil {
		err = command("rbd", "snap", "create", "--no-progress", golden+"@s")
	}
	for i := 0; i < s.clones && err == nil; i++ {
		for _, own := range []bool{false, true} {
			clone := s.clone(own, i)
			s.images = append(s.images, clone)
			if err = command("rbd", "clone", "--rbd-default-clone-format", "2", golden+"@s", clone); err == nil && own {
				err = command(s.program, format(clone)...)
			}
		}
	}
	return err
}

func (s *storm) clone(own bool, i int) string {
	return fmt.Sprintf("%s/%s-%v-%d", s.pool, filepath.Base(s.dir), own, i)
}

// clean removes the images, clones first, and the folder.
func (s *storm) clean() error {
	var errs []error
	for i := len(s.images) - 1; i >= 0; i-- {
		if i == 0 {
			errs = append(errs, command("rbd", "snap", "purge", "--no-progress", s.images[0]))
		}
		errs = append(errs, command("rbd", "rm", "--no-progress", s.images[i]))
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

type result struct {
	proc.Process
	clones int
	ready  time.Duration   // from the start of the process until the last image was open
	opens  []time.Duration // of each image, ascending
}

// measure exports n clones and waits until all are open.
func (s *storm) measure(k kind, n int) (r result, err error) {
	r.clones = n
	dir, err := os.MkdirTemp(s.dir, "serve")
	if err != nil {
		return r, err
	}
	conf := "exports:\n"
	for i := range n {
		conf += fmt.Sprintf("  - {name: c%d, image: \"rbd:%s\", socket: DIR/c%d, key: {file: %s/key}, engine: %s, open: start}\n",
			i, s.clone(k.own, i), i, s.dir, k.engine)
	}
	start := time.Now()
	d, err := serve.Start(s.program, dir, conf)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	if err := d.WaitOpen(context.Background()); err != nil {
		return r, err
	}
	r.ready = time.Since(start)
	if r.Process, err = d.State(); err != nil {
		return r, err
	}
	log, err := d.Log()
	if err != nil {
		return r, err
	}
	r.opens, err = opens(log)
	return r, err
}

// opens are how long images took to open, as the gateway's log has it, ascending.
func opens(log string) (all []time.Duration, err error) {
	for line := range strings.Lines(log) {
		_, after, ok := strings.Cut(line, " after=")
		if !ok || !strings.Contains(line, "image open") {
			continue
		}
		after, _, _ = strings.Cut(strings.TrimSpace(after), " ")
		took, err := time.ParseDuration(after)
		if err != nil {
			return nil, err
		}
		all = append(all, took)
	}
	slices.Sort(all)
	if len(all) == 0 {
		return nil, errors.New("the gateway says nothing of images that it opened")
	}
	return all, nil
}
