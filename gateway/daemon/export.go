// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/bench/trace"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/access"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/metrics"
	"github.com/luksgate/luksgate/nbdserver"
)

// Where an export is from.
const (
	originFile = "file"
	originAPI  = "api"
)

// errDraining is what a client gets of an export that takes no new ones.
var errDraining = fmt.Errorf("the export takes no new clients (luksgate drain): %w", nbdserver.ErrDenied)

// An export is a name, a configuration, and the image while it is open.
type export struct {
	daemon *Daemon
	name   string
	log    *slog.Logger
	stats  *metrics.Export
	tap    trace.Tap
	hurry  chan struct{} // has keepOpen try again at once

	mu        sync.Mutex
	cfg       config.Export
	policy    *access.Policy // of cfg
	policyErr error          // why there is none: then nobody may open it
	origin    string
	opening   chan struct{}      // closed when the attempt under way has ended; nil if there is none
	giveUp    context.CancelFunc // ends the last attempt
	closing   chan struct{}      // closed when the image is closed; nil if it is not being closed
	image     *openImage         // nil unless open
	standby   *openImage         // opened beside the predecessor, which uses it still; not to be used yet
	users     int                // clients, and others that need the image open
	grace     *time.Timer        // runs while the image is open and unused
	drained   bool               // takes no new clients
	removed   bool               // drained for good
	ended     bool               // the daemon stops
	keeping   bool               // a goroutine tries to open it (keepOpen)
	failure   error              // of the last attempt to open it
	since     time.Time
}

// An openImage is an image while it is open.
type openImage struct {
	cfg    config.Export // with which it was opened
	export *gateway.Export
	took   time.Duration // of the open
	quit   chan struct{} // closed when it is to be closed
	watch  sync.WaitGroup
	busy   bool // an operation is under way; under export.mu
}

func newExport(d *Daemon, cfg config.Export, origin string) *export {
	e := &export{
		daemon: d, name: cfg.Name, origin: origin, since: time.Now(),
		log: d.log.With("export", cfg.Name), stats: d.metrics.Export(cfg.Name), hurry: make(chan struct{}, 1),
	}
	e.setLocked(cfg)
	return e
}

func (e *export) current() config.Export {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cfg
}

func (e *export) info() nbdserver.ExportInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	return nbdserver.ExportInfo{Name: e.name, Description: e.cfg.Description}
}

// acquire returns the device for one user, opening the image if it is not open. Closing the device gives it back.
func (e *export) acquire(ctx context.Context) (nbdserver.Device, error) { return e.get(ctx, false) }

// acquireAnyway is acquire for clients that were there before, whom a drain does not concern.
func (e *export) acquireAnyway(ctx context.Context) (nbdserver.Device, error) {
	return e.get(ctx, true)
}

func (e *export) get(ctx context.Context, anyway bool) (nbdserver.Device, error) {
	for {
		e.mu.Lock()
		switch {
		case e.ended || e.drained && !anyway:
			e.mu.Unlock()
			return nil, errDraining
		case e.image != nil && e.closing == nil && e.users == 0 && e.image.cfg.Image != e.cfg.Image:
			img := e.image
			e.mu.Unlock()
			e.closeLogged(img)
			continue
		case e.image != nil && e.closing == nil:
			dev, err := e.useLocked(anyway)
			e.mu.Unlock()
			return dev, err
		}
		wait := e.closing
		if wait == nil {
			if wait = e.opening; wait == nil {
				wait = e.startOpenLocked()
			}
		}
		wasOpening := e.closing == nil
		e.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if wasOpening {
			e.mu.Lock()
			if e.image == nil && e.failure != nil {
				err := e.failure
				e.mu.Unlock()
				return nil, err
			}
			e.mu.Unlock()
		}
	}
}

// useLocked counts one user more of the open image and returns the device that counts it out. Nobody new gets another
// image than the configuration names now: what clients of the same export write would be in two places.
func (e *export) useLocked(anyway bool) (nbdserver.Device, error) {
	if err := e.image.export.Err(); err != nil { // its clients are on their way out
		return nil, err
	}
	if old := e.image.cfg.Image; old != e.cfg.Image && !anyway {
		return nil, fmt.Errorf("daemon: export %s is %s now, but has clients that use %s still: it can be opened when they have left",
			e.name, e.cfg.Image, old)
	}
	e.users++
	if e.grace != nil {
		e.grace.Stop()
		e.grace = nil
	}
	return e.track(e.image.export.Device()), nil
}

// release counts a user out. The last one starts the time of grace.
func (e *export) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.users--
	e.idleLocked()
}

// idleLocked sees to it that an image that nobody uses closes in the end.
func (e *export) idleLocked() {
	if e.users > 0 || e.image == nil || e.closing != nil || e.ended {
		return
	}
	delay := e.cfg.CloseDelay()
	switch {
	case e.removed || e.drained || e.image.export.Err() != nil || !reflect.DeepEqual(e.cfg, e.image.cfg):
		delay = 0
	case e.cfg.Open == config.OpenAtStart:
		return
	}
	img := e.image
	if e.grace != nil {
		e.grace.Stop()
	}
	e.grace = time.AfterFunc(delay, func() { e.closeLogged(img) })
}

func (e *export) closeLogged(img *openImage) {
	if err := e.closeIdle(img); err != nil {
		e.log.Error("cannot close the image in order", "error", err)
	}
}

