// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

func newFlatten(s std) *cobra.Command {
	var f operateFlags
	cmd := &cobra.Command{
		Use:   "flatten IMAGE",
		Short: "Make a clone independent of its parent",
		Long: `Copy what a clone in RBD shows of its parent into the clone, and detach the parent. The clone reads as before.

A clone that shows its parent's header is copied as it is and needs no key. A clone that has another key than its parent
is encrypted anew on the way: name all keys, the clone's first. "rbd flatten" must not be used for such a clone: it copies
the parent's bytes as they are, which the clone's key decrypts to noise.

An image that the running daemon serves is flattened by the daemon, with the keys that it has, while clients use it. An
image that any other client has open for writing is refused, exit code 6, and the message names that client. ^C stops
between two objects: the image reads as before, and the next run goes on from there.`,
		Example: `  luksgate flatten rbd:volumes/vm1
  luksgate flatten rbd:volumes/vm2 --key-file vm2.key --key-file golden.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd)
			defer stop()
			result, err := f.run(ctx, s, args[0], flattening)
			if err != nil || f.json {
				return err
			}
			r := result.(gateway.Flattened)
			if r.Parent == "" {
				_, err = fmt.Fprintf(s.out, "%s is no clone: there is nothing to do\n", r.Image)
				return err
			}
			_, err = fmt.Fprintf(s.out, "%s no longer needs %s\n", r.Image, r.Parent)
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}

var flattening = operation{
	here: func(ctx context.Context, cfg gateway.Config, p gateway.Progress) (any, error) {
		return gateway.Flatten(ctx, cfg, p)
	},
	there: func(ctx context.Context, c *api.Client, name string, p func(string, int64, int64)) (any, error) {
		var r gateway.Flattened
		err := c.Flatten(ctx, name, p, &r)
		return r, err
	},
}
