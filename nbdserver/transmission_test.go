// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

var modes = []string{"simple", "structured", "extended"}

// everyWay runs a test in every mode, for a device that answers at once and for one that does not.
func everyWay(t *testing.T, f func(t *testing.T, mode string, device func(int64) *memdevice.Device)) {
	for _, mode := range modes {
		t.Run(mode+"/immediate", func(t *testing.T) { f(t, mode, memdevice.New) })
		t.Run(mode+"/deferred", func(t *testing.T) { f(t, mode, deferred) })
	}
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32()) | 1 // never zero, so that holes are no accident
	}
	return b
}

// TestWritesAreReadBack uses sizes around all the server's thresholds.
func TestWritesAreReadBack(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		const size = 12 << 20
		s := newServer(t, nbdserver.Options{Catalog: one(device(size))})
		c := dial(t, s, mode)
		model := make([]byte, size)
		for i, n := range []int{1, 511, 512, 4096, 4097, 16384, 32767, 32768, 32769, 65536, 131071, 131072, 131073, 262144, 1 << 20, 5<<20 + 3} {
			offset := i * 1234567 % (size - n)
			data := noise(uint64(i), n)
			copy(model[offset:], data)
			if r := c.do(wire.CmdWrite, 0, uint64(offset), uint64(n), data); r.errno != 0 {
				t.Fatalf("write of %d bytes: error %d %s", n, r.errno, r.text)
			}
			lo, hi := max(0, offset-10), min(size, offset+n+10)
			r := c.do(wire.CmdRead, 0, uint64(lo), uint64(hi-lo), nil)
			if r.errno != 0 || !bytes.Equal(r.data, model[lo:hi]) {
				t.Fatalf("read of %d bytes at %d: error %d or other bytes", hi-lo, lo, r.errno)
			}
		}
		if r := c.do(wire.CmdRead, 0, 0, size, nil); r.errno != 0 || !bytes.Equal(r.data, model) {
			t.Fatalf("read of everything: error %d or other bytes", r.errno)
		}
		c.disconnect()
	})
}

// TestManyInFlight keeps many requests of all sizes in flight, each in a part of the device of its own.
func TestManyInFlight(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		const part, parts = 512 << 10, 24
		s := newServer(t, nbdserver.Options{Catalog: one(device(part * parts))})
		c := dial(t, s, mode)
		model := make([]byte, part*parts)
		r := rand.New(rand.NewPCG(7, 7))
		for round := range 6 {
			c.manyWrites(r, model, part, uint64(round))
			pending := map[uint64]span{}
			for i := range parts {
				lo := i*part + r.IntN(1000)
				n := 1 + r.IntN(part-1000)
				pending[c.send(wire.CmdRead, 0, uint64(lo), uint64(n), nil)] = span{uint64(lo), uint64(n)}
			}
			asked := map[uint64]span{}
			for k, v := range pending {
				asked[k] = v
			}
			for cookie, got := range c.receive(pending, parts) {
				q := asked[cookie]
				if got.errno != 0 || !bytes.Equal(got.data, model[q.offset:q.offset+q.length]) {
					t.Fatalf("read of %d bytes at %d: error %d or other bytes", q.length, q.offset, got.errno)
				}
			}
		}
		c.disconnect()
	})
}

// manyWrites sends a write for each part before it takes a reply.
func (c *client) manyWrites(r *rand.Rand, model []byte, part int, seed uint64) {
	c.t.Helper()
	pending := map[uint64]span{}
	parts := len(model) / part
	for i := range parts {
		n := 1 + r.IntN(part)
		if r.IntN(2) == 0 {
			n = 4096
		}
		data := noise(seed<<32|uint64(i), n)
		copy(model[i*part:], data)
		pending[c.send(wire.CmdWrite, 0, uint64(i*part), uint64(n), data)] = span{uint64(i * part), 0}
	}
	for _, got := range c.receive(pending, parts) {
		if got.errno != 0 {
			c.t.Fatalf("write: error %d %s", got.errno, got.text)
		}
	}
}

