// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"bytes"
	"errors"
	"maps"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// outcome is how an operation ended that nobody waits for. All share a counter of calls to Send.
type outcome struct {
	err  error
	done chan struct{}
	sent *atomic.Int32
}

func (o *outcome) Done(err error) volume.Sender {
	o.err = err
	close(o.done)
	return o
}

func (o *outcome) Send() { o.sent.Add(1) }

// startAll starts operations until the image takes them, and waits for all.
func startAll(t *testing.T, n int, start func(i int, done volume.Completion) bool) []error {
	t.Helper()
	var sent atomic.Int32
	list := make([]*outcome, n)
	for i := range list {
		list[i] = &outcome{done: make(chan struct{}), sent: &sent}
		if !start(i, list[i]) {
			t.Fatalf("operation %d was not begun", i)
		}
	}
	errs := make([]error, n)
	for i, o := range list {
		<-o.done
		errs[i] = o.err
	}
	for deadline := time.Now().Add(time.Minute); sent.Load() != int32(n); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d senders were told to send", sent.Load(), n)
		}
	}
	return errs
}

// TestAsync writes and reads more at once than a connection takes, and compares with the blocking way.
func TestAsync(t *testing.T) {
	c := connect(t)
	m := open(t, c, testenv.NewImage(t, 16), OpenOptions{})
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	const n, size = maxInFlight + 200, 8192
	model := make([]byte, n*size)
	for i := range model {
		model[i] = byte(i>>13 + i%251)
	}
	if err := m.WriteAt([][]byte{model[:512]}, 0, false); err != nil { // the lock is known to be ours from now on
		t.Fatal(err)
	}
	piece := func(b []byte, i int) [][]byte { return [][]byte{b[i*size : i*size+100], b[i*size+100 : (i+1)*size]} }
	for i, err := range startAll(t, n, func(i int, done volume.Completion) bool {
		m.monitor.lastWrite.Store(int64(time.Since(epoch))) // however slow this machine is
		return m.StartWrite(piece(model, i), int64(i*size), done)
	}) {
		if err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	got := make([]byte, len(model))
	if err := m.ReadAt([][]byte{got}, 0); err != nil || !bytes.Equal(got, model) {
		t.Fatalf("blocking read: %v, or other bytes than were written", err)
	}
	clear(got)
	for i, err := range startAll(t, n, func(i int, done volume.Completion) bool {
		return m.StartRead(piece(got, i), int64(i*size), done)
	}) {
		if err != nil {
			t.Fatalf("read %d: %v", i, err)
		}
	}
	if !bytes.Equal(got, model) {
		t.Error("other bytes than were written")
	}
	if n, _ := c.queue.waiting(0); n != 0 {
		t.Errorf("%d operations are still counted as waiting", n)
	}
}

// TestAsyncLeavesTheLockToBlockingWrites has a write after a pause look at the lock, which may take a while.
func TestAsyncLeavesTheLockToBlockingWrites(t *testing.T) {
	c := connect(t)
	m := open(t, c, testenv.NewImage(t, 1), OpenOptions{})
	defer func() { _ = m.Close() }()
	p := [][]byte{make([]byte, 512)}
	o := &outcome{done: make(chan struct{}), sent: new(atomic.Int32)}
	if m.StartWrite(p, 0, o) {
		t.Error("the first write did not look at the lock")
	}
	if err := m.WriteAt(p, 0, false); err != nil {
		t.Fatal(err)
	}
	m.monitor.lastWrite.Store(int64(time.Since(epoch)))
	if !m.StartWrite(p, 0, o) {
		t.Fatal("a write at once after another one was not begun")
	}
	<-o.done
	m.monitor.lastWrite.Add(-2 * int64(lockCheckPause))
	if m.StartWrite(p, 0, o) {
		t.Error("a write after a pause did not look at the lock")
	}
}

// TestAsyncErrors has librbd refuse, at once and later.
func TestAsyncErrors(t *testing.T) {
	c := connect(t)
	spec := testenv.NewImage(t, 1)
	m := open(t, c, spec, OpenOptions{ReadOnly: true})
	p := [][]byte{make([]byte, 512)}
	for _, err := range startAll(t, 1, func(_ int, done volume.Completion) bool { return m.StartRead(p, 1<<30, done) }) {
		if !errors.Is(err, syscall.EINVAL) {
			t.Errorf("read past the end: %v, want EINVAL", err)
		}
	}
	for _, err := range startAll(t, 1, func(_ int, done volume.Completion) bool { return m.StartWrite(p, 0, done) }) {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("write to a read-only image: %v, want EROFS", err)
		}
	}
	if got, want := m.Stats().Failures, (map[Failure]uint64{{"read", syscall.EINVAL}: 1, {"write", syscall.EROFS}: 1}); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	if five := make([][]byte, 5); m.StartRead(five, 0, &outcome{}) {
		t.Error("more slices than a request has were begun")
	}
	m.monitor.kill(ErrBlocked, useNothing)
	if m.StartRead(p, 0, &outcome{}) || m.StartWrite(p, 0, &outcome{}) {
		t.Error("an image beyond use began an operation")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