// closeIdle closes img unless somebody uses it again.
func (e *export) closeIdle(img *openImage) error {
	e.mu.Lock()
	if e.image != img || e.users > 0 || e.closing != nil || e.ended { // shut closes it where the daemon ends
		e.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	e.closing = done
	e.mu.Unlock()
	err := img.close()
	e.mu.Lock()
	e.image, e.closing, e.since = nil, nil, time.Now()
	e.keepUpLocked()
	e.mu.Unlock()
	close(done)
	e.stats.Closed()
	e.log.Info("image closed")
	e.daemon.drop(e)
	return err
}

// startOpenLocked starts an attempt to open the image and returns what is closed at its end.
func (e *export) startOpenLocked() chan struct{} {
	done := make(chan struct{})
	e.opening, e.failure, e.since = done, nil, time.Now()
	cfg := e.cfg
	ctx, cancel := context.WithCancel(e.daemon.ctx)
	e.giveUp = cancel
	e.daemon.tasks.Go(func() {
		defer cancel()
		img, err := e.open(ctx, cfg, false)
		if err == nil {
			e.begin(img)
		}
		e.mu.Lock()
		e.image, e.failure, e.opening, e.since = img, err, nil, time.Now()
		if err == nil {
			// Whoever asked may have gone: then this starts the time of grace.
			e.idleLocked()
		}
		e.mu.Unlock()
		close(done)
	})
	return done
}

// open opens the image. It runs on its own: a client that loses patience does not end it for others. An image in standby
// may not be used until it is held.
func (e *export) open(ctx context.Context, cfg config.Export, standby bool) (*openImage, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cfg.OpenTimeout))
	defer cancel()
	start := time.Now()
	gc, err := e.daemon.gatewayConfig(ctx, &cfg, e)
	gc.Standby = standby
	var exp *gateway.Export
	if err == nil {
		exp, err = gateway.Open(ctx, gc)
	}
	took := time.Since(start)
	if err != nil {
		e.stats.Opened("", took, err)
		e.log.Error("cannot open the image", "image", cfg.Image, "error", err, "after", took)
		return nil, err
	}
	return &openImage{cfg: cfg, export: exp, took: took, quit: make(chan struct{})}, nil
}

// begin has an image that is open looked after.
func (e *export) begin(img *openImage) {
	e.stats.Opened(img.export.Engine(), img.took, nil)
	img.watch.Go(func() { e.watch(img) })
	e.log.Info("image open", "image", img.cfg.Image, "size", img.export.Device().SizeBytes(), "after", img.took)
}

// watch looks after an open image until it is closed. An image that can no longer be used ends its clients: the next
// one opens it anew. It has no timer: hundreds of images that nobody uses cost nothing.
func (e *export) watch(img *openImage) {
	select {
	case <-img.export.Dead():
		e.stats.Ended()
		e.log.Error("the image can no longer be used; its clients are disconnected", "error", img.export.Err())
		e.daemon.server.Disconnect(e.name)
		e.mu.Lock()
		e.failure = img.export.Err()
		e.idleLocked()
		e.mu.Unlock()
		<-img.quit
	case <-img.quit:
	}
	e.count(img) // for the last time
}

// count takes over what an RBD image has counted. Somebody who looks at the counters has it done, and the image's end.
func (e *export) count(img *openImage) {
	s, ok := img.export.RBDStats()
	if !ok {
		return
	}
	r := metrics.RBD{LockTaken: s.LockTaken, LockLost: s.LockLost, Waiting: s.Waiting, Oldest: s.Oldest, Failures: map[metrics.Failure]uint64{}}
	for f, n := range s.Failures {
		name := unix.ErrnoName(f.Errno)
		if name == "" {
			name = "other"
		}
		r.Failures[metrics.Failure{Op: f.Op, Errno: name}] += n
	}
	e.stats.RBD(r)
}

// countAll has the counters of all exports brought up to date, for somebody who looks at them.
func (d *Daemon) countAll() {
	for _, e := range d.all() {
		e.mu.Lock()
		if e.image != nil && e.closing == nil {
			e.count(e.image)
		}
		e.mu.Unlock()
	}
}

func (m *openImage) close() error {
	close(m.quit)
	m.watch.Wait()
	return m.export.Close()
}

// shut closes the image for good: no client is left and none will come.
func (e *export) shut() error {
	e.mu.Lock()
	e.ended = true
	if e.grace != nil {
		e.grace.Stop()
	}
	if e.giveUp != nil {
		e.giveUp() // a key that does not come is not waited for
	}
	waits := []chan struct{}{e.opening, e.closing}
	e.mu.Unlock()
	for _, wait := range waits {
		if wait != nil {
			<-wait
		}
	}
	e.mu.Lock()
	img, standby := e.image, e.standby
	e.image, e.standby = nil, nil
	e.mu.Unlock()
	var err error
	if standby != nil {
		err = standby.close()
	}
	if img != nil {
		err = errors.Join(err, img.close())
		e.stats.Closed()
	}
	return err
}

// state is the export for the API.
func (e *export) state() api.Export {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := api.Export{
		Name: e.name, Description: e.cfg.Description, Image: e.cfg.Image, Socket: e.cfg.Socket, State: api.StateClosed,
		Clients: e.users, ReadOnly: e.cfg.ReadOnly, Engine: e.cfg.Engine, Origin: e.origin, Removed: e.removed, Since: e.since,
	}
	if len(e.cfg.Keys) > 0 {
		out.Key = keyName(&e.cfg.Keys[0])
	}
	switch {
	case e.image != nil:
		out.State, out.SizeBytes = api.StateOpen, e.image.export.Device().SizeBytes()
		out.Pending = !reflect.DeepEqual(e.cfg, e.image.cfg)
		out.Cluster, _ = e.image.export.ClusterID() // no request: the connection knows it
	case e.opening != nil:
		out.State = api.StateOpening
	case e.failure != nil:
		out.State = api.StateFailed
	}
	if e.failure != nil {
		out.Error = e.failure.Error()
	}
	if e.drained {
		out.State = api.StateDraining
	}
	return out
}
