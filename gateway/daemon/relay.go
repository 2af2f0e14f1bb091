// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/nbdserver"
)

// Clients with TLS at a hand-over. The keys of a TLS session are inside crypto/tls, which can neither give them away nor
// take them. So the session stays where it is, and this process passes the plaintext on: what the client sends goes
// through a socket pair to the successor, which serves the session at the other end as if it were the client, and what
// that answers goes back. Images are open in the successor only, so there is one writer as ever. The process ends with its
// last relay; the successor can hand the other end over to its own successor as any unix socket.

// handing is what becomes of the sessions in a hand-over.
type handing struct {
	all      []*nbdserver.Session
	sessions []stateSession // as the successor gets them
	relays   []*relay
	cut      []*nbdserver.Session
}

// divide decides what becomes of each session.
func (d *Daemon) divide(sessions []*nbdserver.Session, cut bool) (handing, error) {
	h := handing{all: sessions}
	for _, m := range sessions {
		switch {
		case !m.TLS:
			h.sessions = append(h.sessions, stateSession{Session: m, conn: m.Conn})
		case cut:
			h.cut = append(h.cut, m)
		default:
			r, err := newRelay(m)
			if err != nil {
				h.abandon()
				return h, fmt.Errorf("a client with TLS of export %s: %w", m.Export.Name, err)
			}
			h.relays = append(h.relays, r)
			h.sessions = append(h.sessions, stateSession{Session: m, conn: r.theirs})
		}
	}
	return h, nil
}

// abandon forgets relays that were never needed.
func (h *handing) abandon() {
	for _, r := range h.relays {
		_ = r.theirs.Close()
		_ = r.ours.Close()
	}
}

// part ends this process's use of the sessions, whose descriptors the successor has, and starts relaying.
func (h *handing) part(d *Daemon) {
	relayed := map[*nbdserver.Session]bool{}
	for _, r := range h.relays {
		relayed[r.session] = true
		_ = r.theirs.Close()
		d.relays.Go(func() { r.run(d.relayEnd) })
	}
	for _, m := range h.all {
		if !relayed[m] {
			_ = m.Conn.Close()
		}
	}
}

// A relay passes a client's bytes to the successor and back.
type relay struct {
	session *nbdserver.Session
	ours    *net.UnixConn
	theirs  *os.File
}

func newRelay(m *nbdserver.Session) (*relay, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "relayed session")
	f := os.NewFile(uintptr(pair[0]), "relay")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	return &relay{session: m, ours: c.(*net.UnixConn), theirs: theirs}, nil
}

// relayBytes is the size of a relay's two buffers.
const relayBytes = 128 << 10

// run relays until one side is gone. At the end of ctx it takes no more requests: the successor answers those that it has
// and closes.
func (r *relay) run(ctx context.Context) {
	client := r.session.Conn
	stop := context.AfterFunc(ctx, func() { _ = client.SetReadDeadline(past) })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.CopyBuffer(onlyWriter{r.ours}, client, make([]byte, relayBytes))
		_ = r.ours.CloseWrite()
	})
	both.Go(func() {
		_, _ = io.CopyBuffer(client, onlyReader{r.ours}, make([]byte, relayBytes))
		_ = client.Close()
		_ = r.ours.Close()
	})
	both.Wait()
}

// onlyWriter and onlyReader keep io.CopyBuffer from buffers of its own.
type onlyWriter struct{ io.Writer }

type onlyReader struct{ io.Reader }
