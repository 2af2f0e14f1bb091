// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"errors"
	"io"
	"reflect"
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
	{time.Hour + 2, Read, 0, 7, MaxDataBytes},
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
	r, err := NewRecorder(&b, "x", 1<<20, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	d := r.Device(memdevice.New(1 << 20))
	p := []byte("hello")
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

func TestAFullDiskStopsTheRecorderOnly(t *testing.T) {
	said := 0
	r, err := NewRecorder(full{}, "x", 1<<20, func(error) { said++ })
	if err != nil {
		t.Fatal(err)
	}
	d := r.Device(memdevice.New(1 << 20))
	for range 100000 {
		if err := d.ReadAt(make([]byte, 1), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); said != 1 || err != nil {
		t.Errorf("said %d times, then %v", said, err)
	}
}

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
