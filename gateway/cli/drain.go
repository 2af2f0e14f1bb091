// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// drainPoll is how often a drain that waits looks.
const drainPoll = 200 * time.Millisecond

func newDrain(s std) *cobra.Command {
	var admin adminFlags
	var disconnect, wait, undo bool
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Let no new client have an export",
		Long: `Let no new client have an export. Clients that have it go on until they leave, or with --disconnect until the
requests that they wait for are answered; then the image closes. --undo ends the drain.`,
		Example: `  luksgate drain vm5 --wait    # returns when nobody has the image open any more
  luksgate drain vm5 --undo`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd)
			defer stop()
			c := admin.client()
			if undo {
				_, err := c.Resume(ctx, args[0])
				return err
			}
			e, err := c.Drain(ctx, args[0], disconnect)
			if err != nil || !wait {
				if err == nil && e.Clients > 0 {
					fmt.Fprintf(s.err, "luksgate: %s still has %d clients\n", e.Name, e.Clients)
				}
				return err
			}
			return waitDrained(ctx, c, args[0])
		},
	}
	admin.add(cmd.Flags())
	cmd.Flags().BoolVar(&disconnect, "disconnect", false, "end the clients that use it")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the image is closed")
	cmd.Flags().BoolVar(&undo, "undo", false, "let clients in again")
	cmd.MarkFlagsMutuallyExclusive("undo", "wait")
	cmd.MarkFlagsMutuallyExclusive("undo", "disconnect")
	return cmd
}

func waitDrained(ctx context.Context, c *api.Client, name string) error {
	for {
		e, err := c.Export(ctx, name)
		if err != nil {
			return err
		}
		if e.Clients == 0 && e.SizeBytes == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s still has %d clients: %w", name, e.Clients, ctx.Err())
		case <-time.After(drainPoll):
		}
	}
}
