// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/nbdserver"
)

// A restart by systemd below running clients. systemd keeps descriptors for a service (FDSTORE=1, sd_notify(3)) and passes
// them to its next process:
//
//  1. listening sockets are stored as soon as they are open. So they outlive a crash too: clients that connect meanwhile
//     wait
//  2. SIGTERM: connections come to rest between two requests, as for an upgrade; images close
//  3. connections are stored, and what was negotiated with each, as a state in a memory file
//  4. the next process takes them, removes them from the store, opens the images and goes on
//
// Where systemd does not keep them (no FileDescriptorStoreMax=, or nobody starts the service again) the connections end
// with step 3, after their answers, as without a store. Not kept are clients with TLS, whose keys end with the process, and
// those of images in memory.

// Names in the store.
const (
	storedState    = "luksgate-state"
	storedSession  = "luksgate-session"
	storedListener = "luksgate-listener-" // and a digest of its key, which may have colons
)

func storedName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return storedListener + hex.EncodeToString(sum[:8])
}

// stored is what systemd kept of an earlier process.
type stored struct {
	state    *state // nil if there is none
	sessions []*nbdserver.Session
	listen   map[string]net.Listener // by name in the store
}

// takeStored sorts what systemd passed; the rest are sockets of socket units. Files that cannot be used are closed: their
// clients are lost, which is no reason to serve nobody.
func (d *Daemon) takeStored(files []*os.File) (s *stored, rest []*os.File) {
	s = &stored{listen: map[string]net.Listener{}}
	conns := map[uint64]*os.File{} // by inode, as the state names them
	for _, f := range files {
		switch name := f.Name(); {
		case name == storedState:
			st, err := readState(f)
			if err != nil {
				d.log.Error("the clients of the process before are lost", "error", err)
			} else {
				s.state = st
			}
			_ = f.Close()
		case name == storedSession:
			conns[inodeOf(f)] = f
		case strings.HasPrefix(name, storedListener):
			if l, err := net.FileListener(f); err == nil {
				s.listen[name] = l
			}
			_ = f.Close()
		default:
			rest = append(rest, f)
		}
	}
	if s.state != nil {
		s.adopt(conns)
	}
	for _, f := range conns {
		_ = f.Close()
	}
	if s.state != nil || len(conns) > 0 {
		d.notify.unstore(storedSession)
		d.notify.unstore(storedState)
	}
	return s, rest
}

func readState(f *os.File) (*state, error) {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxStateBytes))
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("daemon: stored state: %w", err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("daemon: stored state of version %d: expected version %d", s.Version, stateVersion)
	}
	return s, nil
}

// adopt gives sessions their connections. One whose client has gone meanwhile has none.
func (s *stored) adopt(conns map[uint64]*os.File) {
	for _, m := range s.state.Sessions {
		f := conns[uint64(m.FD)]
		if f == nil || m.Session == nil {
			continue
		}
		if c, err := net.FileConn(f); err == nil {
			m.Conn = c
			s.sessions = append(s.sessions, m.Session)
		}
	}
}

func inodeOf(f *os.File) uint64 {
	var st unix.Stat_t
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = unix.Fstat(int(fd), &st) })
	}
	if err != nil {
		return 0
	}
	return st.Ino
}

// keepable detaches the clients that systemd can keep. Others are left to Shutdown.
func (d *Daemon) keepable(ctx context.Context) []*nbdserver.Session {
	if !d.notify.stores() {
		return nil
	}
	for _, l := range d.sockets() {
		if u, ok := l.(*nbdserver.UnixListener); ok {
			u.Keep()
		}
	}
	sessions, err := d.server.Detach(ctx)
	if err != nil {
		d.log.Warn("some clients cannot be kept over a restart", "error", err)
	}
	var out []*nbdserver.Session
	for _, m := range append(sessions, d.takeWaiting()...) {
		e := d.export(m.Export.Name)
		if m.TLS || e == nil || e.inMemory() {
			_ = m.Conn.Close()
			continue
		}
		out = append(out, m)
	}
	return out
}

// storeSessions has systemd keep sessions. Images are closed.
func (d *Daemon) storeSessions(sessions []*nbdserver.Session) error {
	if len(sessions) == 0 {
		return nil
	}
	var list []stateSession
	for _, m := range sessions {
		list = append(list, stateSession{Session: m, conn: m.Conn})
	}
	s, fds, err := d.collect(nil, list) // the listening sockets are in the store already
	if err != nil {
		return err
	}
	for i := range s.Sessions {
		var st unix.Stat_t
		if err := unix.Fstat(fds[i], &st); err != nil {
			return err
		}
		s.Sessions[i].FD = int(st.Ino)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	memory, err := unix.MemfdCreate(storedState, unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(memory), storedState)
	defer func() { _ = f.Close() }()
	if _, err := f.Write(text); err != nil {
		return err
	}
	err = errors.Join(d.notify.store(storedSession, fds...), d.notify.store(storedState, memory))
	d.notify.barrier(barrierPatience)
	d.log.Info("clients kept for the next process", "connections", len(sessions))
	return err
}

// barrierPatience is how long systemd may take to look at what it was sent.
const barrierPatience = 5 * time.Second

// resumePatience is how long the image of a client that was kept may take to open, before it is given up.
const resumePatience = 5 * time.Minute

// resume goes on with sessions of an earlier process, each as soon as its image is open.
func (d *Daemon) resume(s *stored) {
	d.mu.Lock()
	for _, m := range s.sessions {
		d.waiting[m] = true
	}
	d.mu.Unlock()
	for _, m := range s.sessions {
		d.tasks.Go(func() {
			dev, err := d.reopen(m.Export.Name, resumePatience)
			d.mu.Lock()
			mine := d.waiting[m] // unless the daemon stops
			if err == nil {
				delete(d.waiting, m)
			}
			d.mu.Unlock()
			if err == nil && mine {
				err = d.server.ServeSession(d.ctx, m, dev)
			}
			if err != nil && mine && d.ctx.Err() == nil {
				d.mu.Lock()
				delete(d.waiting, m)
				d.mu.Unlock()
				d.log.Error("a client is lost", "export", m.Export.Name, "error", err)
				_ = m.Conn.Close()
			}
			if dev != nil && (err != nil || !mine) {
				_ = dev.Close()
			}
		})
	}
}

// takeWaiting takes the sessions that wait for their image still.
func (d *Daemon) takeWaiting() []*nbdserver.Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*nbdserver.Session
	for m := range d.waiting {
		out = append(out, m)
	}
	clear(d.waiting)
	return out
}

// errWaiting refuses a hand-over while clients of the process before are not served yet.
func (d *Daemon) errWaiting() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.waiting); n > 0 {
		return fmt.Errorf("daemon: %d clients of the process before wait for their images: try again later", n)
	}
	return nil
}
