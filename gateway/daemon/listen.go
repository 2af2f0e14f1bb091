// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/luksgate/luksgate/gateway/access"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/nbdserver"
)

// A wish is a socket that the configuration asks for.
type wish struct {
	network, address string
	access           config.SocketMode
	only             string // the export whose own it is
	list             *config.Listen
}

func (w *wish) key() string { return w.network + ":" + w.address }

// A listener is a socket that clients can connect to.
type listener struct {
	key   string
	inner net.Listener
	view  *view
	certs atomic.Pointer[nbdserver.Certificates]
	tls   *nbdserver.TLSOptions // nil without TLS
	done  chan struct{}         // closed when the last of its clients is gone
}

// wishes are the sockets that the exports and shared listeners want now; d.mu is held.
func (d *Daemon) wishesLocked() map[string]wish {
	out := map[string]wish{}
	add := func(w wish) { out[w.key()] = w }
	for i := range d.config.Listen {
		l := &d.config.Listen[i]
		if l.Socket != "" {
			add(wish{network: "unix", address: l.Socket, access: l.Access, list: l})
		} else {
			add(wish{network: "tcp", address: l.Address, list: l})
		}
	}
	for _, e := range d.exports {
		e.mu.Lock()
		if e.cfg.Socket != "" && !e.removed {
			add(wish{network: "unix", address: e.cfg.Socket, access: e.cfg.Access, only: e.name})
		}
		e.mu.Unlock()
	}
	return out
}

