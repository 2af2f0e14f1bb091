// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/lab"
	"github.com/luksgate/luksgate/bench/nbdclient"
	"github.com/luksgate/luksgate/bench/replay"
	benchreport "github.com/luksgate/luksgate/bench/report"
	"github.com/luksgate/luksgate/bench/trace"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

type replayFlags struct {
	bench              benchFlags // those of it that are for scratch images
	connections, depth int
	speed              float64
	paced, reads, fold bool
	overwrite          bool
	json               string
}

func newBenchReplay(s std) *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay TRACE (IMAGE | NBD-URI)",
		Short: "Ask a server once more what was recorded",
		Long: `Replay TRACE, a file of luksgate bench record or luksgate export --record, as fast as --depth and --connections allow,
or with --paced at the times of the trace. Bytes that are written are made up: a trace does not hold data.

On rbd:POOL/IMAGE, file:PATH or mem:SIZE it goes to the gateway on a new scratch image beside IMAGE, which is removed at the
end, with each of --layers in turn. On an NBD URI it goes to whoever serves it; a trace that changes anything needs
--overwrite, which destroys what the export holds, or --reads-only.

Requests are sent in the order of the trace; one that overlaps with another waits for it. So what the device holds at the
end depends neither on the depth nor on the number of connections.`,
		Example: `  luksgate bench record vm1 vm1.trace --for 10m
  luksgate bench replay vm1.trace rbd:volumes/test --layers nbd-native,nbd-librbd
  luksgate bench replay vm1.trace nbd://storage.example/scratch --overwrite --depth 16 --connections 4
  luksgate bench replay vm1.trace nbd://storage.example/vm1 --reads-only --paced`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignalOnce(cmd)
			defer stop()
			return f.run(ctx, s, args[0], args[1])
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&f.depth, "depth", 16, "requests that each connection keeps in flight at most")
	fs.IntVar(&f.connections, "connections", 1, "connections, which take turns")
	fs.BoolVar(&f.paced, "paced", false, "send requests at the times of the trace")
	fs.Float64Var(&f.speed, "speed", 1, "with --paced: how much faster than the trace")
	fs.BoolVar(&f.reads, "reads-only", false, "leave out what changes bytes")
	fs.BoolVar(&f.fold, "fold", false, "map what lies behind the end of a smaller export into it (always done on scratch images)")
	fs.BoolVar(&f.overwrite, "overwrite", false, "write to the export of an NBD URI, whatever it holds")
	fs.StringVar(&f.json, "json", "", "file to write all figures to")
	fs.StringSliceVar(&f.bench.layers, "layers", []string{lab.NBDNative}, "on images: nbd-plain, nbd-native, nbd-librbd")
	fs.StringVar(&f.bench.size, "size", "1G", "size of the scratch image, at most; the traced device's if that is smaller")
	fs.IntVar(&f.bench.luks, "luks", 2, "LUKS version of the scratch image, 1 or 2")
	fs.IntVar(&f.bench.sector, "sector-size", 0, "its unit of encryption, 512 to 4096 (default 4096; LUKS1 has 512 only)")
	fs.Uint64Var(&f.bench.seed, "seed", 1, "number that the contents of writes follow from")
	fs.BoolVarP(&f.bench.verbose, "verbose", "v", false, "log more")
	f.bench.ceph.add(fs)
	return cmd
}

func (f *replayFlags) options() (replay.Options, error) {
	o := replay.Options{Connections: f.connections, Depth: f.depth, ReadsOnly: f.reads, Fold: f.fold, Seed: f.bench.seed}
	switch {
	case f.depth < 1 || f.depth > 256:
		return o, usage("--depth %d: expected 1 to 256", f.depth)
	case f.connections < 1 || f.connections > 64:
		return o, usage("--connections %d: expected 1 to 64", f.connections)
	case f.speed <= 0:
		return o, usage("--speed %v: expected more than 0", f.speed)
	case f.bench.luks != 1 && f.bench.luks != 2:
		return o, usage("--luks %d: expected 1 or 2", f.bench.luks)
	}
	if f.paced {
		o.Speed = f.speed
	}
	return o, nil
}

