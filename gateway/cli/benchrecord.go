// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway/image"
)

// endPatience is how long the daemon may take to end a recording.
const endPatience = 10 * time.Second

type benchRecordFlags struct {
	admin  adminFlags
	length time.Duration
	size   string
}

func newBenchRecord(s std) *cobra.Command {
	var f benchRecordFlags
	cmd := &cobra.Command{
		Use:   "record EXPORT TRACE",
		Short: "Note what clients ask of an export of the running daemon",
		Long: `Note in TRACE, a new file, what clients ask of EXPORT of the running daemon from now on: when, what, where and how much,
but not which bytes. Clients notice nothing. It ends after --for, at --size, or with ^C; the file is whole then. The trace
of a client that reads and writes in secret places tells where they are: keep it as you keep the image.

luksgate bench replay asks a scratch image, or another server, the same. luksgate export --record is for an export without
a daemon.`,
		Example: `  luksgate bench record vm1 vm1.trace --for 10m
  luksgate bench replay vm1.trace rbd:volumes/test --layers nbd-native,nbd-librbd`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignalOnce(cmd)
			defer stop()
			return f.run(ctx, s, args[0], args[1])
		},
	}
	fs := cmd.Flags()
	fs.DurationVar(&f.length, "for", time.Minute, "how long, at most a week")
	fs.StringVar(&f.size, "size", "64M", "how large the file may become; a request takes about 8 bytes")
	f.admin.add(fs)
	return cmd
}

func (f *benchRecordFlags) run(ctx context.Context, s std, export, path string) error {
	limit, err := image.ParseSize(f.size)
	if err != nil {
		return usage("--size: %v", err)
	}
	if f.length <= 0 {
		return usage("--for %v: expected more than 0", f.length)
	}
	file, err := newTrace(path)
	if err != nil {
		return err
	}
	client := f.admin.client()
	whole := context.WithoutCancel(ctx) // an interrupted recording is ended in order
	defer context.AfterFunc(ctx, func() {
		patience, cancel := context.WithTimeout(whole, endPatience)
		defer cancel()
		_ = client.EndRecording(patience, export) // else it ends by itself
	})()
	err = client.Record(whole, export, f.length, limit, file, func() {
		fmt.Fprintf(s.err, "luksgate: recording %s for %v, ^C ends it\n", export, f.length)
	})
	if err = errors.Join(err, file.Close()); err != nil {
		if st, statErr := os.Stat(path); statErr == nil && st.Size() == 0 {
			err = errors.Join(err, os.Remove(path))
		}
		return err
	}
	t, err := inspectTrace(path)
	if err != nil {
		return err
	}
	if !t.whole {
		return fmt.Errorf("%s: the recording broke off after %d requests, which can be replayed", path, t.requests)
	}
	_, err = fmt.Fprintf(s.out, "%s: %d requests within %v\n", path, t.requests, t.length.Round(time.Millisecond))
	return err
}
