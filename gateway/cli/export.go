// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/access"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/nbdserver"
)

// drainTimeout bounds how long SIGTERM waits for requests that the image does not answer.
const drainTimeout = 60 * time.Second

type exportFlags struct {
	image         imageFlags
	at            listenFlags
	tls           tlsFlags
	allow         allowFlags
	limits        limitFlags
	name          string
	description   string
	record        recordFlags
	once, verbose bool
}

func newExport(s std) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export IMAGE (--socket PATH | --listen HOST:PORT | --stdio)",
		Short: "Serve one image over NBD, in the foreground",
		Long: `Open IMAGE, decrypt it and serve the plaintext over NBD until SIGTERM or SIGINT.

IMAGE is rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT], file:PATH, or mem:SIZE (plaintext memory, for tests and benchmarks).

The export is ready when its NBD URI is printed on standard output; everything else goes to standard error. SIGTERM
finishes the requests under way, closes the image and exits 0. An image without a LUKS header is refused unless --plain
is given. Without --key-file and --key-fd the passphrase is asked for at the terminal.

Clients come to a socket, to an address, to listening sockets that systemd or a test suite passes (LISTEN_FDS), or one
of them is at the other end of standard input and output (--stdio), which ends the export when it leaves.`,
		Example: `  luksgate export rbd:volumes/vm1 --key-file vm1.key --socket /run/luksgate/vm1.sock --name vm1
  luksgate export rbd:volumes/vm1@yesterday --key-file vm1.key --listen 127.0.0.1:10809
  luksgate export file:/srv/images/vm1.luks --key-fd 3 --socket /tmp/vm1.sock 3< vm1.key
  luksgate export rbd:volumes/vm1 --key-file vm1.key --listen :10809 --tls-cert server.pem --tls-key server.key \
      --tls-ca ca.pem --allow-certificate '*.compute.example.com'
  luksgate export mem:1G --socket /tmp/bench.sock
  nbdsh -c 'h.connect_command(["luksgate", "export", "--stdio", "mem:1M"])' -c 'print(h.get_size())'`,
		Args: cobra.ExactArgs(1),
	}
	fs := cmd.Flags()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.check(s, fs); err != nil {
			return err
		}
		return f.run(cmd.Context(), s, args[0])
	}
	f.at.add(fs)
	f.tls.add(fs)
	f.allow.add(fs)
	fs.StringVar(&f.name, "name", "", "name of the export; clients may also ask for the default export (default: the image's name)")
	fs.StringVar(&f.description, "description", "", "text that clients can read")
	f.record.add(fs)
	fs.BoolVar(&f.once, "once", false, "exit when the last connection of the first client has gone")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	f.limits.add(fs)
	f.image.add(fs)
	return cmd
}

// check finds what is wrong with the flags together, before anything is opened.
func (f *exportFlags) check(s std, flags *pflag.FlagSet) error {
	if err := f.tls.check(); err != nil {
		return err
	}
	if err := f.at.check(s, &f.image.key, flags); err != nil {
		return err
	}
	if r := f.allow.rules; len(r.Users)+len(r.Groups) > 0 && len(r.Certificates) == 0 && !f.at.local() {
		return usage("--allow-user and --allow-group are for unix sockets; for clients of TCP there is --allow-certificate")
	}
	return nil
}

func (f *exportFlags) run(ctx context.Context, s std, arg string) error {
	log := newLogger(s.err, f.verbose)
	cfg, err := f.image.config(s, arg, log)
	if err != nil {
		return err
	}
	if f.name == "" {
		f.name = cfg.Image.BaseName()
	}
	if len(f.name) > attach.MaxExportNameBytes {
		return usage("--name has %d bytes, NBD allows %d", len(f.name), attach.MaxExportNameBytes)
	}
	options, policy, err := f.server(log)
	if err != nil {
		return err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	exp, err := gateway.Open(ctx, cfg)
	if err != nil {
		return err
	}
	options.Catalog = gateway.Single{
		Info:   nbdserver.ExportInfo{Name: f.name, Description: f.description},
		Export: exp, Policy: policy,
	}
	finish, err := f.record.start(f.name, exp, &options)
	if err != nil {
		return errors.Join(err, exp.Close())
	}
	return errors.Join(f.serve(ctx, s, exp, options), finish(), exp.Close())
}

// server is what the flags say about the server.
func (f *exportFlags) server(log *slog.Logger) (nbdserver.Options, *access.Policy, error) {
	o := nbdserver.Options{Logger: log}
	var err error
	if o.Limits, err = f.limits.server(); err != nil {
		return o, nil, err
	}
	policy, err := f.allow.policy(f.tls.files.ClientCA)
	if err != nil {
		return o, nil, err
	}
	o.TLS, err = f.tls.options(log)
	return o, policy, err
}

// serve serves exp until ctx ends, or until no client is left with --once and --stdio.
func (f *exportFlags) serve(ctx context.Context, s std, exp *gateway.Export, o nbdserver.Options) error {
	listeners, uris, err := f.at.bind()
	if err != nil {
		return err
	}
	var gone chan struct{}
	if f.once { // counting clients costs two looks at the clock for each request
		watch := newClientWatch()
		o.Metrics, gone = watch, watch.gone
	}
	server := nbdserver.New(o)
	done := make(chan error, len(listeners)+1)
	for _, l := range listeners {
		go func() { done <- server.Serve(context.WithoutCancel(ctx), l) }()
	}
	if f.at.conn != nil {
		go func() {
			server.ServeConn(context.WithoutCancel(ctx), f.at.conn)
			done <- nbdserver.ErrServerClosed
		}()
	}
	for _, u := range uris {
		u.Export, u.TLS = f.name, f.tls.mode == tlsRequired
		fmt.Fprintln(s.out, u)
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		o.Logger.Info("stopping: finishing what is under way")
	case <-gone:
	case <-exp.Dead():
		err = fmt.Errorf("%w: %w", image.ErrUnreachable, exp.Err())
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if stopErr := server.Shutdown(drain); stopErr != nil {
		err = errors.Join(err, fmt.Errorf("requests were still under way after %v: %w", drainTimeout, stopErr))
	}
	if errors.Is(err, nbdserver.ErrServerClosed) {
		err = nil
	}
	return err
}

// A clientWatch tells when the last connection to the export has gone. A client may have several.
type clientWatch struct {
	gone chan struct{}

	mu   sync.Mutex
	open int
}

func newClientWatch() *clientWatch { return &clientWatch{gone: make(chan struct{})} }

// HandshakeFailed implements nbdserver.Metrics: who does not get to the export does not count.
func (w *clientWatch) HandshakeFailed(string) {}

// Connected implements nbdserver.Metrics.
func (w *clientWatch) Connected(string) nbdserver.ConnMetrics {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	return w
}

// Request implements nbdserver.ConnMetrics.
func (w *clientWatch) Request(string, int64, time.Duration, time.Duration, uint32) {}

// Closed implements nbdserver.ConnMetrics.
func (w *clientWatch) Closed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open--; w.open == 0 {
		select {
		case <-w.gone: // another one came while the first end was acted upon
		default:
			close(w.gone)
		}
	}
}
