// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// holding is a device that keeps what it is asked until the test answers. The blocking calls of ReadAt and WriteAt are
// those of memdevice.
type holding struct {
	*memdevice.Device
	asked  chan held
	refuse func(write bool, length int) bool
}

type held struct {
	p           []byte
	offsetBytes int64
	write       bool
	done        nbdserver.Completion
}

func hold(sizeBytes int64) *holding {
	return &holding{deferred(sizeBytes), make(chan held, 100), func(bool, int) bool { return false }}
}

func (d *holding) start(q held) bool {
	if d.refuse(q.write, len(q.p)) {
		return false
	}
	d.asked <- q
	return true
}

func (d *holding) StartRead(p []byte, offset int64, done nbdserver.Completion) bool {
	return d.start(held{p, offset, false, done})
}

func (d *holding) StartWrite(p []byte, offset int64, done nbdserver.Completion) bool {
	return d.start(held{p, offset, true, done})
}

// take waits for n requests.
func (d *holding) take(t *testing.T, n int) []held {
	t.Helper()
	var list []held
	for len(list) < n {
		select {
		case q := <-d.asked:
			list = append(list, q)
		case <-time.After(patience):
			t.Fatalf("%d of %d requests came", len(list), n)
		}
	}
	return list
}

// end does the requests, and tells each sender once afterwards.
func (d *holding) end(list []held, err error) {
	senders := map[nbdserver.Sender]bool{}
	for _, q := range list {
		switch {
		case err != nil:
		case q.write:
			_ = d.WriteAt(q.p, q.offsetBytes, false)
		default:
			_ = d.ReadAt(q.p, q.offsetBytes)
		}
		senders[q.done.Done(err)] = true
	}
	for s := range senders {
		s.Send()
	}
}

// TestAsyncReadsItsOwnWrites goes over asynchronous and blocking requests of all sizes in every mode.
func TestAsyncReadsItsOwnWrites(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			const part, parts = 80 << 10, 24
			d := deferred(part * parts).Async()
			s := newServer(t, nbdserver.Options{Catalog: one(d)})
			c := dial(t, s, mode)
			for round := range 4 {
				pending, want := map[uint64]span{}, map[uint64][]byte{}
				for i := range parts {
					n := 1 + (i*4099+round*777)%part
					data := noise(uint64(round*parts+i), n)
					pending[c.send(wire.CmdWrite, fuaOf(i), uint64(i*part), uint64(n), data)] = span{uint64(i * part), 0}
				}
				for _, r := range c.receive(pending, parts) {
					if r.errno != 0 {
						t.Fatalf("write: error %d", r.errno)
					}
				}
				for i := range parts {
					n := 1 + (i*4099+round*777)%part
					cookie := c.send(wire.CmdRead, 0, uint64(i*part), uint64(n), nil)
					pending[cookie], want[cookie] = span{uint64(i * part), uint64(n)}, noise(uint64(round*parts+i), n)
				}
				for cookie, r := range c.receive(pending, parts) {
					if r.errno != 0 || !bytes.Equal(r.data, want[cookie]) {
						t.Fatalf("read: error %d, or other bytes", r.errno)
					}
				}
			}
			c.disconnect()
		})
	}
}

func fuaOf(i int) uint16 {
	if i%5 == 0 {
		return wire.CmdFlagFUA
	}
	return 0
}

// TestAsyncRefusalIsDoneByAWorker has a device that begins only some of the requests.
func TestAsyncRefusalIsDoneByAWorker(t *testing.T) {
	d := hold(1 << 20)
	d.refuse = func(write bool, length int) bool { return write == (length == 4096) }
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "structured")
	if r := c.do(wire.CmdWrite, 0, 0, 4096, noise(1, 4096)); r.errno != 0 {
		t.Fatalf("refused write: error %d", r.errno)
	}
	if r := c.do(wire.CmdRead, 0, 0, 512, nil); r.errno != 0 || !bytes.Equal(r.data, noise(1, 4096)[:512]) {
		t.Fatalf("refused read: error %d, or other bytes", r.errno)
	}
	if n := len(d.asked); n != 0 {
		t.Errorf("%d requests were begun", n)
	}
	c.disconnect()
}

// TestAsyncErrorsReachTheClient ends one request of a batch well and others with errors.
func TestAsyncErrorsReachTheClient(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			d := hold(1 << 20)
			s := newServer(t, nbdserver.Options{Catalog: one(d)})
			c := dial(t, s, mode)
			pending := map[uint64]span{}
			pending[c.send(wire.CmdRead, 0, 0, 4096, nil)] = span{0, 4096}
			list := d.take(t, 1)
			full := c.send(wire.CmdWrite, 0, 0, 4096, noise(1, 4096))
			pending[full] = span{0, 0}
			list = append(list, d.take(t, 1)...)
			d.end(list[:1], nil)
			d.end(list[1:], fmt.Errorf("image: %w", syscall.ENOSPC))
			for cookie, r := range c.receive(pending, 2) {
				want := uint32(0)
				if cookie == full {
					want = wire.ErrNoSpace
				}
				if r.errno != want {
					t.Errorf("error %d, want %d", r.errno, want)
				}
			}
			c.disconnect()
		})
	}
}

