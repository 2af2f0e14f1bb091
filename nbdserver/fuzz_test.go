// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// FuzzHandshake sends arbitrary bytes as a whole session. The server must end it when the client does, must not touch the
// device unless a complete GO or EXPORT_NAME was sent, and must give everything back.
func FuzzHandshake(f *testing.F) {
	flags := []byte{0, 0, 0, 3}
	f.Add(append(bytes.Clone(flags), option(wire.OptGo, infoData("", 3))...))
	f.Add(append(bytes.Clone(flags), option(wire.OptExportName, nil)...))
	f.Add(append(bytes.Clone(flags), option(wire.OptList, nil)...))
	f.Add(append(append(bytes.Clone(flags), option(wire.OptStructuredReply, nil)...),
		option(wire.OptSetMetaContext, contextData("", "base:allocation"))...))
	f.Add(append(append(bytes.Clone(flags), option(wire.OptExtendedHeaders, nil)...), option(wire.OptGo, infoData(""))...))
	f.Add(append(bytes.Clone(flags), option(wire.OptStartTLS, nil)...))
	f.Fuzz(func(t *testing.T, session []byte) {
		d := &faulty{Device: memdevice.New(1 << 16), before: func(string, int64, int64) error {
			if !bytes.Contains(session, option(wire.OptGo, nil)[:12]) && !bytes.Contains(session, option(wire.OptExportName, nil)[:12]) {
				t.Error("the device was used although no export was asked for")
			}
			return nil
		}}
		s := newServer(t, nbdserver.Options{Catalog: one(d)})
		near, served := start(t, s)
		go func() {
			_, _ = near.Write(session)
			_ = near.(*net.UnixConn).CloseWrite()
		}()
		answer, _ := io.ReadAll(near)
		if len(answer) < wire.GreetingBytes {
			t.Fatalf("no greeting: %x", answer)
		}
		await(t, served)
	})
}

func start(t testing.TB, s *nbdserver.Server) (net.Conn, chan struct{}) {
	t.Helper()
	near, far := socketPair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.ServeConn(context.Background(), far)
	}()
	t.Cleanup(func() { _ = near.Close() })
	_ = near.SetDeadline(time.Now().Add(patience))
	return near, served
}

func await(t testing.TB, served chan struct{}) {
	t.Helper()
	select {
	case <-served:
	case <-time.After(patience):
		t.Fatal("server still holds the connection")
	}
}

// fuzzSize is small, so that requests meet.
const fuzzSize = 1 << 18

// FuzzTransmission makes a session of requests out of the input, six bytes each, and checks every reply and the whole
// content of the device against a model that knows what each byte must be.
func FuzzTransmission(f *testing.F) {
	f.Add([]byte{0}, uint8(0))
	f.Add([]byte("\x01\x00\x10\x00\x20\x00\x00\x00\x10\x00\x20\x00\x06\x00\x00\x80\x30\x00\x00\x00\x00\x00\xff\x02"), uint8(1))
	f.Add([]byte("\x01\x01\xff\xff\xff\x00\x04\x00\x00\x10\x00\x10\x07\x08\x00\x00\xff\x10\x05\x00\x01\x01\x01\x01"), uint8(2))
	f.Add(bytes.Repeat([]byte("\x01\x00\x12\x34\xc0\x03\x00\x00\x00\x00\xff\x03"), 5), uint8(4))
	f.Fuzz(func(t *testing.T, script []byte, kind uint8) {
		d := memdevice.New(fuzzSize).With(func(p *nbdserver.Properties) {
			p.Immediate = kind/3%2 == 0
			p.Contexts = []string{"base:allocation", "qemu:allocation-depth"}
			p.MaxBlockBytes = fuzzSize / 2
		})
		s := newServer(t, nbdserver.Options{Catalog: one(d)})
		c := dial(t, s, modes[kind%3])
		m := &model{t: t, c: c, want: make([]byte, fuzzSize)}
		for ; len(script) >= 6; script = script[6:] {
			m.step(script[:6])
		}
		if cut := len(script); cut > 0 { // die in the middle of a write
			whole := c.encode(wire.Request{Command: wire.CmdWrite, Flags: c.payloadFlag(), LengthBytes: 100}, noise(1, 100))
			c.write(whole[:len(whole)-cut])
			_ = c.c.Close()
			c.gone()
		} else {
			c.disconnect()
		}
		got := make([]byte, fuzzSize)
		if err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, m.want) {
			t.Fatal("the device has other bytes than the model")
		}
	})
}

