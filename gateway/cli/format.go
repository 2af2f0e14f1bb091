// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/key"
)

type formatFlags struct {
	target       targetFlags
	key          keyFlags
	kdf          kdfFlags
	kind, cipher string
	sectorBytes  int
	label, uuid  string
	force, yes   bool
}

func newFormat(s std) *cobra.Command {
	var f formatFlags
	cmd := &cobra.Command{
		Use:   "format IMAGE --type luks1|luks2",
		Short: "Make an image a LUKS image: write a new header with one passphrase",
		Long: `Write a LUKS header to the beginning of IMAGE and give it one passphrase. The rest of the image is not touched, and
reads as noise where it held anything. The header takes room: 16 MiB of LUKS2, or about 2 MiB of LUKS1, rounded up to the
stripe period of an RBD image (4 MiB by default), without which librbd would not open it.

An image that holds a LUKS header or anything else where the header goes is refused without --force. At a terminal the
passphrase is asked for twice, and there is a question first, unless --yes or --force is given.

A clone gets a key of its own: what it shows of its parent stays readable, with the parent's key where that is encrypted,
and what is written to it is encrypted with the new one. Ceph 18 opens such clones too. Clones that have been written to
are refused without --force.
` + alone + `

With --header the header goes to a file, which is made if there is none, and the data begin with IMAGE's first byte.`,
		Example: `  luksgate format rbd:volumes/vm1 --type luks2 --key-file vm1.key
  luksgate format file:/srv/images/vm1.luks --type luks1 --cipher aes-128 --key-file vm1.key
  luksgate format rbd:volumes/vm2 --type luks2 --kdf argon2id --kdf-memory 256M --label vm2`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd)
			defer stop()
			return f.run(ctx, s, args[0])
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.kind, "type", "", "luks1 or luks2; required")
	fs.StringVar(&f.cipher, "cipher", "aes-256", "cipher of the data: aes-256 or aes-128, both as aes-xts-plain64")
	fs.IntVar(&f.sectorBytes, "sector-size", 0, "unit of encryption, 512 to 4096 (default 4096; LUKS1 has 512 only)")
	fs.StringVar(&f.label, "label", "", "LUKS2: a name, at most 47 bytes")
	fs.StringVar(&f.uuid, "uuid", "", "UUID of the header (default: a random one)")
	fs.BoolVar(&f.force, "force", false, "overwrite whatever is there, and ask nothing")
	fs.BoolVarP(&f.yes, "yes", "y", false, "ask nothing; what is there is not overwritten")
	f.key.add(fs)
	f.kdf.add(fs)
	f.target.add(fs)
	return cmd
}

// options checks the flags.
func (f *formatFlags) options() (luks.FormatOptions, error) {
	o := luks.FormatOptions{SectorBytes: f.sectorBytes, Label: f.label, UUID: f.uuid, Force: f.force}
	switch f.kind {
	case "luks1":
		o.Version = 1
	case "luks2":
		o.Version = 2
	case "":
		return o, usage("say which format, --type luks1 or --type luks2")
	default:
		return o, usage("--type %q: expected luks1 or luks2", f.kind)
	}
	switch f.cipher {
	case "aes-256":
		o.KeyBytes = 64
	case "aes-128":
		o.KeyBytes = 32
	default:
		return o, usage("--cipher %q: expected aes-128 or aes-256", f.cipher)
	}
	switch f.sectorBytes {
	case 0, 512, 1024, 2048, 4096:
	default:
		return o, usage("--sector-size %d: expected 512, 1024, 2048 or 4096", f.sectorBytes)
	}
	var err error
	if o.KDF, err = f.kdf.options(o.Version); err != nil {
		return o, err
	}
	if err := o.Check(); err != nil {
		return o, usage("%v", err)
	}
	return o, nil
}

func (f *formatFlags) run(ctx context.Context, s std, arg string) error {
	opts, err := f.options()
	if err != nil {
		return err
	}
	cfg, err := f.target.config(s, arg)
	if err != nil {
		return err
	}
	source, err := f.key.newSource(s, cfg.Image)
	if err != nil {
		return err
	}
	held, drop, err := gateway.HoldForFormat(cfg)
	if err != nil {
		return err
	}
	err = f.format(ctx, s, held, source, opts)
	if closeErr := held.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		drop()
	}
	return forceHint(err)
}

// warnLoss says what of its parent a clone will not show any more.
func warnLoss(s std, held *gateway.Held, opts luks.FormatOptions) error {
	loss, err := held.Loss(opts)
	if err != nil || loss == nil {
		return err
	}
	parent, _, _ := strings.Cut(loss.Parent, "@")
	fmt.Fprintf(s.err, "luksgate: warning: the last %s of %s, from byte %d of its data on, cannot be seen through %s, whose header takes "+
		"their room; making the clone larger does not bring them back. To keep them, make the parent larger by %s before the snapshot "+
		"(luksgate resize %s), and clone that snapshot\n",
		bytesText(loss.Bytes), loss.Parent, loss.FromByte, held.Name(), bytesText(loss.GrowBytes), parent)
	return nil
}

func (f *formatFlags) format(ctx context.Context, s std, held *gateway.Held, source key.Source, opts luks.FormatOptions) error {
	// Before anybody thinks of a passphrase.
	if err := held.InUse(); err != nil && !f.force {
		return err
	}
	if err := warnLoss(s, held, opts); err != nil {
		return err
	}
	if !f.force && !f.yes {
		if err := confirm(ctx, s, "This makes %s a %s image; what it holds cannot be read any more.", held.Name(), f.kind); err != nil {
			return err
		}
	}
	passphrase, err := newPassphrase(ctx, s, source, &f.key)
	if err != nil {
		return err
	}
	defer passphrase.Release()
	f.kdf.announce(s, opts.KDF)
	opts.Passphrase = passphrase
	header, err := held.Format(ctx, opts)
	if err != nil {
		return err
	}
	if held.DataBytes() == 0 {
		fmt.Fprintf(s.err, "luksgate: warning: %s has no room for data behind its header: make it larger\n", held.Name())
	}
	_, err = fmt.Fprintf(s.out, "formatted %s: %s, uuid %s, %s of data from byte %d\n",
		held.Name(), f.kind, header.UUID, bytesText(held.DataBytes()), header.DataOffsetBytes)
	return err
}
