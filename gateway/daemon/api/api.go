// SPDX-License-Identifier: Apache-2.0

// Package api is how programs talk to a running daemon: JSON over HTTP on its admin socket, as docs/openapi.yaml says.
package api

import (
	"time"

	"github.com/luksgate/luksgate/gateway/metrics"
)

// Exports of the daemon are in one of these states.
const (
	StateClosed   = "closed"   // the image is not open; the next client opens it
	StateOpening  = "opening"  // the image, its key and its header are being read
	StateOpen     = "open"     // clients use it, or may at once
	StateDraining = "draining" // no new clients; those that are there go on
	StateFailed   = "failed"   // the last attempt to open it failed; the next client tries again
)

// An Export is one export of the daemon.
type Export struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Image       string `json:"image"`
	Socket      string `json:"socket,omitempty"`
	// URIs are the addresses at which clients have it.
	URIs      []string `json:"uris"`
	State     string   `json:"state"`
	Clients   int      `json:"clients"`
	SizeBytes int64    `json:"size_bytes,omitempty"` // while it is open
	// Cluster is the fsid of an RBD image's cluster, while it is open.
	Cluster  string `json:"cluster,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"`
	Engine   string `json:"engine"`
	Key      string `json:"key,omitempty"` // where it is from, in words
	// Origin is "file" for the configuration file and "api" for what was added later.
	Origin string `json:"origin"`
	// Pending says that the configuration has changed and is in force when the image is opened next.
	Pending bool   `json:"pending,omitempty"`
	Removed bool   `json:"removed,omitempty"` // gone when its last client is
	Error   string `json:"error,omitempty"`
	// Since is when it came into its state.
	Since time.Time `json:"since"`
}

// Stats are counters at one moment.
type Stats struct {
	At      time.Time          `json:"at"`
	Since   time.Time          `json:"since"` // when the counters were 0
	Exports []metrics.Snapshot `json:"exports"`
}

// A Change is what a reload did.
type Change struct {
	Added     []string `json:"added"`
	Removed   []string `json:"removed"`
	Changed   []string `json:"changed"`
	Unchanged int      `json:"unchanged"`
	// Restart names sections that take effect at the next start or upgrade only.
	Restart []string `json:"restart_needed"`
	// Problems are what could not be done, such as a socket that is taken.
	Problems []string `json:"problems"`
}

// An Upgrade is how a hand-over to a new process went.
type Upgrade struct {
	PID         int `json:"pid"`         // of the new process
	Connections int `json:"connections"` // that it serves
	Relayed     int `json:"relayed"`     // of them, those with TLS, which the old process relays until they leave
	Cut         int `json:"cut"`         // that were disconnected
	// Prepared is how long it took before the pause to open the images; clients were served meanwhile.
	Prepared time.Duration `json:"prepared_nanos"`
	Pause    time.Duration `json:"pause_nanos"`
}

// Ready is the answer of /readyz.
type Ready struct {
	Ready bool `json:"ready"`
	// Waiting are exports that are to be open from the start and are not.
	Waiting []string `json:"waiting,omitempty"`
	// Missing are sockets that could not be opened.
	Missing []string `json:"missing,omitempty"`
}

// Version is the answer of /v1/version.
type Version struct {
	Luksgate string    `json:"luksgate"`
	PID      int       `json:"pid"`
	Config   string    `json:"config"`
	Started  time.Time `json:"started"`
}

// Problem is the body of every answer that is no success.
type Problem struct {
	Error string `json:"error"`
}
