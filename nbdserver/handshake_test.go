// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

const bothFlags = wire.ClientFlagFixedNewstyle | wire.ClientFlagNoZeroes

func hello(t testing.TB, s *nbdserver.Server, flags uint32) *client {
	t.Helper()
	c := connect(t, s)
	c.write(binary.BigEndian.AppendUint32(nil, flags))
	return c
}

func TestUnknownClientFlagsEndTheConnection(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
	for _, flags := range []uint32{4, bothFlags | 4, 1<<31 | 1} {
		hello(t, s, flags).expectEnd()
	}
}

func TestExportName(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
	for _, c := range []struct {
		flags uint32
		pad   int
	}{{bothFlags, 0}, {wire.ClientFlagFixedNewstyle, wire.ExportNamePadBytes}} {
		x := hello(t, s, c.flags)
		x.write(option(wire.OptExportName, nil))
		b := x.read(10 + c.pad)
		if binary.BigEndian.Uint64(b) != 1<<20 || !bytes.Equal(b[10:], make([]byte, c.pad)) {
			t.Errorf("flags %d: answer %x", c.flags, b)
		}
		if r := x.do(wire.CmdRead, 0, 100, 7, nil); r.errno != 0 || !bytes.Equal(r.data, make([]byte, 7)) {
			t.Errorf("read: %+v", r)
		}
		x.disconnect()
	}
}

func TestExportNameOfUnknownExportEndsTheConnection(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
	for _, name := range []string{"other", strings.Repeat("x", 4097)} {
		x := hello(t, s, bothFlags)
		x.write(option(wire.OptExportName, []byte(name)))
		x.expectEnd()
	}
}

func TestAbortIsAcknowledged(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
	x := hello(t, s, bothFlags)
	x.expect(wire.OptAbort, nil, wire.RepAck)
	x.expectEnd()
}

func TestListHasAReplyForEachExport(t *testing.T) {
	devices := map[string]nbdserver.Device{}
	for i := range 20 {
		devices[fmt.Sprintf("disk%d", i)] = memdevice.New(1 << 20)
	}
	s := newServer(t, nbdserver.Options{Catalog: &catalog{devices: devices}})
	x := hello(t, s, bothFlags)
	seen := map[string]bool{}
	for _, d := range x.expect(wire.OptList, nil, wire.RepAck) {
		n := binary.BigEndian.Uint32(d)
		name, description := string(d[4:4+n]), string(d[4+n:])
		if description != "about "+name {
			t.Errorf("export %q has description %q", name, description)
		}
		seen[name] = true
	}
	if len(seen) != len(devices) {
		t.Errorf("%d exports listed, want %d", len(seen), len(devices))
	}
	x.expect(wire.OptList, []byte{1}, wire.RepErrInvalid)
	x.expect(wire.OptAbort, nil, wire.RepAck)
}

func TestListCanBeDenied(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: &catalog{denied: map[string]bool{"*": true}}})
	hello(t, s, bothFlags).expect(wire.OptList, nil, wire.RepErrPolicy)
}

func TestInfoTellsWhatIsAskedFor(t *testing.T) {
	d := memdevice.New(1 << 20).With(func(p *nbdserver.Properties) {
		p.MinBlockBytes, p.PreferredBlockBytes, p.MaxBlockBytes = 512, 65536, 1<<20
		p.Rotational = true
	})
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	x := hello(t, s, bothFlags)
	infos := x.expect(wire.OptInfo, infoData("", wire.InfoName, wire.InfoDescription, wire.InfoBlockSize, 77), wire.RepAck)
	got := map[uint16][]byte{}
	for i, d := range infos {
		kind := binary.BigEndian.Uint16(d)
		if i == 0 && kind != wire.InfoBlockSize {
			t.Error("block sizes do not come before the size that is judged by them")
		}
		got[kind] = d[2:]
	}
	want := map[uint16]string{
		wire.InfoBlockSize:   "\x00\x00\x02\x00\x00\x01\x00\x00\x00\x10\x00\x00",
		wire.InfoName:        "",
		wire.InfoDescription: "about ",
	}
	for kind, text := range want {
		if b, ok := got[kind]; !ok || string(b) != text {
			t.Errorf("information %d: %q, want %q", kind, b, text)
		}
	}
	flags := binary.BigEndian.Uint16(got[wire.InfoExport][8:])
	if flags&wire.ExportRotational == 0 || flags&wire.ExportDF != 0 || flags&wire.ExportReadOnly != 0 {
		t.Errorf("transmission flags %#x", flags)
	}
	if len(x.goExport("")) != 2 { // the export, and block sizes unasked because of the alignment
		t.Error("GO without requests told more than it had to")
	}
	if r := x.do(wire.CmdRead, 0, 0, 512, nil); r.errno != 0 {
		t.Errorf("aligned read: error %d", r.errno)
	}
	if r := x.do(wire.CmdRead, 0, 1, 512, nil); r.errno != wire.ErrInvalid {
		t.Errorf("unaligned read: error %d", r.errno)
	}
	if r := x.do(wire.CmdRead, 0, 0, 1<<20, nil); r.errno != 0 {
		t.Errorf("largest read: error %d", r.errno)
	}
	x.disconnect()
}

