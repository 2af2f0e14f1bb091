// SPDX-License-Identifier: Apache-2.0

package buffer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestGetRoundsUpToAClass(t *testing.T) {
	p := New(1 << 30)
	defer p.Close()
	for _, c := range []struct{ ask, get int }{
		{0, MinBytes}, {1, MinBytes}, {MinBytes, MinBytes}, {MinBytes + 1, 2 * MinBytes},
		{1 << 20, 1 << 20}, {1<<20 + 1, 2 << 20}, {MaxBytes, MaxBytes},
	} {
		b, err := p.Get(t.Context(), c.ask)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Bytes()) != c.get || SizeBytes(c.ask) != int64(c.get) {
			t.Errorf("Get(%d): %d bytes, SizeBytes %d, want %d", c.ask, len(b.Bytes()), SizeBytes(c.ask), c.get)
		}
		b.Release()
	}
	if s := p.Stats(); s.UsedBytes != 0 {
		t.Errorf("%d bytes in use after the last release", s.UsedBytes)
	}
}

func TestTooLargeIsAnError(t *testing.T) {
	p := New(1 << 20)
	defer p.Close()
	for _, n := range []int{1<<20 + 1, MaxBytes + 1} {
		if _, err := p.Get(t.Context(), n); !errors.Is(err, ErrTooLarge) {
			t.Errorf("Get(%d): %v, want ErrTooLarge", n, err)
		}
		if p.TryGet(n) != nil {
			t.Errorf("TryGet(%d) returned a buffer", n)
		}
	}
}

func TestReleaseTwicePanics(t *testing.T) {
	p := New(1 << 20)
	b := p.TryGet(1)
	b.Release()
	defer func() {
		if recover() == nil {
			t.Error("second release did not panic")
		}
	}()
	b.Release()
}

// TestLargeWaiterIsNotStarved checks that small requests queue up behind a large one that waits.
func TestLargeWaiterIsNotStarved(t *testing.T) {
	p := New(1 << 20)
	defer p.Close()
	small := p.TryGet(1)
	got := make(chan *Buffer)
	go func() {
		b, err := p.Get(context.Background(), 1<<20)
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	for p.Stats().Waiting == 0 {
		time.Sleep(time.Millisecond)
	}
	if p.TryGet(1) != nil {
		t.Fatal("a small request overtook a large one")
	}
	small.Release()
	b := <-got
	if len(b.Bytes()) != 1<<20 {
		t.Fatalf("%d bytes", len(b.Bytes()))
	}
	b.Release()
	if s := p.Stats(); s.UsedBytes+s.KeptBytes > s.BudgetBytes {
		t.Errorf("mapped %d bytes, budget %d", s.UsedBytes+s.KeptBytes, s.BudgetBytes)
	}
}

func TestCancelledWaiterLeavesTheLine(t *testing.T) {
	p := New(MinBytes)
	defer p.Close()
	b := p.TryGet(1)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := p.Get(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	b.Release()
	if c := p.TryGet(1); c == nil {
		t.Fatal("nothing to be had although all is free")
	}
}

func TestCloseWakesWaiters(t *testing.T) {
	p := New(MinBytes)
	b := p.TryGet(1)
	done := make(chan error)
	go func() {
		_, err := p.Get(context.Background(), 1)
		done <- err
	}()
	for p.Stats().Waiting == 0 {
		time.Sleep(time.Millisecond)
	}
	p.Close()
	if err := <-done; err == nil {
		t.Error("no error after Close")
	}
	b.Release() // must not panic: it comes back late
}

// TestManyClientsStayWithinTheBudget has more takers than memory and checks that the budget holds and nothing is shared.
func TestManyClientsStayWithinTheBudget(t *testing.T) {
	p := New(4 << 20)
	p.Poison()
	defer p.Close()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 200 {
				b, err := p.Get(context.Background(), 1+r.IntN(1<<20))
				if err != nil {
					t.Error(err)
					return
				}
				mem := b.Bytes()
				mem[0], mem[len(mem)-1] = byte(i), byte(i)
				if s := p.Stats(); s.UsedBytes+s.KeptBytes > s.BudgetBytes {
					t.Errorf("mapped %d bytes, budget %d", s.UsedBytes+s.KeptBytes, s.BudgetBytes)
				}
				if mem[0] != byte(i) || mem[len(mem)-1] != byte(i) {
					t.Error("somebody else wrote into the buffer")
				}
				b.Release()
			}
		})
	}
	wg.Wait()
	if s := p.Stats(); s.UsedBytes != 0 || s.Waiting != 0 {
		t.Errorf("after the end: %+v", s)
	}
}

func TestGetAndReleaseDoNotAllocate(t *testing.T) {
	p := New(1 << 20)
	defer p.Close()
	p.TryGet(4096).Release()
	if n := testing.AllocsPerRun(100, func() { p.TryGet(4096).Release() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestVecSendsAndReceives moves pieces through a socket pair with sizes that split in odd places.
func TestVecSendsAndReceives(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	var out, in Vec
	want := []byte{}
	for i := range 20 {
		piece := make([]byte, i*37)
		for j := range piece {
			piece[j] = byte(len(want) + j)
		}
		want = append(want, piece...)
		out.Append(piece)
	}
	got := make([]byte, len(want))
	in.Append(got[:100])
	in.Append(got[100:101])
	in.Append(got[101:])
	for out.Bytes() > 0 {
		if _, err := out.Send(fds[0]); err != nil {
			t.Fatal(err)
		}
	}
	for in.Bytes() > 0 {
		if n, err := in.Recv(fds[1]); err != nil || n == 0 {
			t.Fatal(n, err)
		}
	}
	if string(got) != string(want) {
		t.Error("other bytes came out")
	}
	if _, err := in.Recv(fds[1]); err != nil {
		t.Error("receiving into nothing:", err)
	}
	in.Reset()
	in.Append(got[:1])
	if _, err := in.Recv(fds[1]); !errors.Is(err, unix.EAGAIN) {
		t.Error("empty socket:", err)
	}
}

func TestAdvanceStopsInsideAPiece(t *testing.T) {
	var v Vec
	v.Append([]byte("abc"))
	v.Append([]byte("defg"))
	v.Advance(5)
	var rest []byte
	if err := v.Pieces(func(p []byte) error { rest = append(rest, p...); return nil }); err != nil {
		t.Fatal(err)
	}
	if string(rest) != "fg" || v.Bytes() != 2 {
		t.Errorf("%q, %d bytes", rest, v.Bytes())
	}
}
