// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// asyncStore answers each request from a goroutine of its own. busy, where set, makes it begin nothing.
type asyncStore struct {
	*memStore
	busy func() bool
	wg   sync.WaitGroup
}

func (a *asyncStore) start(f func() error, done Completion) bool {
	if a.busy != nil && a.busy() {
		return false
	}
	a.wg.Go(func() { done.Done(f()).Send() })
	return true
}

func (a *asyncStore) StartRead(iov [][]byte, off int64, done Completion) bool {
	own := [][]byte{iov[0]} // iov is borrowed for the call only
	return a.start(func() error { return a.ReadAt(own, off) }, done)
}

func (a *asyncStore) StartWrite(iov [][]byte, off int64, done Completion) bool {
	own := [][]byte{iov[0]}
	return a.start(func() error { return a.WriteAt(own, off, false) }, done)
}

// outcome waits for one request.
type outcome struct {
	err   error
	sent  chan struct{}
	calls atomic.Int32
}

func newOutcome() *outcome { return &outcome{sent: make(chan struct{}, 1)} }

func (o *outcome) Done(err error) Sender {
	o.err = err
	o.calls.Add(1)
	return o
}

func (o *outcome) Send() { o.sent <- struct{}{} }

func (o *outcome) wait() error {
	<-o.sent
	return o.err
}

func newAsyncFixture(t testing.TB, sector int, size int64, holes Holes) (*fixture, *asyncStore) {
	f := newFixture(t, sector, 2068480, size, holes)
	store := &asyncStore{memStore: f.store}
	vol, err := New(store, f.ref, splitRunner{}, Options{Geometry: f.geo, Holes: holes})
	if err != nil {
		t.Fatal(err)
	}
	f.vol = vol
	return f, store
}

// read and write go the asynchronous way where the volume lets them, as the NBD server does.
func (f *fixture) read(p []byte, off int64) error {
	if o := newOutcome(); f.vol.StartRead(p, off, o) {
		return o.wait()
	}
	return f.vol.ReadAt(p, off)
}

func (f *fixture) write(p []byte, off int64) error {
	if o := newOutcome(); f.vol.StartWrite(p, off, o) {
		return o.wait()
	}
	return f.vol.WriteAt(p, off, false)
}

// TestAsyncOverlaps has goroutines write blocks of one byte each over each other, aligned and not, and read them. Whoever
// reads one sector must see a single writer's byte in it, whichever way both went. A store that sometimes begins nothing
// makes the ways alternate.
func TestAsyncOverlaps(t *testing.T) {
	const sector, sectors, rounds = 512, 8, 400
	f, store := newAsyncFixture(t, sector, sectors*sector, HolesZero)
	var asked atomic.Int64
	store.busy = func() bool { return asked.Add(1)%7 == 0 }
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(w)))
			for range rounds {
				lo := rng.IntN(sectors)
				n := 1 + rng.IntN(sectors-lo)
				p := make([]byte, n*sector)
				if w%2 == 0 {
					for i := range p {
						p[i] = byte(w + 1)
					}
					if err := f.write(p, int64(lo*sector)); err != nil {
						t.Error(err)
					}
					continue
				}
				if err := f.read(p, int64(lo*sector)); err != nil {
					t.Error(err)
				}
				for i := 0; i < len(p); i += sector {
					if s := p[i : i+sector]; !bytes.Equal(s, bytes.Repeat(s[:1], sector)) || s[0] > 6 {
						t.Errorf("sector %d is torn: it begins with %x", lo+i/sector, s[:4])
						return
					}
				}
			}
		})
	}
	wg.Wait()
	store.wg.Wait()
}

// TestAsyncRandomOperations holds the volume against a plain byte slice, and what it stored against the reference cipher.
func TestAsyncRandomOperations(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		const size = 256 << 10
		f, store := newAsyncFixture(t, sector, size, HolesZero)
		model := make([]byte, size)
		rng := rand.New(rand.NewPCG(11, uint64(sector)))
		begun := 0
		store.busy = func() bool { begun++; return false }
		for range 400 {
			off := rng.Int64N(size)
			n := 1 + rng.Int64N(min(40_000, size-off))
			if rng.IntN(3) > 0 {
				off &^= int64(sector - 1)
				n = min(n&^int64(sector-1)+int64(sector), size-off)
			}
			p := make([]byte, n)
			if rng.IntN(2) == 0 {
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				copy(model[off:], p)
				if err := f.write(p, off); err != nil {
					t.Fatal(err)
				}
			} else if err := f.read(p, off); err != nil || !bytes.Equal(p, model[off:off+n]) {
				t.Fatalf("read %d+%d: %v, or other bytes", off, n, err)
			}
		}
		if !bytes.Equal(f.plaintext(), model) {
			t.Fatal("what is stored does not decrypt to the model")
		}
		if begun < 160 {
			t.Errorf("only %d of 400 requests went the asynchronous way", begun)
		}
	}
}