func TestMinimumBlockDividesTheSize(t *testing.T) {
	d := memdevice.New(1<<20 + 512).With(func(p *nbdserver.Properties) { p.MinBlockBytes = 4096 })
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	x := hello(t, s, bothFlags)
	infos := x.goExport("", wire.InfoBlockSize)
	if n := binary.BigEndian.Uint32(infos[0][2:]); n != 512 {
		t.Errorf("minimum block %d: the size is no multiple of it, which qemu refuses", n)
	}
}

// TestOnlyWhatTheDeviceCanIsAdvertised checks each transmission flag with the property on and off.
func TestOnlyWhatTheDeviceCanIsAdvertised(t *testing.T) {
	set := map[uint16]func(*nbdserver.Properties, bool){
		wire.ExportReadOnly:    func(p *nbdserver.Properties, on bool) { p.ReadOnly = on },
		wire.ExportFlush:       func(p *nbdserver.Properties, on bool) { p.Flush = on },
		wire.ExportFUA:         func(p *nbdserver.Properties, on bool) { p.FUA = on },
		wire.ExportRotational:  func(p *nbdserver.Properties, on bool) { p.Rotational = on },
		wire.ExportTrim:        func(p *nbdserver.Properties, on bool) { p.Trim = on },
		wire.ExportWriteZeroes: func(p *nbdserver.Properties, on bool) { p.WriteZeroes, p.FastZero = on, false },
		wire.ExportMultiConn:   func(p *nbdserver.Properties, on bool) { p.MultiConn = on },
		wire.ExportCache:       func(p *nbdserver.Properties, on bool) { p.Cache = on },
		wire.ExportFastZero:    func(p *nbdserver.Properties, on bool) { p.FastZero = on },
	}
	for flag, f := range set {
		for _, on := range []bool{true, false} {
			d := memdevice.New(1 << 20).With(func(p *nbdserver.Properties) { f(p, on) })
			s := newServer(t, nbdserver.Options{Catalog: one(d)})
			if c := dial(t, s, "simple"); (c.flags&flag != 0) != on {
				t.Errorf("flag %#x with the property %v: flags are %#x", flag, on, c.flags)
			}
		}
	}
}

func TestErrorsOfOpenHaveTheirOwnReplies(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: &catalog{denied: map[string]bool{"secret": true}}})
	x := hello(t, s, bothFlags)
	for _, id := range []uint32{wire.OptInfo, wire.OptGo} {
		x.expect(id, infoData("nope"), wire.RepErrUnknown)
		x.expect(id, infoData("secret"), wire.RepErrPolicy)
		x.expect(id, infoData(strings.Repeat("n", 4096)), wire.RepErrUnknown) // CVE-2020-10761
		x.expect(id, []byte{0, 0, 0, 9, 'x'}, wire.RepErrInvalid)
		x.expect(id, append(str(nil, ""), 0, 5, 0), wire.RepErrInvalid)
	}
	x.expect(99, []byte("data"), wire.RepErrUnsupported)
	x.expect(wire.OptPeekExport, nil, wire.RepErrUnsupported)
	x.expect(wire.OptStartTLS, nil, wire.RepErrUnsupported)
}

func TestReplyFormsAreNegotiatedOnce(t *testing.T) {
	s := newServer(t, nbdserver.Options{Catalog: one(memdevice.New(1 << 20))})
	x := hello(t, s, bothFlags)
	x.expect(wire.OptStructuredReply, []byte{0}, wire.RepErrInvalid)
	x.expect(wire.OptStructuredReply, nil, wire.RepAck)
	x.expect(wire.OptStructuredReply, nil, wire.RepErrInvalid)
	x.expect(wire.OptExtendedHeaders, nil, wire.RepAck)
	x.expect(wire.OptExtendedHeaders, nil, wire.RepErrInvalid)
	x.expect(wire.OptStructuredReply, nil, wire.RepErrExtendedNeeded)
	x.mode = "extended"
	x.goExport("")
	if x.flags&wire.ExportDF == 0 || x.flags&wire.ExportBlockStatusPayl == 0 {
		t.Errorf("flags %#x", x.flags)
	}
	x.disconnect()
}

