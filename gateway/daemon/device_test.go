// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"testing"

	"github.com/luksgate/luksgate/gateway/metrics"
	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
)

// later is a device that begins what it is asked and ends it when told; writes it does not begin.
type later struct {
	nbdserver.Device
	under []nbdserver.Completion
}

func (l *later) StartRead(_ []byte, _ int64, done nbdserver.Completion) bool {
	l.under = append(l.under, done)
	return true
}

func (l *later) StartWrite([]byte, int64, nbdserver.Completion) bool { return false }

// ended is a nbdserver.Completion.
type ended struct{ err error }

func (e *ended) Done(err error) nbdserver.Sender { e.err = err; return nil }

// TestTrackedDeviceStaysAsync: the daemon counts requests of a device that can be asked without waiting, and asks it so.
func TestTrackedDeviceStaysAsync(t *testing.T) {
	set := metrics.NewSet(metrics.Build{}, nil)
	e := &export{stats: set.Export("x")}
	if _, ok := e.track(memdevice.New(1 << 20)).(nbdserver.AsyncDevice); ok {
		t.Error("a device that waits became one that does not")
	}
	l := &later{Device: memdevice.New(1 << 20)}
	d, ok := e.track(l).(nbdserver.AsyncDevice)
	if !ok {
		t.Fatal("a device that need not wait became one that does")
	}
	inFlight := func() int64 { return set.Snapshots()[0].InFlight }
	var first, second ended
	if !d.StartRead(nil, 0, &first) || !d.StartRead(nil, 0, &second) || d.StartWrite(nil, 0, &second) || inFlight() != 2 {
		t.Fatalf("two requests are under way, but %d", inFlight())
	}
	failure := errors.New("x")
	l.under[1].Done(failure)
	if inFlight() != 1 || first.err != nil || !errors.Is(second.err, failure) {
		t.Errorf("%d in flight, %v, %v", inFlight(), first.err, second.err)
	}
	l.under[0].Done(nil)
	if inFlight() != 0 {
		t.Errorf("%d in flight", inFlight())
	}
}
