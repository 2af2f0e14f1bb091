// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"log/slog"
	"time"
)

// Options configure a Server. Zero values mean the defaults in the comments.
type Options struct {
	// Catalog knows the exports; required.
	Catalog Catalog
	// Logger gets one line per connection and the real error behind each error reply; nil discards them.
	Logger *slog.Logger
	// Metrics is told what happens; nil means nobody.
	Metrics Metrics
	// TLS is off when nil.
	TLS *TLSOptions

	Limits Limits
}

// An Endpoint is what the clients of one listener see.
type Endpoint struct {
	Catalog Catalog
	// TLS is off when nil.
	TLS *TLSOptions
}

// Limits bound what clients can make the server do. Zero values mean the defaults.
type Limits struct {
	// Connections in all (1024), those still negotiating included.
	Connections int
	// ConnectionsPerExport (64).
	ConnectionsPerExport int
	// HandshakeOptions per connection (128), and bytes of data of one option (64 KiB).
	HandshakeOptions int
	OptionBytes      int
	// Handshake is how long a client may negotiate, TLS included (10 s).
	Handshake time.Duration
	// RequestBytes is the most that one READ or WRITE may carry (32 MiB, at most 64 MiB).
	RequestBytes int
	// InFlight requests of one connection that are neither unread nor answered (64), and the bytes of their buffers
	// (64 MiB; at least one largest request).
	InFlight      int
	InFlightBytes int64
	// BufferBytes is the budget for payload buffers over all clients (256 MiB; at least one largest request).
	BufferBytes int64
	// Stall is how long a client may take to send a payload that it announced, or to take replies that are ready
	// (60 s).
	Stall time.Duration
	// Idle is how long a client that has an export may ask for nothing before it is disconnected; zero is for ever, as
	// virtual machines need it.
	Idle time.Duration
	// Poll is how long a reader may look at its socket before it sleeps (at most 1 ms; zero: not at all, which is the
	// default because looking costs processor time and slows a machine that has none to spare).
	Poll time.Duration
}

// Defaults of Limits.
const (
	DefaultConnections          = 1024
	DefaultConnectionsPerExport = 64
	DefaultHandshakeOptions     = 128
	DefaultOptionBytes          = 64 << 10
	DefaultHandshake            = 10 * time.Second
	DefaultRequestBytes         = 32 << 20
	DefaultInFlight             = 64
	DefaultInFlightBytes        = 64 << 20
	DefaultBufferBytes          = 256 << 20
	DefaultStall                = 60 * time.Second
)

// Tuning, not protocol.
const (
	smallReadBytes  = 4 << 10              // read buffer of a quiet connection, part of its struct
	bigReadBytes    = 128 << 10            // read buffer of a busy connection
	fewBytes        = 4<<10 + 128          // room for one small reply or many without data, part of the struct
	smallReplyBytes = 256                  // replies that never wait for memory
	arenaBytes      = 256 << 10            // reply arena of a busy connection
	inlineBytes     = 128 << 10            // largest request that fits an arena or a read buffer with its header
	pieceBytes      = 128 << 10            // largest part of a reply that is sent without a turn for others
	batchBytes      = 512 << 10            // what one sendmsg gathers at most, if it is more than one piece
	lendBytes       = 32 << 10             // reads and writes from here on go from and to the device's memory, if it lends that
	flushBytes      = 32 << 10             // replies that are sent while more requests are at hand
	largePayload    = 32 << 10             // payloads from here on are received without read-ahead of more
	skipBytes       = 128 << 20            // a wrong payload up to here is skipped, a larger one ends the connection
	extentsCompact  = 120                  // keeps a reply below 1000 bytes: qemu 4.2 dies of larger ones
	extentsWide     = 2048                 // for clients with extended headers, none of which is qemu 4.2
	idleWorkers     = 64                   // goroutines kept for the next request
	patience        = 5 * time.Millisecond // of the reader with a client that takes no replies
	// unixSendBytes is the send buffer of unix sockets, of which the kernel makes twice as much, but no more than twice
	// net.core.wmem_max. A smaller one wakes the sender more often; a larger one does not fit a processor's cache of 1 MiB
	// (docs/benchmarks.md).
	unixSendBytes = 416 << 10
	fastNanos     = 20_000 // device calls below it are made by the reader
)

func or[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

func (l Limits) withDefaults() Limits {
	l.Connections = or(l.Connections, DefaultConnections)
	l.ConnectionsPerExport = or(l.ConnectionsPerExport, DefaultConnectionsPerExport)
	l.HandshakeOptions = or(l.HandshakeOptions, DefaultHandshakeOptions)
	l.OptionBytes = or(l.OptionBytes, DefaultOptionBytes)
	l.Handshake = or(l.Handshake, DefaultHandshake)
	l.RequestBytes = min(or(l.RequestBytes, DefaultRequestBytes), 64<<20)
	l.InFlight = or(l.InFlight, DefaultInFlight)
	l.InFlightBytes = max(or(l.InFlightBytes, DefaultInFlightBytes), int64(l.RequestBytes))
	l.BufferBytes = max(or(l.BufferBytes, DefaultBufferBytes), 2*int64(l.RequestBytes))
	l.Stall = or(l.Stall, DefaultStall)
	l.Poll = min(max(l.Poll, 0), time.Millisecond)
	return l
}
