// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/luksgate/luksgate/nbdserver/buffer"
)

// Server serves the exports of a catalog to NBD clients. Its methods may be called by many goroutines at once.
type Server struct {
	endpoint Endpoint // of Serve and ServeConn
	log      *slog.Logger
	metrics  Metrics
	limits   Limits

	pool    *buffer.Pool // payloads and replies
	reads   *buffer.Pool // read buffers of busy connections
	workers *workers
	polling polling
	refused rate
	failing sync.Map // *rate by name of export, of which the catalog has opened each

	mu        sync.Mutex
	closing   bool
	detaching bool
	detached  []*Session
	listeners map[net.Listener]struct{}
	conns     map[net.Conn]*conn              // nil while negotiating
	cuts      map[net.Conn]context.CancelFunc // of those that negotiate: ends the wait for an export too
	perExport map[string]int
	active    sync.WaitGroup
}

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("nbdserver: server closed")

// New returns a server. It panics without a catalog.
func New(o Options) *Server {
	if o.Catalog == nil {
		panic("nbdserver: BUG: no catalog")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	limits := o.Limits.withDefaults()
	s := &Server{
		endpoint: Endpoint{Catalog: o.Catalog, TLS: o.TLS}, log: o.Logger, metrics: o.Metrics, limits: limits,
		pool:      buffer.New(limits.BufferBytes),
		reads:     buffer.New(max(limits.BufferBytes/8, bigReadBytes)),
		workers:   newWorkers(),
		listeners: map[net.Listener]struct{}{},
		conns:     map[net.Conn]*conn{},
		cuts:      map[net.Conn]context.CancelFunc{},
		perExport: map[string]int{},
	}
	s.polling.start(limits.Poll)
	return s
}

// Serve accepts clients until ctx ends, which cuts all of its connections, or until Shutdown, after which it returns
// ErrServerClosed. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.ServeAt(ctx, l, s.endpoint)
}

