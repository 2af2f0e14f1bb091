// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"
	"strings"
	"sync"

	"github.com/luksgate/luksgate/nbdserver"
)

// reasons are those of nbdserver.Metrics; another one counts as "other".
var reasons = []string{"limit", "timeout", "tls", "policy", "unknown_export", "unavailable", "protocol", "closed", "other"}

// A Set counts for a daemon. It implements nbdserver.Metrics. Its methods may be called by many goroutines at once.
type Set struct {
	build Build

	mu       sync.Mutex
	exports  map[string]*Export
	failures map[string]uint64 // failed handshakes by reason
	reloads  [2]uint64         // applied, refused
	server   func() Server
}

// Build says which program runs.
type Build struct{ Version, Go, Librbd, Kernel string }

// Server is what the NBD server knows of itself at one moment.
type Server struct {
	Connections                       int
	BudgetBytes, UsedBytes, KeptBytes int64
	Waiting                           int
	Waited                            uint64
	Workers                           Workers
}

// Workers are the process's crypto workers; see workers.Stats.
type Workers struct {
	Helpers, Busy int
	Split, Shared uint64
}

// NewSet returns an empty one. server is asked when metrics are collected; nil is allowed.
func NewSet(b Build, server func() Server) *Set {
	if server == nil {
		server = func() Server { return Server{} }
	}
	return &Set{build: b, exports: map[string]*Export{}, failures: map[string]uint64{}, server: server}
}

// Export returns the counters of an export, new ones if there are none.
func (s *Set) Export(name string) *Export {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.exports[name]
	if e == nil {
		e = &Export{name: name, errnos: map[uint32]uint64{}}
		s.exports[name] = e
	}
	return e
}

// Forget drops an export that is configured no longer.
func (s *Set) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.exports, name)
}

// HandshakeFailed implements nbdserver.Metrics.
func (s *Set) HandshakeFailed(reason string) {
	if !slices.Contains(reasons, reason) {
		reason = "other"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures[reason]++
}

// Connected implements nbdserver.Metrics.
func (s *Set) Connected(export string) nbdserver.ConnMetrics { return s.Export(export).connect() }

// Reloaded tells that a configuration was applied or refused.
func (s *Set) Reloaded(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.reloads[1]++
	} else {
		s.reloads[0]++
	}
}

// Snapshots are all exports, by name.
func (s *Set) Snapshots() []Snapshot {
	exports := s.all()
	out := make([]Snapshot, len(exports))
	for i, e := range exports {
		out[i] = e.Snapshot()
	}
	return out
}

func (s *Set) all() []*Export {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Export, 0, len(s.exports))
	for _, e := range s.exports {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *Export) int { return strings.Compare(a.name, b.name) })
	return out
}
