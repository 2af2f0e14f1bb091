// SPDX-License-Identifier: Apache-2.0

package nbdserver

import "sync/atomic"

// workers are the goroutines that execute requests of all connections. They are started when none is free; how many
// there are is bounded by the connections' limits of requests in flight, and a few are kept for the next request.
type workers struct {
	jobs chan job
	quit chan struct{}
	idle atomic.Int32
}

// job is work for a goroutine: a request to execute, or with none a reply queue to send, beginning with the rest of a
// batch.
type job struct {
	conn *conn
	req  *request
	rest bool
}

func newWorkers() *workers {
	return &workers{jobs: make(chan job), quit: make(chan struct{})}
}

// do has a goroutine execute j. It does not wait.
func (w *workers) do(j job) {
	select {
	case w.jobs <- j:
	default:
		go w.work(j)
	}
}

func (w *workers) work(j job) {
	for {
		j.run()
		if w.idle.Add(1) > idleWorkers {
			w.idle.Add(-1)
			return
		}
		select {
		case j = <-w.jobs:
			w.idle.Add(-1)
		case <-w.quit:
			return
		}
	}
}

// stop ends the idle ones; the others end when their job does.
func (w *workers) stop() { close(w.quit) }

func (j job) run() {
	switch {
	case j.req != nil:
		j.conn.execute(j.req)
	case j.rest:
		j.conn.sendRest()
	default:
		j.conn.sendQueue()
	}
}
