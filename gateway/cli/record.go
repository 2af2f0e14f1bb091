// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/bench/trace"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/nbdserver"
)

// recordFlags say what is recorded of an export.
type recordFlags struct {
	path  string
	limit string
}

func (f *recordFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.path, "record", "", "new file to note requests in (not their data), for luksgate bench replay")
	fs.StringVar(&f.limit, "record-size", "1G", "how large it may become")
}

// start has a server note in a new file what the clients of exp ask for, if that is wanted. finish ends the file, after the
// server.
func (f *recordFlags) start(name string, exp *gateway.Export, o *nbdserver.Options) (finish func() error, err error) {
	if f.path == "" {
		return func() error { return nil }, nil
	}
	limit, err := image.ParseSize(f.limit)
	if err != nil {
		return nil, usage("--record-size: %v", err)
	}
	file, err := newTrace(f.path)
	if err != nil {
		return nil, fmt.Errorf("--record: %w", err)
	}
	r, err := trace.NewRecorder(file, name, exp.Device().SizeBytes(), limit)
	if err != nil {
		return nil, fmt.Errorf("--record %s: %w", f.path, err)
	}
	var tap trace.Tap
	tap.Open(r)
	o.Catalog = tap.Catalog(o.Catalog)
	closing := make(chan struct{})
	log := o.Logger
	go func() {
		select {
		case <-r.Ended():
			log.Error("recording has ended early; clients are served all the same", "file", f.path, "error", r.Close())
		case <-closing:
		}
	}()
	return func() error {
		close(closing)
		if err := r.Close(); err != nil && !errors.Is(err, trace.ErrLarge) {
			return fmt.Errorf("--record %s: %w", f.path, err)
		}
		return nil
	}, nil
}

// newTrace makes a file for a trace, never over one that is there: it may be of a day that does not come again.
func newTrace(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}
