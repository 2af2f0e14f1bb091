// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway"
)

// newKeyFlags are what adding and changing have in common: a passphrase that opens, and one that will.
type newKeyFlags struct {
	target   targetFlags
	old, new keyFlags
	kdf      kdfFlags
	keyslot  keyslotFlag
	priority string
}

func (f *newKeyFlags) add(fs *pflag.FlagSet, keyslotText, priorityText string) {
	f.old.addAs(fs, "", "a passphrase that opens the image")
	f.new.addAs(fs, "new-", "the new passphrase")
	f.keyslot.add(fs, keyslotText)
	fs.StringVar(&f.priority, "priority", "", priorityText)
	f.kdf.add(fs)
	f.target.header.addMemory(fs)
	f.target.add(fs)
}

func newKeyAdd(s std) *cobra.Command {
	var f newKeyFlags
	cmd := &cobra.Command{
		Use:   "add IMAGE",
		Short: "Add a passphrase to an image, and print the number of its keyslot",
		Long: `Add a keyslot for another passphrase. One that opens the image is needed, from --key-file, --key-fd or the terminal;
the new one comes from --new-key-file, --new-key-fd or the terminal, where it is asked for twice.
` + alone,
		Example: `  luksgate key add rbd:volumes/vm1 --key-file vm1.key --new-key-file recovery.key
  luksgate key add rbd:volumes/vm1 --key-fd 3 --new-key-fd 4 3< vm1.key 4< recovery.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			slot, err := f.keyslot.number(cmd.Flags())
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			return f.run(ctx, s, args[0], nil, func(held *gateway.Held, vk *luks.VolumeKey, passphrase *secret.Bytes, o luks.KeyslotOptions) (int, error) {
				o.Keyslot = slot
				return held.AddKey(ctx, vk, passphrase, o)
			})
		},
	}
	f.add(cmd.Flags(), "number of the new keyslot (default: the lowest free one)",
		"LUKS2: ignore (used only by its number), normal or prefer (tried first) (default normal)")
	return cmd
}

// A keyChange is what is done with an unlocked image.
type keyChange func(*gateway.Held, *luks.VolumeKey, *secret.Bytes, luks.KeyslotOptions) (int, error)

// run gets both passphrases, unlocks the image with one keyslot or any (nil), and prints the number of the new keyslot.
func (f *newKeyFlags) run(ctx context.Context, s std, arg string, unlock *int, change keyChange) error {
	cfg, err := f.target.config(s, arg)
	if err != nil {
		return err
	}
	if cfg.Key, err = f.old.source(s, cfg.Image); err != nil {
		return err
	}
	newKey, err := f.new.newSource(s, cfg.Image)
	if err != nil {
		return err
	}
	if f.old.fd >= 0 && f.old.fd == f.new.fd {
		return usage("--key-fd and --new-key-fd are the same descriptor %d: it has one passphrase", f.old.fd)
	}
	if cfg.Key == nil {
		return usage("name a passphrase that opens the image with --key-file or --key-fd")
	}
	header, err := look(cfg)
	if err != nil {
		return err
	}
	opts := luks.KeyslotOptions{}
	if opts.KDF, err = f.kdf.options(header.Version); err != nil {
		return err
	}
	if opts.Priority, err = f.priorityNumber(header.Version); err != nil {
		return err
	}
	old, err := fetch(ctx, cfg.Key)
	if err != nil {
		return err
	}
	defer old.passphrase.Release()
	cfg.Key = old
	passphrase, err := newPassphrase(ctx, s, newKey, &f.new)
	if err != nil {
		return err
	}
	defer passphrase.Release()
	f.kdf.announce(s, opts.KDF)
	held, err := gateway.Hold(cfg)
	if err != nil {
		return err
	}
	id, err := unlockAnd(ctx, held, unlock, func(vk *luks.VolumeKey) (int, error) { return change(held, vk, passphrase, opts) })
	if err = errors.Join(err, held.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "keyslot %d\n", id)
	return err
}

// unlockAnd does something with the volume key.
func unlockAnd(ctx context.Context, held *gateway.Held, keyslot *int, f func(*luks.VolumeKey) (int, error)) (int, error) {
	vk, err := held.Unlock(ctx, keyslot)
	if err != nil {
		return 0, err
	}
	defer vk.Release()
	return f(vk)
}

func (f *newKeyFlags) priorityNumber(version int) (*int, error) {
	if f.priority != "" && version == 1 {
		return nil, usage("--priority: LUKS1 has none")
	}
	switch f.priority {
	case "":
		return nil, nil
	case "ignore":
		return new(luks.PriorityIgnore), nil
	case "normal":
		return new(luks.PriorityNormal), nil
	case "prefer":
		return new(luks.PriorityPrefer), nil
	}
	return nil, usage("--priority %q: expected ignore, normal or prefer", f.priority)
}
