// SPDX-License-Identifier: Apache-2.0

// Package daemon runs many exports in one process, as a configuration file says, and changes them while it runs.
//
// An export goes through these steps:
//
//  1. its name is known and its socket listens (listen.go)
//  2. a client asks for it: the first one opens the image, others wait for that (export.go)
//  3. clients use it; one image serves all of them
//  4. the last one leaves: after a grace time the image closes and its key is wiped
//
// Exports know nothing of each other: what goes wrong with one is its own state. The admin API (admin.go) shows and
// changes all of it; reload.go applies a changed file; upgrade.go hands everything to a new process.
//
// Lock order: Daemon.change, then Daemon.mu, then export.mu. No lock is held while an image is opened or closed, but
// change, which orders what operators do.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/metrics"
	"github.com/luksgate/luksgate/nbdserver"
)

// drainTimeout bounds how long an end waits for requests that an image does not answer.
const drainTimeout = 60 * time.Second

// Options say what to run.
type Options struct {
	// Path is the configuration file, for reloads; Config is its content.
	Path   string
	Config *config.File
	Logger *slog.Logger
	// Level is set by a reload; nil is allowed.
	Level *slog.LevelVar
	Build metrics.Build
	// Handover is the connection to the process whose work this one takes over; nil if there is none.
	Handover *os.File
	// Load reads Path again; nil means config.Load.
	Load func(path string) (*config.File, error)
}

// A Daemon is a running gateway. Its methods may be called by many goroutines at once.
type Daemon struct {
	path    string
	load    func(string) (*config.File, error)
	log     *slog.Logger
	level   *slog.LevelVar
	build   metrics.Build
	metrics *metrics.Set
	started time.Time
	keys    keyring
	notify  *notifier

	server *nbdserver.Server

	adminSocket string // of the start; a reload does not change it

	admin *http.Server
	tcp   *http.Server            // metrics for the network, or nil
	own   map[string]net.Listener // of admin and tcp, by key

	handover *os.File
	gone     chan struct{} // closed when a successor has taken over

	relays    sync.WaitGroup  // of clients with TLS that the successor serves
	relayEnd  context.Context // when they are to finish
	endRelays context.CancelFunc

	ctx    context.Context // of everything that goes on in the background
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	change sync.Mutex // held by whoever adds, removes or changes exports or listeners

	mu        sync.Mutex
	config    *config.File
	exports   map[string]*export
	listeners map[string]*listener // by key
	ready     bool
	waiting   map[*nbdserver.Session]bool // clients that systemd kept, until their image is open
}

