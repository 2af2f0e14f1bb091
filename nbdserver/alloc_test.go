// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// exchange sends the same requests again and again and reads replies whose size it knows, without allocating.
type exchange struct {
	c        *client
	requests []byte
	replies  []byte
}

// newExchange prepares depth requests of n bytes.
func newExchange(c *client, command uint16, n, depth int) *exchange {
	x := &exchange{c: c}
	size := 0
	for i := range depth {
		q := wire.Request{Command: command, Cookie: uint64(i), OffsetBytes: uint64(i * n), LengthBytes: uint64(n)}
		var payload []byte
		size += wire.SimpleReplyBytes
		switch command {
		case wire.CmdWrite:
			payload = noise(1, n)
		case wire.CmdRead:
			size += n
		}
		x.requests = append(x.requests, c.encode(q, payload)...)
	}
	x.replies = make([]byte, size)
	return x
}

func (x *exchange) run() error {
	// The replies to what fits a socket's buffer are taken after all is sent; more would need a second goroutine.
	if _, err := x.c.c.Write(x.requests); err != nil {
		return err
	}
	_, err := io.ReadFull(x.c.c, x.replies)
	return err
}

// exchanges are the paths through the server.
var exchanges = []struct {
	name     string
	command  uint16
	n, depth int
}{
	{"read", wire.CmdRead, 4096, 1},
	{"write", wire.CmdWrite, 4096, 1},
	{"read", wire.CmdRead, 4096, 16},
	{"write", wire.CmdWrite, 4096, 16},
	{"read", wire.CmdRead, 65536, 2},
	{"write", wire.CmdWrite, 65536, 2},
	{"read", wire.CmdRead, 1 << 20, 1},
	{"write", wire.CmdWrite, 1 << 20, 1},
	{"flush", wire.CmdFlush, 0, 16},
}

// kinds are devices of every way through the server.
func kinds() map[string]nbdserver.Device {
	return map[string]nbdserver.Device{
		"immediate": filled(memdevice.New(4 << 20)), "deferred": filled(deferred(4 << 20)),
		"async": filled(deferred(4 << 20)).Async(),
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	for kind, d := range kinds() {
		s := nbdserver.New(nbdserver.Options{Catalog: one(d)})
		c := dial(t, s, "simple")
		for _, e := range exchanges {
			x := newExchange(c, e.command, e.n, e.depth)
			for range 20 {
				if err := x.run(); err != nil {
					t.Fatal(err)
				}
			}
			allocs := 1.0
			for range 5 { // the runtime counts what the rest of the process allocates too
				if allocs < 1 {
					break
				}
				allocs = testing.AllocsPerRun(50, func() {
					if err := x.run(); err != nil {
						t.Error(err)
					}
				})
			}
			if allocs >= 1 {
				t.Errorf("%s, %s of %d bytes, depth %d: %v allocations", kind, e.name, e.n, e.depth, allocs)
			}
		}
		c.disconnect()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkExchange has client and server in one process; bench/nbd compares servers.
func BenchmarkExchange(b *testing.B) {
	for kind, d := range kinds() {
		for _, e := range exchanges {
			b.Run(fmt.Sprintf("%s/%s/%d/depth%d", kind, e.name, e.n, e.depth), func(b *testing.B) {
				s := nbdserver.New(nbdserver.Options{Catalog: one(d)})
				c := dial(b, s, "simple")
				x := newExchange(c, e.command, e.n, e.depth)
				b.ReportAllocs()
				b.SetBytes(int64(e.n * e.depth))
				for b.Loop() {
					if err := x.run(); err != nil {
						b.Fatal(err)
					}
				}
				c.disconnect()
				if err := s.Shutdown(b.Context()); err != nil {
					b.Error(err)
				}
			})
		}
	}
}
