// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

func reply(kind uint32, data []byte) []byte {
	return wire.AppendOptionReply(nil, wire.OptGo, kind, data)
}

// TestNegotiate is the handshake with our own server, whose answers other tests hold against other clients.
func TestNegotiate(t *testing.T) {
	server := nbdserver.New(nbdserver.Options{Catalog: catalog{}, Logger: slog.New(slog.DiscardHandler)})
	for name, want := range map[string]string{"disk": "", "nothing": "no such export"} {
		here, there := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); server.ServeConn(ctx, there) }()
		e, err := Negotiate(here, name)
		if want == "" && (err != nil || e.SizeBytes != 1<<20 || e.Flags&wire.ExportFlush == 0 || e.Flags&wire.ExportTrim == 0) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: want %q, got %v", name, want, err)
		}
		_ = here.Close()
		cancel()
		<-done
	}
}

type catalog struct{}

func (catalog) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	return nil, nil
}

func (catalog) Open(_ context.Context, name string, _ *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	if name != "disk" {
		return nbdserver.ExportInfo{}, nil, nbdserver.ErrUnknownExport
	}
	return nbdserver.ExportInfo{Name: name}, memdevice.New(1 << 20), nil
}

// TestReplies are answers of servers that are not ours.
func TestReplies(t *testing.T) {
	size := reply(wire.RepInfo, wire.AppendInfoExport(nil, 1<<20, wire.ExportHasFlags|wire.ExportFlush))
	ack := reply(wire.RepAck, nil)
	for name, test := range map[string]struct {
		in   []byte
		want string
	}{
		"good":          {append(append([]byte{}, size...), ack...), ""},
		"unknown item":  {bytes.Join([][]byte{size, reply(wire.RepInfo, []byte{0, 99, 1}), ack}, nil), ""},
		"no size":       {ack, "how large"},
		"nothing":       {nil, "EOF"},
		"cut short":     {size[:25], "unexpected EOF"},
		"tls":           {reply(wire.RepErrTLSRequired, nil), "TLS"},
		"policy":        {reply(wire.RepErrPolicy, []byte("not you")), "not you"},
		"unknown":       {reply(wire.RepErrUnknown, nil), "no such export"},
		"too long":      {wire.AppendOptionReply(nil, wire.OptGo, wire.RepInfo, make([]byte, maxReplyBytes+1)), "not one that NBD has"},
		"other option":  {wire.AppendOptionReply(nil, wire.OptList, wire.RepAck, nil), "not one that NBD has"},
		"short size":    {reply(wire.RepInfo, []byte{0, 0, 1}), "size of the export"},
		"negative size": {reply(wire.RepInfo, wire.AppendInfoExport(nil, 1<<63, 1)), "size of the export"},
		"no type":       {reply(wire.RepInfo, []byte{1}), "without a type"},
		"block size":    {reply(wire.RepInfo, []byte{0, 3, 1}), "block size"},
		"endless":       {bytes.Repeat(size, maxReplies+1), "more than"},
	} {
		_, err := readReplies(bytes.NewReader(test.in))
		if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: want %q, got %v", name, test.want, err)
		}
	}
	here, there := net.Pipe()
	go func() { _, _ = there.Write(make([]byte, 18)); _, _ = io.Copy(io.Discard, there) }()
	if _, err := Negotiate(here, "x"); err == nil || !strings.Contains(err.Error(), "newstyle") {
		t.Errorf("no magic: %v", err)
	}
}

// FuzzReplies gives the handshake any answer: it must not hang, panic or take more memory than the answer has.
func FuzzReplies(f *testing.F) {
	f.Add(append(reply(wire.RepInfo, wire.AppendInfoExport(nil, 1<<20, 5)), reply(wire.RepAck, nil)...))
	f.Add(reply(wire.RepInfo, wire.AppendInfoBlockSize(nil, 1, 4096, 1<<25)))
	f.Fuzz(func(t *testing.T, in []byte) {
		if e, err := readReplies(bytes.NewReader(in)); err == nil && e.SizeBytes < 0 {
			t.Errorf("%+v", e)
		}
	})
}
