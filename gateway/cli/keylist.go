// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway"
)

func newKeyList(s std) *cobra.Command {
	var f targetFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list IMAGE",
		Short: "List the keyslots of an image; needs no passphrase",
		Example: `  luksgate key list rbd:volumes/vm1
  luksgate key list rbd:volumes/vm1 --json | jq '.[].id'`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := f.config(s, args[0])
			if err != nil {
				return err
			}
			r, err := gateway.Inspect(cfg)
			if err != nil {
				return err
			}
			if r.Header == nil {
				return fmt.Errorf("%s: %w", cfg.Image, luks.ErrNotLUKS)
			}
			if asJSON {
				return printJSON(s, r.Header.Keyslots)
			}
			w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
			for _, k := range r.Header.Keyslots {
				fmt.Fprintf(w, "keyslot %d\t%s\n", k.ID, keyslotText(k))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	f.add(cmd.Flags())
	return cmd
}
