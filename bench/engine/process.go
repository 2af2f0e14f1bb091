// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/luksgate/luksgate/bench/histogram"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
	"github.com/luksgate/luksgate/crypt/xts"
)

// A Device is what is measured in this process.
type Device interface {
	ReadAt(p []byte, offsetBytes int64) error
	WriteAt(p []byte, offsetBytes int64, fua bool) error
}

// InProcess does requests on devices with one goroutine for each request in flight.
type InProcess struct {
	What    result.Contestant
	Devices []Device // one an image
	// SizeBytes is how much of each is used.
	SizeBytes int64
	// Closer is called by Close; nil is allowed.
	Closer func() error
}

// Info implements Contestant.
func (p *InProcess) Info() result.Contestant { return p.What }

// Close implements Contestant.
func (p *InProcess) Close() error {
	if p.Closer == nil {
		return nil
	}
	return p.Closer()
}

// Run implements Contestant.
func (p *InProcess) Run(ctx context.Context, w workload.Workload, seed uint64, win Window) (result.Round, error) {
	var stop atomic.Bool
	defer context.AfterFunc(ctx, func() { stop.Store(true) })()
	e := &edges{win: win, processes: []Process{{"all in one process", 0}}}
	var lanes []*lane
	for i := range w.Images * w.Clients {
		next := new(atomic.Uint64)
		for range w.Depth {
			l := &lane{
				device: p.Devices[i/w.Clients], client: w.NewClient(seed, i, p.SizeBytes), next: next,
				buf: make([]byte, w.BlockBytes), edges: e, stop: &stop,
			}
			workload.Noise(seed+uint64(len(lanes)), l.buf)
			lanes = append(lanes, l)
		}
	}
	var wg sync.WaitGroup
	for _, l := range lanes {
		wg.Go(l.run)
	}
	err := e.wait(ctx)
	if err != nil {
		stop.Store(true)
	}
	wg.Wait()
	var h histogram.Histogram
	for _, l := range lanes {
		h.Add(&l.counted)
		err = errors.Join(err, l.err)
	}
	if err != nil {
		return result.Round{}, err
	}
	return e.round(&h)
}

// A lane is one request after the other.
type lane struct {
	device  Device
	client  workload.Client
	next    *atomic.Uint64 // of the client, whose lanes share it
	buf     []byte
	edges   *edges
	stop    *atomic.Bool
	counted histogram.Histogram
	err     error
}

func (l *lane) run() {
	for at := time.Now(); at.Before(l.edges.win.To) && !l.stop.Load(); {
		r := l.client.At(l.next.Add(1) - 1)
		if r.Write {
			l.err = l.device.WriteAt(l.buf, r.OffsetBytes, false)
		} else {
			l.err = l.device.ReadAt(l.buf, r.OffsetBytes)
		}
		if l.err != nil {
			l.stop.Store(true)
			return
		}
		now := time.Now()
		l.edges.tick(now)
		if l.edges.win.holds(now) {
			l.counted.Record(now.Sub(at))
		}
		at = now
	}
}

// NewCipher is the sector cipher alone, on memory: the limit of all that decrypts here. Requests in flight become
// goroutines, as many as there are processors.
func NewCipher(sectorBytes, processors int) (*InProcess, error) {
	key := make([]byte, 64)
	workload.Noise(1, key) // keys nothing: only the time that it takes counts
	c, err := xts.New(key, sectorBytes)
	if err != nil {
		return nil, err
	}
	device := cipherDevice{c, make(chan struct{}, processors)}
	devices := make([]Device, maxCipherImages)
	for i := range devices {
		devices[i] = device
	}
	return &InProcess{
		What:    result.Contestant{Name: "cipher", Text: "AES-256-XTS alone, kernel " + xts.Kernel() + ", on memory"},
		Devices: devices, SizeBytes: 1 << 40,
		Closer: func() error { c.Release(); return nil },
	}, nil
}

// maxCipherImages is as many as a workload can ask for.
const maxCipherImages = 64

type cipherDevice struct {
	c    *xts.Cipher
	free chan struct{}
}

func (d cipherDevice) ReadAt(p []byte, offsetBytes int64) error {
	d.free <- struct{}{}
	d.c.Decrypt(p, p, uint64(offsetBytes/xts.IVUnitBytes))
	<-d.free
	return nil
}

func (d cipherDevice) WriteAt(p []byte, offsetBytes int64, _ bool) error {
	d.free <- struct{}{}
	d.c.Encrypt(p, p, uint64(offsetBytes/xts.IVUnitBytes))
	<-d.free
	return nil
}
