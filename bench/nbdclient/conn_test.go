// SPDX-License-Identifier: Apache-2.0

package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// connect is a client of luksgate's server with a device.
func connect(t *testing.T, d *memdevice.Device) *Conn {
	t.Helper()
	server := nbdserver.New(nbdserver.Options{Catalog: memdevice.Catalog{"x": d}})
	ours, theirs := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.ServeConn(context.Background(), theirs)
	}()
	c, err := New(ours, "x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		<-served
	})
	return c
}

func TestManyInFlight(t *testing.T) {
	const block, depth, rounds = 8192, 16, 50
	d := memdevice.New(depth * rounds * block)
	c := connect(t, d)
	if c.SizeBytes != depth*rounds*block || c.Flags&wire.ExportFlush == 0 || c.Flags&wire.ExportReadOnly != 0 {
		t.Fatalf("size %d, flags %#x", c.SizeBytes, c.Flags)
	}
	// Each block is written with its number, then read.
	for _, command := range []uint16{wire.CmdWrite, wire.CmdRead} {
		var next atomic.Int64
		var wrong atomic.Int64
		done := make(chan struct{})
		left := atomic.Int64{}
		left.Store(depth)
		var ops []*Op
		submit := func(op *Op) bool {
			n := next.Add(1) - 1
			if n >= depth*rounds {
				return false
			}
			op.Command, op.OffsetBytes, op.LengthBytes = command, n*block, block
			if command == wire.CmdWrite {
				binary.BigEndian.PutUint64(op.Data, uint64(n))
			}
			c.Submit(op)
			return true
		}
		for range depth {
			op := c.NewOp()
			op.Data = make([]byte, block)
			op.Done = func(op *Op, err error) {
				if err != nil || binary.BigEndian.Uint64(op.Data) != uint64(op.OffsetBytes/block) {
					wrong.Add(1)
				}
				if !submit(op) && left.Add(-1) == 0 {
					close(done)
				}
			}
			ops = append(ops, op)
		}
		for _, op := range ops {
			submit(op)
		}
		select {
		case <-done:
		case <-c.Dead():
			t.Fatal(c.Err())
		}
		if wrong.Load() != 0 {
			t.Errorf("command %d: %d wrong replies", command, wrong.Load())
		}
	}
}

func TestServerErrorsAreErrorsOfTheRequest(t *testing.T) {
	c := connect(t, memdevice.New(4096))
	op := c.NewOp()
	op.Command, op.OffsetBytes, op.LengthBytes, op.Data = wire.CmdRead, 4096, 512, make([]byte, 512)
	if err := c.Do(op); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("reading behind the end: %v", err)
	}
	op.Command, op.OffsetBytes = wire.CmdWrite, 0
	op.Data = bytes.Repeat([]byte{7}, 512)
	if err := c.Do(op); err != nil {
		t.Errorf("and then a write: %v", err)
	}
}

func TestUnknownExport(t *testing.T) {
	server := nbdserver.New(nbdserver.Options{Catalog: memdevice.Catalog{"x": memdevice.New(4096)}})
	ours, theirs := net.Pipe()
	go server.ServeConn(context.Background(), theirs)
	if _, err := New(ours, "y"); err == nil || !strings.Contains(err.Error(), "refuses") {
		t.Errorf("got %v", err)
	}
}

// TestNoise has servers that say what they should not: the client ends with an error and never hangs.
func TestNoise(t *testing.T) {
	greeting := wire.AppendGreeting(nil, wire.FlagFixedNewstyle|wire.FlagNoZeroes)
	ready := wire.AppendOptionReply(greeting, wire.OptGo, wire.RepInfo, wire.AppendInfoExport(nil, 4096, wire.ExportHasFlags))
	ready = wire.AppendOptionReply(ready, wire.OptGo, wire.RepAck, nil)
	reply := make([]byte, wire.SimpleReplyBytes)
	wire.PutSimpleReply(reply, 0, 12345)
	for name, says := range map[string][]byte{
		"nothing":         {},
		"another thing":   []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"half a greeting": greeting[:10],
		"no answer":       greeting,
		"a huge answer":   append(bytes.Clone(greeting), bytes.Repeat([]byte{0xff}, 20)...),
		"no information":  wire.AppendOptionReply(bytes.Clone(greeting), wire.OptGo, wire.RepAck, nil),
		"unasked reply":   append(bytes.Clone(ready), reply...),
		"noise":           append(bytes.Clone(ready), bytes.Repeat([]byte{1}, 100)...),
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				go func() { _, _ = io.Copy(io.Discard, theirs) }()
				_, _ = theirs.Write(says)
				_ = theirs.Close()
			}()
			c, err := New(ours, "")
			if err != nil {
				return
			}
			<-c.Dead()
			if c.Err() == nil {
				t.Error("the connection ended without a reason")
			}
			_ = c.Close()
		})
	}
}
