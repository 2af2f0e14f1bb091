// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/trace"
	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
)

const sizeBytes = 4 << 20

// serve serves a catalog until the end of the test, or until stop.
func serve(t *testing.T, c nbdserver.Catalog) (at engine.Endpoint, stop func()) {
	t.Helper()
	path := filepath.Join(testenv.SocketDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := nbdserver.New(nbdserver.Options{Catalog: c})
	done := make(chan error, 1)
	go func() { done <- server.Serve(context.Background(), l) }()
	stop = func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // at once
		_ = server.Shutdown(ctx)
	}
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, nbdserver.ErrServerClosed) {
			t.Error(err)
		}
	})
	return engine.Endpoint{Network: "unix", Address: path}, stop
}

// records are requests at random, many of which overlap.
func records(n int) []trace.Record {
	random := rand.New(rand.NewPCG(1, 2))
	var list []trace.Record
	at := time.Duration(0)
	for range n {
		r := trace.Record{
			At: at, Op: trace.Op(1 + random.IntN(5)), OffsetBytes: random.Int64N(64) * 4096, LengthBytes: 1 + random.Int64N(64<<10),
		}
		if r.Op == trace.Flush {
			r.OffsetBytes, r.LengthBytes = 0, 0
		} else if r.Op != trace.Read && random.IntN(4) == 0 {
			r.Flags = trace.FUA
		}
		list = append(list, r)
		at += time.Duration(random.IntN(50)) * time.Microsecond
	}
	return list
}

type memory struct{ bytes.Buffer }

func (*memory) Close() error { return nil }

// file writes records as a trace.
func file(t *testing.T, list []trace.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := trace.NewWriter(&b, trace.Header{SizeBytes: sizeBytes, Started: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if err := w.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func reader(t *testing.T, b []byte) *trace.Reader {
	t.Helper()
	r, err := trace.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func content(t *testing.T, d *memdevice.Device) []byte {
	t.Helper()
	b := make([]byte, d.SizeBytes())
	if err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBytesDependOnTheTraceOnly(t *testing.T) {
	b := file(t, records(3000))
	var first []byte
	for i, o := range []Options{
		{Connections: 1, Depth: 1, Seed: 5}, {Connections: 1, Depth: 16, Seed: 5}, {Connections: 4, Depth: 16, Seed: 5},
		{Connections: 3, Depth: 2, Seed: 5, Speed: 4},
	} {
		// A device that answers later than it is asked, so that requests are under way together.
		d := memdevice.New(sizeBytes).With(func(p *nbdserver.Properties) { p.Immediate = false })
		at, _ := serve(t, memdevice.Catalog{"": d})
		r, err := Run(context.Background(), reader(t, b), at, o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Requests != 3000 || r.Incomplete || len(r.Left) != 0 || (r.Late.Count() == 3000) != (o.Speed > 0) {
			t.Errorf("%+v: %d requests, left out %v, %d late", o, r.Requests, r.Left, r.Late.Count())
		}
		got := content(t, d)
		if i == 0 {
			first = got
		}
		if !bytes.Equal(got, first) || bytes.Count(got, []byte{0}) > sizeBytes*63/64 {
			t.Errorf("%+v: the device holds other bytes", o)
		}
	}
}

func TestRecordingAReplayGivesTheTrace(t *testing.T) {
	want := records(500)
	var file2 memory
	recorder, err := trace.NewRecorder(&file2, "", sizeBytes, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var tap trace.Tap
	tap.Open(recorder)
	at, stop := serve(t, tap.Catalog(memdevice.Catalog{"": memdevice.New(sizeBytes)}))
	if _, err := Run(context.Background(), reader(t, file(t, want)), at, Options{Connections: 1, Depth: 1}); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := recorder.Close(); err != nil {
		t.Fatal(err)
	}
	var got []trace.Record
	for r := reader(t, file2.Bytes()); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rec.At = want[len(got)].At
		got = append(got, rec)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%d records are not the %d that were replayed", len(got), len(want))
	}
}

func TestReadsOnlyChangesNothing(t *testing.T) {
	d := memdevice.New(sizeBytes)
	at, _ := serve(t, memdevice.Catalog{"": d})
	r, err := Run(context.Background(), reader(t, file(t, records(500))), at, Options{Connections: 2, Depth: 4, ReadsOnly: true})
	if err != nil || len(r.Left) != 3 || r.Requests == 0 {
		t.Errorf("%v, left out %v", err, r.Left)
	}
	if bytes.Count(content(t, d), []byte{0}) != sizeBytes {
		t.Error("the device was changed")
	}
}

func TestSmallerExport(t *testing.T) {
	at, _ := serve(t, memdevice.Catalog{"": memdevice.New(100 << 10)})
	b := file(t, records(500))
	if _, err := Run(context.Background(), reader(t, b), at, Options{Connections: 1, Depth: 4}); err == nil {
		t.Error("the trace of a larger device was replayed without a word")
	}
	if r, err := Run(context.Background(), reader(t, b), at, Options{Connections: 1, Depth: 4, Fold: true}); err != nil || r.Requests != 500 {
		t.Errorf("folded: %v", err)
	}
}

// dying is a device whose server ends in the middle.
type dying struct {
	*memdevice.Device
	reads int
	stop  func()
}

func (d *dying) ReadAt(p []byte, off int64) error {
	if d.reads++; d.reads == 20 {
		go d.stop()
	}
	return d.Device.ReadAt(p, off)
}

type one struct{ d nbdserver.Device }

func (o one) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) { return nil, nil }
func (o one) Open(context.Context, string, *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	return nbdserver.ExportInfo{}, o.d, nil
}

func TestServerThatEnds(t *testing.T) {
	d := &dying{Device: memdevice.New(sizeBytes)}
	at, stop := serve(t, one{d})
	d.stop = stop
	list := make([]trace.Record, 200000)
	for i := range list {
		list[i] = trace.Record{Op: trace.Read, LengthBytes: 512}
	}
	if _, err := Run(context.Background(), reader(t, file(t, list)), at, Options{Connections: 1, Depth: 4}); err == nil {
		t.Error("the server ended, the replay did not notice")
	}
}
