// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// TestHalfSentWriteNeverReachesTheDevice ends connections at every stage of writes of all paths.
func TestHalfSentWriteNeverReachesTheDevice(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		d := device(4 << 20)
		s := newServer(t, nbdserver.Options{Catalog: one(d)})
		for _, n := range []int{2, 4096, 40000, 200000, 1 << 20} {
			for _, sent := range []int{0, 1, n / 2, n - 1} {
				c := dial(t, s, mode)
				c.do(wire.CmdWrite, 0, 2<<20, 4, []byte("kept"))
				whole := c.encode(wire.Request{Command: wire.CmdWrite, Flags: c.payloadFlag(), Cookie: 9, LengthBytes: uint64(n)}, noise(1, n))
				c.write(whole[:len(whole)-n+sent])
				_ = c.c.Close()
				c.gone()
				got := make([]byte, n)
				if err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, make([]byte, n)) {
					t.Fatalf("%d of %d bytes sent: the device has some of them", sent, n)
				}
			}
		}
		got := make([]byte, 4)
		if err := d.ReadAt(got, 2<<20); err != nil || string(got) != "kept" {
			t.Errorf("finished write: %q", got)
		}
		if len(d.Spare(0, 2<<20, nil)) == 0 {
			t.Error("memory that was lent for payloads did not come back")
		}
	})
}

func (c *client) payloadFlag() uint16 {
	if c.mode == "extended" {
		return wire.CmdFlagPayloadLen
	}
	return 0
}

// TestClientThatDiesWithRequestsInFlight never reads its replies.
func TestClientThatDiesWithRequestsInFlight(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		s := newServer(t, nbdserver.Options{Catalog: one(filled(device(4 << 20)))})
		other := dial(t, s, mode)
		for _, n := range []uint64{4096, 100000, 1 << 20} {
			c := dial(t, s, mode)
			for i := range 30 {
				c.send(wire.CmdRead, 0, uint64(i)*4096, n, nil)
			}
			_ = c.c.Close()
			c.gone()
		}
		if r := other.do(wire.CmdRead, 0, 0, 4096, nil); r.errno != 0 {
			t.Errorf("another client: error %d", r.errno)
		}
		other.disconnect()
	})
}

// TestHalfClosedClientGetsItsReplies shuts down its sending side after its requests.
func TestHalfClosedClientGetsItsReplies(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		s := newServer(t, nbdserver.Options{Catalog: one(device(4 << 20))})
		c := dial(t, s, mode)
		pending := map[uint64]span{}
		for i := range 20 {
			q := span{uint64(i) * 1000, 200000}
			pending[c.send(wire.CmdRead, 0, q.offset, q.length, nil)] = q
		}
		if err := c.c.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.receive(pending, 20) {
			if r.errno != 0 {
				t.Errorf("error %d", r.errno)
			}
		}
		c.expectEnd()
	})
}

// TestDisconnectFinishesWhatIsInFlight has DISC overtake slow requests.
func TestDisconnectFinishesWhatIsInFlight(t *testing.T) {
	release := make(chan struct{})
	d := &faulty{Device: deferred(1 << 20), before: func(string, int64, int64) error { <-release; return nil }}
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "structured")
	pending := map[uint64]span{}
	for range 5 {
		pending[c.send(wire.CmdRead, 0, 0, 512, nil)] = span{0, 512}
	}
	c.send(wire.CmdDisc, 0, 0, 0, nil)
	close(release)
	c.receive(pending, 5)
	c.expectEnd()
}

// TestClientThatSendsBeforeItReceives mixes large reads and writes and takes no reply until all are sent.
func TestClientThatSendsBeforeItReceives(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		s := newServer(t, nbdserver.Options{Catalog: one(filled(device(16 << 20)))})
		c := dial(t, s, mode)
		pending := map[uint64]span{}
		for i := range 8 {
			q := span{uint64(i) << 20, 1 << 20}
			pending[c.send(wire.CmdRead, 0, q.offset, q.length, nil)] = q
			pending[c.send(wire.CmdWrite, 0, 8<<20, 1<<20, make([]byte, 1<<20))] = span{8 << 20, 0}
		}
		c.receive(pending, 16)
		c.disconnect()
	})
}

