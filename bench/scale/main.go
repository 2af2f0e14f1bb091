// SPDX-License-Identifier: Apache-2.0

// Command scale shows what a daemon costs that has many exports with idle clients: memory for each export and each
// client, threads, goroutines, files, and processor time; and that the idle ones do not slow down those that are busy.
//
//  1. the exports are known, their images closed
//  2. each export has one client, and so its image open
//  3. each has all of its clients
//  4. each client has asked for a lot at once, and is idle again
//  5. the processor time of a while in which nobody asks for anything
//  6. some clients are busy: those of a daemon with nothing else, and those of the crowded one, in turns. Whichever is not
//     measured is stopped (SIGSTOP)
//
// It makes its images and removes them. For images on Ceph it wants a cluster in $CEPH_CONF.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/luksgate/luksgate/bench/command"
	"github.com/luksgate/luksgate/bench/serve"
)

// A scale is a run.
type scale struct {
	program, target        string
	exports, clients, busy int
	perConnection          int
	rounds                 int
	seconds, settle        time.Duration
	images                 *serve.Images
}

func main() {
	s := &scale{}
	flag.StringVar(&s.program, "luksgate", "bin/luksgate", "the program to be measured")
	flag.StringVar(&s.target, "image", "file:/dev/shm/scale", "where the images are made: file:PATH or rbd:POOL/IMAGE, beside it")
	flag.IntVar(&s.exports, "exports", 500, "number of exports")
	flag.IntVar(&s.clients, "clients", 4, "number of clients of each")
	flag.IntVar(&s.busy, "busy", 16, "number of clients that are busy, each with an image of its own")
	flag.IntVar(&s.perConnection, "images-per-connection", 0, "images_per_connection of luksgate.conf; 0 is its default")
	flag.IntVar(&s.rounds, "rounds", 9, "rounds of each measurement of busy clients; 0 leaves it out")
	flag.DurationVar(&s.seconds, "length", time.Second, "length of one")
	flag.DurationVar(&s.settle, "settle", 10*time.Second, "how long nobody does anything, before memory is looked at and for processor time")
	flag.Parse()
	command.Main("scale", s.run)
}

func (s *scale) run(ctx context.Context) (err error) {
	if s.busy > s.exports || s.clients < 1 || s.busy < 1 {
		return errors.New("expected at least one client of each export, and no more busy clients than exports")
	}
	// The last ones are those of the daemon with nothing else.
	if s.images, err = serve.MakeImages(ctx, s.target, s.exports+s.busy); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.images.Close()) }()
	crowd, err := s.start("crowd", 0, s.exports)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.Stop()) }()
	idle, err := s.count(ctx, crowd)
	defer idle.close()
	if err != nil {
		return err
	}
	if s.rounds == 0 {
		return nil
	}
	return s.compare(ctx, crowd)
}

// start runs a daemon that exports some of the images.
func (s *scale) start(name string, from, to int) (*serve.Daemon, error) {
	dir := filepath.Join(s.images.Dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("limits: {connections: %d, connections_per_export: %d}\n", (to-from)*s.clients+s.busy, s.clients+s.busy)
	if s.perConnection > 0 {
		conf += fmt.Sprintf("defaults: {ceph: {images_per_connection: %d}}\n", s.perConnection)
	}
	return serve.Start(s.program, dir, conf+s.images.Conf(from, to))
}
