// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/lab"
	"github.com/luksgate/luksgate/bench/machine"
	benchreport "github.com/luksgate/luksgate/bench/report"
	"github.com/luksgate/luksgate/bench/result"
	benchserver "github.com/luksgate/luksgate/bench/server"
	"github.com/luksgate/luksgate/bench/workload"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// warmUpShare of the measured time comes before it, and so much at least, though no more than the measured time.
const (
	warmUpShare = 0.25
	leastWarmUp = 150 * time.Millisecond
)

type benchFlags struct {
	ceph      cephFlags
	matrix    matrixFlags
	against   string
	layers    []string
	peers     []string
	seconds   float64
	rounds    int
	size      string
	luks      int
	sector    int
	seed      uint64
	overwrite bool
	json      string
	html      string
	verbose   bool

	watch machine.Watch
}

func newBench(s std) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench (IMAGE | NBD-URI)",
		Short: "Measure the gateway, and what it is made of, on your own cluster",
		Long: `Compare luksgate's engine with librbd's, in process and over NBD, on the cluster, disk or memory where IMAGE is.

For rbd:POOL/IMAGE and file:PATH new scratch images are made beside it, called IMAGE.luksgate-bench-RANDOM: with the object
size, striping, features and data pool of IMAGE if there is one, a LUKS header with a random passphrase, and data that do
not compress. IMAGE itself is only looked at. The scratch images are removed at the end, also after Ctrl-C or a failure.
mem:SIZE measures in memory. An NBD URI measures whoever serves it: reading only, unless --overwrite allows to destroy what
the export holds.

All contestants do the same requests in turns, so that what else the machine does hits all of them. A table goes to standard
output; --json and --html write reports. What the run could not measure cleanly is said in notes below the table.`,
		Example: `  # Would luksgate be slower than librbd's own encryption on this cluster? (2 to 3 minutes)
  luksgate bench rbd:volumes/test --against librbd --html report.html --json report.json

  # Everything, with other programs where they are installed (an hour and more)
  luksgate bench rbd:volumes/test --full --peers all --html report.html

  # What does this host make of small writes of many machines?
  luksgate bench rbd:volumes/test --workloads randwrite --sizes 4K --images 1,4,16 --layers nbd-native,nbd-librbd

  # Without Ceph
  luksgate bench mem:1G
  luksgate bench nbd://storage.example/vm1 --depths 1,4,16 --clients 1,4

  # Did a change make it slower?
  luksgate bench compare old.json new.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignalOnce(cmd)
			defer stop()
			return f.run(ctx, s, args[0])
		},
	}
	f.add(cmd)
	cmd.AddCommand(newBenchCompare(s), newBenchRecord(s), newBenchReplay(s), newBenchServe(s))
	return cmd
}

func (f *benchFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.against, "against", "", "engine that the others are compared with: librbd, native or plain (default: librbd for "+
		"rbd: images, else plain)")
	fs.StringSliceVar(&f.layers, "layers", nil, "only these: cipher, plain, native, librbd (in process), nbd-plain, nbd-native, nbd-librbd")
	fs.StringSliceVar(&f.peers, "peers", nil, "other programs to measure too: all, or names that the manual lists")
	f.matrix.add(fs)
	fs.Float64Var(&f.seconds, "seconds", 0, "seconds of one measurement, after a warm-up of a quarter (default 0.4; with --full 1)")
	fs.IntVar(&f.rounds, "rounds", 5, "how often each measurement is repeated")
	fs.StringVar(&f.size, "size", "256M", "size of each scratch image's data")
	fs.IntVar(&f.luks, "luks", 2, "LUKS version of the scratch images, 1 or 2")
	fs.IntVar(&f.sector, "sector-size", 0, "their unit of encryption, 512 to 4096 (default 4096; LUKS1 has 512 only)")
	fs.Uint64Var(&f.seed, "seed", 1, "number that offsets and contents follow from")
	fs.BoolVar(&f.overwrite, "overwrite", false, "write to the export of an NBD URI too, whatever it holds")
	fs.StringVar(&f.json, "json", "", "file to write all figures to")
	fs.StringVar(&f.html, "html", "", "file to write a page with plots to")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	f.ceph.add(fs)
}

// untilSignalOnce is a context that ends with the first signal, so that scratch images are removed; a second one ends the
// program at once.
func untilSignalOnce(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(background(cmd.Context()), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// newBenchServe is the server that is measured, for benchserver.Start only.
func newBenchServe(s std) *cobra.Command {
	return &cobra.Command{
		Use: "serve", Hidden: true, Args: cobra.NoArgs,
		Short: "The server that bench measures; it is started by bench only",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return benchserver.Run(background(cmd.Context()), s.in, s.out)
		},
	}
}

// run measures and reports, also when it was interrupted.
func (f *benchFlags) run(ctx context.Context, s std, arg string) error {
	doc := &result.Document{
		Schema: result.Schema, Version: result.Version, Started: time.Now().UTC().Truncate(time.Second), Target: arg,
		Machine: machine.Describe(), Versions: map[string]string{"luksgate": Version, "librbd": rbd.Version()},
	}
	var plan engine.Plan
	if err := f.plan(&plan); err != nil {
		return err
	}
	files, err := newReportFiles(f.json, f.html)
	if err != nil {
		return err
	}
	defer files.drop()
	doc.Remarks = f.watch.Before() // before there is work of our own
	bar := newBenchProgress(s)
	defer bar.clear()
	var measureErr error
	if isURI(arg) {
		measureErr = f.measureURI(ctx, s, arg, &plan, doc, bar)
	} else {
		measureErr = f.measureImage(ctx, s, arg, &plan, doc, bar)
	}
	bar.clear()
	if len(doc.Results) == 0 {
		return measureErr
	}
	doc.Seconds = time.Since(doc.Started).Seconds()
	doc.Complete = measureErr == nil
	doc.Summarize()
	benchreport.Table(s.out, doc)
	return errors.Join(measureErr, files.write(doc))
}

// plan fills in all but the contestants.
func (f *benchFlags) plan(p *engine.Plan) error {
	matrix, err := f.matrix.matrix()
	if err != nil {
		return err
	}
	if f.seconds == 0 {
		f.seconds = 0.4
		if f.matrix.full {
			f.seconds = 1
		}
	}
	switch {
	case f.seconds < 0.01 || f.seconds > 3600:
		return usage("--seconds %v: expected 0.01 to 3600", f.seconds)
	case f.rounds < 1 || f.rounds > 1000:
		return usage("--rounds %d: expected 1 to 1000", f.rounds)
	case f.luks != 1 && f.luks != 2:
		return usage("--luks %d: expected 1 or 2", f.luks)
	}
	*p = engine.Plan{
		Workloads: matrix.Workloads(), Rounds: f.rounds, Seed: f.seed,
		Length: time.Duration(f.seconds * float64(time.Second)),
	}
	p.WarmUp = max(time.Duration(float64(p.Length)*warmUpShare), min(leastWarmUp, p.Length))
	return nil
}

// measureImage compares layers and peers on scratch images.
func (f *benchFlags) measureImage(ctx context.Context, s std, arg string, plan *engine.Plan, doc *result.Document, bar *benchProgress) (err error) {
	opts, err := f.labOptions(s, arg)
	if err != nil {
		return err
	}
	matrix, err := f.matrix.matrix()
	if err != nil {
		return err
	}
	opts.Images = matrix.MostImages()
	opts.Progress = bar.bytes
	l, err := lab.Open(ctx, opts)
	if err != nil {
		return err
	}
	defer func() {
		bar.text("removing scratch images")
		err = errors.Join(err, l.Close())
	}()
	plan.Contestants = l.Contestants
	doc.Skipped = l.Skipped
	f.settings(doc, plan)
	doc.Settings.ImageBytes, doc.Settings.LUKSVersion = opts.SizeBytes, opts.Version
	doc.Settings.SectorBytes, doc.Settings.DataOffsetBytes = l.SectorBytes, l.DataOffsetBytes
	if opts.Target.Scheme == image.RBD && slices.Contains(rbd.Missing(), rbd.MissingEngine) {
		doc.Remarks = append(doc.Remarks, "librbd "+rbd.Version()+" has no encryption of its own, so that there is nothing to compare luksgate's with")
	}
	doc.Settings.Against, doc.Settings.CephOptions = opts.Against, withoutSecrets(opts.Ceph.Options)
	if opts.Target.Scheme == image.File {
		doc.Remarks = append(doc.Remarks, "file: images are read and written through the page cache: this measures memory more than the disk")
	}
	return f.measure(ctx, s, plan, doc, bar)
}

// labOptions joins the flags.
func (f *benchFlags) labOptions(s std, arg string) (lab.Options, error) {
	ref, err := image.ParseRef(arg)
	if err != nil {
		return lab.Options{}, err
	}
	o := lab.Options{
		Target: ref, Layers: f.layers, Against: f.against, Version: f.luks, SectorBytes: f.sector,
		Ceph: f.ceph.config(), Seed: f.seed,
	}
	if f.verbose { // otherwise nobody wants to read how the lock goes from one contestant to the next
		o.Logger = newLogger(s.err, true)
	} else {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SizeBytes, err = image.ParseSize(f.size); err != nil {
		return o, usage("--size: %v", err)
	}
	if ref.Scheme == image.Mem {
		o.SizeBytes = ref.SizeBytes
	}
	if largest := f.matrix.largestBlock(); o.SizeBytes < int64(largest) {
		return o, usage("%d bytes of image are too few for requests of %d bytes", o.SizeBytes, largest)
	}
	f.setDefaults(&o)
	if o.Program, err = os.Executable(); err != nil {
		return o, err
	}
	if err := f.checkLayers(&o); err != nil {
		return o, err
	}
	o.Peers, err = choosePeers(f.peers, ref.Scheme)
	return o, err
}

// setDefaults chooses layers and what they are compared with: librbd's engine, where there is one.
func (f *benchFlags) setDefaults(o *lab.Options) {
	engine := o.Target.Scheme == image.RBD && !slices.Contains(rbd.Missing(), rbd.MissingEngine)
	if len(o.Layers) == 0 {
		o.Layers = lab.DefaultLayers(o.Target.Scheme)
		if !engine {
			o.Layers = slices.DeleteFunc(o.Layers, func(s string) bool { return s == lab.Librbd || s == lab.NBDLibrbd })
		}
	}
	if o.Against == "" {
		o.Against = lab.Plain
		if engine {
			o.Against = lab.Librbd
		}
	}
}

// measureURI measures one server, whoever it is.
func (f *benchFlags) measureURI(ctx context.Context, s std, arg string, plan *engine.Plan, doc *result.Document, bar *benchProgress) error {
	endpoint, err := nbdEndpoint(arg)
	if err != nil {
		return err
	}
	if len(f.layers) > 0 || len(f.peers) > 0 || f.against != "" {
		return usage("--layers, --peers and --against are for images, not for an NBD URI")
	}
	if !f.overwrite {
		var reading []workload.Workload
		for _, w := range plan.Workloads {
			if !w.Kind.Writes() {
				reading = append(reading, w)
			} else if f.matrix.given("workloads") {
				return usage("%s would destroy what %s holds: --overwrite allows that", w.Kind, arg)
			}
		}
		plan.Workloads = reading
	}
	for _, w := range plan.Workloads {
		if w.Images > 1 {
			return usage("--images %d: an NBD URI is one image", w.Images)
		}
	}
	target, err := newURITarget(ctx, endpoint)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", arg, image.ErrUnreachable, err)
	}
	plan.Contestants = []engine.Contestant{target}
	f.settings(doc, plan)
	doc.Settings.ImageBytes = target.SizeBytes
	return f.measure(ctx, s, plan, doc, bar)
}

func (f *benchFlags) settings(doc *result.Document, plan *engine.Plan) {
	matrix, _ := f.matrix.matrix() // checked before
	doc.Settings = result.Settings{
		Matrix: matrix, Rounds: plan.Rounds, SecondsEach: plan.Length.Seconds(), WarmUpSeconds: plan.WarmUp.Seconds(), Seed: plan.Seed,
	}
	for _, c := range plan.Contestants {
		doc.Contestants = append(doc.Contestants, c.Info())
	}
}

// measure runs the plan and watches the machine.
func (f *benchFlags) measure(ctx context.Context, s std, plan *engine.Plan, doc *result.Document, bar *benchProgress) (err error) {
	bar.clear()
	fmt.Fprintf(s.err, "Measuring %d workloads on %d contestants, %d times: about %v.\n",
		len(plan.Workloads), len(plan.Contestants), plan.Rounds, plan.Duration().Round(time.Second))
	plan.Progress = bar.steps
	doc.Results, err = plan.Run(ctx)
	doc.Remarks = append(doc.Remarks, f.watch.After()...)
	if ctx.Err() != nil {
		return errors.New("interrupted: the report holds what was measured until then")
	}
	return err
}

// isURI tells an NBD URI from the name of an image.
func isURI(arg string) bool { return strings.HasPrefix(arg, "nbd") && strings.Contains(arg, "://") }

// nbdEndpoint reads an NBD URI.
func nbdEndpoint(arg string) (engine.Endpoint, error) {
	u, err := attach.ParseURI(arg)
	if err != nil {
		return engine.Endpoint{}, usage("%v", err)
	}
	if u.TLS {
		return engine.Endpoint{}, usage("%s: bench speaks no TLS", arg)
	}
	network, address := u.Address()
	return engine.Endpoint{Network: network, Address: address, Export: u.Export}, nil
}
