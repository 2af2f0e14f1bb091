// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/nbdserver"
)

// How a process hands over to its successor. What comes before the pause may take its time; in the pause clients wait:
//
//  1. the successor starts, reads the configuration and says that it is ready
//  2. pause: all connections come to rest between two requests (nbdserver.Detach)
//  3. the images close, which gives back their locks
//  4. sockets and sessions go to the successor
//  5. the successor opens the images, makes sure that each session fits, and says so
//  6. commit: the predecessor will touch nothing any more; the successor serves
//
// What goes wrong before 6 ends the successor, and the predecessor opens its images again and goes on.

// EnvHandover names the descriptor by which a successor talks to its predecessor.
const EnvHandover = "LUKSGATE_HANDOVER_FD"

// successorFD is what that is: the first after the standard ones.
const successorFD = 3

// startTimeout is how long a successor may take to read its configuration.
const startTimeout = 30 * time.Second

// Upgrade hands over to a new process, which runs the program that is at this one's path now, with the same arguments.
// Clients that cannot be handed over are a reason not to, unless cut allows to disconnect them. On an error this process
// goes on serving.
func (d *Daemon) Upgrade(cut bool) (api.Upgrade, error) {
	d.change.Lock()
	defer d.change.Unlock()
	select {
	case <-d.gone:
		return api.Upgrade{}, errors.New("daemon: a successor has taken over already")
	default:
	}
	if err := d.mayHandOver(); err != nil {
		return api.Upgrade{}, err
	}
	next, ch, err := d.startSuccessor()
	if err != nil {
		return api.Upgrade{}, fmt.Errorf("daemon: successor: %w", err)
	}
	d.log.Info("handing over", "successor", next.Process.Pid)
	u, err := d.handOver(next, ch, cut)
	if err != nil {
		d.log.Error("the successor cannot take over, this process goes on", "error", err)
		return u, fmt.Errorf("daemon: the successor cannot take over, this process goes on: %w", err)
	}
	u.PID = next.Process.Pid
	d.notify.send("MAINPID=" + strconv.Itoa(u.PID))
	d.log.Info("handed over", "successor", u.PID, "connections", u.Connections, "cut", u.Cut, "pause", u.Pause)
	close(d.gone)
	return u, nil
}

// mayHandOver refuses what would lose data.
func (d *Daemon) mayHandOver() error {
	for _, e := range d.all() {
		s := e.state()
		if s.SizeBytes > 0 && strings.HasPrefix(s.Image, "mem:") {
			return fmt.Errorf("daemon: export %s is memory of this process, which no other can take over: drain it first", e.name)
		}
	}
	return nil
}

func (d *Daemon) startSuccessor() (*exec.Cmd, *channel, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "successor")
	defer func() { _ = theirs.Close() }()
	ch, err := newChannel(os.NewFile(uintptr(pair[0]), "successor"))
	if err != nil {
		return nil, nil, err
	}
	program, err := exec.LookPath(os.Args[0])
	if err != nil {
		return nil, nil, errors.Join(err, ch.c.Close())
	}
	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = successorEnvironment(os.Environ())
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(err, ch.c.Close())
	}
	_ = theirs.Close() // so that its end is seen
	if err := ch.expect(stepReady, time.Now().Add(startTimeout)); err != nil {
		_ = cmd.Process.Kill()
		return nil, nil, errors.Join(err, ch.c.Close(), cmd.Wait())
	}
	return cmd, ch, nil
}

func successorEnvironment(env []string) []string {
	out := slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		return strings.HasPrefix(e, "LISTEN_") || strings.HasPrefix(e, "WATCHDOG_PID=") || strings.HasPrefix(e, EnvHandover+"=")
	})
	return append(out, fmt.Sprintf("%s=%d", EnvHandover, successorFD))
}

