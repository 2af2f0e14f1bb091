// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
)

const sizeBytes = 1 << 20

// counter is a device that counts, and fails when it is told.
type counter struct {
	*memdevice.Device
	reads, writes, inFlight, most atomic.Int64
	failAfter                     int64
}

func (d *counter) done(n int64) error {
	time.Sleep(time.Millisecond)
	d.inFlight.Add(-1)
	if d.failAfter > 0 && n > d.failAfter {
		return syscall.ENOSPC
	}
	return nil
}

func (d *counter) begin() {
	n := d.inFlight.Add(1)
	for most := d.most.Load(); n > most && !d.most.CompareAndSwap(most, n); most = d.most.Load() {
	}
}

func (d *counter) ReadAt(p []byte, off int64) error {
	d.begin()
	return errors.Join(d.Device.ReadAt(p, off), d.done(d.reads.Add(1)))
}

func (d *counter) WriteAt(p []byte, off int64, fua bool) error {
	d.begin()
	return errors.Join(d.Device.WriteAt(p, off, fua), d.done(d.writes.Add(1)))
}

func newCounter() *counter {
	// Not immediate: the server asks a device that waits from goroutines of their own.
	return &counter{Device: memdevice.New(sizeBytes).With(func(p *nbdserver.Properties) { p.Immediate = false })}
}

type catalog struct{ d nbdserver.Device }

func (c catalog) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	return nil, nil
}
func (c catalog) Open(context.Context, string, *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	return nbdserver.ExportInfo{}, c.d, nil
}

// contestants are the same device in process and over NBD.
func contestants(t *testing.T, d *counter) map[string]Contestant {
	t.Helper()
	path := filepath.Join(testenv.SocketDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := nbdserver.New(nbdserver.Options{Catalog: catalog{d}})
	done := make(chan error, 1)
	go func() { done <- server.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, nbdserver.ErrServerClosed) {
			t.Error(err)
		}
	})
	return map[string]Contestant{
		"in process": &InProcess{What: result.Contestant{Name: "in process"}, Devices: []Device{d}, SizeBytes: sizeBytes},
		"over nbd": &OverNBD{
			What: result.Contestant{Name: "over nbd"}, Endpoints: []Endpoint{{"unix", path, ""}}, SizeBytes: sizeBytes,
		},
	}
}

var mixed = workload.Workload{Kind: workload.RandomMixed, BlockBytes: 4096, Depth: 4, Clients: 2, Images: 1}

