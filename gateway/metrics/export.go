// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
)

// Results of opening an image and of fetching a key.
const (
	ResultOK    = "ok"
	ResultError = "error"
)

// An Export counts what happens to one export, over all its connections. Its methods may be called by many goroutines.
type Export struct {
	name string

	ops [ops]struct {
		bytes  atomic.Uint64
		errors atomic.Uint64
		took   histogram
	}
	waited      histogram
	inFlight    atomic.Int64
	connections atomic.Int64
	connected   atomic.Uint64

	open         atomic.Bool
	opened       atomic.Uint64
	openFailed   atomic.Uint64
	openNanos    atomic.Uint64
	keyFetched   atomic.Uint64
	keyFailed    atomic.Uint64
	keyNanos     atomic.Uint64
	unlocked     atomic.Uint64
	unlockFailed atomic.Uint64
	unlockNanos  atomic.Uint64
	cryptBytes   [2]atomic.Uint64 // decrypted, encrypted
	cryptNanos   [2]atomic.Uint64
	ended        atomic.Uint64

	mu     sync.Mutex
	engine string
	errnos map[uint32]uint64
	rbd    *RBD // nil unless it is such an image
	before RBD  // what images that are closed had counted
}

// Opened tells that an attempt to open the image ended after took; engine is who decrypts.
func (e *Export) Opened(engine string, took time.Duration, err error) {
	if err != nil {
		e.openFailed.Add(1)
		return
	}
	e.mu.Lock()
	e.engine = engine
	e.mu.Unlock()
	e.opened.Add(1)
	e.openNanos.Add(uint64(took))
	e.open.Store(true)
}

// Closed tells that the image was closed. What it waited for is over.
func (e *Export) Closed() {
	e.open.Store(false)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rbd != nil {
		e.rbd.Waiting, e.rbd.Oldest = 0, 0
		e.before = *e.rbd
	}
}

// KeyFetched tells that an attempt to get the key ended.
func (e *Export) KeyFetched(took time.Duration, err error) {
	if err != nil {
		e.keyFailed.Add(1)
		return
	}
	e.keyFetched.Add(1)
	e.keyNanos.Add(uint64(took))
}

// Unlocked tells that trying a passphrase on the keyslots of a header ended. It implements gateway.Observer, with Crypt.
func (e *Export) Unlocked(took time.Duration, err error) {
	e.unlockNanos.Add(uint64(took))
	if err != nil {
		e.unlockFailed.Add(1)
		return
	}
	e.unlocked.Add(1)
}

// An RBD is what an RBD image counts from the open on.
type RBD struct {
	LockTaken, LockLost uint64
	// Waiting is the number of requests that the cluster keeps waiting for long, and Oldest how long the oldest of all has.
	Waiting int
	Oldest  time.Duration
	// Failures are librbd's errors.
	Failures map[Failure]uint64
}

// A Failure is an operation of librbd and the name of the error that it ended with.
type Failure struct{ Op, Errno string }

// RBD sets what the open image has counted so far. It is added to what images before had counted: a lock that is lost ends
// an image, and must not be forgotten with it.
func (e *Export) RBD(r RBD) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.LockTaken += e.before.LockTaken
	r.LockLost += e.before.LockLost
	failures := maps.Clone(e.before.Failures)
	if failures == nil {
		failures = map[Failure]uint64{}
	}
	for f, n := range r.Failures {
		failures[f] += n
	}
	r.Failures = failures
	e.rbd = &r
}

// Ended tells that the open image can no longer be used.
func (e *Export) Ended() { e.ended.Add(1) }

// Begin and End bracket a request that the image works on.
func (e *Export) Begin() { e.inFlight.Add(1) }

// End is the other bracket.
func (e *Export) End() { e.inFlight.Add(-1) }

// Crypt tells that bytes were encrypted or decrypted.
func (e *Export) Crypt(encrypt bool, bytes int, took time.Duration) {
	i := 0
	if encrypt {
		i = 1
	}
	e.cryptBytes[i].Add(uint64(bytes))
	e.cryptNanos[i].Add(uint64(took))
}