// TestErrorsKeepTheStreamInStep sends every kind of wrong request, some with payloads, and a right one after each.
func TestErrorsKeepTheStreamInStep(t *testing.T) {
	const size = 1 << 20
	pay := func(n int) []byte { return bytes.Repeat([]byte{0x25, 0x60, 0x95, 0x13}, (n+3)/4)[:n] } // looks like requests
	cases := []struct {
		name            string
		command, flags  uint16
		offset, length  uint64
		payload         []byte
		errno           uint32
		onlyExt, noSimp bool
	}{
		{"read past the end", wire.CmdRead, 0, size - 1, 2, nil, wire.ErrInvalid, false, false},
		{"read far past the end", wire.CmdRead, 0, 1 << 63, 1, nil, wire.ErrInvalid, false, false},
		{"read that wraps", wire.CmdRead, 0, 1<<64 - 1, 2, nil, wire.ErrInvalid, false, false},
		{"write past the end", wire.CmdWrite, 0, size - 1, 2, pay(2), wire.ErrNoSpace, false, false},
		{"large write past the end", wire.CmdWrite, 0, size, 300000, pay(300000), wire.ErrNoSpace, false, false},
		{"write above the largest block", wire.CmdWrite, 0, 0, 600 << 10, pay(600 << 10), wire.ErrInvalid, false, false},
		{"read above the largest block", wire.CmdRead, 0, 0, 600 << 10, nil, wire.ErrInvalid, false, false},
		{"zeroes past the end", wire.CmdWriteZeroes, 0, size - 1, 2, nil, wire.ErrNoSpace, false, false},
		{"trim past the end", wire.CmdTrim, 0, size - 1, 2, nil, wire.ErrInvalid, false, false},
		{"cache past the end", wire.CmdCache, 0, size + 1, 0, nil, wire.ErrInvalid, false, false},
		{"unknown command", 77, 0, 0, 0, nil, wire.ErrInvalid, false, false},
		{"unknown flag", wire.CmdRead, 1 << 14, 0, 1, nil, wire.ErrInvalid, false, false},
		{"unknown flag of a write", wire.CmdWrite, 1 << 14, 0, 5000, pay(5000), wire.ErrInvalid, false, false},
		{"DF on a write", wire.CmdWrite, wire.CmdFlagDF, 0, 64, pay(64), wire.ErrInvalid, false, false},
		{"NO_HOLE on a trim", wire.CmdTrim, wire.CmdFlagNoHole, 0, 64, nil, wire.ErrInvalid, false, false},
		{"block status of nothing", wire.CmdBlockStatus, 0, 0, 0, nil, wire.ErrInvalid, false, true},
		{"block status past the end", wire.CmdBlockStatus, 0, size, 1, nil, wire.ErrInvalid, false, true},
		{"payload on a trim", wire.CmdTrim, wire.CmdFlagPayloadLen, 0, 100, pay(100), wire.ErrInvalid, true, false},
		{"payload on a read", wire.CmdRead, wire.CmdFlagPayloadLen, 0, 100, pay(100), wire.ErrInvalid, true, false},
		{"payload on an unknown command", 77, wire.CmdFlagPayloadLen, 0, 9000, pay(9000), wire.ErrInvalid, true, false},
		{"short status payload", wire.CmdBlockStatus, wire.CmdFlagPayloadLen, 0, 7, pay(7), wire.ErrInvalid, true, false},
		{"long status payload", wire.CmdBlockStatus, wire.CmdFlagPayloadLen, 0, 1 << 20, pay(1 << 20), wire.ErrInvalid, true, false},
		{"wrong context in a status payload", wire.CmdBlockStatus, wire.CmdFlagPayloadLen, 0, 12,
			[]byte{0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 99}, wire.ErrInvalid, true, false},
	}
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		d := device(size)
		d.With(func(p *nbdserver.Properties) { p.MaxBlockBytes = 512 << 10 })
		s := newServer(t, nbdserver.Options{Catalog: one(d)})
		c := dial(t, s, mode)
		for _, x := range cases {
			if x.onlyExt && mode != "extended" || x.noSimp && mode == "simple" {
				continue
			}
			if r := c.do(x.command, x.flags, x.offset, x.length, x.payload); r.errno != x.errno {
				t.Errorf("%s: error %d %q, want %d", x.name, r.errno, r.text, x.errno)
			}
			if r := c.do(wire.CmdRead, 0, 17, 4, nil); r.errno != 0 || !bytes.Equal(r.data, make([]byte, 4)) {
				t.Fatalf("%s: the next read: %+v", x.name, r)
			}
		}
		c.disconnect()
	})
}

func TestZeroLengthIsNoError(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		s := newServer(t, nbdserver.Options{Catalog: one(device(1 << 20))})
		c := dial(t, s, mode)
		for _, command := range []uint16{wire.CmdRead, wire.CmdWrite, wire.CmdTrim, wire.CmdCache, wire.CmdWriteZeroes, wire.CmdFlush} {
			if r := c.do(command, 0, 1<<20, 0, nil); r.errno != 0 {
				t.Errorf("command %d: error %d", command, r.errno)
			}
		}
		c.disconnect()
	})
}

func TestReadOnlyExportRefusesWrites(t *testing.T) {
	d := memdevice.New(1 << 20).With(func(p *nbdserver.Properties) { p.ReadOnly = true })
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "structured")
	for _, command := range []uint16{wire.CmdWrite, wire.CmdTrim, wire.CmdWriteZeroes} {
		payload := []byte(nil)
		if command == wire.CmdWrite {
			payload = []byte("data")
		}
		if r := c.do(command, 0, 0, 4, payload); r.errno != wire.ErrPerm {
			t.Errorf("command %d: error %d", command, r.errno)
		}
	}
	if r := c.do(wire.CmdRead, 0, 0, 4, nil); string(r.data) != "\x00\x00\x00\x00" {
		t.Errorf("data %q", r.data)
	}
	c.disconnect()
}

