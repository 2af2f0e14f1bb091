// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/image"
)

func newResize(s std) *cobra.Command {
	var f operateFlags
	var shrink bool
	cmd := &cobra.Command{
		Use:   "resize IMAGE SIZE",
		Short: "Give an image another size: the one that the guest sees",
		Long: `Give an RBD image another size. SIZE is what the guest sees, in bytes or with K, M, G, T or P; the room for the header is
added. An image becomes smaller only with --allow-shrink: what lies beyond the new end is lost.

An image that the running daemon serves is resized by the daemon, and clients that connect afterwards see the new size;
guests that are connected see it when they connect again. An image that any other client has open for writing is refused,
exit code 6, and the message names that client. No key is needed, except to shrink a clone that has another key than its
parent: then name both, the clone's first. ^C stops between two objects: a shrunk image has its old size then still, and
part of what was to go is gone; run the command again.`,
		Example: `  luksgate resize rbd:volumes/vm1 40G
  luksgate resize rbd:volumes/vm1 20G --allow-shrink`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := image.ParseSize(args[1])
			if err != nil {
				return usage("size %q: %v", args[1], err)
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			result, err := f.run(ctx, s, args[0], resizeTo(size, shrink))
			if err != nil || f.json {
				return err
			}
			r := result.(gateway.Resized)
			_, err = fmt.Fprintf(s.out, "%s: %s of data, before %s; the image has %s\n",
				r.Image, bytesText(r.SizeBytes), bytesText(r.BeforeBytes), bytesText(r.ImageBytes))
			return err
		},
	}
	cmd.Flags().BoolVar(&shrink, "allow-shrink", false, "let the image become smaller, and lose what lies beyond its new end")
	f.add(cmd.Flags())
	return cmd
}

func resizeTo(sizeBytes int64, shrink bool) operation {
	return operation{
		here: func(ctx context.Context, cfg gateway.Config, p gateway.Progress) (any, error) {
			return gateway.Resize(ctx, cfg, sizeBytes, gateway.ResizeOptions{AllowShrink: shrink, Progress: p})
		},
		there: func(ctx context.Context, c *api.Client, name string, p func(string, int64, int64)) (any, error) {
			var r gateway.Resized
			err := c.Resize(ctx, name, api.ResizeRequest{SizeBytes: sizeBytes, AllowShrink: shrink}, p, &r)
			return r, err
		},
	}
}
