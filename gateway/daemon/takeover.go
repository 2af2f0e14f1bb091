// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
)

// A takeover is what this process got of its predecessor and will serve.
type takeover struct {
	sessions []stateSession
	devices  []nbdserver.Device
}

// takeOver does the successor's part of a hand-over up to the commit. Sockets end up in passed.
func (d *Daemon) takeOver(passed *passedSockets) (*takeover, error) {
	ch, err := newChannel(d.handover)
	if err != nil {
		return nil, fmt.Errorf("daemon: predecessor: %w", err)
	}
	defer func() { _ = ch.c.Close() }()
	if err := ch.send(step{Step: stepReady}); err != nil {
		return nil, fmt.Errorf("daemon: predecessor: %w", err)
	}
	var s state
	if err := d.receiveState(ch, &s, passed); err != nil {
		return nil, fmt.Errorf("daemon: predecessor: %w", err)
	}
	t := &takeover{sessions: s.Sessions}
	if err := t.open(d); err != nil {
		_ = ch.send(step{Step: stepOpen, Error: err.Error()})
		return nil, err
	}
	if err := ch.send(step{Step: stepOpen}); err != nil {
		return nil, fmt.Errorf("daemon: predecessor: %w", err)
	}
	// One that dies now leaves everything to us; one that gives up ends us.
	until := time.Now().Add(time.Duration(d.config.Limits.Upgrade))
	if err := ch.expect(stepCommit, until); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("daemon: predecessor: %w", err)
	}
	return t, nil
}

func (d *Daemon) receiveState(ch *channel, s *state, passed *passedSockets) error {
	if err := ch.receive(s); err != nil {
		return err
	}
	n := len(s.Listeners) + len(s.Sessions)
	if s.Version != stateVersion || n > maxStateFDs {
		return fmt.Errorf("state of version %d with %d sockets: expected version %d", s.Version, n, stateVersion)
	}
	fds, err := ch.receiveFDs(n)
	if err != nil {
		return err
	}
	if err := s.adopt(fds, passed); err != nil {
		return err
	}
	for _, c := range s.Added {
		if d.exports[c.Name] == nil {
			d.exports[c.Name] = newExport(d, c, originAPI)
		}
	}
	for _, name := range s.Drained {
		if e := d.exports[name]; e != nil {
			e.drain()
		}
	}
	return nil
}

// open opens the images of all sessions, at once, and makes sure that they fit.
func (t *takeover) open(d *Daemon) error {
	t.devices = make([]nbdserver.Device, len(t.sessions))
	errs := make([]error, len(t.sessions))
	var wg sync.WaitGroup
	for i, m := range t.sessions {
		wg.Go(func() {
			e := d.export(m.Export.Name)
			if e == nil {
				errs[i] = fmt.Errorf("daemon: export %s has clients and is not in the configuration any more", m.Export.Name)
				return
			}
			t.devices[i], errs[i] = e.acquireAnyway(d.ctx)
			if errs[i] == nil {
				errs[i] = m.Fits(t.devices[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// serve goes on with the sessions.
func (t *takeover) serve(d *Daemon) {
	if t == nil {
		return
	}
	sessions := make([]*nbdserver.Session, len(t.sessions))
	for i, m := range t.sessions {
		sessions[i] = m.Session
	}
	d.serveSessions(sessions, t.devices)
	d.log.Info("taken over", "connections", len(t.sessions))
}
