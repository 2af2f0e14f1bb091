// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// TestShutdownDrains finishes and answers what was read, then closes; ESHUTDOWN is never said.
func TestShutdownDrains(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		entered, release := make(chan struct{}, 100), make(chan struct{})
		d := &faulty{Device: device(1 << 20), before: func(string, int64, int64) error {
			entered <- struct{}{}
			<-release
			return nil
		}}
		s := newServer(t, nbdserver.Options{Catalog: one(d)})
		c, idle, negotiating := dial(t, s, mode), dial(t, s, mode), connect(t, s)
		pending := map[uint64]span{c.send(wire.CmdFlush, 0, 0, 0, nil): {}}
		<-entered
		done := make(chan error)
		go func() { done <- s.Shutdown(context.Background()) }()
		idle.expectEnd()
		negotiating.expectEnd()
		close(release)
		for _, r := range c.receive(pending, 1) {
			if r.errno != 0 {
				t.Errorf("error %d", r.errno)
			}
		}
		c.expectEnd()
		if err := <-done; err != nil {
			t.Errorf("shutdown: %v", err)
		}
		near, far := socketPair(t)
		s.ServeConn(context.Background(), far)
		if n, err := near.Read(make([]byte, 1)); err == nil {
			t.Errorf("a client after the shutdown got %d bytes", n)
		}
	})
}

func TestShutdownCutsWhenItsContextEnds(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(filled(deferred(8 << 20)))})
	c := dial(t, s, "structured")
	for range 30 {
		c.send(wire.CmdRead, 0, 0, 1<<20, nil) // fills the socket: the client reads nothing
	}
	for s.BufferStats().UsedBytes < 8<<20 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown with a stuck client: %v", err)
	}
	c.gone()
}

func TestServeReturnsAfterShutdownAndAfterItsContext(t *testing.T) {
	for _, end := range []string{"shutdown", "context"} {
		s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
		l, err := nbdserver.ListenUnix(filepath.Join(t.TempDir(), "s"), nbdserver.SocketOptions{UID: -1, GID: -1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error)
		go func() { result <- s.Serve(ctx, l) }()
		conn, err := net.Dial("unix", l.Path())
		if err != nil {
			t.Fatal(err)
		}
		for s.Connections() == 0 {
			time.Sleep(time.Millisecond)
		}
		want := nbdserver.ErrServerClosed
		if end == "context" {
			want = context.Canceled
			cancel()
		} else if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, want) {
			t.Errorf("%s: Serve returned %v, want %v", end, err, want)
		}
		_ = conn.Close()
		cancel()
	}
}

// TestOverlappingWritesAreWhole has two clients write the same sectors and checks that none is a mixture.
func TestOverlappingWritesAreWhole(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(deferred(1 << 20))})
	var wg sync.WaitGroup
	for i := range 2 {
		c := dial(t, s, "structured")
		wg.Go(func() {
			for range 300 {
				c.do(wire.CmdWrite, 0, 4096, 4096, bytes.Repeat([]byte{byte(i + 1)}, 4096))
			}
		})
	}
	reader := dial(t, s, "structured")
	for range 300 {
		r := reader.do(wire.CmdRead, 0, 4096, 4096, nil)
		if !bytes.Equal(r.data, bytes.Repeat(r.data[:1], 4096)) {
			t.Fatal("a sector is a mixture of two writes")
		}
	}
	wg.Wait()
}

// TestPiecesMeetBetweenSectors has a write come between two pieces of a large read that begins inside a sector.
func TestPiecesMeetBetweenSectors(t *testing.T) {
	const n, first, sector = 1 << 20, 100, 512
	m := memdevice.New(2 << 20)
	var reads atomic.Int32
	d := &faulty{Device: m, before: func(op string, _, _ int64) error {
		if op == "read" {
			return m.WriteAt(bytes.Repeat([]byte{byte(reads.Add(1))}, int(m.SizeBytes())), 0, false)
		}
		return nil
	}}
	c := dial(t, newServer(t, nbdserver.Options{Catalog: one(d)}), "structured")
	r := c.do(wire.CmdRead, 0, first, n, nil)
	for at := sector - first; at+sector <= n; at += sector {
		if p := r.data[at : at+sector]; !bytes.Equal(p[1:], p[:sector-1]) {
			t.Errorf("the sector at %d is a mixture", first+at)
		}
	}
	if n := reads.Load(); n < 2 {
		t.Errorf("%d pieces", n)
	}
	c.disconnect()
}

// TestSlowReaderGetsWholeSectors has a client ask for more than its socket takes, and write what it asks for, before it takes
// a reply: a sector may be old or new, wherever the socket was full.
func TestSlowReaderGetsWholeSectors(t *testing.T) {
	for name, device := range map[string]*memdevice.Device{"lent": memdevice.New(4 << 20), "copied": deferred(4 << 20)} {
		t.Run(name, func(t *testing.T) {
			const n, sector = 3<<20 + 4096, 512
			s := newServer(t, nbdserver.Options{Catalog: one(device)})
			reader, writer := dial(t, s, "structured"), dial(t, s, "structured")
			for round := range 20 {
				fill := func(b byte) {
					writer.do(wire.CmdWrite, 0, 512, n, bytes.Repeat([]byte{b}, n))
				}
				fill(byte(2*round + 1))
				pending := map[uint64]span{reader.send(wire.CmdRead, 0, 512, n, nil): {512, n}}
				fill(byte(2*round + 2))
				for _, r := range reader.receive(pending, 1) {
					for at := 0; at+sector <= len(r.data); at += sector {
						if p := r.data[at : at+sector]; !bytes.Equal(p[1:], p[:sector-1]) {
							t.Fatalf("the sector at %d is a mixture", 512+at)
						}
					}
				}
			}
		})
	}
}
