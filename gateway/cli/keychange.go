// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway"
)

func newKeyChange(s std) *cobra.Command {
	var f newKeyFlags
	cmd := &cobra.Command{
		Use:   "change IMAGE",
		Short: "Replace a passphrase of an image by another, and print the number of its keyslot",
		Long: `Replace the passphrase from --key-file, --key-fd or the terminal by the one from --new-key-file, --new-key-fd or the
terminal. A power loss at any moment leaves at least one of them. A LUKS2 keyslot keeps its number, a LUKS1 keyslot gets
another one. Snapshots, clones and backups of the image keep the old passphrase.
` + alone,
		Example: `  luksgate key change rbd:volumes/vm1 --key-file old.key --new-key-file new.key`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			slot, err := f.keyslot.number(cmd.Flags())
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			return f.run(ctx, s, args[0], slot, func(held *gateway.Held, vk *luks.VolumeKey, passphrase *secret.Bytes, o luks.KeyslotOptions) (int, error) {
				return held.ChangeKey(ctx, vk, passphrase, o)
			})
		},
	}
	f.add(cmd.Flags(), "number of the keyslot to change (default: the one that the passphrase opens)",
		"LUKS2: ignore (used only by its number), normal or prefer (tried first) (default: as it is)")
	return cmd
}
