// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// carry brings a session through JSON, as it goes from process to process.
func carry(t *testing.T, m *nbdserver.Session) *nbdserver.Session {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out := &nbdserver.Session{}
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	out.Conn = m.Conn
	return out
}

// trickle writes b in pieces of random sizes, so that requests are cut everywhere.
func trickle(c *client, rng *rand.Rand, b []byte) {
	for len(b) > 0 {
		n := min(len(b), 1+rng.IntN(1+rng.IntN(60_000)))
		c.write(b[:n])
		b = b[n:]
	}
}

// load works on a range of its own until stop, comparing with a model. It never sees what happens to the server.
func load(c *client, rng *rand.Rand, offset uint64, model []byte, stop *atomic.Bool, requests *atomic.Int64) {
	for !stop.Load() {
		var batch []byte
		pending := map[uint64]span{}
		want := map[uint64][]byte{}
		for range 1 + rng.IntN(8) {
			n := 1 + rng.IntN(1<<rng.IntN(18))
			at := rng.IntN(len(model) - n)
			c.cookie++
			q := wire.Request{Command: wire.CmdRead, Cookie: c.cookie, OffsetBytes: offset + uint64(at), LengthBytes: uint64(n)}
			var payload []byte
			if rng.IntN(2) == 0 && len(want) == 0 { // overlapping requests of a batch have no order
				q.Command = wire.CmdWrite
				if c.mode == "extended" {
					q.Flags = wire.CmdFlagPayloadLen
				}
				payload = bytes.Repeat([]byte{byte(rng.Uint32())}, n)
				batch = append(batch, c.encode(q, payload)...)
				copy(model[at:], payload)
				pending[c.cookie] = span{q.OffsetBytes, 0}
				break
			}
			batch = append(batch, c.encode(q, nil)...)
			pending[c.cookie] = span{q.OffsetBytes, q.LengthBytes}
			want[c.cookie] = bytes.Clone(model[at : at+n])
		}
		trickle(c, rng, batch)
		for cookie, r := range c.receive(pending, len(pending)) {
			requests.Add(1)
			if r.errno != 0 {
				c.t.Errorf("request %d: error %d", cookie, r.errno)
			}
			if w := want[cookie]; w != nil && !bytes.Equal(r.data, w) {
				c.t.Errorf("request %d: wrong data", cookie)
			}
		}
	}
}

// TestHandOver moves busy connections between two servers again and again.
func TestHandOver(t *testing.T) {
	for _, mode := range []string{"simple", "structured", "extended"} {
		for _, immediate := range []bool{true, false} {
			name := mode + map[bool]string{true: "/immediate", false: "/deferred"}[immediate]
			t.Run(name, func(t *testing.T) {
				const region = 1 << 20
				d := memdevice.New(4 * region).With(func(p *nbdserver.Properties) { p.Immediate = immediate })
				servers := []*nbdserver.Server{newServer(t, nbdserver.Options{Catalog: one(d)}), newServer(t, nbdserver.Options{Catalog: one(d)})}
				var stop atomic.Bool
				var requests atomic.Int64
				var clients, sessions sync.WaitGroup
				for i := range 4 {
					c := dial(t, servers[0], mode)
					clients.Go(func() {
						rng := rand.New(rand.NewPCG(uint64(i), 1))
						load(c, rng, uint64(i*region), make([]byte, region), &stop, &requests)
						c.disconnect()
					})
				}
				before := int64(0)
				for i := range 20 {
					for requests.Load() == before || servers[i%2].Connections() < 4 {
						time.Sleep(time.Millisecond) // something must happen between two moves
					}
					before = requests.Load()
					from, to := servers[i%2], servers[1-i%2]
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					got, err := from.Detach(ctx)
					cancel()
					if err != nil || len(got) != 4 {
						t.Errorf("move %d: %d sessions, %v", i, len(got), err)
						break
					}
					to.Reattach()
					for _, m := range got {
						m = carry(t, m)
						sessions.Go(func() {
							if err := to.ServeSession(context.Background(), m, d); err != nil {
								t.Error(err)
							}
						})
					}
				}
				stop.Store(true)
				clients.Wait()
				sessions.Wait()
			})
		}
	}
}

