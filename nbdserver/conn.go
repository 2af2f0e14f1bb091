// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/luksgate/luksgate/nbdserver/buffer"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// session is what a handshake negotiates: all that is needed to go on serving the connection.
type session struct {
	export   ExportInfo
	device   Device
	props    Properties
	mode     mode
	contexts []contextID
}

// contextID is a metadata context in use and its number on the wire.
type contextID struct {
	name string
	id   uint32
}

// conn is a connection in the transmission phase.
type conn struct {
	server  *Server
	netConn net.Conn
	io      transport
	peer    *Peer
	session
	async    AsyncDevice // the device, if it is one
	lender   Lender      // the device, if it is one and answers at once
	rules    requestRules
	extended bool
	metrics  ConnMetrics
	log      *slog.Logger
	logged   *rate // of the export, whose clients share it
	ctx      context.Context

	// draining: no new requests are to be read. Set once by drain.
	draining atomic.Bool
	// detaching: the session is to end between two requests and go on elsewhere.
	detaching atomic.Bool
	// deviceNanos is a moving average of how long small requests take, for inline.
	deviceNanos atomic.Int64

	// reader is owned by the goroutine that runs serve.
	reader struct {
		buf   []byte // what was received and not yet decoded is buf[r:w]
		r, w  int
		need  int            // bytes from r on without which decoding cannot go on
		big   *buffer.Buffer // of buf, or nil
		limit int            // read-ahead
		room  int            // bytes that vec had when it was posted
		got   int            // bytes of the last fill
		// payload: what is received now belongs to a request whose header is decoded.
		payload bool
		poll    pollState
		small   [smallReadBytes]byte
		vec     buffer.Vec
		out     []byte // replies not yet sent are in its first used bytes
		used    int
		arena   *buffer.Buffer // of out, or nil while out is few
		few     [fewBytes]byte // for replies without data, which must not wait for memory
		bulk    requestList    // large reads in progress, in turn
		lent    [][]byte       // memory of the device for the payload that is being received
	}

	// sender is owned by whoever set sending.
	sender struct {
		vec   buffer.Vec
		batch []*request
	}

	mu       sync.Mutex
	room     sync.Cond // something below became less
	queue    requestList
	sending  bool
	failed   error // first error of the socket; nothing is sent after it
	inFlight int
	bytes    int64
	spare    *request
}

// request is one request from its header to its reply. It belongs to the reader, then to the worker, then to the queue.
type request struct {
	wire.Request
	buf    *buffer.Buffer // of data, or nil
	data   []byte         // payload of a write, data of a read's reply, or raw bytes of a reply
	done   int            // bytes of data whose chunks are sent
	raw    bool           // data goes out as it is
	held   int64          // bytes counted in conn.bytes
	slot   bool           // counted in conn.inFlight
	arrive time.Time
	conn   *conn     // of a request that the device ends by Done
	start  time.Time // when that was begun
	errno  uint32
	text   string
	hdr    [128]byte
	next   *request
}

// requestList is first in, first out.
type requestList struct{ head, tail *request }

func (l *requestList) push(r *request) {
	r.next = nil
	if l.tail == nil {
		l.head, l.tail = r, r
		return
	}
	l.tail.next, l.tail = r, r
}

func (l *requestList) pushFront(r *request) {
	r.next = l.head
	l.head = r
	if l.tail == nil {
		l.tail = r
	}
}

func (l *requestList) pop() *request {
	r := l.head
	if r == nil {
		return nil
	}
	if l.head = r.next; l.head == nil {
		l.tail = nil
	}
	r.next = nil
	return r
}

// errDisconnected is how a connection ends well.
var errDisconnected = errors.New("client disconnected")

func newConn(ctx context.Context, s *Server, nc net.Conn, peer *Peer, sess session) *conn {
	c := &conn{
		server: s, netConn: nc, peer: peer, session: sess, ctx: ctx,
		io:       newTransport(nc),
		extended: sess.mode == modeExtended,
		log:      s.log.With("export", sess.export.Name, "peer", peer),
		metrics:  s.metrics.Connected(sess.export.Name),
	}
	c.logged = s.loggedOf(sess.export.Name)
	c.room.L = &c.mu
	c.async, _ = sess.device.(AsyncDevice)
	c.rules = requestRules{
		props:        sess.props,
		mode:         sess.mode,
		sizeBytes:    uint64(sess.device.SizeBytes()),
		maxBytes:     uint64(s.limits.RequestBytes),
		hasContexts:  len(sess.contexts) > 0,
		alignMaskLow: uint64(sess.props.MinBlockBytes - 1),
	}
	if m := uint64(sess.props.MaxBlockBytes); m != 0 {
		c.rules.maxBytes = min(c.rules.maxBytes, m)
	}
	c.reader.buf = c.reader.small[:]
	c.reader.limit = bigReadBytes
	c.reader.out = c.reader.few[:]
	if sess.props.Immediate && c.io.canPoll() {
		c.lender, _ = sess.device.(Lender)
	}
	if !sess.props.Immediate {
		c.deviceNanos.Store(2 * fastNanos) // until measured
	}
	return c
}

// drain makes the connection finish what it has read, answer, and close. It may be called by anyone, more than once.
func (c *conn) drain() {
	c.draining.Store(true)
	_ = c.netConn.SetReadDeadline(past)
	c.mu.Lock()
	c.room.Broadcast()
	c.mu.Unlock()
}

// fail records why the connection is over and closes the socket, which wakes whoever waits for it.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.failed == nil {
		c.failed = err
	}
	c.room.Broadcast()
	c.mu.Unlock()
	_ = c.netConn.Close()
}

// waitIdle waits until everything read is answered or the connection has failed and nothing is in execution.
func (c *conn) waitIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.inFlight > 0 || c.sending {
		c.room.Wait()
	}
}

// rate allows a few log lines a second.
type rate struct {
	mu      sync.Mutex
	second  int64
	lines   int
	dropped int
}

// allow says whether a line may be written and how many were left out before it.
func (r *rate) allow(now time.Time, perSecond int) (bool, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := now.Unix(); s != r.second {
		r.second, r.lines = s, 0
	}
	if r.lines >= perSecond {
		r.dropped++
		return false, 0
	}
	r.lines++
	dropped := r.dropped
	r.dropped = 0
	return true, dropped
}

// loggedOf is the rate at which requests to an export may be logged that fail.
func (s *Server) loggedOf(export string) *rate {
	r, ok := s.failing.Load(export)
	if !ok {
		r, _ = s.failing.LoadOrStore(export, &rate{})
	}
	return r.(*rate)
}

// logError logs the real error behind a reply.
func (c *conn) logError(q *wire.Request, err error, errno uint32) {
	if ok, dropped := c.logged.allow(time.Now(), 10); ok {
		c.log.Error("request failed", "command", commandName(q.Command), "offset", q.OffsetBytes,
			"length", q.LengthBytes, "error", err, "nbd_error", errno, "lines_left_out", dropped)
	}
}
