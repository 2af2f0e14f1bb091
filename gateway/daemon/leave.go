// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
)

// past is a deadline that is over.
var past = time.Unix(1, 0)

// leave ends this process's part after a hand-over: names of sockets stay, and what uses them. It stays for clients that
// it relays, until they leave or ctx ends.
func (d *Daemon) leave(ctx context.Context) error {
	for _, l := range d.sockets() {
		if u, ok := l.(*nbdserver.UnixListener); ok {
			u.Keep()
		}
	}
	patience, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	d.stopAdmin(patience)
	d.cancel()
	for _, l := range d.sockets() {
		_ = l.Close()
	}
	err := d.server.Shutdown(patience)
	d.tasks.Wait()
	d.waitRelays(ctx)
	return err
}

// waitRelays waits for the last relay. When ctx ends they finish, and after drainTimeout they are cut by the process's end.
func (d *Daemon) waitRelays(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		d.relays.Wait()
		close(done)
	}()
	debug.FreeOSMemory() // images and buffers are gone; what stays may stay for months
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	d.endRelays()
	select {
	case <-done:
	case <-time.After(drainTimeout):
	}
}
