// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// Sessions that go on at another server, in this process or in the next one:
//
//  1. Detach: no more clients are accepted; each connection answers what it has read, keeps what it has received of the
//     next request, and stops between two requests
//  2. the owner of the server hands over sockets and Sessions, and closes and opens devices
//  3. ServeSession, at the other server or at this one again (after Reattach), goes on where Detach stopped
//
// A client sees a pause and nothing else.

// ErrDetached is what Serve returns after Detach. The listener stays open.
var ErrDetached = errors.New("nbdserver: detached")

// errDetached is how a session ends that goes on elsewhere.
var errDetached = errors.New("session goes on elsewhere")

// negotiationGrace is how long Detach waits for clients that negotiate. They have no export yet, so nothing is lost.
const negotiationGrace = time.Second

// A Session is a client's connection between two requests, with all that was negotiated. Everything but Conn can be
// written as JSON.
type Session struct {
	// Conn is the connection, still open. It is the owner's to close if the session does not go on.
	Conn net.Conn `json:"-"`
	Peer Peer     `json:"peer"`
	// TLS says that Conn is an encrypted connection, whose state is in this process.
	TLS bool `json:"tls,omitempty"`

	Export ExportInfo `json:"export"`
	// Replies is the form of replies: simple, structured or extended.
	Replies  string           `json:"replies"`
	Contexts []SessionContext `json:"contexts,omitempty"`
	// SizeBytes and Properties are what the client was told.
	SizeBytes  int64      `json:"size_bytes"`
	Properties Properties `json:"properties"`
	// Unread is what was received of the next request.
	Unread []byte `json:"unread,omitempty"`
}

// A SessionContext is a metadata context and its number on the wire.
type SessionContext struct {
	Name string `json:"name"`
	ID   uint32 `json:"id"`
}

var replyForms = []string{modeSimple: "simple", modeStructured: "structured", modeExtended: "extended"}

// Detach stops accepting and detaches all sessions. Clients that negotiate finish doing so, and are detached then. When
// ctx ends first it returns what it has with an error that names who kept it waiting; those go on at this server.
func (s *Server) Detach(ctx context.Context) ([]*Session, error) {
	s.mu.Lock()
	s.detaching = true
	for l := range s.listeners {
		setDeadline(l, past)
	}
	for _, c := range s.conns {
		if c != nil {
			c.detach()
		}
	}
	s.mu.Unlock()
	err := s.waitDetached(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detaching = err == nil // who is late stays
	sessions := s.detached
	s.detached = nil
	return sessions, err
}

func (s *Server) waitDetached(ctx context.Context) error {
	patience := time.Now().Add(negotiationGrace)
	for s.Connections() > 0 {
		select {
		case <-ctx.Done():
			return s.stayBehind()
		case <-time.After(time.Millisecond):
			if time.Now().After(patience) {
				s.cutNegotiations()
			}
		}
	}
	return nil
}

func (s *Server) cutNegotiations() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for raw, c := range s.conns {
		if c == nil {
			s.cutLocked(raw)
		}
	}
}

// stayBehind lets connections that could not be detached in time go on, and names them.
func (s *Server) stayBehind() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, c := range s.conns {
		name := "a client that negotiates"
		if c != nil {
			name = fmt.Sprintf("a client of export %q (%v)", c.export.Name, c.peer.LogValue())
			c.attach()
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Errorf("nbdserver: %d connections did not come to rest in time: %s", len(names),
		strings.Join(names[:min(3, len(names))], ", "))
}

// Reattach lets a server that was detached serve again.
func (s *Server) Reattach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detaching = false
}

// waitRest waits until all connections are detached, and returns true, or until that is given up.
func (s *Server) waitRest() bool {
	for {
		s.mu.Lock()
		detaching, n := s.detaching, len(s.conns)
		s.mu.Unlock()
		if !detaching || n == 0 {
			return detaching
		}
		time.Sleep(time.Millisecond)
	}
}

// keepDetached takes a connection that has stopped; it tells whether anybody wants it.
func (s *Server) keepDetached(t *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.attach()
	if s.detaching {
		s.detached = append(s.detached, t.detachedSession())
	}
	return s.detaching
}

// detach makes the connection stop between two requests. It may be called by anyone.
func (c *conn) detach() {
	c.mu.Lock()
	defer c.mu.Unlock() // so that the deadline is not set after who saw the flag has cleared it
	c.detaching.Store(true)
	_ = c.netConn.SetReadDeadline(past)
}