// conn implements nbdserver.ConnMetrics.
type conn struct {
	export *Export
	totals [ops]struct{ requests, bytes, errors atomic.Uint64 }
}

func (e *Export) connect() nbdserver.ConnMetrics {
	e.connections.Add(1)
	e.connected.Add(1)
	return &conn{export: e}
}

// Request implements nbdserver.ConnMetrics.
func (c *conn) Request(command string, bytes int64, waited, took time.Duration, errno uint32) {
	op := opOf(command)
	e := c.export
	e.ops[op].took.add(took)
	e.waited.add(waited)
	c.totals[op].requests.Add(1)
	if errno != 0 {
		e.ops[op].errors.Add(1)
		c.totals[op].errors.Add(1)
		e.mu.Lock()
		e.errnos[errno]++
		e.mu.Unlock()
		return
	}
	e.ops[op].bytes.Add(uint64(max(bytes, 0)))
	c.totals[op].bytes.Add(uint64(max(bytes, 0)))
}

// Closed implements nbdserver.ConnMetrics.
func (c *conn) Closed() { c.export.connections.Add(-1) }

// LogValue implements slog.LogValuer: what the connection did in all.
func (c *conn) LogValue() slog.Value {
	var attrs []slog.Attr
	var errors uint64
	for op := range c.totals {
		t := &c.totals[op]
		n := t.requests.Load()
		errors += t.errors.Load()
		if n == 0 {
			continue
		}
		attrs = append(attrs, slog.Uint64(opNames[op], n))
		if b := t.bytes.Load(); b > 0 {
			attrs = append(attrs, slog.Uint64(opNames[op]+"_bytes", b))
		}
	}
	return slog.GroupValue(append(attrs, slog.Uint64("errors", errors))...)
}

// Op is the work of one kind at one moment.
type Op struct {
	Requests uint64    `json:"requests"`
	Bytes    uint64    `json:"bytes"`
	Errors   uint64    `json:"errors"`
	Took     Durations `json:"took"`
}

// Snapshot is an export at one moment. All counters but InFlight and Connections only grow while the daemon runs.
type Snapshot struct {
	Export      string        `json:"export"`
	Open        bool          `json:"open"`
	Engine      string        `json:"engine,omitempty"`
	InFlight    int64         `json:"in_flight"`
	Connections int64         `json:"connections"`
	Connected   uint64        `json:"connected"`
	Ops         map[string]Op `json:"ops"`
	Waited      Durations     `json:"waited"`
	Opened      uint64        `json:"opened"`
	OpenFailed  uint64        `json:"open_failed"`
	KeyFetched  uint64        `json:"key_fetched"`
	KeyFailed   uint64        `json:"key_failed"`
	LockLost    uint64        `json:"lock_lost"`
	Ended       uint64        `json:"ended"`
}

// Snapshot returns the state.
func (e *Export) Snapshot() Snapshot {
	s := Snapshot{
		Export: e.name, Open: e.open.Load(), InFlight: e.inFlight.Load(),
		Connections: e.connections.Load(), Connected: e.connected.Load(),
		Ops: map[string]Op{}, Waited: e.waited.snapshot(),
		Opened: e.opened.Load(), OpenFailed: e.openFailed.Load(),
		KeyFetched: e.keyFetched.Load(), KeyFailed: e.keyFailed.Load(),
		Ended: e.ended.Load(),
	}
	e.mu.Lock()
	s.Engine = e.engine
	if e.rbd != nil {
		s.LockLost = e.rbd.LockLost
	}
	e.mu.Unlock()
	for op := range e.ops {
		o := &e.ops[op]
		took := o.took.snapshot()
		if n := took.Count(); n > 0 {
			s.Ops[opNames[op]] = Op{Requests: n, Bytes: o.bytes.Load(), Errors: o.errors.Load(), Took: took}
		}
	}
	return s
}