// model predicts what the server must answer.
type model struct {
	t    testing.TB
	c    *client
	want []byte
	n    byte
}

// step makes one request of six bytes: command, flags, offset and length in units that make overlaps and excess likely.
func (m *model) step(b []byte) {
	m.n++
	command, flags := uint16(b[0]%9), uint16(b[1]&0x1f)
	offset := uint64(binary.BigEndian.Uint16(b[2:])) * 5
	length := uint64(b[4]) * uint64(b[4]) * uint64(b[5]&7+1) / 2
	if command == wire.CmdDisc {
		command = wire.CmdRead
	}
	var payload []byte
	if command == wire.CmdWrite {
		payload = bytes.Repeat([]byte{m.n}, int(length))
	}
	r := m.c.do(command, flags, offset, length, payload)
	errno := m.errno(command, flags, offset, length)
	if r.errno != errno {
		m.t.Fatalf("command %d flags %#x offset %d length %d: error %d %q, want %d", command, flags, offset, length, r.errno, r.text, errno)
	}
	if errno != 0 {
		return
	}
	switch command {
	case wire.CmdRead:
		if !bytes.Equal(r.data, m.want[offset:offset+length]) {
			m.t.Fatalf("read of %d bytes at %d: other bytes", length, offset)
		}
		if flags&wire.CmdFlagDF != 0 && length > 0 && len(r.chunks) != 1 {
			m.t.Fatalf("DF: %d chunks", len(r.chunks))
		}
	case wire.CmdWrite:
		copy(m.want[offset:], payload)
	case wire.CmdTrim, wire.CmdWriteZeroes:
		clear(m.want[offset : offset+length])
	case wire.CmdBlockStatus:
		m.status(r, flags, offset, length)
	}
}

// errno is the specification once more, written from proto.md and not from validate.go.
func (m *model) errno(command, flags uint16, offset, length uint64) uint32 {
	structured := m.c.mode != "simple"
	ok := wire.CmdFlagFUA
	switch command {
	case wire.CmdRead:
		if structured {
			ok |= wire.CmdFlagDF
		}
	case wire.CmdWriteZeroes:
		ok |= wire.CmdFlagNoHole | wire.CmdFlagFastZero
	case wire.CmdBlockStatus:
		ok |= wire.CmdFlagReqOne
	case 8:
		return wire.ErrInvalid
	}
	past := offset+length > fuzzSize
	large := length > fuzzSize/2
	switch {
	case flags&^ok != 0:
		return wire.ErrInvalid
	case command == wire.CmdFlush:
		return 0
	case command == wire.CmdBlockStatus && (!structured || length == 0 || past):
		return wire.ErrInvalid
	case past && (command == wire.CmdWrite || command == wire.CmdWriteZeroes):
		return wire.ErrNoSpace
	case past, large && (command == wire.CmdRead || command == wire.CmdWrite):
		return wire.ErrInvalid
	}
	return 0
}

// status checks extents against the bytes: what is called zero must be.
func (m *model) status(r *reply, flags uint16, offset, length uint64) {
	if len(r.extents) != 2 {
		m.t.Fatalf("%d contexts answered, want 2", len(r.extents))
	}
	for _, list := range r.extents {
		at := int64(offset)
		if flags&wire.CmdFlagReqOne != 0 && (len(list) != 1 || list[0].LengthBytes > int64(length)) {
			m.t.Fatalf("REQ_ONE: %+v", list)
		}
		for _, e := range list {
			if e.LengthBytes <= 0 || at >= int64(offset+length) || at+e.LengthBytes > fuzzSize {
				m.t.Fatalf("extent %+v at %d of a request for %d at %d", e, at, length, offset)
			}
			piece := m.want[at : at+e.LengthBytes]
			if e.Flags&nbdserver.StateZero != 0 && !bytes.Equal(piece, make([]byte, len(piece))) {
				m.t.Fatalf("extent at %d is called zero and is not", at)
			}
			at += e.LengthBytes
		}
	}
}
