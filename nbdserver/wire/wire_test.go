// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// TestHeadersAgreeWithGoNbd compares our encoders with encoding/binary over go-nbd's structs.
func TestHeadersAgreeWithGoNbd(t *testing.T) {
	encode := func(v any) []byte {
		var b bytes.Buffer
		if err := binary.Write(&b, binary.BigEndian, v); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	request := make([]byte, RequestBytes)
	PutRequest(request, &Request{Flags: 3, Command: 1, Cookie: 0x1122334455667788, OffsetBytes: 1 << 40, LengthBytes: 77})
	simple := make([]byte, SimpleReplyBytes)
	PutSimpleReply(simple, 5, 99)
	for _, x := range []struct {
		got  []byte
		want any
	}{
		{AppendGreeting(nil, 3), protocol.NegotiationNewstyleHeader{OldstyleMagic: MagicOldstyle, OptionMagic: MagicOption, HandshakeFlags: 3}},
		{AppendOptionReply(nil, 7, RepAck, nil), protocol.NegotiationReplyHeader{ReplyMagic: MagicOptionReply, ID: 7, Type: RepAck}},
		{AppendInfoExport(nil, 1<<41, 9), protocol.NegotiationReplyInfo{Type: InfoExport, Size: 1 << 41, TransmissionFlags: 9}},
		{AppendInfoBlockSize(nil, 1, 2, 3), protocol.NegotiationReplyBlockSize{Type: InfoBlockSize, MinimumBlockSize: 1, PreferredBlockSize: 2, MaximumBlockSize: 3}},
		{request, protocol.TransmissionRequestHeader{RequestMagic: MagicRequest, CommandFlags: 3, Type: 1, Handle: 0x1122334455667788, Offset: 1 << 40, Length: 77}},
		{simple, protocol.TransmissionReplyHeader{ReplyMagic: MagicSimpleReply, Error: 5, Handle: 99}},
	} {
		if !bytes.Equal(x.got, encode(x.want)) {
			t.Errorf("%T: %x, want %x", x.want, x.got, encode(x.want))
		}
	}
}

func TestRequestsSurviveEncoding(t *testing.T) {
	want := Request{Flags: 0x21, Command: CmdWriteZeroes, Cookie: 1<<64 - 1, OffsetBytes: 1<<63 + 5, LengthBytes: 1<<33 + 7}
	b := make([]byte, ExtendedRequestBytes)
	PutExtendedRequest(b, &want)
	var got Request
	if !ParseExtendedRequest(b, &got) || got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if ParseRequest(b, &got) {
		t.Error("an extended request was taken for a compact one")
	}
	want.LengthBytes = 1<<32 - 1
	PutRequest(b, &want)
	if !ParseRequest(b, &got) || got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if ParseExtendedRequest(b, &got) {
		t.Error("a compact request was taken for an extended one")
	}
}

func TestChunksHaveTheirSize(t *testing.T) {
	b := make([]byte, 256)
	for _, extended := range []bool{false, true} {
		header := HeaderBytes(extended)
		if n := PutDataChunk(b, extended, ChunkFlagDone, 1, 2, 3, 4); n != header+8 {
			t.Errorf("data chunk: %d bytes", n)
		}
		if n := PutHoleChunk(b, extended, 0, 1, 2, 3, 4); n != header+12 || n > MaxDataHeaderBytes {
			t.Errorf("hole chunk: %d bytes", n)
		}
		if n := PutErrorChunk(b, extended, 1, 2, ErrIO, "text"); n != header+10 || string(b[n-4:n]) != "text" {
			t.Errorf("error chunk: %d bytes", n)
		}
	}
}

func TestMalformedOptionsAreErrors(t *testing.T) {
	for name, f := range map[string]func() error{
		"option magic":       func() error { _, err := Option(make([]byte, OptionHeaderBytes)); return err },
		"empty info":         func() error { _, err := ParseInfo(nil); return err },
		"long name":          func() error { _, err := ParseInfo([]byte{0, 0, 0x10, 1, 0}); return err },
		"name past the end":  func() error { _, err := ParseInfo([]byte{0, 0, 0, 9, 'a', 0, 0}); return err },
		"no count":           func() error { _, err := ParseInfo([]byte{0, 0, 0, 0, 0}); return err },
		"missing request":    func() error { _, err := ParseInfo([]byte{0, 0, 0, 0, 0, 2, 0, 3}); return err },
		"query count":        func() error { _, err := ParseMetaContext([]byte{0, 0, 0, 0, 255, 255, 255, 255}); return err },
		"query past the end": func() error { _, err := ParseMetaContext([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 'x'}); return err },
		"rest":               func() error { _, err := ParseMetaContext([]byte{0, 0, 0, 0, 0, 0, 0, 0, 1}); return err },
	} {
		if err := f(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzOptionData decodes arbitrary data; what is accepted is what encoding it again gives.
func FuzzOptionData(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'a', 0, 1, 0, 3})
	f.Add([]byte{0, 0, 0, 1, 'a', 0, 0, 0, 1, 0, 0, 0, 2, 'b', ':'})
	f.Fuzz(func(t *testing.T, data []byte) {
		str := func(b []byte, s string) []byte {
			return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
		}
		if info, err := ParseInfo(data); err == nil {
			b := binary.BigEndian.AppendUint16(str(nil, info.Name), uint16(len(info.Requests)))
			for _, r := range info.Requests {
				b = binary.BigEndian.AppendUint16(b, r)
			}
			if !slices.Equal(b, data) {
				t.Errorf("info %x became %x", data, b)
			}
		}
		if m, err := ParseMetaContext(data); err == nil {
			b := binary.BigEndian.AppendUint32(str(nil, m.Name), uint32(len(m.Queries)))
			for _, q := range m.Queries {
				b = str(b, q)
			}
			if !slices.Equal(b, data) {
				t.Errorf("queries %x became %x", data, b)
			}
		}
	})
}
