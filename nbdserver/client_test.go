// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/wire"
	"golang.org/x/sys/unix"
)

// patience is how long tests wait for what must happen; nothing is asserted about time.
const patience = 60 * time.Second

// catalog serves devices by name and counts what is open.
type catalog struct {
	devices map[string]nbdserver.Device
	denied  map[string]bool
	broken  map[string]bool
	opens   func(name string, peer *nbdserver.Peer)
}

func (c *catalog) List(_ context.Context, _ *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	if c.denied["*"] {
		return nil, nbdserver.ErrDenied
	}
	var list []nbdserver.ExportInfo
	for name := range c.devices {
		list = append(list, nbdserver.ExportInfo{Name: name, Description: "about " + name})
	}
	return list, nil
}

func (c *catalog) Open(_ context.Context, name string, peer *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	if c.denied[name] {
		return nbdserver.ExportInfo{}, nil, fmt.Errorf("uid 7: %w", nbdserver.ErrDenied)
	}
	if c.broken[name] {
		return nbdserver.ExportInfo{}, nil, errors.New("the key source does not answer")
	}
	if c.opens != nil {
		c.opens(name, peer)
	}
	d, ok := c.devices[name]
	if !ok {
		return nbdserver.ExportInfo{}, nil, nbdserver.ErrUnknownExport
	}
	return nbdserver.ExportInfo{Name: name, Description: "about " + name}, d, nil
}

// one is a catalog of one device, which has the name "".
func one(d nbdserver.Device) *catalog {
	return &catalog{devices: map[string]nbdserver.Device{"": d}}
}

// newServer returns a server that the end of the test shuts down, checking that it got everything back.
func newServer(t testing.TB, o nbdserver.Options) *nbdserver.Server {
	t.Helper()
	s := nbdserver.New(o)
	s.Poison()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if b := s.BufferStats(); b.UsedBytes != 0 || b.Waiting != 0 {
			t.Errorf("buffers not given back: %+v", b)
		}
		if b := s.ReadBufferStats(); b.UsedBytes != 0 {
			t.Errorf("read buffers not given back: %+v", b)
		}
		if n := s.Connections(); n != 0 {
			t.Errorf("%d connections left", n)
		}
	})
	return s
}

// socketPair returns two ends of a connection.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return conns[0], conns[1]
}

// client is one connection to a server. Its methods fail the test when the server does not speak the protocol.
type client struct {
	t        testing.TB
	c        net.Conn
	mode     string // simple, structured, extended
	cookie   uint64
	size     uint64
	flags    uint16
	contexts map[string]uint32
	served   chan struct{} // closed when the server is done with the connection
}

// connect starts to serve a connection and reads the greeting.
func connect(t testing.TB, s *nbdserver.Server) *client {
	t.Helper()
	return connectBy(t, s, func(far net.Conn) net.Conn { return far })
}

// connectBy is connect with another view of the server's end.
func connectBy(t testing.TB, s *nbdserver.Server, wrap func(far net.Conn) net.Conn) *client {
	t.Helper()
	near, far := socketPair(t)
	c := &client{t: t, c: near, mode: "simple", served: make(chan struct{})}
	go func() {
		defer close(c.served)
		s.ServeConn(context.Background(), wrap(far))
	}()
	t.Cleanup(func() { _ = near.Close() })
	_ = near.SetDeadline(time.Now().Add(patience))
	greeting := c.read(wire.GreetingBytes)
	if binary.BigEndian.Uint64(greeting) != wire.MagicOldstyle || binary.BigEndian.Uint64(greeting[8:]) != wire.MagicOption {
		t.Fatalf("greeting %x", greeting)
	}
	if f := binary.BigEndian.Uint16(greeting[16:]); f != wire.FlagFixedNewstyle|wire.FlagNoZeroes {
		t.Fatalf("handshake flags %#x", f)
	}
	return c
}

// dial connects, negotiates replies of the mode and base:allocation if it can, and opens the export "".
func dial(t testing.TB, s *nbdserver.Server, mode string) *client {
	t.Helper()
	c := connect(t, s)
	c.write(binary.BigEndian.AppendUint32(nil, wire.ClientFlagFixedNewstyle|wire.ClientFlagNoZeroes))
	c.negotiate(mode)
	if mode != "simple" {
		c.setContexts("", "base:allocation", "qemu:allocation-depth")
	}
	c.goExport("")
	return c
}

func (c *client) negotiate(mode string) {
	c.t.Helper()
	c.mode = mode
	switch mode {
	case "structured":
		c.expect(wire.OptStructuredReply, nil, wire.RepAck)
	case "extended":
		c.expect(wire.OptExtendedHeaders, nil, wire.RepAck)
	}
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.c.Write(b); err != nil {
		c.t.Fatalf("client: write: %v", err)
	}
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.c, b); err != nil {
		c.t.Fatalf("client: read %d bytes: %v", n, err)
	}
	return b
}

