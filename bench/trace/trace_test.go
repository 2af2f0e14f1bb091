// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
)

var sample = []Record{
	{0, Read, 0, 0, 4096},
	{5 * time.Microsecond, Write, FUA, 4096, 65536},
	{5 * time.Microsecond, Flush, 0, 0, 0},
	{time.Second, Zero, NoHole | Fast, 1<<40 - 1<<31, 1 << 31},
	{time.Hour, Trim, FUA, 0, 1 << 20},
	{time.Hour + 1, Cache, 0, 512, 512},
	{time.Hour + 2, Read, 0, 7, maxDataBytes},
}

func file(t testing.TB, list []Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, Header{SizeBytes: 1 << 40, Started: time.Unix(1, 2), Name: "vm1"})
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

// all reads a trace to its end, whatever that is.
func all(r *Reader) ([]Record, error) {
	var list []Record
	for {
		rec, err := r.Next()
		if err != nil {
			return list, err
		}
		list = append(list, rec)
	}
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	b := file(t, sample)
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Header{1 << 40, time.Unix(1, 2), "vm1"}); r.Header != want {
		t.Errorf("header %+v, expected %+v", r.Header, want)
	}
	got, err := all(r)
	if !errors.Is(err, io.EOF) || !reflect.DeepEqual(got, sample) {
		t.Errorf("%v, %+v", err, got)
	}
	// A recorder that died leaves the records before.
	for n := len(b) - 1; n > 30; n-- {
		r, err := NewReader(bytes.NewReader(b[:n]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := all(r)
		if errors.Is(err, io.EOF) || len(got) > 0 && !reflect.DeepEqual(got, sample[:len(got)]) {
			t.Errorf("the first %d bytes: %v, %d records", n, err, len(got))
		}
	}
}

// TestRecordedIsWhatTheDeviceWasAsked also says how large a trace is.
func TestRecordedIsWhatTheDeviceWasAsked(t *testing.T) {
	var b buffer
	r, err := NewRecorder(&b, "x", 1<<20, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var tap Tap
	d := tap.Device(memdevice.New(1 << 20))
	p := []byte("hello")
	if err := d.ReadAt(make([]byte, 5), 20); err != nil { // before the recording
		t.Fatal(err)
	}
	if !tap.Open(r) || tap.Open(r) {
		t.Fatal("a tap takes no recorder, or two")
	}
	if err := errors.Join(d.WriteAt(p, 10, true), d.ReadAt(p, 10), d.Flush(), d.Trim(0, 4096, false),
		d.WriteZeroes(4096, 8192, nbdserver.ZeroNoHole|nbdserver.ZeroFUA), d.Cache(0, 512)); err != nil || string(p) != "hello" {
		t.Fatalf("%v, read %q", err, p)
	}
	for i := range 1000 {
		if err := d.ReadAt(make([]byte, 4096), int64(i*7919%256)*4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil || !b.closed {
		t.Fatalf("%v, closed %t", err, b.closed)
	}
	if n := b.Len(); n > 1006*12 {
		t.Errorf("1006 records take %d bytes", n)
	}
	reader, err := NewReader(&b.Buffer)
	if err != nil {
		t.Fatal(err)
	}
	list, err := all(reader)
	if !errors.Is(err, io.EOF) || len(list) != 1006 {
		t.Fatalf("%v, %d records", err, len(list))
	}
	for i, want := range []Record{
		{0, Write, FUA, 10, 5}, {0, Read, 0, 10, 5}, {0, Flush, 0, 0, 0}, {0, Trim, 0, 0, 4096}, {0, Zero, FUA | NoHole, 4096, 8192},
		{0, Cache, 0, 0, 512},
	} {
		got := list[i]
		if got.At = 0; got != want {
			t.Errorf("record %d: %+v, expected %+v", i, got, want)
		}
	}
}

type buffer struct {
	bytes.Buffer
	closed bool
}

func (b *buffer) Close() error { b.closed = true; return nil }

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }
func (full) Close() error              { return nil }

func TestAFullDiskEndsTheRecorderOnly(t *testing.T) {
	r, err := NewRecorder(full{}, "x", 1<<20, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	readUntilEnd(t, r, 1)
	if err := r.Close(); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("it ended with %v", err)
	}
}

// TestLimits: a trace that ends by itself is a whole one.
func TestLimits(t *testing.T) {
	for _, c := range []struct {
		want      error
		sizeBytes int64
		least     int // records
	}{{ErrLarge, 1 << 20, 100}, {ErrResized, 512, 0}} {
		var b buffer
		r, err := NewRecorder(&b, "x", c.sizeBytes, 1000)
		if err != nil {
			t.Fatal(err)
		}
		readUntilEnd(t, r, 1024)
		if err := r.Close(); !errors.Is(err, c.want) || !b.closed || b.Len() > 1100 {
			t.Errorf("%v: it ended with %v after %d bytes", c.want, err, b.Len())
		}
		reader, err := NewReader(&b.Buffer)
		if err != nil {
			t.Fatal(err)
		}
		if list, err := all(reader); !errors.Is(err, io.EOF) || len(list) < c.least {
			t.Errorf("%v: %v after %d records", c.want, err, len(list))
		}
	}
}

// readUntilEnd reads until the recorder has ended, and once more.
func readUntilEnd(t *testing.T, r *Recorder, bytes int) {
	t.Helper()
	var tap Tap
	tap.Open(r)
	d := tap.Device(memdevice.New(1 << 20))
	for ended := false; !ended; {
		select {
		case <-r.Ended():
			ended = true
		default:
		}
		if err := d.ReadAt(make([]byte, bytes), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAsyncStaysAsync: what can be asked without waiting can be so through a tap too, and is noted.
func TestAsyncStaysAsync(t *testing.T) {
	var b buffer
	r, err := NewRecorder(&b, "x", 1<<20, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var tap Tap
	tap.Open(r)
	if _, ok := tap.Device(memdevice.New(1 << 20)).(nbdserver.AsyncDevice); ok {
		t.Error("a device that waits became one that does not")
	}
	d := tap.Device(quick{memdevice.New(1 << 20)}).(nbdserver.AsyncDevice)
	if !d.StartRead(make([]byte, 512), 1024, nil) || d.StartWrite(make([]byte, 512), 0, nil) {
		t.Error("it began something else than it was asked for")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	reader, err := NewReader(&b.Buffer)
	if err != nil {
		t.Fatal(err)
	}
	if list, _ := all(reader); len(list) != 1 || list[0].Op != Read || list[0].OffsetBytes != 1024 {
		t.Errorf("noted %+v", list)
	}
}

// quick begins reads, but no writes.
type quick struct{ nbdserver.Device }

func (quick) StartRead([]byte, int64, nbdserver.Completion) bool  { return true }
func (quick) StartWrite([]byte, int64, nbdserver.Completion) bool { return false }

// FuzzReader: whatever a file holds, what is read of it lies inside the device, and written anew it reads the same.
func FuzzReader(f *testing.F) {
	f.Add(file(f, sample))
	f.Add(file(f, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		list, _ := all(r)
		for _, rec := range list {
			if rec.OffsetBytes < 0 || rec.LengthBytes < 0 || rec.OffsetBytes+rec.LengthBytes > r.SizeBytes || rec.At < 0 {
				t.Fatalf("%+v on a device of %d bytes", rec, r.SizeBytes)
			}
		}
		var out bytes.Buffer
		w, err := NewWriter(&out, r.Header)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range list {
			if err := w.Append(rec); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := NewReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := all(again); !errors.Is(err, io.EOF) || len(got) != len(list) || len(got) > 0 && !reflect.DeepEqual(got, list) {
			t.Fatalf("%v: %d records were %d", err, len(got), len(list))
		}
	})
}
