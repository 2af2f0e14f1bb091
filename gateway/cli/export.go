// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/nbdserver"
)

// drainTimeout bounds how long SIGTERM waits for requests that the image does not answer.
const drainTimeout = 60 * time.Second

type exportFlags struct {
	image          imageFlags
	socket, listen string
	name           string
	description    string
	once, verbose  bool
}

func newExport(s std) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export IMAGE (--socket PATH | --listen HOST:PORT)",
		Short: "Serve one image over NBD, in the foreground",
		Long: `Open IMAGE, decrypt it and serve the plaintext over NBD until SIGTERM or SIGINT.

IMAGE is rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT], file:PATH, or mem:SIZE (plaintext memory, for tests and benchmarks).

The export is ready when its NBD URI is printed on standard output; everything else goes to standard error. SIGTERM
finishes the requests under way, closes the image and exits 0. An image without a LUKS header is refused unless --plain
is given. Without --key-file and --key-fd the passphrase is asked for at the terminal.`,
		Example: `  luksgate export rbd:volumes/vm1 --key-file vm1.key --socket /run/luksgate/vm1.sock --name vm1
  luksgate export rbd:volumes/vm1@yesterday --key-file vm1.key --listen 127.0.0.1:10809
  luksgate export file:/srv/images/vm1.luks --key-fd 3 --socket /tmp/vm1.sock 3< vm1.key
  luksgate export mem:1G --socket /tmp/bench.sock`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), s, args[0]) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.socket, "socket", "", "unix socket to serve on")
	fs.StringVar(&f.listen, "listen", "", "HOST:PORT to serve on (port 0: any free one)")
	fs.StringVar(&f.name, "name", "", "name of the export; clients may also ask for the default export (default: the image's name)")
	fs.StringVar(&f.description, "description", "", "text that clients can read")
	fs.BoolVar(&f.once, "once", false, "exit when the last connection of the first client has gone")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	f.image.add(fs)
	return cmd
}

func (f *exportFlags) run(ctx context.Context, s std, arg string) error {
	if (f.socket == "") == (f.listen == "") {
		return usage("give one of --socket and --listen")
	}
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
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	exp, err := gateway.Open(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(f.serve(ctx, s, exp, log), exp.Close())
}

// serve serves exp until ctx ends, or with --once until no client is left.
func (f *exportFlags) serve(ctx context.Context, s std, exp *gateway.Export, log *slog.Logger) error {
	l, uri, err := f.bind()
	if err != nil {
		return err
	}
	watch := newClientWatch()
	server := nbdserver.New(nbdserver.Options{
		Catalog: gateway.Single{
			Info:   nbdserver.ExportInfo{Name: f.name, Description: f.description},
			Export: exp,
		},
		Logger: log, Metrics: watch,
	})
	done := make(chan error, 1)
	go func() { done <- server.Serve(context.WithoutCancel(ctx), l) }()
	fmt.Fprintln(s.out, uri)
	gone := watch.gone
	if !f.once {
		gone = nil
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		log.Info("stopping: finishing what is under way")
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

// bind listens, and returns the address in the form that clients take.
func (f *exportFlags) bind() (net.Listener, attach.URI, error) {
	u := attach.URI{Export: f.name}
	if f.socket != "" {
		path, err := filepath.Abs(f.socket)
		if err != nil {
			return nil, u, err
		}
		u.Socket = path
		l, err := gateway.ListenUnix(f.socket)
		return l, u, err
	}
	host, port, err := splitHostPort(f.listen)
	if err != nil {
		return nil, u, err
	}
	l, err := gateway.ListenTCP(host, port)
	if err != nil {
		return nil, u, err
	}
	u.Host, u.Port = host, l.Addr().(*net.TCPAddr).Port
	if host == "" {
		u.Host = "localhost"
	}
	return l, u, nil
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