// TestDetachGivesUp has a client that stops in the middle of a payload: the rest of the server waits no longer than it
// is told to, and everybody goes on.
func TestDetachGivesUp(t *testing.T) {
	d := memdevice.New(1 << 20)
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	slow, other := dial(t, s, "structured"), dial(t, s, "structured")
	payload := bytes.Repeat([]byte{7}, 200_000)
	slow.cookie++
	request := slow.encode(wire.Request{Command: wire.CmdWrite, Cookie: slow.cookie, LengthBytes: uint64(len(payload))}, payload)
	slow.write(request[:100_000])
	for s.BufferStats().UsedBytes < int64(len(payload)) { // until the server is in the middle of it, or the device lends
		spare := d.Spare(0, 1<<19, nil)
		d.GiveUp(spare)
		if len(spare) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if r := other.do(wire.CmdWrite, 0, 500_000, 4, []byte("abcd")); r.errno != 0 {
		t.Fatal(r.errno)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	sessions, err := s.Detach(ctx)
	cancel()
	if err == nil || !strings.Contains(err.Error(), "1 connections") || len(sessions) != 1 {
		t.Fatalf("%d sessions, %v", len(sessions), err)
	}
	s.Reattach()
	done := make(chan error, 1)
	go func() { done <- s.ServeSession(context.Background(), sessions[0], d) }()
	if r := other.do(wire.CmdRead, 0, 500_000, 4, nil); string(r.data) != "abcd" {
		t.Errorf("the detached one: %+v", r)
	}
	slow.write(request[100_000:])
	if r := slow.receive(map[uint64]span{slow.cookie: {}}, 1)[slow.cookie]; r.errno != 0 {
		t.Errorf("the slow one: error %d", r.errno)
	}
	if r := slow.do(wire.CmdRead, 0, 199_999, 1, nil); string(r.data) != "\x07" {
		t.Errorf("the slow one's bytes: %+v", r)
	}
	slow.disconnect()
	other.disconnect()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestDetachKeepsListeners stops a listener, and lets another server go on with it.
func TestDetachKeepsListeners(t *testing.T) {
	d := memdevice.New(1 << 20)
	a, b := newServer(t, nbdserver.Options{Catalog: one(d)}), newServer(t, nbdserver.Options{Catalog: one(d)})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(context.Background(), l) }()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// One that says nothing does not hold up the others for long.
	silent, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for a.Connections() == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, err := a.Detach(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-served; !errors.Is(err, nbdserver.ErrDetached) {
		t.Fatalf("Serve: %v", err)
	}
	waiting, err := net.Dial("unix", l.Addr().String()) // nobody accepts now, but it is not refused
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	go func() { served <- b.Serve(context.Background(), l) }()
	_ = waiting.SetDeadline(time.Now().Add(patience))
	if n, err := waiting.Read(make([]byte, wire.GreetingBytes)); err != nil || n != wire.GreetingBytes {
		t.Errorf("the client that waited: %d bytes, %v", n, err)
	}
}

// TestMisfits offers devices that are not what the client was told.
func TestMisfits(t *testing.T) {
	d := memdevice.New(1 << 20)
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "structured")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := s.Detach(ctx)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d sessions, %v", len(got), err)
	}
	s.Reattach()
	for name, other := range map[string]nbdserver.Device{
		"smaller":   memdevice.New(1 << 19),
		"read-only": memdevice.New(1 << 20).With(func(p *nbdserver.Properties) { p.ReadOnly = true }),
		"no flush":  memdevice.New(1 << 20).With(func(p *nbdserver.Properties) { p.Flush = false }),
		"coarser":   memdevice.New(1 << 20).With(func(p *nbdserver.Properties) { p.MinBlockBytes = 4096 }),
		"mapless":   memdevice.New(1 << 20).With(func(p *nbdserver.Properties) { p.Contexts = nil }),
	} {
		if err := s.ServeSession(ctx, got[0], other); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	bad := *got[0]
	bad.Replies = "compound"
	if err := s.ServeSession(ctx, &bad, d); err == nil {
		t.Error("replies of an unknown form were taken")
	}
	done := make(chan error, 1)
	go func() { done <- s.ServeSession(context.Background(), got[0], memdevice.New(1<<21)) }()
	if r := c.do(wire.CmdRead, 0, 1<<20, 512, nil); r.errno == 0 {
		t.Error("a client reads behind the end that it was told of")
	}
	c.disconnect()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