// ServeAt is Serve for a listener with a catalog and TLS of its own. A zero field of e means the server's.
func (s *Server) ServeAt(ctx context.Context, l net.Listener, e Endpoint) (served error) {
	if e.Catalog == nil {
		e.Catalog = s.endpoint.Catalog
	}
	if e.TLS == nil {
		e.TLS = s.endpoint.TLS
	}
	if !s.addListener(l) {
		_ = l.Close()
		return ErrServerClosed
	}
	defer func() { s.removeListener(l, errors.Is(served, ErrDetached)) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	pause := time.Duration(0)
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if err == nil {
			pause = 0
			conns.Go(func() { s.serveConn(ctx, c, e) })
			continue
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // of Detach
			if s.waitRest() {
				return ErrDetached
			}
			setDeadline(l, time.Time{})
			continue
		case s.isClosing():
			conns.Wait() // they drain; ctx must not end before
			return ErrServerClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("nbdserver: accept: %w", err)
		}
		// Out of descriptors or memory, or a client that was gone already: none of them is a reason to stop.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.log.Error("cannot accept a connection", "error", err, "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// ServeConn serves one connection until the client or the server ends it, and closes it. When ctx ends the connection is
// cut.
func (s *Server) ServeConn(ctx context.Context, c net.Conn) { s.serveConn(ctx, c, s.endpoint) }

func (s *Server) serveConn(ctx context.Context, c net.Conn, e Endpoint) {
	if err := s.addConn(c); err != nil {
		_ = c.Close()
		if ok, dropped := s.refused.allow(time.Now(), 1); ok {
			s.log.Warn("connection refused", "reason", err, "lines_left_out", dropped)
		}
		s.metrics.HandshakeFailed(reasonLimit)
		return
	}
	defer s.removeConn(c)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	s.negotiates(c, cancel)
	keep := false
	defer func() {
		if !keep {
			_ = c.Close()
		}
	}()

	h := &handshake{server: s, endpoint: e, ctx: ctx, conn: c, plain: c, peer: peerOf(c)}
	sess, stream, err := h.run()
	if err != nil {
		s.logHandshake(h, err)
		return
	}
	keep = s.transmit(c, newConn(ctx, s, stream, h.peer, sess))
}

// transmit serves the transmission phase. raw is the key in the set of connections. It returns true if the session was
// detached, whose connection stays open.
func (s *Server) transmit(raw net.Conn, t *conn) bool {
	defer s.unclaim(t.export.Name)
	t.log.Info("client connected", "size", t.device.SizeBytes(), "tls", t.peer.TLS != nil)
	start := time.Now()
	s.mu.Lock()
	s.conns[raw] = t
	delete(s.cuts, raw)
	closing, detaching := s.closing, s.detaching
	s.mu.Unlock()
	if closing {
		t.drain()
	}
	if detaching {
		t.detach()
	}
	err := t.serve()
	for errors.Is(err, errDetached) && !s.keepDetached(t) {
		err = t.serve() // nobody wants it any more
	}
	detached := errors.Is(err, errDetached)
	switch {
	case detached:
		t.log.Info("connection handed over", "after", time.Since(start), totals(t.metrics))
	case errors.Is(err, errDisconnected) || errors.Is(err, io.EOF) || errors.Is(err, errDrained):
		t.log.Info("connection closed", "reason", err, "after", time.Since(start), totals(t.metrics))
	default:
		t.log.Warn("connection lost", "reason", err, "after", time.Since(start), totals(t.metrics))
	}
	if t.metrics != nil {
		t.metrics.Closed()
	}
	if !detached {
		_ = t.netConn.Close()
	}
	if err := t.device.Close(); err != nil {
		t.log.Error("cannot close the device", "error", err)
	}
	return detached
}

// logHandshake counts and logs a connection that did not get to an export. Clients that only look end without asking for
// one, and a refusal was logged when it was answered.
func (s *Server) logHandshake(h *handshake, err error) {
	reason := reasonClosed
	var failure *handshakeError
	if errors.As(err, &failure) {
		reason = failure.reason
	}
	if reason == reasonClosed && h.refusal != "" {
		s.metrics.HandshakeFailed(h.refusal)
		return
	}
	if errors.Is(err, errAborted) {
		return
	}
	s.metrics.HandshakeFailed(reason)
	if ok, dropped := s.refused.allow(time.Now(), 10); ok {
		s.log.Warn("no session", "peer", h.peer, "reason", reason, "error", err, "lines_left_out", dropped)
	}
}

// Shutdown ends the server without an error for clients that wait for an answer: it stops accepting, stops reading new
// requests, finishes and answers those that were read, and closes. When ctx ends first, it cuts the rest and returns the
// context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	for l := range s.listeners {
		_ = l.Close()
	}
	for raw, c := range s.conns {
		if c == nil {
			s.cutLocked(raw)
		} else {
			c.drain()
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.active.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		s.mu.Lock()
		for raw := range s.conns {
			_ = raw.Close()
		}
		s.mu.Unlock()
		<-done
	}
	if first {
		s.workers.stop()
		s.pool.Close()
		s.reads.Close()
	}
	return err
}

// Disconnect drains the connections of one export as Shutdown drains all. It does not wait.
func (s *Server) Disconnect(export string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if c != nil && c.session.export.Name == export {
			c.drain()
		}
	}
}

// BufferStats says how the budget for payload buffers is used.
func (s *Server) BufferStats() buffer.Stats { return s.pool.Stats() }

// Connections is how many clients there are, those that still negotiate included.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.listeners[l] = struct{}{}
	if s.detaching {
		setDeadline(l, past)
	} else {
		setDeadline(l, time.Time{})
	}
	return true
}

func (s *Server) removeListener(l net.Listener, keep bool) {
	if !keep {
		_ = l.Close()
	}
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
}

func (s *Server) addConn(c net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrServerClosed
	}
	if len(s.conns) >= s.limits.Connections {
		return fmt.Errorf("all %d connections are taken", s.limits.Connections)
	}
	s.conns[c] = nil
	s.active.Add(1)
	return nil
}

func (s *Server) removeConn(c net.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	delete(s.cuts, c)
	s.mu.Unlock()
	s.active.Done()
}

// negotiates notes how a connection that negotiates is cut; a server that closes does so at once.
func (s *Server) negotiates(c net.Conn, cut context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts[c] = cut
	if s.closing {
		cut()
	}
}

// cutLocked cuts a connection that negotiates. It may wait for an export to be opened, where closing it is not enough.
func (s *Server) cutLocked(c net.Conn) {
	_ = c.Close()
	if cut := s.cuts[c]; cut != nil {
		cut()
	}
}

// claim takes one of an export's connections.
func (s *Server) claim(export string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perExport[export] >= s.limits.ConnectionsPerExport {
		return false
	}
	s.perExport[export]++
	return true
}

func (s *Server) unclaim(export string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perExport[export]--; s.perExport[export] == 0 {
		delete(s.perExport, export)
	}
}
