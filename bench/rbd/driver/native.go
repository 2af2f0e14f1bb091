// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/nbdserver"
)

// native does the requests with luksgate's engine, one goroutine for each request in flight.
func (j job) native() (r Result, err error) {
	exp, err := gateway.Open(context.Background(), gateway.Config{
		Image:  image.Ref{Scheme: image.RBD, Pool: j.pool, Image: j.image},
		Key:    key.File(j.keyFile),
		Engine: gateway.EngineNative, Lock: rbd.LockCooperative,
	})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, exp.Close()) }()
	var wg sync.WaitGroup
	lanes := make([]lane, j.depth)
	start, cpu := time.Now(), processTime()
	for i := range lanes {
		l := &lanes[i]
		wg.Go(func() { l.run(j, exp.Device(), start.Add(j.duration)) })
	}
	wg.Wait()
	elapsed, used := time.Since(start), processTime()-cpu
	var latencies []time.Duration
	var errs []error
	for _, l := range lanes {
		latencies, errs = append(latencies, l.latencies...), append(errs, l.err)
	}
	if err := errors.Join(errs...); err != nil {
		return r, err
	}
	return result(len(latencies), elapsed, used, latencies)
}

// lane is one request after the other.
type lane struct {
	latencies []time.Duration
	err       error
}

func (l *lane) run(j job, dev nbdserver.Device, end time.Time) {
	buf := make([]byte, j.blockBytes)
	_, _ = crand.Read(buf) // never fails
	for at := time.Now(); at.Before(end); {
		offset := rand.Int64N(j.sizeBytes/int64(j.blockBytes)) * int64(j.blockBytes)
		var err error
		if j.write {
			err = dev.WriteAt(buf, offset, false)
		} else {
			err = dev.ReadAt(buf, offset)
		}
		if err != nil {
			l.err = err
			return
		}
		now := time.Now()
		l.latencies = append(l.latencies, now.Sub(at))
		at = now
	}
}

// processTime is the processor time of this process.
func processTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
