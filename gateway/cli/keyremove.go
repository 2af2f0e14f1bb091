// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway"
)

type removeFlags struct {
	target     targetFlags
	key        keyFlags
	keyslot    keyslotFlag
	force, yes bool
}

func newKeyRemove(s std) *cobra.Command {
	var f removeFlags
	cmd := &cobra.Command{
		Use:   "remove IMAGE [--keyslot N]",
		Short: "Remove a passphrase from an image, for ever",
		Long: `Destroy the keyslot that the passphrase from --key-file, --key-fd or the terminal opens, or the one with the number
that --keyslot gives, which needs no passphrase. The last one is removed only with --force: after that nobody can open the
image. Snapshots, clones and backups of the image keep the keyslot. At a terminal there is a question first, unless --yes or
--force is given.
` + alone,
		Example: `  luksgate key remove rbd:volumes/vm1 --key-file leaked.key
  luksgate key remove rbd:volumes/vm1 --keyslot 1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			slot, err := f.keyslot.number(cmd.Flags())
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			return f.run(ctx, s, args[0], slot)
		},
	}
	fs := cmd.Flags()
	f.key.addAs(fs, "", "the passphrase to remove")
	f.keyslot.add(fs, "number of the keyslot to remove, instead of a passphrase")
	fs.BoolVar(&f.force, "force", false, "remove even the last keyslot, and ask nothing")
	fs.BoolVarP(&f.yes, "yes", "y", false, "ask nothing")
	f.target.header.addMemory(fs)
	f.target.add(fs)
	return cmd
}

func (f *removeFlags) run(ctx context.Context, s std, arg string, slot *int) error {
	cfg, err := f.target.config(s, arg)
	if err != nil {
		return err
	}
	switch {
	case slot != nil && f.key.given():
		return usage("--keyslot and a passphrase exclude each other")
	case slot == nil:
		if cfg.Key, err = f.key.source(s, cfg.Image); err != nil {
			return err
		}
		if cfg.Key == nil {
			return usage("name the passphrase to remove with --key-file or --key-fd, or its keyslot with --keyslot")
		}
	}
	if _, err := look(cfg); err != nil {
		return err
	}
	what := "the keyslot of this passphrase"
	if slot != nil {
		what = fmt.Sprintf("keyslot %d", *slot)
	} else {
		passphrase, err := fetch(ctx, cfg.Key)
		if err != nil {
			return err
		}
		defer passphrase.passphrase.Release()
		cfg.Key = passphrase
	}
	if !f.force && !f.yes {
		if err := confirm(ctx, s, "This removes %s of %s, for ever.", what, cfg.Image); err != nil {
			return err
		}
	}
	held, err := gateway.Hold(cfg)
	if err != nil {
		return err
	}
	return forceHint(errors.Join(f.remove(ctx, held, slot), held.Close()))
}

func (f *removeFlags) remove(ctx context.Context, held *gateway.Held, slot *int) error {
	if slot == nil {
		vk, err := held.Unlock(ctx, nil)
		if err != nil {
			return err
		}
		vk.Release()
		slot = &vk.Keyslot
	}
	return held.RemoveKey(*slot, f.force)
}
