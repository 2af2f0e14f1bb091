// SPDX-License-Identifier: Apache-2.0

package kdf_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks/kdf"
)

// TestGateNeverAdmitsTooMuch has many take random shares and counts what is at work.
func TestGateNeverAdmitsTooMuch(t *testing.T) {
	const memory, runs = 1000, 3
	g := kdf.NewGate(memory, runs)
	var mu sync.Mutex
	var used, active, most uint64
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 100 {
				want := uint64(r.IntN(1500))
				release, err := g.Acquire(context.Background(), want)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				used, active = used+min(want, memory), active+1
				most = max(most, active)
				if used > memory || active > runs {
					t.Errorf("%d bytes and %d runs at work", used, active)
				}
				mu.Unlock()
				mu.Lock()
				used, active = used-min(want, memory), active-1
				mu.Unlock()
				release()
			}
		})
	}
	all.Wait()
	if most < 1 {
		t.Error("nothing ran")
	}
	// All shares are back: the whole gate is free.
	release, err := g.Acquire(context.Background(), memory)
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestGateServesInOrder(t *testing.T) {
	g := kdf.NewGate(10, 10)
	first, err := g.Acquire(context.Background(), 5)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	large := make(chan error, 1)
	go func() {
		_, err := g.Acquire(ctx, 8)
		large <- err
	}()
	waitFor(t, g, 1)
	small := make(chan error, 1)
	go func() {
		release, err := g.Acquire(context.Background(), 1)
		if err == nil {
			release()
		}
		small <- err
	}()
	waitFor(t, g, 2)
	select {
	case err := <-small:
		t.Fatalf("the small one overtook the large one: %v", err)
	default:
	}
	cancel()
	if err := <-large; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := <-small; err != nil {
		t.Errorf("behind a cancelled one: %v", err)
	}
	first()
	if _, err := g.Acquire(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

// waitFor returns when n acquisitions wait.
func waitFor(t *testing.T, g *kdf.Gate, n int) {
	for g.Waiting() != n {
		if t.Context().Err() != nil {
			t.Fatal("timeout")
		}
	}
}
