// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"

	"github.com/luksgate/luksgate/bench/trace"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/nbdserver"
)

// record has a server note in a new file what the clients of exp ask for; "" notes nothing. finish ends the file, after the
// server.
func record(path, name string, exp *gateway.Export, o *nbdserver.Options) (finish func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	// Not over a trace that is there: it may be of a day that does not come again.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--record: %w", err)
	}
	log := o.Logger
	r, err := trace.NewRecorder(f, name, exp.Device().SizeBytes(), func(err error) {
		log.Error("recording has stopped; clients are served all the same", "file", path, "error", err)
	})
	if err != nil {
		return nil, fmt.Errorf("--record %s: %w", path, err)
	}
	o.Catalog = r.Catalog(o.Catalog)
	return r.Close, nil
}
