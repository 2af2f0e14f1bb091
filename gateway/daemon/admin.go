// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// maxExportBytes bounds what describes one export to add.
const maxExportBytes = 1 << 20

// listenAdmin listens for operators and, if configured, for Prometheus on the network. What it returns answers there;
// until then requests wait: who gets an answer finds the exports' sockets too.
func (d *Daemon) listenAdmin(passed *passedSockets) (serve func(), err error) {
	d.adminSocket = d.config.Admin.Socket
	admin, err := d.listenOwn(wish{network: "unix", address: d.adminSocket, access: d.config.Admin.Access}, passed)
	if err != nil {
		return nil, err
	}
	if d.config.Metrics.Address == "" {
		return func() { d.admin = d.serveHTTP(admin, d.adminHandler()) }, nil
	}
	tcp, err := d.listenOwn(wish{network: "tcp", address: d.config.Metrics.Address}, passed)
	if err != nil {
		return nil, errors.Join(err, admin.Close())
	}
	mux := http.NewServeMux()
	d.observe(mux)
	return func() {
		d.admin = d.serveHTTP(admin, d.adminHandler())
		d.tcp = d.serveScrapers(tcp, mux)
	}, nil
}

// listenOwn opens a socket of the daemon itself.
func (d *Daemon) listenOwn(w wish, passed *passedSockets) (net.Listener, error) {
	l, err := w.open(passed)
	if err != nil {
		return nil, err
	}
	d.own[w.key()] = l
	d.keep(w.key(), l)
	return l, nil
}

func (d *Daemon) serveHTTP(l net.Listener, h http.Handler) *http.Server {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	s.RegisterOnShutdown(d.endRecordings) // it waits for them
	d.tasks.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("no more requests are answered", "socket", l.Addr().String(), "error", err)
		}
	})
	return s
}

const (
	// maxScrapers is how many connections the metrics of the network have at once.
	maxScrapers = 32
	// scrapeTimeout is how long one may take to read its answer.
	scrapeTimeout = 30 * time.Second
)

// serveScrapers is serveHTTP for the network, where anybody may connect.
func (d *Daemon) serveScrapers(l net.Listener, h http.Handler) *http.Server {
	return d.serveHTTP(newBounded(l, maxScrapers), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(scrapeTimeout))
		h.ServeHTTP(w, r)
	}))
}

func (d *Daemon) stopAdmin(ctx context.Context) {
	for _, s := range []*http.Server{d.admin, d.tcp} {
		if s == nil {
			continue
		}
		if err := s.Shutdown(ctx); err != nil {
			_ = s.Close()
		}
	}
}

// observe adds what anybody may look at.
func (d *Daemon) observe(mux *http.ServeMux) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(d.metrics, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scrape := promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelError), EnableOpenMetrics: true,
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		d.countAll()
		scrape.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		d.alive()
		answer(w, http.StatusOK, map[string]bool{"healthy": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := d.readiness()
		status := http.StatusOK
		if !r.Ready {
			status = http.StatusServiceUnavailable
		}
		answer(w, status, r)
	})
}

func (d *Daemon) readiness() api.Ready {
	r := api.Ready{Ready: d.isReady(), Missing: d.missing()}
	r.Ready = r.Ready && len(r.Missing) == 0
	for _, e := range d.all() {
		s := e.state()
		if e.current().Open == config.OpenAtStart && s.State != api.StateOpen && s.State != api.StateDraining {
			r.Waiting = append(r.Waiting, e.name)
			r.Ready = false
		}
	}
	return r
}