// handOver does steps 2 to 6. When it fails everything is as before.
func (d *Daemon) handOver(next *exec.Cmd, ch *channel, cut bool) (api.Upgrade, error) {
	limit := time.Duration(d.knownConfig().Limits.Upgrade)
	start := time.Now()
	rest, cancel := context.WithTimeout(d.ctx, limit)
	defer cancel()
	sessions, err := d.server.Detach(rest)
	atRest := err == nil
	var u api.Upgrade
	if err == nil {
		u.Cut = countTLS(sessions)
		if u.Cut > 0 && !cut {
			err = fmt.Errorf("%d clients use TLS, whose keys stay in this process: disconnect them, or allow that with --cut", u.Cut)
		}
	}
	if err == nil {
		err = d.closeForSuccessor()
	}
	if err == nil {
		_ = ch.c.SetWriteDeadline(time.Now().Add(limit))
		err = d.sendState(ch, sessions)
	}
	if err == nil {
		err = ch.expect(stepOpen, time.Now().Add(limit))
	}
	if err == nil {
		err = ch.send(step{Step: stepCommit})
	}
	u.Pause, u.Connections = time.Since(start), len(sessions)-u.Cut
	if err != nil {
		endSuccessor(next) // before its end of the channel is closed: it would go on, as after our death
	}
	_ = ch.c.Close()
	if err != nil {
		d.goOn(sessions, atRest)
		return u, err
	}
	for _, m := range sessions {
		_ = m.Conn.Close()
	}
	return u, nil
}

// endPatience is how long a successor that failed may take to close images in order.
const endPatience = 3 * time.Second

// endSuccessor waits for the end of a successor that has failed, and ends it if need be: what it has open could not be
// opened again here.
func endSuccessor(next *exec.Cmd) {
	timer := time.AfterFunc(endPatience, func() { _ = next.Process.Kill() })
	defer timer.Stop()
	_ = next.Wait() // how it ended is of no interest
}

func countTLS(sessions []*nbdserver.Session) int {
	n := 0
	for _, m := range sessions {
		if m.TLS {
			n++
		}
	}
	return n
}

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

// sendState sends everything that the successor needs.
func (d *Daemon) sendState(ch *channel, sessions []*nbdserver.Session) error {
	s := state{Version: stateVersion}
	var fds []int
	number := func(v any) (int, error) {
		fd, err := rawFD(v)
		fds = append(fds, fd)
		return len(fds) - 1, err
	}
	var errs []error
	for key, l := range d.sockets() {
		i, err := number(l)
		s.Listeners = append(s.Listeners, stateListener{key, i})
		errs = append(errs, err)
	}
	for _, m := range sessions {
		if m.TLS {
			continue
		}
		i, err := number(m.Conn)
		s.Sessions = append(s.Sessions, stateSession{m, i})
		errs = append(errs, err)
	}
	for _, e := range d.all() {
		e.mu.Lock()
		if e.origin == originAPI && !e.removed {
			s.Added = append(s.Added, e.cfg)
		}
		if e.drained {
			s.Drained = append(s.Drained, e.name)
		}
		e.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := ch.send(s); err != nil {
		return err
	}
	return ch.sendFDs(fds)
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

// goOn is the way back: images open again, sessions go on, clients are accepted. Listeners stopped only if everything
// came to rest.
func (d *Daemon) goOn(sessions []*nbdserver.Session, atRest bool) {
	d.server.Reattach()
	for _, e := range d.all() {
		e.mu.Lock()
		e.ended = false
		e.mu.Unlock()
		if e.current().Open == config.OpenAtStart {
			d.tasks.Go(func() { e.keepOpen(d.ctx) })
		}
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
			if devices[i], err = d.reopen(m.Export.Name); err != nil {
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

// reopen opens an image that was open before. It tries for as long as the successor had.
func (d *Daemon) reopen(name string) (nbdserver.Device, error) {
	until := time.Now().Add(time.Duration(d.knownConfig().Limits.Upgrade))
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

// leave ends this process's part after a hand-over: names of sockets stay, and what uses them.
func (d *Daemon) leave() error {
	for _, l := range d.sockets() {
		if u, ok := l.(*nbdserver.UnixListener); ok {
			u.Keep()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	d.stopAdmin(ctx)
	d.cancel()
	for _, l := range d.sockets() {
		_ = l.Close()
	}
	err := d.server.Shutdown(ctx)
	d.tasks.Wait()
	return err
}
