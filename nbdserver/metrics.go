// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"log/slog"
	"time"
)

// Metrics is told what happens. Its methods are called by many goroutines at once and must not block.
type Metrics interface {
	// HandshakeFailed is called once for a connection that did not get to an export, when it ends. The reasons are few
	// constants: limit, timeout, tls, policy, unknown_export, unavailable (the export could not be opened), protocol,
	// closed.
	HandshakeFailed(reason string)

	// Connected is called when a connection has an export; the result is told about its requests.
	Connected(export string) ConnMetrics
}

// ConnMetrics is told about one connection. If it is a slog.LogValuer too, its value ends up in the line that is logged
// when the connection ends.
type ConnMetrics interface {
	// Request is called when a request was executed: the command's name ("read", "write", ...), the bytes it was
	// about, how long it waited between its last byte and its execution, how long the device took, and the NBD error
	// (0: none).
	Request(command string, bytes int64, waited, took time.Duration, errno uint32)

	// Closed is called once, last.
	Closed()
}

// commandNames are the labels of commands by number.
var commandNames = [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write_zeroes", "block_status"}

func commandName(command uint16) string {
	if int(command) < len(commandNames) {
		return commandNames[command]
	}
	return "unknown"
}

// totals is what a connection's metrics have to say at its end.
func totals(m ConnMetrics) slog.Attr {
	if v, ok := m.(slog.LogValuer); ok {
		return slog.Any("totals", v)
	}
	return slog.Attr{}
}

type noMetrics struct{}

func (noMetrics) HandshakeFailed(string)       {}
func (noMetrics) Connected(string) ConnMetrics { return nil }
