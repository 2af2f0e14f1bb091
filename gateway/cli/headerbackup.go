// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/gateway"
)

func newHeaderBackup(s std) *cobra.Command {
	var f targetFlags
	cmd := &cobra.Command{
		Use:   "backup IMAGE FILE",
		Short: "Copy the header of an image, keyslots included, to a new file",
		Long: `Copy the header of IMAGE with its keyslots to FILE, in the form of "cryptsetup luksHeaderBackup". It only reads, and
the image may be in use. Whoever has FILE and a passphrase of its time can open the image, also after that passphrase was
removed: keep it as safe as the image. FILE must not exist.`,
		Example: `  luksgate header backup rbd:volumes/vm1 vm1.header`,
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := f.config(s, args[0])
			if err != nil {
				return err
			}
			return backupTo(cfg, args[1])
		},
	}
	f.add(cmd.Flags())
	return cmd
}

// backupTo makes the file, which is there in whole or not at all.
func backupTo(cfg gateway.Config, path string) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already: a backup is not overwritten", path)
	}
	if err != nil {
		return err
	}
	err = gateway.BackupHeader(cfg, out)
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