// syncListeners closes sockets that nobody wants, opens those that are missing and changes the others in place. Clients
// of a closed socket go on. d.change is held.
func (d *Daemon) syncListeners(passed *passedSockets) []error {
	d.mu.Lock()
	wanted := d.wishesLocked()
	have := map[string]*listener{}
	for key, l := range d.listeners {
		w, ok := wanted[key]
		if ok && (w.list != nil && w.list.TLS != nil) == (l.tls != nil) &&
			(l.tls == nil || l.tls.Required == *w.list.TLS.Required) {
			have[key] = l
			continue
		}
		_ = l.inner.Close()
		d.notify.unstore(storedName(key))
		delete(d.listeners, key)
	}
	d.mu.Unlock()
	var errs []error
	for key, w := range wanted {
		var err error
		if l := have[key]; l != nil {
			err = l.update(w, d)
		} else {
			err = d.listen(w, passed)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// update brings a listener that is there in line with w.
func (l *listener) update(w wish, d *Daemon) error {
	l.view.set(w.only, w.list)
	if w.network == "unix" {
		if u, ok := l.inner.(*nbdserver.UnixListener); ok {
			return socketOf(w.access).Apply(u.Path())
		}
		return nil // systemd's, which has its own idea of who may connect
	}
	if l.tls == nil {
		return nil
	}
	certs, err := d.certificates(w.list.TLS)
	if err == nil {
		l.certs.Store(certs)
	}
	return err
}

func (d *Daemon) certificates(t *config.TLS) (*nbdserver.Certificates, error) {
	return nbdserver.LoadCertificates(nbdserver.TLSFiles{
		Certificate: t.Certificate, Key: t.Key, ClientCA: t.ClientCA,
	}, d.log)
}

// listen opens a socket, or takes the one that systemd or an earlier process passed, and serves it.
func (d *Daemon) listen(w wish, passed *passedSockets) error {
	l := &listener{key: w.key(), view: &view{daemon: d}, done: make(chan struct{})}
	l.view.set(w.only, w.list)
	if w.list != nil && w.list.TLS != nil {
		certs, err := d.certificates(w.list.TLS)
		if err != nil {
			return err
		}
		l.certs.Store(certs)
		l.tls = &nbdserver.TLSOptions{
			Required: *w.list.TLS.Required,
			Config:   func() (*tls.Config, error) { return l.certs.Load().Config() },
		}
	}
	inner, err := w.open(passed)
	if err != nil {
		return err
	}
	l.inner = inner
	d.keep(l.key, inner)
	d.mu.Lock()
	d.listeners[l.key] = l
	d.mu.Unlock()
	d.serve(l)
	return nil
}

// keep has systemd keep a listening socket, so that clients wait where there is no process.
func (d *Daemon) keep(key string, l net.Listener) {
	fd, err := rawFD(l)
	if err == nil {
		err = d.notify.store(storedName(key), fd)
	}
	if err != nil {
		d.log.Warn("systemd cannot keep a socket", "socket", key, "error", err)
	}
}

// serve accepts clients in the background.
func (d *Daemon) serve(l *listener) {
	d.tasks.Go(func() {
		defer close(l.done)
		err := d.server.ServeAt(d.ctx, l.inner, nbdserver.Endpoint{Catalog: l.view, TLS: l.tls})
		if err != nil && !errors.Is(err, nbdserver.ErrServerClosed) && !errors.Is(err, nbdserver.ErrDetached) && !errors.Is(err, net.ErrClosed) && d.ctx.Err() == nil {
			d.log.Error("no more clients are accepted", "socket", l.key, "error", err)
		}
	})
}

func (w *wish) open(passed *passedSockets) (net.Listener, error) {
	if l := passed.take(w.key()); l != nil {
		return l, nil
	}
	if w.network == "tcp" {
		return access.ListenTCP(w.address)
	}
	l, err := access.ListenUnix(w.address, socketOf(w.access))
	if err != nil {
		return nil, err // and not a listener that is a nil pointer
	}
	return l, nil
}

// ServerLimits are the limits of a configuration for the server.
func ServerLimits(l config.Limits) nbdserver.Limits {
	return nbdserver.Limits{
		Connections: l.Connections, ConnectionsPerExport: l.ConnectionsPerExport,
		HandshakeOptions: l.HandshakeOptions, OptionBytes: int(l.OptionSize), Handshake: time.Duration(l.Handshake),
		RequestBytes: int(l.RequestSize), InFlight: l.InFlight, InFlightBytes: int64(l.InFlightSize),
		BufferBytes: int64(l.Buffers), Stall: time.Duration(l.Stall), Idle: time.Duration(l.Idle),
		Poll: time.Duration(l.Poll),
	}
}

// socketOf is what a configuration says about a socket.
func socketOf(m config.SocketMode) access.Socket {
	return access.Socket{Mode: fs.FileMode(m.Mode), Owner: m.Owner, Group: m.Group}
}

// passedSockets are listening sockets that this process was given, by network and address, and those of an earlier process
// that systemd kept, by name. The zero value and nil have none.
type passedSockets struct{ by, stored map[string]net.Listener }

// takeActivation takes those of socket units (sd_listen_fds(3)).
func takeActivation(files []*os.File) (*passedSockets, error) {
	named, err := nbdserver.ListenersOf(files)
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	p := &passedSockets{by: map[string]net.Listener{}}
	for _, list := range named {
		for _, l := range list {
			p.by[l.Addr().Network()+":"+l.Addr().String()] = l
		}
	}
	return p, nil
}

func (p *passedSockets) take(key string) net.Listener {
	if p == nil {
		return nil
	}
	l := p.by[key]
	delete(p.by, key)
	if name := storedName(key); l == nil {
		l = p.stored[name]
		delete(p.stored, name)
		if u, ok := l.(*net.UnixListener); ok {
			l = nbdserver.AdoptUnixListener(u, strings.TrimPrefix(key, "unix:"))
		}
	}
	return l
}

// keepNames makes close leave the names of sockets in place.
func (p *passedSockets) keepNames() {
	for _, l := range p.by {
		if u, ok := l.(*nbdserver.UnixListener); ok {
			u.Keep()
		}
	}
}

// close closes what nobody took.
func (p *passedSockets) close(n *notifier) {
	for _, l := range p.by {
		_ = l.Close()
	}
	for name, l := range p.stored {
		_ = l.Close()
		n.unstore(name)
	}
}

// uri is the address at which clients have an export here.
func (l *listener) uri(export string) string {
	path := "/" + url.PathEscape(export)
	if address, ok := strings.CutPrefix(l.key, "unix:"); ok {
		return "nbd+unix://" + path + "?socket=" + url.QueryEscape(address)
	}
	scheme := "nbd://"
	if l.tls != nil {
		scheme = "nbds://"
	}
	return scheme + l.inner.Addr().String() + path
}
