// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/luksgate/luksgate/bench/nbdclient"
	"github.com/luksgate/luksgate/bench/serve"
	"github.com/luksgate/luksgate/bench/workload"
)

const blockBytes = 4096

// A load is clients that read and write all the time.
type load struct{ clients []*client }

func startLoad(ctx context.Context, d *serve.Daemon, n, depth int) (*load, error) {
	l := &load{}
	w := workload.Workload{Kind: workload.RandomMixed, BlockBytes: blockBytes, Depth: depth, Clients: 1, Images: n}
	for i := range n {
		at := d.Endpoint(i)
		conn, err := nbdclient.Dial(ctx, at.Network, at.Address, at.Export)
		if err != nil {
			return nil, errors.Join(err, l.stop())
		}
		c := &client{conn: conn, requests: w.NewClient(1, i, serve.ImageBytes), last: time.Now(), done: make(chan struct{}), active: depth}
		l.clients = append(l.clients, c)
		for range depth {
			op := conn.NewOp()
			op.LengthBytes, op.Data, op.Done = blockBytes, make([]byte, blockBytes), c.ended
			workload.Noise(uint64(i), op.Data)
			c.ops = append(c.ops, op)
		}
	}
	for _, c := range l.clients {
		c.mu.Lock()
		for _, op := range c.ops {
			c.submit(op)
		}
		c.mu.Unlock()
	}
	return l, nil
}

// longest is each client's longest time without a reply since it was asked last.
func (l *load) longest() []time.Duration {
	var all []time.Duration
	for _, c := range l.clients {
		c.mu.Lock()
		all = append(all, max(c.longest, time.Since(c.last)))
		c.longest = 0
		c.mu.Unlock()
	}
	return all
}

// stop ends the clients, and tells what went wrong with them.
func (l *load) stop() error {
	var errs []error
	for i, c := range l.clients {
		if err := c.stop(); err != nil {
			errs = append(errs, fmt.Errorf("client %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// A client keeps a number of requests in flight.
type client struct {
	conn     *nbdclient.Conn
	requests workload.Client
	ops      []*nbdclient.Op
	done     chan struct{} // closed when nothing is in flight any more

	mu       sync.Mutex
	next     uint64
	last     time.Time // of the last reply
	longest  time.Duration
	stopping bool
	active   int // requests in flight
	err      error
}

// submit has the next request made; c.mu is held.
func (c *client) submit(op *nbdclient.Op) {
	r := c.requests.At(c.next)
	c.next++
	op.Ask(r.Write, r.OffsetBytes)
	c.conn.Submit(op)
}

func (c *client) ended(op *nbdclient.Op, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.longest = max(c.longest, now.Sub(c.last))
	c.last = now
	c.err = errors.Join(c.err, err)
	if c.stopping || c.err != nil {
		if c.active--; c.active == 0 {
			close(c.done)
		}
		return
	}
	c.submit(op)
}

// patience is for the last replies.
const patience = time.Minute

func (c *client) stop() error {
	c.mu.Lock()
	c.stopping = true
	c.mu.Unlock()
	var err error
	select {
	case <-c.done:
	case <-c.conn.Dead():
		err = c.conn.Err()
	case <-time.After(patience):
		err = errors.New("the server does not answer")
	}
	c.mu.Lock()
	err = errors.Join(err, c.err)
	c.mu.Unlock()
	return errors.Join(err, c.conn.Close())
}