// New makes a daemon that does not run yet.
func New(o Options) (*Daemon, error) {
	if o.Load == nil {
		o.Load = config.Load
	}
	d := &Daemon{
		path: o.Path, load: o.Load, log: o.Logger, level: o.Level, build: o.Build, started: time.Now(), config: o.Config,
		exports: map[string]*export{}, listeners: map[string]*listener{}, own: map[string]net.Listener{}, waiting: map[*nbdserver.Session]bool{},
		handover: o.Handover, gone: make(chan struct{}),
		notify: newNotifier(),
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.relayEnd, d.endRelays = context.WithCancel(context.Background())
	d.metrics = metrics.NewSet(o.Build, d.serverState)
	keys, err := newKeyring(o.Config)
	if err != nil {
		return nil, err
	}
	d.keys = keys
	d.server = nbdserver.New(nbdserver.Options{
		Catalog: &view{daemon: d},
		Logger:  d.log, Metrics: d.metrics,
		Limits: ServerLimits(o.Config.Limits),
	})
	for i := range o.Config.Exports {
		e := newExport(d, o.Config.Exports[i], originFile)
		d.exports[e.name] = e
	}
	return d, nil
}

func (d *Daemon) serverState() metrics.Server {
	b, w := d.server.BufferStats(), gateway.WorkerStats()
	return metrics.Server{
		Connections: d.server.Connections(), BudgetBytes: b.BudgetBytes, UsedBytes: b.UsedBytes, KeptBytes: b.KeptBytes,
		Waiting: b.Waiting, Waited: b.Waited,
		Workers: metrics.Workers{Helpers: w.Helpers, Busy: w.Busy, Split: w.Split, Shared: w.Shared},
	}
}

// Run serves until ctx ends, then finishes what is under way and returns.
func (d *Daemon) Run(ctx context.Context) error {
	if err := d.start(); err != nil {
		return errors.Join(err, d.stop())
	}
	d.becomeReady()
	d.tasks.Go(func() { d.notify.watchdog(d.ctx, d.answers) })
	select {
	case <-d.gone:
		return d.leave(ctx)
	case <-ctx.Done():
	}
	d.log.Info("stopping: finishing what is under way")
	d.notify.send("STOPPING=1")
	return d.stop()
}

// start listens everywhere and opens what is to be open from the start.
func (d *Daemon) start() error {
	files, err := nbdserver.ActivationFiles()
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	kept, files := d.takeStored(files)
	passed, err := takeActivation(files)
	if err != nil {
		return err
	}
	passed.stored = kept.listen
	defer passed.close(d.notify)
	if kept.state != nil {
		d.adoptExports(kept.state.Added, kept.state.Drained)
	}
	if d.handover != nil {
		taken, err := d.takeOver(passed)
		if err != nil {
			passed.keepNames() // they are the predecessor's, which goes on
			return err
		}
		taken.serve(d) // before all else: these clients wait
	}
	serveAdmin, err := d.listenAdmin(passed)
	if err != nil {
		return err
	}
	d.change.Lock()
	defer d.change.Unlock()
	for _, err := range d.syncListeners(passed) {
		d.log.Error("a socket is missing; it is tried again", "error", err)
	}
	d.tasks.Go(d.retryListeners)
	serveAdmin()
	d.resume(kept)
	return nil
}

// listenEvery is how often sockets that could not be opened are tried again.
const listenEvery = 10 * time.Second

// retryListeners opens what could not be opened before. A socket that is missing keeps no other export from being
// served.
func (d *Daemon) retryListeners() {
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-tick.C:
		}
		if len(d.missing()) == 0 {
			continue
		}
		d.change.Lock()
		for _, err := range d.syncListeners(nil) {
			d.log.Error("a socket is missing; it is tried again", "error", err)
		}
		d.change.Unlock()
	}
}

// missing are the sockets that are wanted and not there.
func (d *Daemon) missing() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for key := range d.wishesLocked() {
		if d.listeners[key] == nil {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// becomeReady tries to open what is to be open from the start, in the background: an image that cannot be reached must
// not keep the others from being served.
func (d *Daemon) becomeReady() {
	for _, e := range d.all() {
		e.keepUp()
	}
	d.mu.Lock()
	d.ready = true
	exports, listeners := len(d.exports), len(d.listeners)
	d.mu.Unlock()
	d.log.Info("serving", "exports", exports, "sockets", listeners, "config", d.path)
	d.notify.send(fmt.Sprintf("READY=1\nSTATUS=serving %d exports", exports))
}

// stop ends clients after their requests, closes all images and waits for everything.
func (d *Daemon) stop() error {
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	kept := d.keepable(drain)
	err := d.server.Shutdown(drain)
	if err != nil {
		err = fmt.Errorf("requests were still under way after %v: %w", drainTimeout, err)
	}
	d.cancel()
	d.stopAdmin(drain)
	return errors.Join(err, d.closeAll(), d.storeSessions(kept))
}

func (d *Daemon) closeAll() error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, e := range d.all() {
		wg.Go(func() {
			if err := e.shut(); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("export %s: %w", e.name, err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	d.tasks.Wait()
	return errors.Join(errs...)
}

// all are the exports, by name.
func (d *Daemon) all() []*export {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := slices.Sorted(maps.Keys(d.exports))
	out := make([]*export, len(names))
	for i, name := range names {
		out[i] = d.exports[name]
	}
	return out
}

func (d *Daemon) export(name string) *export {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.exports[name]
}

// alive tells that the locks that everybody needs can be had.
func (d *Daemon) alive() {
	d.mu.Lock()
	_ = d.ready
	d.mu.Unlock()
	_ = d.server.Connections()
}

// answers asks the daemon as an operator would, through its admin socket: the watchdog's question.
func (d *Daemon) answers(ctx context.Context) error {
	return api.NewClient(d.adminSocket).Health(ctx)
}