// TestAsyncBuffersOutliveTheClient cuts the connection while the device works: it may use the buffers until it is done.
func TestAsyncBuffersOutliveTheClient(t *testing.T) {
	d := hold(1 << 20)
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "simple")
	const n = 8
	for i := range n {
		c.send(wire.CmdRead, 0, uint64(i)*4096, 4096, nil)
		c.send(wire.CmdWrite, 0, uint64(i)*4096, 4096, noise(uint64(i), 4096))
	}
	list := d.take(t, 2*n)
	_ = c.c.Close()
	other := dial(t, s, "simple") // its requests must get other buffers
	theirs := noise(99, 4096)
	cookie := other.send(wire.CmdWrite, 0, 512<<10, 4096, theirs)
	d.end(d.take(t, 1), nil)
	other.receive(map[uint64]span{cookie: {512 << 10, 0}}, 1)
	for _, q := range list {
		if want := noise(uint64(q.offsetBytes/4096), 4096); q.write && !bytes.Equal(q.p, want) {
			t.Fatal("the payload changed while the device had it")
		}
		copy(q.p, theirs)
	}
	select {
	case <-c.served:
		t.Fatal("the server let go of the connection while the device had its buffers")
	default:
	}
	if used := s.BufferStats().UsedBytes; used < 2*n*4096 {
		t.Errorf("%d bytes in use, the device has %d", used, 2*n*4096)
	}
	d.end(list, nil)
	c.gone()
	other.disconnect()
}

// TestAsyncClientThatTakesNothing stops reading replies; the goroutine of the device must not wait for it.
func TestAsyncClientThatTakesNothing(t *testing.T) {
	d := hold(16 << 20)
	filled(d.Device)
	s := newServer(t, nbdserver.Options{Catalog: one(d), Limits: nbdserver.Limits{InFlight: 100}})
	stuck, other := dial(t, s, "simple"), dial(t, s, "simple")
	const n = 60
	pending := map[uint64]span{}
	for i := range n {
		q := span{uint64(i) << 16, 64 << 10}
		pending[stuck.send(wire.CmdRead, 0, q.offset, q.length, nil)] = q
	}
	list := d.take(t, n)
	mine := other.send(wire.CmdRead, 0, 0, 4096, nil)
	list = append(list, d.take(t, 1)...)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.end(list, nil) // about 4 MB, more than any socket takes
	}()
	other.receive(map[uint64]span{mine: {0, 4096}}, 1)
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the device waits for a client")
	}
	stuck.receive(pending, n)
	stuck.disconnect()
	other.disconnect()
}

// TestAsyncShutdownWaits drains a server whose device has requests.
func TestAsyncShutdownWaits(t *testing.T) {
	d := hold(1 << 20)
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "simple")
	cookie := c.send(wire.CmdRead, 0, 0, 4096, nil)
	list := d.take(t, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(10 * time.Millisecond) // nothing is asserted about it: it only makes the shutdown come first
	d.end(list, nil)
	c.receive(map[uint64]span{cookie: {0, 4096}}, 1)
	c.expectEnd()
	wg.Wait()
}

// opaque is a connection that cannot be looked at without waiting, like TLS.
type opaque struct{ net.Conn }

// TestAsyncOverOpaqueTransport has workers do the sending.
func TestAsyncOverOpaqueTransport(t *testing.T) {
	d := deferred(1 << 20).Async()
	filled(d.Device)
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := connectBy(t, s, func(far net.Conn) net.Conn { return opaque{far} })
	c.write(binary.BigEndian.AppendUint32(nil, wire.ClientFlagFixedNewstyle|wire.ClientFlagNoZeroes))
	c.goExport("")
	pending := map[uint64]span{}
	for i := range 20 {
		q := span{uint64(i) * 8192, 8192}
		pending[c.send(wire.CmdRead, 0, q.offset, q.length, nil)] = q
	}
	want := noise(3, 1<<20)
	asked := map[uint64]span{}
	for k, q := range pending {
		asked[k] = q
	}
	for cookie, r := range c.receive(pending, 20) {
		if q := asked[cookie]; !bytes.Equal(r.data, want[q.offset:q.offset+q.length]) {
			t.Fatal("other bytes")
		}
	}
	c.disconnect()
}
