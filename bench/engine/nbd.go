// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/luksgate/luksgate/bench/histogram"
	"github.com/luksgate/luksgate/bench/nbdclient"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// An Endpoint is one export of a server.
type Endpoint struct{ Network, Address, Export string }

// OverNBD does requests on a server. Each client is a connection of its own.
type OverNBD struct {
	What      result.Contestant
	Endpoints []Endpoint // one an image
	SizeBytes int64      // how much of each is used
	Servers   []Process  // whose processor time counts; none for one elsewhere
	Closer    func() error
}

// Info implements Contestant.
func (o *OverNBD) Info() result.Contestant { return o.What }

// Close implements Contestant.
func (o *OverNBD) Close() error {
	if o.Closer == nil {
		return nil
	}
	return o.Closer()
}

// Run implements Contestant.
func (o *OverNBD) Run(ctx context.Context, w workload.Workload, seed uint64, win Window) (result.Round, error) {
	e := &edges{win: win, processes: append([]Process{{"client", 0}}, o.Servers...)}
	var clients []*client
	defer func() {
		for _, c := range clients {
			_ = c.conn.Close()
		}
	}()
	for i := range w.Images * w.Clients {
		at := o.Endpoints[i/w.Clients]
		conn, err := nbdclient.Dial(ctx, at.Network, at.Address, at.Export)
		if err != nil {
			return result.Round{}, err
		}
		c := &client{conn: conn, requests: w.NewClient(seed, i, o.SizeBytes), edges: e, done: make(chan struct{})}
		clients = append(clients, c)
		if conn.SizeBytes < o.SizeBytes || w.Kind.Writes() && conn.Flags&wire.ExportReadOnly != 0 {
			return result.Round{}, fmt.Errorf("export %q: %d bytes, flags %#x, which is too small or read-only for %s",
				at.Export, conn.SizeBytes, conn.Flags, w)
		}
		c.prepare(w, seed+uint64(i)<<16)
	}
	for _, c := range clients {
		c.begin()
	}
	err := e.wait(ctx)
	var h histogram.Histogram
	for _, c := range clients {
		err = errors.Join(err, c.finish(err != nil))
		h.Add(&c.counted)
	}
	if err != nil {
		return result.Round{}, err
	}
	return e.round(&h)
}

// A client keeps the requests of one connection in flight. After begin, its fields are the connection's reader's until done
// is closed.
type client struct {
	conn     *nbdclient.Conn
	requests workload.Client
	ops      []*nbdclient.Op
	edges    *edges
	next     atomic.Uint64
	stop     atomic.Bool

	mu      sync.Mutex // never contended: it orders the reader's work before finish
	active  int
	done    chan struct{}
	counted histogram.Histogram
	err     error
}

func (c *client) prepare(w workload.Workload, seed uint64) {
	for i := range w.Depth {
		op := c.conn.NewOp()
		op.LengthBytes = uint32(w.BlockBytes)
		op.Data = make([]byte, w.BlockBytes)
		workload.Noise(seed+uint64(i), op.Data)
		op.Done = c.ended
		c.ops = append(c.ops, op)
	}
	c.active = len(c.ops)
}

func (c *client) begin() {
	for _, op := range c.ops {
		c.submit(op)
	}
}

func (c *client) submit(op *nbdclient.Op) {
	r := c.requests.At(c.next.Add(1) - 1)
	op.Ask(r.Write, r.OffsetBytes)
	c.conn.Submit(op)
}

// ended is called by the connection's reader.
func (c *client) ended(op *nbdclient.Op, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.edges.tick(now)
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("request at %d: the server says: %w", op.OffsetBytes, err)
	}
	if c.edges.win.holds(now) {
		c.counted.Record(now.Sub(op.Began))
	}
	if c.err == nil && now.Before(c.edges.win.To) && !c.stop.Load() {
		c.submit(op)
		return
	}
	if c.active--; c.active == 0 {
		close(c.done)
	}
}

// patience is how long an interrupted run waits for requests under way.
const patience = 5 * time.Second

// finish waits until nothing is in flight.
func (c *client) finish(early bool) error {
	var tired <-chan time.Time
	if early {
		c.stop.Store(true)
		tired = time.After(patience)
	}
	select {
	case <-c.done:
	case <-c.conn.Dead():
		return c.conn.Err()
	case <-tired:
		return errors.New("the server did not answer what was under way")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