// TestAsyncRefusals lists what must go the blocking way, and that nothing has happened then.
func TestAsyncRefusals(t *testing.T) {
	f, store := newAsyncFixture(t, 4096, 64<<10, HolesZero)
	p := bytes.Repeat([]byte{5}, 8192)
	want := bytes.Clone(p)
	before := bytes.Clone(f.store.data)
	o := newOutcome()
	refused := func(what string, started bool) {
		t.Helper()
		if started || !bytes.Equal(p, want) || !bytes.Equal(before, f.store.data) || o.calls.Load() != 0 {
			t.Errorf("%s was begun, or left traces", what)
		}
	}
	refused("unaligned read", f.vol.StartRead(p[:100], 0, o))
	refused("unaligned write", f.vol.StartWrite(p[:4096], 512, o))
	refused("nothing", f.vol.StartRead(nil, 0, o))
	refused("read past the end", f.vol.StartRead(p, 60<<10, o))
	refused("write past the end", f.vol.StartWrite(p, 1<<40, o))
	store.busy = func() bool { return true }
	refused("read that the store does not begin", f.vol.StartRead(p, 0, o))
	refused("write that the store does not begin", f.vol.StartWrite(p, 0, o))
	store.busy = nil
	r := f.vol.begin(4096, 4096, false)
	refused("write where somebody reads", f.vol.StartWrite(p, 0, o))
	if !f.vol.StartRead(p, 0, o) || o.wait() != nil {
		t.Error("read where somebody reads was refused")
	}
	f.vol.end(r)
	f.vol.opts.ReadOnly = true
	if f.vol.StartWrite(p, 0, o) {
		t.Error("write to a read-only volume was begun")
	}
	if plain := newFixture(t, 4096, 0, 64<<10, HolesZero); plain.vol.StartRead(p, 0, o) {
		t.Error("a store without StartRead was asked")
	}
}

// TestAsyncErrors passes the store's errors on and unlocks.
func TestAsyncErrors(t *testing.T) {
	f, _ := newAsyncFixture(t, 4096, 64<<10, HolesZero)
	wrong := errors.New("the store is out of order")
	f.store.fail = func(string) error { return wrong }
	p := make([]byte, 4096)
	for range 3 {
		for _, start := range []func([]byte, int64, Completion) bool{f.vol.StartRead, f.vol.StartWrite} {
			if o := newOutcome(); !start(p, 0, o) {
				t.Fatal("refused: an earlier request is still locked")
			} else if err := o.wait(); !errors.Is(err, wrong) || o.calls.Load() != 1 {
				t.Errorf("error %v in %d calls", err, o.calls.Load())
			}
		}
	}
}

// nowStore ends every request before it returns from its start.
type nowStore struct{ *memStore }

func (s nowStore) StartRead(iov [][]byte, off int64, done Completion) bool {
	done.Done(s.ReadAt(iov, off)).Send()
	return true
}

func (s nowStore) StartWrite(iov [][]byte, off int64, done Completion) bool {
	done.Done(s.WriteAt(iov, off, false)).Send()
	return true
}

// TestAsyncDoesNotAllocate also has the store answer before it returns.
func TestAsyncDoesNotAllocate(t *testing.T) {
	f := newFixture(t, 4096, 4096, 64<<10, HolesZero)
	vol, err := New(nowStore{f.store}, f.ref, inlineRunner{}, Options{Geometry: f.geo})
	if err != nil {
		t.Fatal(err)
	}
	p, o := make([]byte, 8192), newOutcome()
	n := testing.AllocsPerRun(200, func() {
		if !vol.StartWrite(p, 4096, o) || o.wait() != nil || !vol.StartRead(p, 4096, o) || o.wait() != nil {
			t.Error("refused")
		}
	})
	if n >= 1 && !raceEnabled {
		t.Errorf("%v allocations per write and read, want 0", n)
	}
}