func (d *Daemon) adminHandler() http.Handler {
	mux := http.NewServeMux()
	d.observe(mux)
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, api.Version{Luksgate: d.build.Version, PID: os.Getpid(), Config: d.path, Started: d.started})
	})
	mux.HandleFunc("GET /v1/exports", func(w http.ResponseWriter, _ *http.Request) {
		out := []api.Export{}
		for _, e := range d.all() {
			out = append(out, d.describe(e))
		}
		answer(w, http.StatusOK, out)
	})
	mux.HandleFunc("POST /v1/exports", d.handleAdd)
	mux.HandleFunc("GET /v1/exports/{name}", d.withExport(func(*http.Request, *export) error { return nil }))
	mux.HandleFunc("DELETE /v1/exports/{name}", d.handleRemove)
	mux.HandleFunc("POST /v1/exports/{name}/drain", d.withExport(func(r *http.Request, e *export) error {
		e.drain()
		if r.FormValue("disconnect") == "true" {
			d.server.Disconnect(e.name)
		}
		return nil
	}))
	mux.HandleFunc("POST /v1/exports/{name}/resume", d.withExport(func(_ *http.Request, e *export) error { return e.resume() }))
	mux.HandleFunc("POST /v1/exports/{name}/resize", d.handleResize)
	mux.HandleFunc("POST /v1/exports/{name}/flatten", d.handleFlatten)
	mux.HandleFunc("POST /v1/exports/{name}/record", d.handleRecord)
	mux.HandleFunc("DELETE /v1/exports/{name}/record", d.withExport(endRecording))
	mux.HandleFunc("GET /v1/stats", func(w http.ResponseWriter, _ *http.Request) {
		d.countAll()
		answer(w, http.StatusOK, api.Stats{At: time.Now(), Since: d.started, Exports: d.metrics.Snapshots()})
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) {
		change, err := d.Reload()
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		answer(w, http.StatusOK, change)
	})
	mux.HandleFunc("POST /v1/upgrade", func(w http.ResponseWriter, r *http.Request) {
		u, err := d.Upgrade(r.FormValue("cut") == "true")
		if err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		answer(w, http.StatusOK, u)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Errorf("admin: there is no %s %s", r.Method, r.URL.Path))
	})
	return mux
}

// describe is an export's state with its addresses.
func (d *Daemon) describe(e *export) api.Export {
	out := e.state()
	out.URIs = []string{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listeners {
		if l.view.has(e.name) {
			out.URIs = append(out.URIs, l.uri(e.name))
		}
	}
	slices.Sort(out.URIs)
	return out
}

// find is the export in the path; where there is none it answers that, and returns nil.
func (d *Daemon) find(w http.ResponseWriter, r *http.Request) *export {
	e := d.export(r.PathValue("name"))
	if e == nil {
		refuse(w, http.StatusNotFound, fmt.Errorf("daemon: export %q: %w", r.PathValue("name"), api.ErrNotFound))
	}
	return e
}

// withExport answers with the state of the export in the path, after act.
func (d *Daemon) withExport(act func(*http.Request, *export) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		e := d.find(w, r)
		if e == nil {
			return
		}
		if err := act(r, e); err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		answer(w, http.StatusOK, d.describe(e))
	}
}

func (d *Daemon) handleAdd(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxExportBytes))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	e, status, err := d.add(text)
	if err != nil {
		refuse(w, status, err)
		return
	}
	answer(w, status, d.describe(e))
}

// add adds an export, or finds that it is there.
func (d *Daemon) add(text []byte) (*export, int, error) {
	d.change.Lock()
	defer d.change.Unlock()
	known := d.knownConfig()
	base := *known
	name, err := config.NameOf(text)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	base.Exports = slices.DeleteFunc(slices.Clone(known.Exports), func(e config.Export) bool { return e.Name == name })
	c, err := base.ParseExport(text)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	if e := d.export(name); e != nil && len(base.Exports) < len(known.Exports) {
		if !reflect.DeepEqual(e.current(), c) {
			return nil, http.StatusConflict, fmt.Errorf("daemon: export %q is there already, with another configuration", name)
		}
		return e, http.StatusOK, nil
	}
	e, _, _ := d.put(c, originAPI) // it may be there still, being removed
	problems := d.syncListeners(nil)
	d.mu.Lock()
	listens := c.Socket == "" || d.listeners["unix:"+c.Socket] != nil
	d.mu.Unlock()
	if !listens {
		e.remove()
		_ = d.syncListeners(nil)
		return nil, http.StatusConflict, errors.Join(problems...)
	}
	d.log.Info("export added", "export", name, "image", c.Image)
	return e, http.StatusCreated, nil
}

func (d *Daemon) handleRemove(w http.ResponseWriter, r *http.Request) {
	d.change.Lock()
	defer d.change.Unlock()
	e := d.find(w, r)
	if e == nil {
		return
	}
	disconnect := r.FormValue("disconnect") == "true"
	if n := e.state().Clients; n > 0 && !disconnect {
		refuse(w, http.StatusConflict, fmt.Errorf("daemon: export %s has %d clients: drain it first, or disconnect them", e.name, n))
		return
	}
	e.remove()
	if disconnect {
		d.server.Disconnect(e.name)
	}
	for _, err := range d.syncListeners(nil) {
		d.log.Error("a socket is missing", "error", err)
	}
	d.log.Info("export removed", "export", e.name)
	answer(w, http.StatusOK, struct{}{})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client may be gone
}

func refuse(w http.ResponseWriter, status int, err error) {
	answer(w, status, api.Problem{Error: err.Error()})
}
