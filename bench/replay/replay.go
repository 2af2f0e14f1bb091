// SPDX-License-Identifier: Apache-2.0

// Package replay asks a server anew what a trace says was asked once, at the same times or as fast as the depth allows.
//
// Requests are sent in the order of the trace. One that overlaps with another under way, of which one changes bytes, waits
// for that; a flush waits for all changes under way. So what the device holds afterwards depends neither on the number of
// connections nor on the depth: bytes that are written follow from the number of the record.
package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/histogram"
	"github.com/luksgate/luksgate/bench/nbdclient"
	"github.com/luksgate/luksgate/bench/trace"
	"github.com/luksgate/luksgate/bench/workload"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// noiseSpread is within how many bytes of the noise a write's content begins.
const noiseSpread = 1 << 20

// Options say how to replay.
type Options struct {
	// Connections of Depth requests each.
	Connections, Depth int
	// Speed is how much faster than it was recorded; 0 is as fast as possible.
	Speed float64
	// ReadsOnly leaves out what changes bytes.
	ReadsOnly bool
	// Fold maps offsets behind the end of a smaller export into it.
	Fold bool
	Seed uint64
	// Servers are processes whose processor time is counted.
	Servers []engine.Process
	// Progress is told how much of the trace's time is done; nil is allowed.
	Progress func(at time.Duration)
}

// A Report is what came of it.
type Report struct {
	Requests uint64
	// Left is how many requests were left out, by what they were: not wanted, or not known to the server.
	Left    map[string]uint64
	Elapsed time.Duration
	// Recorded is how long it took when it was recorded.
	Recorded time.Duration
	// Latency by operation, and Late: how much later than they were due requests were sent (with Speed).
	Latency map[trace.Op]*histogram.Histogram
	Late    histogram.Histogram
	Bytes   map[trace.Op]int64
	// CPU is the processor time of this process ("client") and of the servers.
	CPU map[string]time.Duration
	// Incomplete tells that the trace has no end, because its recorder died.
	Incomplete bool
}

// Run replays a trace at an endpoint.
func Run(ctx context.Context, t *trace.Reader, at engine.Endpoint, o Options) (*Report, error) {
	p := &player{o: o, report: &Report{
		Left: map[string]uint64{}, Latency: map[trace.Op]*histogram.Histogram{}, Bytes: map[trace.Op]int64{}, CPU: map[string]time.Duration{},
	}}
	defer p.close()
	if err := p.connect(ctx, at, t.SizeBytes); err != nil {
		return nil, err
	}
	before, err := p.cpu()
	if err != nil {
		return nil, err
	}
	p.start = time.Now()
	if err := p.play(ctx, t); err != nil {
		return nil, err
	}
	p.report.Elapsed = time.Since(p.start)
	after, err := p.cpu()
	if err != nil {
		return nil, err
	}
	for name, d := range after {
		p.report.CPU[name] = d - before[name]
	}
	return p.report, nil
}

// A player replays one trace. Its fields are one goroutine's; the connections' readers only send to done.
type player struct {
	o         Options
	report    *Report
	conns     []*nbdclient.Conn
	sizeBytes int64
	flags     uint16 // that all connections have
	start     time.Time

	free   [][]*request // of each connection
	turn   int          // the connection that is asked first
	flying []*request
	done   chan *request
	noise  []byte
}

// A request is one place for a record under way.
type request struct {
	op     *nbdclient.Op
	conn   int
	rec    trace.Record
	buf    []byte // of reads
	ended  time.Time
	failed error
}

func (p *player) connect(ctx context.Context, at engine.Endpoint, traceBytes int64) error {
	p.done = make(chan *request, p.o.Connections*p.o.Depth)
	p.flags = ^uint16(0)
	for i := range p.o.Connections {
		c, err := nbdclient.Dial(ctx, at.Network, at.Address, at.Export)
		if err != nil {
			return err
		}
		p.conns = append(p.conns, c)
		p.sizeBytes, p.flags = c.SizeBytes, p.flags&c.Flags
		var free []*request
		for range p.o.Depth {
			r := &request{op: c.NewOp(), conn: i}
			r.op.Done = func(_ *nbdclient.Op, err error) {
				r.ended, r.failed = time.Now(), err
				p.done <- r
			}
			free = append(free, r)
		}
		p.free = append(p.free, free)
	}
	if p.sizeBytes < traceBytes && !p.o.Fold {
		return fmt.Errorf("replay: the export has %d bytes, the traced device had %d; folding offsets into it must be asked for", p.sizeBytes, traceBytes)
	}
	return nil
}

