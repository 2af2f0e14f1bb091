// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"sync"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
)

// goOn is the way back: images open again, sessions go on, clients are accepted. Listeners stopped only if everything
// came to rest.
func (d *Daemon) goOn(sessions []*nbdserver.Session, atRest bool) {
	d.server.Reattach()
	for _, e := range d.all() {
		e.mu.Lock()
		e.ended = false
		e.mu.Unlock()
		e.keepUp()
	}
	d.resumeAll(sessions)
	if !atRest {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listeners {
		<-l.done
		l.done = make(chan struct{})
		d.serve(l)
	}
}

// resumeAll goes on with sessions of this process. It returns when all are being served, so that they are there for the
// next attempt.
func (d *Daemon) resumeAll(sessions []*nbdserver.Session) {
	devices := make([]nbdserver.Device, len(sessions))
	var opens sync.WaitGroup
	for i, m := range sessions {
		opens.Go(func() {
			var err error
			if devices[i], err = d.reopen(m.Export.Name, time.Duration(d.knownConfig().Limits.Upgrade)); err != nil {
				d.log.Error("a client is lost", "export", m.Export.Name, "error", err)
				_ = m.Conn.Close()
			}
		})
	}
	opens.Wait()
	d.serveSessions(sessions, devices)
}

// servedPatience bounds the wait for sessions to be served, of which some may end at once.
const servedPatience = time.Second

// serveSessions serves sessions in the background and waits until they are known to the server. One without a device is
// left out.
func (d *Daemon) serveSessions(sessions []*nbdserver.Session, devices []nbdserver.Device) {
	n := 0
	for i, m := range sessions {
		dev := devices[i]
		if dev == nil {
			continue
		}
		n++
		d.tasks.Go(func() {
			if err := d.server.ServeSession(d.ctx, m, dev); err != nil {
				d.log.Error("a client is lost", "export", m.Export.Name, "error", err)
				_ = dev.Close()
				_ = m.Conn.Close()
			}
		})
	}
	for until := time.Now().Add(servedPatience); d.server.Connections() < n && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
}

// reopenPause is between attempts to open an image again; a client is not given up for one that fails.
const reopenPause = 200 * time.Millisecond

// reopen opens an image that was open before. It tries again for as long as patience is.
func (d *Daemon) reopen(name string, patience time.Duration) (nbdserver.Device, error) {
	until := time.Now().Add(patience)
	for {
		e := d.export(name)
		if e == nil {
			return nil, errors.New("the export is gone")
		}
		dev, err := e.acquireAnyway(d.ctx)
		if err == nil || time.Now().After(until) || d.ctx.Err() != nil {
			return dev, err
		}
		time.Sleep(reopenPause)
	}
}