// expectEnd waits for the server to close the connection without another byte.
func (c *client) expectEnd() {
	c.t.Helper()
	rest, err := io.ReadAll(c.c)
	if len(rest) != 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
		c.t.Fatalf("connection should be closed, got %x, %v", rest, err)
	}
	c.gone()
}

// gone waits until the server has given back what the connection held.
func (c *client) gone() {
	c.t.Helper()
	select {
	case <-c.served:
	case <-time.After(patience):
		c.t.Fatal("server still holds the connection")
	}
}

func option(id uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, wire.MagicOption)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// optionReply reads one reply to an option.
func (c *client) optionReply(id uint32) (uint32, []byte) {
	c.t.Helper()
	h := c.read(wire.OptionReplyHeaderBytes)
	if binary.BigEndian.Uint64(h) != wire.MagicOptionReply || binary.BigEndian.Uint32(h[8:]) != id {
		c.t.Fatalf("reply to option %d: %x", id, h)
	}
	return binary.BigEndian.Uint32(h[12:]), c.read(int(binary.BigEndian.Uint32(h[16:])))
}

// expect sends an option, checks the type of the reply that ends it, and returns the data of those before.
func (c *client) expect(id uint32, data []byte, want uint32) [][]byte {
	c.t.Helper()
	c.write(option(id, data))
	return c.collect(id, want)
}

func (c *client) collect(id, want uint32) [][]byte {
	c.t.Helper()
	var list [][]byte
	for {
		kind, data := c.optionReply(id)
		if kind == wire.RepAck || kind>>31 != 0 {
			if kind != want {
				c.t.Fatalf("option %d: reply %#x %q, want %#x", id, kind, data, want)
			}
			if kind>>31 != 0 && len(data) > 900 {
				c.t.Fatalf("option %d: error text of %d bytes", id, len(data))
			}
			return list
		}
		list = append(list, data)
	}
}

func str(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func infoData(name string, requests ...uint16) []byte {
	b := str(nil, name)
	b = binary.BigEndian.AppendUint16(b, uint16(len(requests)))
	for _, r := range requests {
		b = binary.BigEndian.AppendUint16(b, r)
	}
	return b
}

func contextData(name string, queries ...string) []byte {
	b := str(nil, name)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = str(b, q)
	}
	return b
}

func (c *client) setContexts(export string, names ...string) {
	c.t.Helper()
	c.contexts = map[string]uint32{}
	for _, d := range c.expect(wire.OptSetMetaContext, contextData(export, names...), wire.RepAck) {
		c.contexts[string(d[4:])] = binary.BigEndian.Uint32(d)
	}
}

func (c *client) goExport(name string, requests ...uint16) [][]byte {
	c.t.Helper()
	infos := c.expect(wire.OptGo, infoData(name, requests...), wire.RepAck)
	for _, d := range infos {
		if binary.BigEndian.Uint16(d) == wire.InfoExport {
			c.size, c.flags = binary.BigEndian.Uint64(d[2:]), binary.BigEndian.Uint16(d[10:])
		}
	}
	return infos
}

// reply is everything that came back for one request.
type reply struct {
	errno   uint32
	text    string
	data    []byte
	chunks  []uint16 // types
	extents map[uint32][]nbdserver.Extent
}

// encode makes a request; the payload follows it.
func (c *client) encode(q wire.Request, payload []byte) []byte {
	if c.mode == "extended" {
		b := make([]byte, wire.ExtendedRequestBytes)
		wire.PutExtendedRequest(b, &q)
		return append(b, payload...)
	}
	b := make([]byte, wire.RequestBytes)
	wire.PutRequest(b, &q)
	return append(b, payload...)
}

// send sends a request and returns its cookie.
func (c *client) send(command, flags uint16, offset, length uint64, payload []byte) uint64 {
	c.t.Helper()
	c.cookie++
	if c.mode == "extended" && command == wire.CmdWrite {
		flags |= wire.CmdFlagPayloadLen
	}
	q := wire.Request{Flags: flags, Command: command, Cookie: c.cookie, OffsetBytes: offset, LengthBytes: length}
	c.write(c.encode(q, payload))
	return c.cookie
}

// do sends a request and returns its reply; no other may be in flight.
func (c *client) do(command, flags uint16, offset, length uint64, payload []byte) *reply {
	c.t.Helper()
	cookie := c.send(command, flags, offset, length, payload)
	n := uint64(0)
	if command == wire.CmdRead {
		n = length
	}
	got := c.receive(map[uint64]span{cookie: {offset, n}}, 1)
	return got[cookie]
}

// span is what a read asked for.
type span struct{ offset, length uint64 }