func TestStalledClientsAreDropped(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		s := newServer(t, nbdserver.Options{
			Catalog: one(filled(device(8 << 20))),
			Limits:  nbdserver.Limits{Stall: 50 * time.Millisecond},
		})
		for _, n := range []int{3000, 100000} { // owes the rest of a payload
			c := dial(t, s, mode)
			whole := c.encode(wire.Request{Command: wire.CmdWrite, Flags: c.payloadFlag(), LengthBytes: uint64(n)}, make([]byte, n))
			c.write(whole[:len(whole)-1])
			c.expectEnd()
		}
		c := dial(t, s, mode) // takes no replies
		for range 20 {
			c.send(wire.CmdRead, 0, 0, 1<<20, nil)
		}
		c.gone()
		idle := dial(t, s, mode)
		time.Sleep(100 * time.Millisecond)
		if r := idle.do(wire.CmdRead, 0, 0, 1, nil); r.errno != 0 {
			t.Errorf("idle client: error %d", r.errno)
		}
	})
}

// TestIdleClientsAreDropped only where it is asked for, and only clients that wait for nothing.
func TestIdleClientsAreDropped(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		s := newServer(t, nbdserver.Options{Catalog: one(device(1 << 20)), Limits: nbdserver.Limits{Idle: 20 * time.Millisecond}})
		c := dial(t, s, mode)
		c.expectEnd()
		c.gone()
	})
	const idle = 500 * time.Millisecond
	release := make(chan struct{})
	d := &faulty{Device: deferred(1 << 20), before: func(string, int64, int64) error { <-release; return nil }}
	s := newServer(t, nbdserver.Options{Catalog: one(d), Limits: nbdserver.Limits{Idle: idle}})
	c := dial(t, s, "structured")
	cookie := c.send(wire.CmdFlush, 0, 0, 0, nil)
	time.Sleep(2 * idle) // the device takes its time: that is not the client's fault
	close(release)
	c.receive(map[uint64]span{cookie: {}}, 1)
	c.expectEnd()
	c.gone()
}

