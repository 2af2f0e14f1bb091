// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/nbdclient"
	"github.com/luksgate/luksgate/bench/proc"
	"github.com/luksgate/luksgate/bench/serve"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// A crowd is clients that are idle most of the time.
type crowd []*nbdclient.Conn

func (c crowd) close() {
	for _, conn := range c {
		_ = conn.Close()
	}
}

// A state is what the daemon has at some step.
type state struct {
	proc.Process
	what       string
	goroutines float64
	heapBytes  float64 // in use
}

func (s *scale) look(d *serve.Daemon, what string) (st state, err error) {
	time.Sleep(s.settle)
	st.what = what
	if st.goroutines, err = d.Metric("go_goroutines"); err != nil {
		return st, err
	}
	if st.heapBytes, err = d.Metric("go_memstats_heap_inuse_bytes"); err != nil {
		return st, err
	}
	st.Process, err = d.State()
	return st, err
}

// count goes through steps 1 to 5 and returns the idle clients.
func (s *scale) count(ctx context.Context, d *serve.Daemon) (all crowd, err error) {
	var states []state
	add := func(what string) error {
		st, err := s.look(d, what)
		states = append(states, st)
		return err
	}
	if err := add("images closed"); err != nil {
		return nil, err
	}
	for n := range s.clients {
		for i := range s.exports {
			at := d.Endpoint(i)
			conn, err := dial(ctx, at)
			if err != nil {
				return all, err
			}
			all = append(all, conn)
		}
		serve.Say("%d clients are there", len(all))
		switch n {
		case 0:
			err = add("a client each")
		case s.clients - 1:
			err = add(fmt.Sprintf("%d clients each", s.clients))
		}
		if err != nil {
			return all, err
		}
	}
	if err := all.burst(); err != nil {
		return all, err
	}
	if err := add("the same, after work"); err != nil {
		return all, err
	}
	s.print(states)
	return all, s.idleCPU(d)
}

// patience is how long a client waits for an answer: of an image that opens, or of one of its requests.
const patience = time.Minute

// dial connects a client, for which the image may have to be opened.
func dial(ctx context.Context, at engine.Endpoint) (conn *nbdclient.Conn, err error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, at.Network, at.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = raw.SetDeadline(time.Now().Add(patience))
	if conn, err = nbdclient.New(raw, at.Export); err != nil {
		return nil, fmt.Errorf("export %s: %w", at.Export, err)
	}
	return conn, raw.SetDeadline(time.Time{})
}

// Requests of a burst.
const (
	burstDepth = 16
	burstBytes = 64 << 10
)

// burst has one client after the other ask for a lot at once.
func (c crowd) burst() error {
	for i, conn := range c {
		if i%500 == 0 {
			serve.Say("%d of %d clients have asked for a lot", i, len(c))
		}
		ended := make(chan error, burstDepth)
		for i := range burstDepth {
			op := conn.NewOp()
			op.Command, op.OffsetBytes, op.LengthBytes = wire.CmdRead, int64(i)*burstBytes%serve.ImageBytes, burstBytes
			op.Data = make([]byte, burstBytes)
			op.Done = func(_ *nbdclient.Op, err error) { ended <- err }
			conn.Submit(op)
		}
		for range burstDepth {
			select {
			case err := <-ended:
				if err != nil {
					return err
				}
			case <-conn.Dead():
				return conn.Err()
			case <-time.After(patience):
				return fmt.Errorf("client %d has no answer after %v", i, patience)
			}
		}
	}
	return nil
}

func (s *scale) print(states []state) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d exports\tRSS\tPSS\tanonymous\tlocked\tGo heap\tthreads\tgoroutines\tfiles\n", s.exports)
	mib := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
	for _, st := range states {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%.0f\t%d\n", st.what, mib(st.RSSBytes), mib(st.PSSBytes), mib(st.AnonymousBytes),
			mib(st.LockedBytes), mib(int64(st.heapBytes)), st.Threads, st.goroutines, st.Files)
	}
	if s.clients > 1 {
		client := states[2].minus(states[1], float64(s.exports*(s.clients-1)))
		export := states[1].minus(states[0], float64(s.exports)).less(client)
		export.print(w, "an open export")
		client.print(w, "a client")
		states[3].minus(states[0], float64(s.exports)).less(client.times(s.clients)).print(w, "an open export, after work")
	}
	_ = w.Flush() // standard output
}

// A share is what one more export or client takes.
type share struct{ rss, pss, anonymous, locked, heap, threads, goroutines, files float64 }

func (st state) minus(o state, n float64) share {
	each := func(a, b int64) float64 { return float64(a-b) / n }
	return share{
		each(st.RSSBytes, o.RSSBytes), each(st.PSSBytes, o.PSSBytes), each(st.AnonymousBytes, o.AnonymousBytes),
		each(st.LockedBytes, o.LockedBytes), (st.heapBytes - o.heapBytes) / n, each(st.Threads, o.Threads),
		(st.goroutines - o.goroutines) / n, each(st.Files, o.Files),
	}
}

func (s share) less(o share) share {
	return share{
		s.rss - o.rss, s.pss - o.pss, s.anonymous - o.anonymous, s.locked - o.locked, s.heap - o.heap,
		s.threads - o.threads, s.goroutines - o.goroutines, s.files - o.files,
	}
}

func (s share) times(n int) share {
	f := float64(n)
	return share{s.rss * f, s.pss * f, s.anonymous * f, s.locked * f, s.heap * f, s.threads * f, s.goroutines * f, s.files * f}
}

func (s share) print(w *tabwriter.Writer, what string) {
	kib := func(n float64) string { return fmt.Sprintf("%.1f KiB", n/1024) }
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t%.2f\t%.2f\n", what, kib(s.rss), kib(s.pss), kib(s.anonymous), kib(s.locked),
		kib(s.heap), s.threads, s.goroutines, s.files)
}

// idleCPU prints the processor time of a while without requests, and which threads took it.
func (s *scale) idleCPU(d *serve.Daemon) error {
	before, err := proc.ThreadCPU(d.PID())
	if err != nil {
		return err
	}
	start := time.Now()
	time.Sleep(s.settle)
	after, err := proc.ThreadCPU(d.PID())
	took := time.Since(start)
	var sum float64
	var list []string
	for _, name := range slices.SortedFunc(maps.Keys(after), func(a, b string) int {
		return cmp.Compare(after[b]-before[b], after[a]-before[a])
	}) {
		ms := float64(after[name]-before[name]) / float64(took) * 1e3
		sum += ms
		if ms >= 0.05 {
			list = append(list, fmt.Sprintf("%s %.1f", name, ms))
		}
	}
	fmt.Printf("processor time while %d clients of %d exports are idle: %.2f ms a second (%s)\n", s.exports*s.clients, s.exports, sum,
		strings.Join(list, ", "))
	return err
}
