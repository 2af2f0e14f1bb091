// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"net"

	"github.com/luksgate/luksgate/nbdserver/buffer"
)

// Poison makes released buffers unusable.
func (s *Server) Poison() {
	s.pool.Poison()
	s.reads.Poison()
}

// ReadBufferStats is the state of the read buffers' pool.
func (s *Server) ReadBufferStats() buffer.Stats { return s.reads.Stats() }

// ErrnoOf is errnoOf.
var ErrnoOf = errnoOf

// ActivationFrom is ActivationListeners without the environment.
func ActivationFrom(first, n int, names []string) (map[string][]net.Listener, error) {
	return ListenersOf(activationFiles(first, n, names))
}
