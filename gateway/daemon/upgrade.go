// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// How a process hands over to its successor. What comes before the pause may take its time; in the pause clients wait:
//
//  1. the successor starts, reads the configuration and says that it is ready
//  2. it hears what is open, fetches the keys, and opens the same images in standby: unlocked, but without the locks that
//     keep others from writing, and without a write. Most of what can go wrong goes wrong here, and nobody notices
//  3. pause: all connections come to rest between two requests (nbdserver.Detach)
//  4. the images close, which gives back their locks
//  5. sockets and sessions go to the successor
//  6. the successor takes the locks, opens what was opened meanwhile, makes sure that each session fits, and says so
//  7. commit: the predecessor will touch no image any more; the successor serves
//
// What goes wrong before 7 ends the successor, and the predecessor opens its images again and goes on. Keys do not go
// from process to process: the successor fetches its own. A client with TLS, whose session keys cannot leave the process,
// is relayed (relay.go).

// Upgrade hands over to a new process, which runs the program that is at this one's path now, with the same arguments.
// Clients with TLS are relayed by this process until they leave; cut disconnects them instead. On an error this process
// goes on serving.
func (d *Daemon) Upgrade(cut bool) (api.Upgrade, error) {
	d.change.Lock()
	defer d.change.Unlock()
	select {
	case <-d.gone:
		return api.Upgrade{}, errors.New("daemon: a successor has taken over already")
	default:
	}
	if err := errors.Join(d.mayHandOver(), d.errWaiting()); err != nil {
		return api.Upgrade{}, err
	}
	next, ch, err := d.startSuccessor()
	if err != nil {
		return api.Upgrade{}, fmt.Errorf("daemon: successor: %w", err)
	}
	d.log.Info("handing over", "successor", next.Process.Pid)
	before := time.Now()
	u := api.Upgrade{}
	if err = d.getReady(ch); err != nil {
		endSuccessor(next)
		_ = ch.c.Close()
	} else {
		prepared := time.Since(before)
		u, err = d.handOver(next, ch, cut)
		u.Prepared = prepared
	}
	if err != nil {
		d.log.Error("the successor cannot take over, this process goes on", "error", err)
		return u, fmt.Errorf("daemon: the successor cannot take over, this process goes on: %w", err)
	}
	go func() { _ = next.Wait() }() // or it would stay a zombie for as long as this process relays
	u.PID = next.Process.Pid
	d.notify.send("MAINPID=" + strconv.Itoa(u.PID))
	d.log.Info("handed over", "successor", u.PID, "connections", u.Connections, "relayed", u.Relayed,
		"cut", u.Cut, "prepared", u.Prepared, "pause", u.Pause)
	close(d.gone)
	return u, nil
}

// mayHandOver refuses what would lose data.
func (d *Daemon) mayHandOver() error {
	for _, e := range d.all() {
		if e.state().SizeBytes > 0 && e.inMemory() {
			return fmt.Errorf("daemon: export %s is memory of this process, which no other can take over: drain it first", e.name)
		}
	}
	return nil
}

// handOver does steps 3 to 7. When it fails everything is as before.
func (d *Daemon) handOver(next *exec.Cmd, ch *channel, cut bool) (api.Upgrade, error) {
	limit := time.Duration(d.knownConfig().Limits.Upgrade)
	start := time.Now()
	rest, cancel := context.WithTimeout(d.ctx, limit)
	defer cancel()
	sessions, err := d.server.Detach(rest)
	atRest := err == nil
	var parts handing
	if err == nil {
		parts, err = d.divide(sessions, cut)
	}
	if err == nil {
		err = d.closeForSuccessor()
	}
	if err == nil {
		_ = ch.c.SetWriteDeadline(time.Now().Add(limit))
		err = d.sendState(ch, &parts)
	}
	if err == nil {
		err = ch.expect(stepOpen, time.Now().Add(limit))
	}
	if err == nil {
		err = ch.send(step{Step: stepCommit})
	}
	u := api.Upgrade{Pause: time.Since(start), Connections: len(parts.sessions), Relayed: len(parts.relays), Cut: len(parts.cut)}
	if err != nil {
		endSuccessor(next) // before its end of the channel is closed: it would go on, as after our death
	}
	_ = ch.c.Close()
	if err != nil {
		parts.abandon()
		d.goOn(sessions, atRest)
		return u, err
	}
	parts.part(d)
	return u, nil
}

// endPatience is how long a successor that failed may take to close images in order.
const endPatience = 3 * time.Second

// endSuccessor ends a successor that has failed, and waits for that: what it has open could not be opened again here.
func endSuccessor(next *exec.Cmd) {
	_ = next.Process.Signal(unix.SIGTERM)
	timer := time.AfterFunc(endPatience, func() { _ = next.Process.Kill() })
	defer timer.Stop()
	_ = next.Wait() // how it ended is of no interest
}

// inMemory tells that the image ends with the process.
func (e *export) inMemory() bool { return strings.HasPrefix(e.current().Image, "mem:") }

// closeForSuccessor closes all images, at once.
func (d *Daemon) closeForSuccessor() error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, e := range d.all() {
		wg.Go(func() {
			err := e.shut()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("export %s: %w", e.name, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// changedExports are the exports that are not in the configuration file, and those that take no new clients.
func (d *Daemon) changedExports() (added []config.Export, drained []string) {
	for _, e := range d.all() {
		e.mu.Lock()
		if e.origin == originAPI && !e.removed {
			added = append(added, e.cfg)
		}
		if e.drained {
			drained = append(drained, e.name)
		}
		e.mu.Unlock()
	}
	return added, drained
}

// sendState sends everything that the successor needs.
func (d *Daemon) sendState(ch *channel, parts *handing) error {
	s, fds, err := d.collect(d.sockets(), parts.sessions)
	if err == nil {
		err = ch.send(s)
	}
	if err == nil {
		err = ch.sendFDs(fds)
	}
	return err
}

// collect is the state of this process, and the descriptors that it numbers, which stay open.
func (d *Daemon) collect(sockets map[string]net.Listener, sessions []stateSession) (*state, []int, error) {
	s := &state{Version: stateVersion}
	var fds []int
	var errs []error
	number := func(v any) int {
		fd, err := rawFD(v)
		fds, errs = append(fds, fd), append(errs, err)
		return len(fds) - 1
	}
	for key, l := range sockets {
		s.Listeners = append(s.Listeners, stateListener{key, number(l)})
	}
	for _, m := range sessions {
		m.FD = number(m.conn)
		s.Sessions = append(s.Sessions, m)
	}
	s.Added, s.Drained = d.changedExports()
	return s, fds, errors.Join(errs...)
}

// sockets are all listening sockets, by key.
func (d *Daemon) sockets() map[string]net.Listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := maps.Clone(d.own)
	for key, l := range d.listeners {
		out[key] = l.inner
	}
	return out
}
