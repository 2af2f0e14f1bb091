// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway"
)

func newHeaderRepair(s std) *cobra.Command {
	var f targetFlags
	cmd := &cobra.Command{
		Use:   "repair IMAGE",
		Short: "Make both copies of a LUKS2 header the one that is good",
		Long: `Write the good copy of a LUKS2 header over a damaged or older one, as "cryptsetup repair" does. An image whose header
is whole is left as it is. LUKS1 has one copy, and no checksum to tell what is damaged.
` + alone,
		Example: `  luksgate header repair rbd:volumes/vm1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := f.config(s, args[0])
			if err != nil {
				return err
			}
			held, err := gateway.Hold(cfg)
			if err != nil {
				return err
			}
			repaired, err := held.Repair()
			if err = errors.Join(err, held.Close()); err != nil {
				return err
			}
			text := "there is nothing to repair"
			if repaired {
				text = "both copies of the header are good again"
			}
			_, err = fmt.Fprintf(s.out, "%s: %s\n", held.Name(), text)
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}