// TestFlagsReachTheDevice records what the device is asked for.
func TestFlagsReachTheDevice(t *testing.T) {
	var mu sync.Mutex
	var calls []string
	d := &faulty{Device: deferred(1 << 20), before: func(op string, offset, length int64) error {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, fmt.Sprintf("%s %d %d", op, offset, length))
		return nil
	}}
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "extended")
	for _, x := range []struct {
		command, flags uint16
		payload        []byte
		want           string
	}{
		{wire.CmdWrite, 0, []byte("12345678"), "write 64 8"},
		{wire.CmdWrite, wire.CmdFlagFUA, []byte("12345678"), "write+fua 64 8"},
		{wire.CmdTrim, 0, nil, "trim 64 8"},
		{wire.CmdTrim, wire.CmdFlagFUA, nil, "trim+fua 64 8"},
		{wire.CmdWriteZeroes, 0, nil, "zero+0 64 8"},
		{wire.CmdWriteZeroes, wire.CmdFlagFUA, nil, "zero+1 64 8"},
		{wire.CmdWriteZeroes, wire.CmdFlagNoHole, nil, "zero+2 64 8"},
		{wire.CmdWriteZeroes, wire.CmdFlagFastZero, nil, "zero+4 64 8"},
		{wire.CmdCache, 0, nil, "cache 64 8"},
		{wire.CmdFlush, 0, nil, "flush 0 0"},
		{wire.CmdRead, wire.CmdFlagFUA, nil, "read 64 8"}, // must be accepted everywhere
		{wire.CmdFlush, wire.CmdFlagFUA, nil, "flush 0 0"},
	} {
		mu.Lock()
		calls = nil
		mu.Unlock()
		if r := c.do(x.command, x.flags, 64, 8, x.payload); r.errno != 0 {
			t.Errorf("%s: error %d", x.want, r.errno)
		}
		mu.Lock()
		if !slices.Equal(calls, []string{x.want}) {
			t.Errorf("device was asked for %q, want %q", calls, x.want)
		}
		mu.Unlock()
	}
	c.disconnect()
}

// TestTrimAndZeroesAreWideWithExtendedHeaders uses lengths that 32 bits do not hold.
func TestTrimAndZeroesAreWideWithExtendedHeaders(t *testing.T) {
	d := &wide{}
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "extended")
	const length = 10 << 32
	for _, command := range []uint16{wire.CmdTrim, wire.CmdWriteZeroes, wire.CmdCache} {
		d.length.Store(0)
		if r := c.do(command, 0, 4096, length, nil); r.errno != 0 || d.length.Load() != length {
			t.Errorf("command %d: error %d, device got %d bytes", command, r.errno, d.length.Load())
		}
	}
	r := c.do(wire.CmdBlockStatus, 0, 0, length, nil)
	if e := r.extents[c.contexts["base:allocation"]]; len(e) != 1 || e[0].LengthBytes < length {
		t.Errorf("extents %v", e)
	}
	c = dial(t, s, "structured")
	r = c.do(wire.CmdBlockStatus, 0, 0, 1<<31, nil)
	if e := r.extents[c.contexts["base:allocation"]]; len(e) != 1 || e[0].LengthBytes < 1<<31 || e[0].LengthBytes%(64<<20) != 0 {
		t.Errorf("compact extents %v", e) // CVE-2025-47711: must not wrap at 4 GiB
	}
}

// wide is a device of many TiB without content.
type wide struct {
	memdevice.Device
	length atomic.Int64
}

func (w *wide) SizeBytes() int64 { return 1 << 44 }
func (w *wide) Properties() nbdserver.Properties {
	return nbdserver.Properties{Trim: true, WriteZeroes: true, Cache: true, Contexts: []string{"base:allocation"}}
}
func (w *wide) Trim(_, length int64, _ bool) error { w.length.Store(length); return nil }
func (w *wide) WriteZeroes(_, length int64, _ nbdserver.ZeroFlags) error {
	w.length.Store(length)
	return nil
}
func (w *wide) Cache(_, length int64) error { w.length.Store(length); return nil }
func (w *wide) Extents(_ string, offset, _ int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	return append(dst, nbdserver.Extent{LengthBytes: w.SizeBytes() - offset, Flags: nbdserver.StateHole}), nil
}