// attach takes detach back.
func (c *conn) attach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detaching.Store(false)
	_ = c.netConn.SetReadDeadline(time.Time{})
}

// detachedSession is what is needed to go on. serve has returned.
func (c *conn) detachedSession() *Session {
	out := &Session{
		Conn: c.netConn, Peer: *c.peer, TLS: c.peer.TLS != nil, Export: c.export, Replies: replyForms[c.mode],
		SizeBytes: int64(c.rules.sizeBytes), Properties: c.props,
		Unread: slices.Clone(c.reader.buf[c.reader.r:c.reader.w]),
	}
	out.Peer.TLS = nil
	for _, x := range c.contexts {
		out.Contexts = append(out.Contexts, SessionContext{x.name, x.id})
	}
	c.reader.r = c.reader.w
	c.dropReadBuffer()
	return out
}

// Fits says whether d can take the place of the device that the client was told of.
func (m *Session) Fits(d Device) error {
	have, told := d.Properties(), m.Properties
	fixProperties(&have, d.SizeBytes())
	if d.SizeBytes() < m.SizeBytes {
		return fmt.Errorf("nbdserver: export %q has %d bytes now, the client was told of %d", m.Export.Name, d.SizeBytes(), m.SizeBytes)
	}
	for _, x := range []struct {
		name       string
		told, have bool
	}{
		{"writing", !told.ReadOnly, !have.ReadOnly}, {"flush", told.Flush, have.Flush}, {"FUA", told.FUA, have.FUA},
		{"trim", told.Trim, have.Trim}, {"writing zeros", told.WriteZeroes, have.WriteZeroes},
		{"fast zeros", told.FastZero, have.FastZero}, {"cache", told.Cache, have.Cache},
		{"several connections", told.MultiConn, have.MultiConn},
		{"requests as small as before", true, told.MinBlockBytes >= have.MinBlockBytes},
	} {
		if x.told && !x.have {
			return fmt.Errorf("nbdserver: export %q has no %s now, the client was told that it has", m.Export.Name, x.name)
		}
	}
	for _, x := range m.Contexts {
		if !slices.Contains(have.Contexts, x.Name) {
			return fmt.Errorf("nbdserver: export %q has no context %s now", m.Export.Name, x.Name)
		}
	}
	return nil
}

// ServeSession goes on with a session until the client or the server ends it, or it is detached again. The device must
// fit; unless there is an error it belongs to the server, as after Catalog.Open. When ctx ends the connection is cut.
func (s *Server) ServeSession(ctx context.Context, m *Session, d Device) error {
	form := slices.Index(replyForms, m.Replies)
	if form < 0 || len(m.Unread) > bigReadBytes {
		return fmt.Errorf("nbdserver: export %q: session with replies %q and %d unread bytes", m.Export.Name, m.Replies, len(m.Unread))
	}
	if err := m.Fits(d); err != nil {
		return err
	}
	if err := s.addConn(m.Conn); err != nil {
		return err
	}
	defer s.removeConn(m.Conn)
	s.mu.Lock()
	s.perExport[m.Export.Name]++ // it was within the limit when it connected
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = m.Conn.Close() })
	defer stop()
	sess := session{export: m.Export, device: d, props: m.Properties, mode: mode(form)}
	sess.props.Immediate = d.Properties().Immediate
	for _, x := range m.Contexts {
		sess.contexts = append(sess.contexts, contextID{x.Name, x.ID})
	}
	peer := m.Peer
	t := newConn(ctx, s, m.Conn, &peer, sess)
	t.rules.sizeBytes = uint64(m.SizeBytes)
	if len(m.Unread) > len(t.reader.buf) {
		t.reader.buf = make([]byte, bigReadBytes)
	}
	t.reader.w = copy(t.reader.buf, m.Unread)
	s.transmit(m.Conn, t)
	return nil
}

// AdoptUnixListener gives a listening socket that another process made its name back, which Close will remove.
func AdoptUnixListener(l *net.UnixListener, path string) *UnixListener {
	l.SetUnlinkOnClose(false)
	u := &UnixListener{UnixListener: l, path: path}
	if info, err := os.Lstat(path); err == nil {
		u.info = info
	}
	return u
}

// setDeadline sets the deadline of Accept where the listener has one.
func setDeadline(l net.Listener, t time.Time) {
	if d, ok := l.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(t)
	}
}