func TestMetaContextQueries(t *testing.T) {
	d := memdevice.New(1 << 20).With(func(p *nbdserver.Properties) {
		p.Contexts = []string{"base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:snap1"}
	})
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	x := hello(t, s, bothFlags)
	x.expect(wire.OptSetMetaContext, contextData("", "base:allocation"), wire.RepErrInvalid) // not structured yet
	x.negotiate("structured")
	for _, c := range []struct {
		option  uint32
		queries []string
		want    int
	}{
		{wire.OptListMetaContext, nil, 3},
		{wire.OptListMetaContext, []string{"base:"}, 1},
		{wire.OptListMetaContext, []string{"qemu:"}, 2},
		{wire.OptListMetaContext, []string{"qemu:dirty-bitmap:"}, 1},
		{wire.OptListMetaContext, []string{"unknown:thing", "x"}, 0},
		{wire.OptSetMetaContext, nil, 0},
		{wire.OptSetMetaContext, []string{"base:"}, 0}, // a wildcard only in LIST
		{wire.OptSetMetaContext, []string{"base:allocation"}, 1},
		{wire.OptSetMetaContext, []string{"base:allocation", "no:such", "base:allocation"}, 1},
		{wire.OptSetMetaContext, []string{"qemu:dirty-bitmap:snap1", "qemu:allocation-depth"}, 2},
	} {
		if got := x.expect(c.option, contextData("", c.queries...), wire.RepAck); len(got) != c.want {
			t.Errorf("option %d, queries %q: %d contexts, want %d", c.option, c.queries, len(got), c.want)
		}
	}
	x.expect(wire.OptListMetaContext, contextData("nope"), wire.RepErrUnknown)
	x.expect(wire.OptSetMetaContext, []byte{0, 0, 0, 0, 255, 255, 255, 255}, wire.RepErrInvalid)
	x.expect(wire.OptSetMetaContext, append(contextData("", "a:b"), 1), wire.RepErrInvalid)
	// The failure has cleared what was set before.
	x.goExport("")
	if r := x.do(wire.CmdBlockStatus, 0, 0, 4096, nil); r.errno != wire.ErrInvalid {
		t.Errorf("block status without a context: error %d", r.errno)
	}
	x.disconnect()
}

func TestContextsOfAnotherExportAreVoid(t *testing.T) {
	devices := map[string]nbdserver.Device{"a": memdevice.New(1 << 20), "b": memdevice.New(1 << 20)}
	s := newServer(t, nbdserver.Options{Catalog: &catalog{devices: devices}})
	x := hello(t, s, bothFlags)
	x.negotiate("structured")
	x.setContexts("a", "base:allocation")
	x.goExport("b")
	if r := x.do(wire.CmdBlockStatus, 0, 0, 4096, nil); r.errno != wire.ErrInvalid {
		t.Errorf("block status with another export's context: error %d", r.errno)
	}
	x.disconnect()
}

func TestExportIsOpenedOnceForItsOptions(t *testing.T) {
	opens := 0
	c := one(memdevice.New(1 << 20))
	c.opens = func(string, *nbdserver.Peer) { opens++ }
	s := newServer(t, nbdserver.Options{Catalog: c})
	dial(t, s, "structured").disconnect()
	if opens != 1 {
		t.Errorf("opened %d times by SET_META_CONTEXT and GO of one client", opens)
	}
}

func TestHandshakeLimits(t *testing.T) {
	s := newServer(t, nbdserver.Options{
		Catalog: one(memdevice.New(1 << 20)),
		Limits:  nbdserver.Limits{HandshakeOptions: 5, OptionBytes: 10000},
	})
	x := hello(t, s, bothFlags)
	for range 5 {
		x.expect(99, nil, wire.RepErrUnsupported)
	}
	_, _ = x.c.Write(option(99, nil)) // may find the connection closed
	x.expectEnd()
	x = hello(t, s, bothFlags)
	x.expect(99, make([]byte, 10000), wire.RepErrUnsupported)
	x.write(option(99, make([]byte, 10001))[:16]) // the length alone must be enough
	x.expectEnd()
	x = hello(t, s, bothFlags)
	x.write(make([]byte, 16)) // no magic
	x.expectEnd()
}

