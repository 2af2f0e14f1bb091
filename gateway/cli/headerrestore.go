// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway"
)

type restoreFlags struct {
	target     targetFlags
	force, yes bool
}

func newHeaderRestore(s std) *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore IMAGE FILE",
		Short: "Write a backup of a header back to its image",
		Long: `Write a backup, from "luksgate header backup" or "cryptsetup luksHeaderBackup", over the header of IMAGE. All
passphrases become those of the time of the backup. A backup that is not of this image, and one whose image has no header
left to compare with, is refused without --force. At a terminal there is a question first, unless --yes or --force is given.
` + alone,
		Example: `  luksgate header restore rbd:volumes/vm1 vm1.header`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := f.target.config(s, args[0])
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			return f.run(ctx, s, cfg, args[1])
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&f.force, "force", false, "restore whatever is there, and ask nothing")
	fs.BoolVarP(&f.yes, "yes", "y", false, "ask nothing")
	f.target.add(fs)
	return cmd
}

func (f *restoreFlags) run(ctx context.Context, s std, cfg gateway.Config, path string) error {
	backup, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = backup.Close() }()
	st, err := backup.Stat()
	if err != nil {
		return err
	}
	if !f.force && !f.yes {
		if err := confirm(ctx, s, "This replaces the header of %s, and all its passphrases, by those of %s.", cfg.Image, path); err != nil {
			return err
		}
	}
	held, err := gateway.Hold(cfg)
	if err != nil {
		return err
	}
	return forceHint(errors.Join(held.Restore(backup, st.Size(), f.force), held.Close()))
}