func TestHolesAndDF(t *testing.T) {
	everyWay(t, func(t *testing.T, mode string, device func(int64) *memdevice.Device) {
		if mode == "simple" {
			t.Skip("simple replies have no chunks")
		}
		d := device(4 << 20)
		s := newServer(t, nbdserver.Options{Catalog: one(d)})
		c := dial(t, s, mode)
		data := noise(1, 1<<20)
		if err := d.WriteAt(bytes.Clone(data), 1<<20, false); err != nil {
			t.Fatal(err)
		}
		want := append(append(make([]byte, 1<<20), data...), make([]byte, 1<<20)...)
		r := c.do(wire.CmdRead, 0, 0, 3<<20, nil)
		if r.errno != 0 || !bytes.Equal(r.data, want) {
			t.Fatalf("read: error %d or other bytes", r.errno)
		}
		if !slices.Contains(r.chunks, wire.ChunkOffsetHole) || !slices.Contains(r.chunks, wire.ChunkOffsetData) {
			t.Errorf("chunks %v: expected holes and data", r.chunks)
		}
		r = c.do(wire.CmdRead, wire.CmdFlagDF, 0, 3<<20, nil)
		if len(r.chunks) != 1 || !bytes.Equal(r.data, want) {
			t.Errorf("DF: chunks %v or other bytes", r.chunks)
		}
		r = c.do(wire.CmdRead, 0, 5, 4096, nil)
		if !slices.Equal(r.chunks, []uint16{wire.ChunkOffsetHole}) || !bytes.Equal(r.data, make([]byte, 4096)) {
			t.Errorf("small read of zeros: chunks %v", r.chunks)
		}
		c.disconnect()
	})
}

func TestBlockStatus(t *testing.T) {
	for _, mode := range []string{"structured", "extended"} {
		d := memdevice.New(1 << 20).With(func(p *nbdserver.Properties) {
			p.Contexts = []string{"base:allocation", "qemu:allocation-depth"}
		})
		for i := range 128 { // every other block of 4096
			if err := d.WriteAt([]byte{1}, int64(i)*8192, false); err != nil {
				t.Fatal(err)
			}
		}
		s := newServer(t, nbdserver.Options{Catalog: one(d)})
		c := dial(t, s, mode)
		id := c.contexts["base:allocation"]
		r := c.do(wire.CmdBlockStatus, 0, 0, 1<<20, nil)
		if len(r.extents) != 2 || len(r.chunks) != 2 {
			t.Fatalf("%s: %d contexts in %d chunks, want 2", mode, len(r.extents), len(r.chunks))
		}
		for i, e := range r.extents[id] {
			if e.LengthBytes != 4096 || e.Flags != uint64(i%2*3) {
				t.Fatalf("%s: extent %d is %+v", mode, i, e)
			}
		}
		if mode == "extended" && len(r.extents[id]) != 256 {
			t.Errorf("%d extents, want all 256", len(r.extents[id]))
		}
		r = c.do(wire.CmdBlockStatus, wire.CmdFlagReqOne, 4096+10, 100, nil)
		if e := r.extents[id]; len(e) != 1 || e[0].LengthBytes != 100 || e[0].Flags != 3 {
			t.Errorf("%s: REQ_ONE: %+v", mode, e)
		}
		r = c.do(wire.CmdBlockStatus, 0, 4096+10, 100, nil)
		if e := r.extents[id]; len(e) != 1 || e[0].LengthBytes != 4086 {
			t.Errorf("%s: last extent may go on to its end: %+v", mode, e)
		}
		c.disconnect()
	}
}

func TestBlockStatusPayloadChoosesContexts(t *testing.T) {
	d := memdevice.New(1 << 20).With(func(p *nbdserver.Properties) {
		p.Contexts = []string{"base:allocation", "qemu:allocation-depth"}
	})
	s := newServer(t, nbdserver.Options{Catalog: one(d)})
	c := dial(t, s, "extended")
	payload := binary.BigEndian.AppendUint64(nil, 8192)
	payload = binary.BigEndian.AppendUint32(payload, c.contexts["qemu:allocation-depth"])
	r := c.do(wire.CmdBlockStatus, wire.CmdFlagPayloadLen, 4096, uint64(len(payload)), payload)
	if r.errno != 0 || len(r.extents) != 1 || r.extents[c.contexts["qemu:allocation-depth"]] == nil {
		t.Errorf("%+v", r)
	}
	r = c.do(wire.CmdBlockStatus, wire.CmdFlagPayloadLen, 4096, 8, payload[:8])
	if r.errno != 0 || len(r.extents) != 0 {
		t.Errorf("no context chosen: %+v", r)
	}
	binary.BigEndian.PutUint64(payload, 1<<20)
	r = c.do(wire.CmdBlockStatus, wire.CmdFlagPayloadLen, 4096, uint64(len(payload)), payload)
	if r.errno != wire.ErrInvalid {
		t.Errorf("range past the end: error %d", r.errno)
	}
	c.disconnect()
}