func TestHandshakeDeadline(t *testing.T) {
	s := newServer(t, nbdserver.Options{
		Catalog: one(memdevice.New(1 << 20)),
		Limits:  nbdserver.Limits{Handshake: 50 * time.Millisecond},
	})
	silent := connect(t, s)
	silent.expectEnd()
	half := hello(t, s, bothFlags)
	half.write(option(wire.OptGo, infoData(""))[:20])
	half.expectEnd()
	settled := dial(t, s, "simple")
	time.Sleep(100 * time.Millisecond) // the deadline must be off by now
	if r := settled.do(wire.CmdRead, 0, 0, 1, nil); r.errno != 0 {
		t.Errorf("error %d", r.errno)
	}
}

func TestConnectionLimits(t *testing.T) {
	devices := map[string]nbdserver.Device{"": memdevice.New(1 << 20), "b": memdevice.New(1 << 20)}
	s := newServer(t, nbdserver.Options{
		Catalog: &catalog{devices: devices},
		Limits:  nbdserver.Limits{Connections: 3, ConnectionsPerExport: 1},
	})
	first := dial(t, s, "simple")
	second := hello(t, s, bothFlags)
	second.expect(wire.OptGo, infoData(""), wire.RepErrPolicy)
	second.goExport("b") // goes on, with another export
	third := hello(t, s, bothFlags)
	near, far := socketPair(t)
	s.ServeConn(t.Context(), far) // returns at once
	if b, _ := io.ReadAll(near); len(b) != 0 {
		t.Errorf("a connection too many got %x", b)
	}
	first.disconnect()
	third.goExport("")
}

// counts is a nbdserver.Metrics that remembers failed handshakes.
type counts struct {
	mu sync.Mutex
	by map[string]int
}

func (c *counts) HandshakeFailed(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[reason]++
}

func (c *counts) Connected(string) nbdserver.ConnMetrics { return nil }

// TestFailedHandshakesAreCountedOnce goes through the reasons: each connection without an export counts once, however
// often it was refused, and one that finds an export in the end does not.
func TestFailedHandshakesAreCountedOnce(t *testing.T) {
	devices := map[string]nbdserver.Device{"": memdevice.New(1 << 20)}
	for _, c := range []struct {
		reason string
		client func(x *client)
	}{
		{"policy", func(x *client) {
			x.expect(wire.OptInfo, infoData("secret"), wire.RepErrPolicy)
			x.expect(wire.OptGo, infoData("secret"), wire.RepErrPolicy)
			x.expect(wire.OptAbort, nil, wire.RepAck)
		}},
		{"policy", func(x *client) { x.write(option(wire.OptExportName, []byte("secret"))) }},
		{"policy", func(x *client) {
			x.expect(wire.OptGo, infoData("secret"), wire.RepErrPolicy)
			_ = x.c.Close()
		}},
		{"unknown_export", func(x *client) { x.expect(wire.OptGo, infoData("nope"), wire.RepErrUnknown); _ = x.c.Close() }},
		{"unavailable", func(x *client) { x.expect(wire.OptGo, infoData("broken"), wire.RepErrUnknown); _ = x.c.Close() }},
		{"protocol", func(x *client) { x.write(make([]byte, 16)) }},
		{"closed", func(x *client) { _ = x.c.Close() }},
		{"", func(x *client) {
			x.expect(wire.OptInfo, infoData(""), wire.RepAck)
			x.expect(wire.OptAbort, nil, wire.RepAck)
		}},
		{"", func(x *client) {
			x.expect(wire.OptGo, infoData("secret"), wire.RepErrPolicy)
			x.goExport("")
			x.disconnect()
		}},
	} {
		m := &counts{by: map[string]int{}}
		s := newServer(t, nbdserver.Options{Metrics: m,
			Catalog: &catalog{devices: devices, denied: map[string]bool{"secret": true}, broken: map[string]bool{"broken": true}}})
		x := hello(t, s, bothFlags)
		c.client(x)
		x.gone()
		want := map[string]int{}
		if c.reason != "" {
			want[c.reason] = 1
		}
		m.mu.Lock()
		if !maps.Equal(m.by, want) {
			t.Errorf("counted %v, want %v", m.by, want)
		}
		m.mu.Unlock()
	}
}