func TestDepthAndCounting(t *testing.T) {
	for _, name := range []string{"in process", "over nbd"} {
		d := newCounter()
		r, err := contestants(t, d)[name].Run(context.Background(), mixed, 1, newWindow(50*time.Millisecond, 200*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		if most := d.most.Load(); most != 8 {
			t.Errorf("%s: %d requests in flight, expected 2 clients of 4", name, most)
		}
		all := d.reads.Load() + d.writes.Load()
		if r.Requests == 0 || int64(r.Requests) >= all || d.writes.Load() == 0 || d.reads.Load() <= d.writes.Load() {
			t.Errorf("%s: %d requests counted of %d reads and %d writes, those of the warm-up among them", name, r.Requests, d.reads.Load(), d.writes.Load())
		}
		if r.Latency.P50 < 1000 || r.CPU[0].Micros <= 0 || r.IOPS != float64(r.Requests)/r.Seconds {
			t.Errorf("%s: a device that takes a millisecond: %+v", name, r)
		}
	}
}

func TestDeviceErrorsEndTheRun(t *testing.T) {
	for _, name := range []string{"in process", "over nbd"} {
		d := newCounter()
		d.failAfter = 20
		_, err := contestants(t, d)[name].Run(context.Background(), mixed, 1, newWindow(0, time.Second))
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlanInTurns(t *testing.T) {
	d := newCounter()
	all := contestants(t, d)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var order []string
	p := Plan{
		Workloads:   []workload.Workload{mixed, {Kind: workload.RandomRead, BlockBytes: 512, Depth: 1, Clients: 1, Images: 1}},
		Contestants: []Contestant{all["in process"], all["over nbd"]}, Rounds: 2, Length: 20 * time.Millisecond,
		Progress: func(what string, done, total int) {
			order = append(order, what[len(what)-len("in process"):])
			if total != 8 {
				t.Errorf("%d measurements, expected 8", total)
			}
			if done == 7 {
				cancel()
			}
		},
	}
	results, err := p.Run(ctx)
	if !errors.Is(err, context.Canceled) || len(results) != 2 || len(results[0].Rounds) != 2 || len(results[1].Rounds) != 2 {
		t.Errorf("interrupted in the last measurement of the second workload: %v, %+v", err, results)
	}
	if len(order) != 8 || order[0] != "in process" || order[1] != ": over nbd" || order[2] != ": over nbd" || order[3] != "in process" {
		t.Errorf("order: %q", order)
	}
}

// TestOneFailsAndOthersGoOn: an hour's run is not lost because one program of many breaks.
func TestOneFailsAndOthersGoOn(t *testing.T) {
	good := &InProcess{What: result.Contestant{Name: "good"}, Devices: []Device{memdevice.New(sizeBytes)}, SizeBytes: sizeBytes}
	bad := &InProcess{What: result.Contestant{Name: "bad"}, Devices: []Device{readOnly{memdevice.New(sizeBytes)}}, SizeBytes: sizeBytes}
	one := workload.Workload{Kind: workload.RandomRead, BlockBytes: 4096, Depth: 1, Clients: 1, Images: 1}
	two, three := one, one
	two.Kind, three.Kind = workload.RandomWrite, workload.SequentialRead
	p := Plan{
		Workloads: []workload.Workload{one, two, three}, Contestants: []Contestant{bad, good}, Rounds: 3, Length: 5 * time.Millisecond,
		Progress: func(string, int, int) {},
	}
	results, err := p.Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "bad, randwrite 4k depth 1: read-only") || strings.Contains(err.Error(), "read 4k") {
		t.Errorf("the error is %v", err)
	}
	var got []string
	for _, r := range results {
		got = append(got, r.Contestant+" "+string(r.Workload.Kind))
		if len(r.Rounds) != 3 {
			t.Errorf("%s, %s: %d rounds", r.Contestant, r.Workload, len(r.Rounds))
		}
	}
	if want := []string{"bad randread", "good randread", "good randwrite", "good read"}; !slices.Equal(got, want) {
		t.Errorf("measured %q, expected %q", got, want)
	}
}

// readOnly cannot be written.
type readOnly struct{ *memdevice.Device }

func (readOnly) WriteAt([]byte, int64, bool) error { return errors.New("read-only") }

func TestCipher(t *testing.T) {
	c, err := NewCipher(4096, 2)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Run(context.Background(), mixed, 1, newWindow(0, 20*time.Millisecond))
	if err != nil || r.Requests == 0 {
		t.Errorf("%v, %+v", err, r)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// slow is a device whose requests take longer than they are measured.
type slow struct{ *memdevice.Device }

func (d slow) ReadAt(p []byte, off int64) error {
	time.Sleep(30 * time.Millisecond)
	return d.Device.ReadAt(p, off)
}

func TestATimeTooShortIsMadeLonger(t *testing.T) {
	c := &InProcess{Devices: []Device{slow{memdevice.New(sizeBytes)}}, SizeBytes: sizeBytes}
	p := Plan{
		Workloads:   []workload.Workload{{Kind: workload.RandomRead, BlockBytes: 4096, Depth: 1, Clients: 1, Images: 1}},
		Contestants: []Contestant{c}, Rounds: 1, Length: 2 * time.Millisecond, Progress: func(string, int, int) {},
	}
	results, err := p.Run(context.Background())
	if err != nil || results[0].Rounds[0].Requests == 0 || results[0].Rounds[0].Seconds < 0.03 {
		t.Errorf("%v, %+v", err, results)
	}
}