func (f *replayFlags) run(ctx context.Context, s std, path, target string) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	held, err := inspectTrace(path)
	if err != nil {
		return err
	}
	bar := newBenchProgress(s)
	defer bar.clear()
	var named []benchreport.Replay
	if isURI(target) {
		named, err = f.onURI(ctx, path, target, held.changes, o, bar)
	} else {
		named, err = f.onScratch(ctx, s, path, target, held.Header, o, bar)
	}
	bar.clear()
	if err != nil {
		return err
	}
	benchreport.Replays(s.out, named)
	if f.json == "" {
		return nil
	}
	out, err := newReportFile(f.json)
	if err != nil {
		return err
	}
	return out.write(func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(benchreport.NewReplayDocument(path, target, o, named))
	})
}

// A traceSummary is what a trace holds.
type traceSummary struct {
	trace.Header
	requests int
	length   time.Duration
	changes  bool // among the requests are some that change bytes
	whole    bool // it has an end
}

// inspectTrace reads a trace once: a damaged one is refused before anything is written.
func inspectTrace(path string) (traceSummary, error) {
	r, done, err := openTrace(path)
	if err != nil {
		return traceSummary{}, err
	}
	defer done()
	t := traceSummary{Header: r.Header}
	for {
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			t.whole = true
			return t, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return t, nil
		case err != nil:
			return t, fmt.Errorf("%s: %w", path, err)
		}
		t.requests++
		t.length = rec.At
		t.changes = t.changes || rec.Op.Changes()
	}
}

func openTrace(path string) (*trace.Reader, func(), error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	r, err := trace.NewReader(f)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return r, func() { _ = f.Close() }, nil
}

// onURI replays at a server that is there.
func (f *replayFlags) onURI(ctx context.Context, path, target string, changes bool, o replay.Options, bar *benchProgress) ([]benchreport.Replay, error) {
	at, err := nbdEndpoint(target)
	if err != nil {
		return nil, err
	}
	if changes && !f.overwrite && !f.reads {
		return nil, usage("the trace changes bytes, and what %s holds would be lost: --overwrite allows that, --reads-only leaves them out", target)
	}
	if err := checkWritable(ctx, at, changes && !f.reads); err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	r, err := playOnce(ctx, path, at, o, bar, target)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	return []benchreport.Replay{{Name: "server", Report: r}}, nil
}

func checkWritable(ctx context.Context, at engine.Endpoint, changes bool) error {
	conn, err := nbdclient.Dial(ctx, at.Network, at.Address, at.Export)
	if err != nil {
		return err
	}
	readOnly := conn.Flags&wire.ExportReadOnly != 0
	if err := conn.Close(); err != nil || !readOnly || !changes {
		return err
	}
	return errors.New("the export is read-only, and the trace changes bytes: --reads-only leaves them out")
}

// onScratch replays at gateways of our own.
func (f *replayFlags) onScratch(ctx context.Context, s std, path, target string, h trace.Header, o replay.Options, bar *benchProgress) (all []benchreport.Replay, err error) {
	opts, err := f.bench.labOptions(s, target)
	if err != nil {
		return nil, err
	}
	for _, name := range opts.Layers {
		if !strings.HasPrefix(name, "nbd-") {
			return nil, usage("--layers %q: a trace is replayed over NBD: nbd-plain, nbd-native or nbd-librbd", name)
		}
	}
	opts.SizeBytes = max(min(opts.SizeBytes, h.SizeBytes), 1<<20)
	opts.Images, opts.Progress, o.Fold = 1, bar.bytes, true
	l, err := lab.Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		bar.text("removing scratch images")
		err = errors.Join(err, l.Close())
	}()
	bar.clear()
	for _, c := range l.Contestants {
		server := c.(*engine.OverNBD)
		o.Servers = server.Servers
		r, err := playOnce(ctx, path, server.Endpoints[0], o, bar, c.Info().Name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Info().Name, err)
		}
		all = append(all, benchreport.Replay{Name: c.Info().Name, Report: r})
	}
	return all, nil
}

func playOnce(ctx context.Context, path string, at engine.Endpoint, o replay.Options, bar *benchProgress, what string) (*replay.Report, error) {
	r, done, err := openTrace(path)
	if err != nil {
		return nil, err
	}
	defer done()
	o.Progress = func(time.Duration) { bar.text("replaying: " + what) }
	return replay.Run(ctx, r, at, o)
}
