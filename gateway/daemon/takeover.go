// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/gateway/config"
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
	if err := d.prepare(ch); err != nil {
		return nil, err
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
	// One that dies now leaves everything to us; one that gives up ends us before it closes its end of the channel.
	err = ch.send(step{Step: stepOpen})
	if err == nil {
		err = ch.expect(stepCommit, time.Now().Add(time.Duration(d.config.Limits.Upgrade)))
	}
	if err != nil && !isDeath(err) {
		return nil, fmt.Errorf("daemon: predecessor: %w", err)
	}
	return t, nil
}

// isDeath tells that the other end of a channel is closed, which may have had something unread.
func isDeath(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
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
	d.adoptExports(s.Added, s.Drained)
	return nil
}

// adoptExports makes exports known that an earlier process had from elsewhere than the file.
func (d *Daemon) adoptExports(added []config.Export, drained []string) {
	for _, c := range added {
		if d.exports[c.Name] == nil {
			d.exports[c.Name] = newExport(d, c, originAPI)
		}
	}
	for _, name := range drained {
		if e := d.exports[name]; e != nil {
			e.drain()
		}
	}
}

// preparing is how many images are opened in standby at once: running clients need the processors more.
const preparing = 4

// prepare opens in standby what the predecessor has open.
func (d *Daemon) prepare(ch *channel) error {
	var p plan
	if err := ch.receive(&p); err != nil {
		return fmt.Errorf("daemon: predecessor: %w", err)
	}
	if p.Version != stateVersion {
		err := fmt.Errorf("daemon: predecessor: hands over by version %d: expected version %d", p.Version, stateVersion)
		_ = ch.send(step{Step: stepOpened, Error: err.Error()})
		return err
	}
	d.adoptExports(p.Added, p.Drained)
	results := make(chan error)
	places := make(chan struct{}, preparing)
	for _, told := range p.Open {
		go func() {
			places <- struct{}{}
			err := d.standBy(told)
			<-places
			results <- err
		}()
	}
	var failed error
	for range p.Open {
		err := <-results
		s := step{Step: stepOpened}
		if err != nil {
			s.Error = err.Error()
		}
		if failed == nil {
			failed = errors.Join(err, ch.send(s))
		}
	}
	if failed != nil {
		return failed
	}
	if err := ch.send(step{Step: stepPrepared}); err != nil {
		return fmt.Errorf("daemon: predecessor: %w", err)
	}
	return nil
}

// standBy opens one image in standby and makes sure that it can take the place of the one that clients know.
func (d *Daemon) standBy(told planExport) error {
	e := d.export(told.Export.Name)
	if e == nil {
		if told.Clients > 0 {
			return errNotConfigured(told.Session)
		}
		return nil
	}
	img, err := e.open(d.ctx, e.current(), true)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.standby = img
	e.mu.Unlock()
	return told.Fits(img.export.Device())
}

func errNotConfigured(m *nbdserver.Session) error {
	return fmt.Errorf("daemon: export %s has clients and is not in the configuration any more", m.Export.Name)
}

// hold makes an image that is in standby the export's. The predecessor has closed it.
func (e *export) hold() error {
	e.mu.Lock()
	img := e.standby
	e.mu.Unlock()
	if img == nil {
		return nil
	}
	if err := img.export.Hold(); err != nil {
		return fmt.Errorf("daemon: export %s: %w", e.name, err)
	}
	e.begin(img)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.standby, e.image, e.since = nil, img, time.Now()
	e.idleLocked()
	return nil
}

// open opens the images of all sessions, at once, and makes sure that they fit.
func (t *takeover) open(d *Daemon) error {
	t.devices = make([]nbdserver.Device, len(t.sessions))
	errs := make([]error, len(t.sessions)+len(d.exports))
	var wg sync.WaitGroup
	for i, e := range d.all() {
		wg.Go(func() { errs[len(t.sessions)+i] = e.hold() })
	}
	wg.Wait()
	for i, m := range t.sessions {
		wg.Go(func() {
			e := d.export(m.Export.Name)
			if e == nil {
				errs[i] = errNotConfigured(m.Session)
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
	sessions := make([]*nbdserver.Session, len(t.sessions))
	for i, m := range t.sessions {
		sessions[i] = m.Session
	}
	d.serveSessions(sessions, t.devices)
	d.log.Info("taken over", "connections", len(t.sessions))
}