func (p *player) close() {
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// play sends all records and waits for their replies.
func (p *player) play(ctx context.Context, t *trace.Reader) error {
	for number := uint64(0); ; number++ {
		rec, err := t.Next()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			p.report.Incomplete = true
			break
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		p.report.Recorded = rec.At
		if !p.adapt(&rec) {
			continue
		}
		if err := p.send(ctx, rec, number); err != nil {
			return err
		}
	}
	for len(p.flying) > 0 {
		if err := p.wait(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

// needs are the flags of an export without which it does not know an operation.
var needs = map[trace.Op]uint16{
	trace.Flush: wire.ExportFlush, trace.Trim: wire.ExportTrim, trace.Zero: wire.ExportWriteZeroes, trace.Cache: wire.ExportCache,
}

// adapt makes a record one that this server can have, or leaves it out.
func (p *player) adapt(r *trace.Record) bool {
	switch {
	case p.o.ReadsOnly && r.Op.Changes():
		p.report.Left[r.Op.String()+" (reads only)"]++
		return false
	case needs[r.Op] != 0 && p.flags&needs[r.Op] == 0:
		p.report.Left[r.Op.String()+" (the server does not have it)"]++
		return false
	}
	if p.flags&wire.ExportFUA == 0 {
		r.Flags &^= trace.FUA
	}
	if p.flags&wire.ExportFastZero == 0 {
		r.Flags &^= trace.Fast
	}
	if r.OffsetBytes+r.LengthBytes > p.sizeBytes {
		r.LengthBytes = min(r.LengthBytes, p.sizeBytes)
		r.OffsetBytes = min(r.OffsetBytes%p.sizeBytes, p.sizeBytes-r.LengthBytes)
	}
	return true
}

// send waits for the record's time, for what it must not overtake, and for a free place, and sends it.
func (p *player) send(ctx context.Context, rec trace.Record, number uint64) error {
	var due time.Time
	if p.o.Speed > 0 {
		due = p.start.Add(time.Duration(float64(rec.At) / p.o.Speed))
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			timer := time.NewTimer(wait)
			err := p.wait(ctx, timer.C)
			timer.Stop()
			if err != nil {
				return err
			}
		}
	}
	var r *request
	for r = p.place(rec); r == nil; r = p.place(rec) {
		if err := p.wait(ctx, nil); err != nil {
			return err
		}
	}
	p.fill(r, rec, number)
	p.flying = append(p.flying, r)
	p.report.Requests++
	p.report.Bytes[rec.Op] += rec.LengthBytes
	if !due.IsZero() {
		p.report.Late.Record(time.Since(due))
	}
	if p.o.Progress != nil && p.report.Requests%256 == 0 {
		p.o.Progress(rec.At)
	}
	p.conns[r.conn].Submit(r.op)
	return nil
}

// place is a free request on the next connection that has one, unless the record must wait for another.
func (p *player) place(rec trace.Record) *request {
	for _, f := range p.flying {
		if mustWait(rec, f.rec) {
			return nil
		}
	}
	for range p.conns {
		i := p.turn
		p.turn = (p.turn + 1) % len(p.conns)
		if n := len(p.free[i]); n > 0 {
			r := p.free[i][n-1]
			p.free[i] = p.free[i][:n-1]
			return r
		}
	}
	return nil
}

// mustWait tells whether a record must not be sent before an earlier one is answered.
func mustWait(rec, earlier trace.Record) bool {
	if rec.Op == trace.Flush {
		return earlier.Op.Changes()
	}
	return (rec.Op.Changes() || earlier.Op.Changes()) &&
		rec.OffsetBytes < earlier.OffsetBytes+earlier.LengthBytes && earlier.OffsetBytes < rec.OffsetBytes+rec.LengthBytes
}

// fill makes the record a request.
func (p *player) fill(r *request, rec trace.Record, number uint64) {
	r.rec = rec
	r.op.OffsetBytes, r.op.LengthBytes, r.op.Flags, r.op.Data = rec.OffsetBytes, uint32(rec.LengthBytes), 0, nil
	for _, f := range []struct {
		ours   trace.Flags
		theirs uint16
	}{{trace.FUA, wire.CmdFlagFUA}, {trace.NoHole, wire.CmdFlagNoHole}, {trace.Fast, wire.CmdFlagFastZero}} {
		if rec.Flags&f.ours != 0 {
			r.op.Flags |= f.theirs
		}
	}
	switch rec.Op {
	case trace.Read:
		r.op.Command = wire.CmdRead
		if len(r.buf) < int(rec.LengthBytes) {
			r.buf = make([]byte, rec.LengthBytes)
		}
		r.op.Data = r.buf
	case trace.Write:
		r.op.Command = wire.CmdWrite
		r.op.Data = p.content(number, int(rec.LengthBytes))
	case trace.Flush:
		r.op.Command = wire.CmdFlush
	case trace.Trim:
		r.op.Command = wire.CmdTrim
	case trace.Zero:
		r.op.Command = wire.CmdWriteZeroes
	default:
		r.op.Command = wire.CmdCache
	}
}

// content is what record number number writes: a part of the noise, which never changes but grows.
func (p *player) content(number uint64, n int) []byte {
	if len(p.noise) < noiseSpread+n {
		p.noise = make([]byte, noiseSpread+n)
		workload.Noise(p.o.Seed, p.noise)
	}
	at := number * 7919 % (noiseSpread / 8) * 8
	return p.noise[at:][:n]
}

// wait takes a reply, or returns when timer fires.
func (p *player) wait(ctx context.Context, timer <-chan time.Time) error {
	// A connection that has ended tells nobody else: look at all of them, when there is nothing else to do.
	select {
	case r := <-p.done:
		return p.finish(r)
	default:
	}
	poll := time.NewTimer(time.Second)
	defer poll.Stop()
	select {
	case r := <-p.done:
		return p.finish(r)
	case <-timer:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-poll.C:
		for _, c := range p.conns {
			select {
			case <-c.Dead():
				return c.Err()
			default:
			}
		}
		return nil
	}
}

func (p *player) finish(r *request) error {
	for i, f := range p.flying {
		if f == r {
			p.flying[i] = p.flying[len(p.flying)-1]
			p.flying = p.flying[:len(p.flying)-1]
			break
		}
	}
	p.free[r.conn] = append(p.free[r.conn], r)
	if r.failed != nil && r.rec.Flags&trace.Fast == 0 { // a fast zero may be refused
		return fmt.Errorf("replay: %s of %d bytes at %d: the server says: %w", r.rec.Op, r.rec.LengthBytes, r.rec.OffsetBytes, r.failed)
	}
	h := p.report.Latency[r.rec.Op]
	if h == nil {
		h = new(histogram.Histogram)
		p.report.Latency[r.rec.Op] = h
	}
	h.Record(r.ended.Sub(r.op.Began))
	return nil
}
