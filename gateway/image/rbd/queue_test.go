// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestBuffersThatAreCollected reads into memory that the garbage collector frees as soon as it may, while it does nothing
// else: it must never meet a pointer to such memory in what belongs to C.
func TestBuffersThatAreCollected(t *testing.T) {
	c := connect(t)
	m := open(t, c, testenv.NewImage(t, 8), OpenOptions{ReadOnly: true})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 500 {
				// Large enough for spans of their own, which go back to the heap when they are free.
				if err := m.ReadAt([][]byte{make([]byte, 64<<10)}, int64((w*500+i)%128)<<16); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	<-stopped
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// TestLooksMeet has all images looked after at the same moments, none earlier than it is to be.
func TestLooksMeet(t *testing.T) {
	for range 100 {
		before := time.Since(epoch)
		pause := onGrid(monitorEvery)
		after := time.Since(epoch)
		late := (before + pause) % lookGrid // the moment lies between the two
		if pause < monitorEvery || pause > monitorEvery+lookGrid || late != 0 && lookGrid-late > after-before {
			t.Fatalf("a pause of %v, %v after a moment", pause, late)
		}
		time.Sleep(time.Millisecond)
	}
}
