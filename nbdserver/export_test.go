// SPDX-License-Identifier: Apache-2.0

package nbdserver

import "github.com/luksgate/luksgate/nbdserver/buffer"

// Poison makes released buffers unusable.
func (s *Server) Poison() {
	s.pool.Poison()
	s.reads.Poison()
}

// ReadBufferStats is the state of the read buffers' pool.
func (s *Server) ReadBufferStats() buffer.Stats { return s.reads.Stats() }

// ErrnoOf is errnoOf.
var ErrnoOf = errnoOf

// ActivationFrom is activationListeners.
var ActivationFrom = activationListeners