// receive reads until n of the pending requests are answered.
func (c *client) receive(pending map[uint64]span, n int) map[uint64]*reply {
	c.t.Helper()
	out := map[uint64]*reply{}
	for done := 0; done < n; {
		cookie, last := c.chunk(pending, out)
		if last {
			done++
			delete(pending, cookie)
		}
	}
	return out
}

// chunk reads a simple reply or one chunk.
func (c *client) chunk(pending map[uint64]span, out map[uint64]*reply) (uint64, bool) {
	c.t.Helper()
	h := c.read(16)
	magic, cookie := binary.BigEndian.Uint32(h), binary.BigEndian.Uint64(h[8:])
	q, ok := pending[cookie]
	if !ok {
		c.t.Fatalf("reply to a request that is not in flight: %x", h)
	}
	r := out[cookie]
	if r == nil {
		r = &reply{data: bytes.Repeat([]byte{0xEE}, int(q.length)), extents: map[uint32][]nbdserver.Extent{}}
		out[cookie] = r
	}
	switch {
	case magic == wire.MagicSimpleReply && c.mode != "extended":
		r.errno = binary.BigEndian.Uint32(h[4:])
		if q.length > 0 && c.mode == "structured" {
			c.t.Fatal("simple reply to a read after structured replies were negotiated")
		}
		if r.errno == 0 {
			r.data = c.read(int(q.length))
		}
		return cookie, true
	case magic == wire.MagicStructuredReply && c.mode == "structured":
		return cookie, c.payload(r, h, q, uint64(binary.BigEndian.Uint32(c.read(4))))
	case magic == wire.MagicExtendedReply && c.mode == "extended":
		more := c.read(16)
		if binary.BigEndian.Uint64(more) != q.offset {
			c.t.Fatalf("extended reply has offset %d, request had %d", binary.BigEndian.Uint64(more), q.offset)
		}
		return cookie, c.payload(r, h, q, binary.BigEndian.Uint64(more[8:]))
	}
	c.t.Fatalf("reply with magic %#x in mode %s", magic, c.mode)
	return 0, false
}

// payload reads a chunk's payload and checks what qemu 4.2 cannot bear.
func (c *client) payload(r *reply, h []byte, q span, n uint64) bool {
	c.t.Helper()
	flags, kind := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:])
	if n > 64<<20 {
		c.t.Fatalf("chunk of %d bytes", n)
	}
	p := c.read(int(n))
	r.chunks = append(r.chunks, kind)
	if kind != wire.ChunkOffsetData && kind != wire.ChunkBlockStatusExt && n > 1000 {
		c.t.Fatalf("chunk type %d with %d bytes ends qemu 4.2", kind, n)
	}
	switch kind {
	case wire.ChunkNone:
	case wire.ChunkOffsetData, wire.ChunkOffsetHole:
		at := binary.BigEndian.Uint64(p) - q.offset
		piece := p[8:]
		if kind == wire.ChunkOffsetHole {
			piece = make([]byte, binary.BigEndian.Uint32(p[8:]))
		}
		if at > q.length || uint64(len(piece)) > q.length-at || len(piece) == 0 {
			c.t.Fatalf("chunk of %d bytes at %d of a read of %d", len(piece), at, q.length)
		}
		copy(r.data[at:], piece)
	case wire.ChunkError:
		r.errno, r.text = binary.BigEndian.Uint32(p), string(p[6:])
		if r.errno == 0 || int(binary.BigEndian.Uint16(p[4:])) != len(r.text) {
			c.t.Fatalf("error chunk %x", p)
		}
	case wire.ChunkBlockStatus:
		id := binary.BigEndian.Uint32(p)
		for p = p[4:]; len(p) > 0; p = p[8:] {
			r.extents[id] = append(r.extents[id], nbdserver.Extent{
				LengthBytes: int64(binary.BigEndian.Uint32(p)), Flags: uint64(binary.BigEndian.Uint32(p[4:]))})
		}
	case wire.ChunkBlockStatusExt:
		id := binary.BigEndian.Uint32(p)
		if int(binary.BigEndian.Uint32(p[4:])) != (len(p)-8)/16 {
			c.t.Fatalf("extended block status says %d extents in %d bytes", binary.BigEndian.Uint32(p[4:]), len(p))
		}
		for p = p[8:]; len(p) > 0; p = p[16:] {
			r.extents[id] = append(r.extents[id], nbdserver.Extent{
				LengthBytes: int64(binary.BigEndian.Uint64(p)), Flags: binary.BigEndian.Uint64(p[8:])})
		}
	default:
		c.t.Fatalf("chunk type %d", kind)
	}
	return flags&wire.ChunkFlagDone != 0
}

// disconnect ends the session well.
func (c *client) disconnect() {
	c.t.Helper()
	c.send(wire.CmdDisc, 0, 0, 0, nil)
	c.expectEnd()
}
