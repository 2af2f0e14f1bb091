// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/attach/plug"
)

func newDetach(s std) *cobra.Command {
	var f plugFlags
	var target, connect, device string
	cmd := &cobra.Command{
		Use:   "detach (--domain VM --target DEV [--live] [--config] | --device /dev/nbdN)",
		Short: "Unplug a disk of the gateway from a domain or this host and remove its export",
		Long: `Remove a disk from a domain of this host's libvirt, wait until the guest has let it go, and remove its export from the
running daemon, if it was added by "luksgate attach" or "luksgate add" and nobody uses it any more. A disk that is not there
is no error.

With --device /dev/nbdN it ends the "luksgate attach" that made the device, unless somebody has the device mounted.`,
		Example: `  luksgate detach --domain vm1 --target vdb
  luksgate detach --device /dev/nbd0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilSignal(cmd)
			defer stop()
			if device != "" && f.domain == "" && target == "" {
				return detachDevice(ctx, s, device, f.wait)
			}
			if f.domain == "" || target == "" || device != "" {
				return usage("give --domain and --target, or --device /dev/nbdN")
			}
			conn, opts, err := f.open(ctx, connect, target)
			if err != nil {
				return err
			}
			defer conn.Close()
			opts.URI = f.uri()
			changed, err := plug.Detach(ctx, conn, &daemonGateway{client: f.admin.client()}, opts)
			if err != nil {
				return err
			}
			report(s, changed, "%s has no disk %s", opts.Domain.Name, target)
			return nil
		},
	}
	fs := cmd.Flags()
	f.add(fs)
	fs.StringVar(&target, "target", "", "name of the disk in the domain: vdb, sdc, ...")
	fs.StringVar(&device, "device", "", "/dev/nbdN: a device of this host")
	fs.StringVar(&connect, "connect", "", "URI of libvirt (default: $LIBVIRT_DEFAULT_URI, else qemu:///system)")
	return cmd
}