// TestBudgetIsSharedWithoutDeadlock has many clients with more in flight than there is memory. They receive while they
// send, as qemu, libnbd and the kernel do; one that does not could only be waited for until it counts as stalled.
func TestBudgetIsSharedWithoutDeadlock(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		s := newServer(t, nbdserver.Options{
			Catalog: one(filled(device(8 << 20))),
			Limits:  nbdserver.Limits{BufferBytes: 2 << 20, RequestBytes: 1 << 20, InFlightBytes: 1 << 20},
		})
		var wg sync.WaitGroup
		for range 6 {
			c := dial(t, s, mode)
			wg.Go(func() {
				for range 4 {
					pending, batch := c.batch(8)
					sent := make(chan error, 1)
					go func() {
						_, err := c.c.Write(batch)
						sent <- err
					}()
					c.receive(pending, len(pending))
					if err := <-sent; err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if b := s.BufferStats(); b.UsedBytes+b.KeptBytes > b.BudgetBytes {
			t.Errorf("budget exceeded: %+v", b)
		}
	})
}

// batch encodes n large reads and n large writes.
func (c *client) batch(n int) (map[uint64]span, []byte) {
	pending, out := map[uint64]span{}, []byte(nil)
	for i := range n {
		offset := uint64(i) << 19
		pending[uint64(2*i)] = span{offset, 600000}
		out = append(out, c.encode(wire.Request{Command: wire.CmdRead, Cookie: uint64(2 * i),
			OffsetBytes: offset, LengthBytes: 600000}, nil)...)
		pending[uint64(2*i+1)] = span{offset, 0}
		out = append(out, c.encode(wire.Request{Command: wire.CmdWrite, Flags: c.payloadFlag(), Cookie: uint64(2*i + 1),
			OffsetBytes: offset, LengthBytes: 300000}, make([]byte, 300000))...)
	}
	return pending, out
}

// TestStuckClientDoesNotStopOthers fills one connection's share while another one works.
func TestStuckClientDoesNotStopOthers(t *testing.T) {
	s := newServer(t, nbdserver.Options{
		Catalog: one(filled(deferred(8 << 20))),
		Limits:  nbdserver.Limits{BufferBytes: 8 << 20, RequestBytes: 1 << 20, InFlightBytes: 4 << 20},
	})
	stuck := dial(t, s, "structured")
	for range 50 {
		stuck.send(wire.CmdRead, 0, 0, 1<<20, nil)
	}
	c := dial(t, s, "structured")
	for range 50 {
		if r := c.do(wire.CmdRead, 0, 0, 1<<20, nil); r.errno != 0 {
			t.Fatalf("error %d", r.errno)
		}
	}
	_ = stuck.c.Close()
	stuck.gone()
	c.disconnect()
}

// TestInFlightLimit counts how many requests reach the device at once.
func TestInFlightLimit(t *testing.T) {
	var now, most atomic.Int64
	release := make(chan struct{})
	d := &faulty{Device: deferred(1 << 20), before: func(string, int64, int64) error {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release
		now.Add(-1)
		return nil
	}}
	s := newServer(t, nbdserver.Options{Catalog: one(d), Limits: nbdserver.Limits{InFlight: 4}})
	c := dial(t, s, "structured")
	pending := map[uint64]span{}
	for range 12 {
		pending[c.send(wire.CmdRead, 0, 0, 512, nil)] = span{0, 512}
	}
	for now.Load() < 4 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	close(release)
	c.receive(pending, 12)
	if most.Load() != 4 {
		t.Errorf("%d requests at once, want 4", most.Load())
	}
	c.disconnect()
}

// TestRequestsOverlapInTheDevice proves that a slow request does not hold up the ones behind it.
func TestRequestsOverlapInTheDevice(t *testing.T) {
	release := make(chan struct{})
	d := &faulty{Device: deferred(1 << 20), before: func(_ string, offset, _ int64) error {
		if offset == 0 {
			<-release
		}
		return nil
	}}
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "structured")
	slow := c.send(wire.CmdRead, 0, 0, 512, nil)
	quick := c.send(wire.CmdRead, 0, 4096, 512, nil)
	pending := map[uint64]span{slow: {0, 512}, quick: {4096, 512}}
	if got := c.receive(pending, 1); got[quick] == nil {
		t.Error("the slow request was answered first")
	}
	close(release)
	c.receive(pending, 1)
	c.disconnect()
}

// TestSmallReadOvertakesLargeOnes sends a small read behind many large ones.
func TestSmallReadOvertakesLargeOnes(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(filled(memdevice.New(64 << 20)))})
	c := dial(t, s, "structured")
	pending := map[uint64]span{}
	for i := range 6 {
		q := span{uint64(i) * 8 << 20, 8 << 20}
		pending[c.send(wire.CmdRead, 0, q.offset, q.length, nil)] = q
	}
	small := c.send(wire.CmdRead, 0, 0, 512, nil)
	pending[small] = span{0, 512}
	if got := c.receive(pending, 1); got[small] == nil || len(got[small].data) != 512 {
		t.Error("a large read was finished before the small one behind it")
	}
	c.receive(pending, 6)
	c.disconnect()
}

func TestBadMagicEndsOnlyItsConnection(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
	for _, mode := range modes {
		good, bad := dial(t, s, mode), dial(t, s, mode)
		bad.write(make([]byte, 64))
		bad.expectEnd()
		good.do(wire.CmdRead, 0, 0, 1, nil)
		bad = dial(t, s, mode)
		bad.send(wire.CmdWrite, 1<<14, 0, 1<<32-1, nil) // too much to skip
		bad.expectEnd()
		good.disconnect()
	}
}
