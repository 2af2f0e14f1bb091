// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// locker is who holds the exclusive lock.
type locker struct {
	ID     string `json:"id"`
	Client string `json:"locker"`
}

func lockerOf(t *testing.T, spec string) (l locker) {
	t.Helper()
	var list []locker
	if err := json.Unmarshal([]byte(testenv.RBD(t, "lock", "ls", "--format", "json", spec)), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) > 0 {
		l = list[0]
	}
	return l
}

// removeLock takes the lock from its holder, if there is one, and leaves it to find out.
func removeLock(t *testing.T, spec string) {
	t.Helper()
	l := lockerOf(t, spec)
	if l.ID == "" {
		return
	}
	r := testenv.Try(t, "rbd", "--conf", testenv.CephConf(t), "--rbd-blocklist-on-break-lock=false", "lock", "rm", spec, l.ID, l.Client)
	if r.ExitCode != 0 && !strings.Contains(r.Stderr, "No such file") { // gone meanwhile
		t.Fatalf("%s", r)
	}
}

// A writer writes every other block of an image again and again, until told to stop or an error.
type writer struct {
	m     *Image
	first int
	stop  chan struct{}
	err   error
	acked [][]byte // the last content of each block that was acknowledged
	tried []byte   // what failed
	at    int      // and where
}

const writerBytes = 4096

func (w *writer) run() {
	for round := byte(1); ; round++ {
		for i := w.first; i < len(w.acked); i += 2 {
			select {
			case <-w.stop:
				return
			default:
			}
			b := bytes.Repeat([]byte{byte(w.first) + 1, round, byte(i), byte(i >> 8)}, writerBytes/4)
			if err := w.m.WriteAt([][]byte{b}, int64(i)*writerBytes, false); err != nil {
				w.err, w.tried, w.at = err, b, i
				return
			}
			w.acked[i] = b
		}
	}
}

// check compares an image with what was acknowledged. A block whose last write failed is as before or as it was to be.
func (w *writer) check(t *testing.T, image []byte) {
	t.Helper()
	for i := w.first; i < len(w.acked); i += 2 {
		got := image[i*writerBytes : (i+1)*writerBytes]
		if w.acked[i] == nil || bytes.Equal(got, w.acked[i]) || w.tried != nil && w.at == i && bytes.Equal(got, w.tried) {
			continue
		}
		t.Errorf("block %d is not what was acknowledged last", i)
	}
}

func exported(t *testing.T, spec string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "exported")
	testenv.RBD(t, "export", "--no-progress", spec, file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestExclusiveLockRemoved takes the lock from a busy writer that keeps it, without the cluster blocking that client.
func TestExclusiveLockRemoved(t *testing.T) {
	var log lines
	spec := testenv.NewImage(t, 8, "--object-size", "64K")
	a := open(t, connect(t), spec, OpenOptions{Lock: LockExclusive, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	w := &writer{m: a, acked: make([][]byte, 8<<20/writerBytes)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run()
	}()
	removeLock(t, spec)
	select {
	case <-done:
	case <-time.After(testenv.CommandTimeout):
		t.Fatal("the writer goes on without the lock")
	}
	if !errors.Is(w.err, syscall.EIO) || !errors.Is(w.err, ErrLockLost) {
		t.Errorf("the writer ends with %v, want EIO and ErrLockLost", w.err)
	}
	<-a.Dead()
	if s := a.Stats(); s.LockLost != 1 || !errors.Is(a.Err(), ErrLockLost) {
		t.Errorf("%d losses are counted, the image is dead of %v", s.LockLost, a.Err())
	}
	if said := log.String(); strings.Count(said, "level=ERROR") != 1 || !strings.Contains(said, ErrLockLost.Error()) {
		t.Errorf("the log says:\n%s", said)
	}

	// From now on the image is another client's, whatever the old one tries.
	w.check(t, exported(t, spec))
	b := open(t, connect(t), spec, OpenOptions{Lock: LockExclusive})
	theirs, got := bytes.Repeat([]byte("theirs, "), 1<<20), make([]byte, 8<<20)
	if err := b.WriteAt([][]byte{theirs}, 0, true); err != nil {
		t.Fatal(err)
	}
	refusesWrites(t, a)
	// Soon librbd knows too, and no longer reads by the object map of an owner.
	for deadline := time.Now().Add(testenv.CommandTimeout); !bytes.Equal(got, theirs); {
		if err := a.ReadAt([][]byte{got}, 0); err != nil || time.Now().After(deadline) {
			t.Fatalf("reading after the loss: %v, or other bytes than the new owner's", err)
		}
	}
	for _, m := range []*Image{a, b} {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if !bytes.Equal(exported(t, spec), theirs) {
		t.Error("the image is not what its new owner wrote")
	}
}

// refusesWrites tries all that would change an image that has lost its lock.
func refusesWrites(t *testing.T, m *Image) {
	t.Helper()
	p := [][]byte{make([]byte, writerBytes)}
	for _, err := range []error{m.WriteAt(p, 0, false), m.Discard(0, 64<<10), m.Zero(0, 64<<10), m.Flush()} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("without the lock: got %v, want EIO", err)
		}
	}
	if m.StartWrite(p, 0, &outcome{}) {
		t.Error("a write was begun without the lock")
	}
}

// TestCooperativeLockRemoved takes the lock again and again from two writers that pass it to each other. Nothing that was
// acknowledged is lost, and nobody goes on for good as if the lock was still there.
func TestCooperativeLockRemoved(t *testing.T) {
	spec := testenv.NewImage(t, 8, "--object-size", "64K")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	writers := []*writer{{first: 0}, {first: 1}}
	for _, w := range writers {
		w.m = open(t, connect(t), spec, OpenOptions{Lock: LockCooperative})
		w.stop, w.acked = stop, make([][]byte, 8<<20/writerBytes)
		wg.Go(w.run)
	}
	for range 5 {
		removeLock(t, spec)
	}
	close(stop)
	wg.Wait()
	image := exported(t, spec)
	for i, w := range writers {
		if w.err != nil {
			t.Errorf("writer %d: %v", i, w.err)
		}
		w.check(t, image)
	}
	first, second := writers[0].m, writers[1].m
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	retaken(t, first, spec)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}

// retaken has the lock removed of a client that is alone, and waits until it has noticed and taken the lock again.
func retaken(t *testing.T, m *Image, spec string) {
	t.Helper()
	write := func() {
		if err := m.WriteAt([][]byte{make([]byte, 512)}, 0, false); err != nil {
			t.Fatal(err)
		}
	}
	write()
	removeLock(t, spec)
	lost := m.Stats().LockLost
	for deadline := time.Now().Add(testenv.CommandTimeout); lockerOf(t, spec).ID == ""; write() {
		if time.Now().After(deadline) {
			t.Fatalf("the lock was removed, and is never taken again; losses before: %d, now %d", lost, m.Stats().LockLost)
		}
	}
}

// lines is a log that several goroutines write to.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
