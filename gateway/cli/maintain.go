// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/key"
)

// maintenanceCommands are the verbs that change images and their headers.
func maintenanceCommands(s std) []*cobra.Command {
	return []*cobra.Command{newFormat(s), newKey(s), newHeader(s), newResize(s), newFlatten(s)}
}

// newKey groups the verbs about keyslots.
func newKey(s std) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, add, remove and change the passphrases of an image",
	}
	cmd.AddCommand(newKeyList(s), newKeyAdd(s), newKeyRemove(s), newKeyChange(s))
	return cmd
}

// newHeader groups the verbs about whole headers.
func newHeader(s std) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "header",
		Short: "Back up, restore and repair LUKS headers",
	}
	cmd.AddCommand(newHeaderBackup(s), newHeaderRestore(s), newHeaderRepair(s))
	return cmd
}

// alone is in the help of all verbs that write.
const alone = `Nobody else may have the image open for writing meanwhile; that is exit code 6.`

// targetFlags say whose header is meant.
type targetFlags struct {
	ceph   cephFlags
	header headerFlags
}

func (f *targetFlags) add(fs *pflag.FlagSet) {
	f.header.addFile(fs)
	f.ceph.add(fs)
}

// config joins the flags and the image's name.
func (f *targetFlags) config(s std, arg string) (gateway.Config, error) {
	ref, err := image.ParseRef(arg)
	if err != nil {
		return gateway.Config{}, err
	}
	cfg := gateway.Config{Image: ref, Ceph: f.ceph.config(), Logger: newLogger(s.err, false)}
	return cfg, f.header.set(&cfg)
}

// untilSignal is a context that ends with SIGINT and SIGTERM. A change under way is left as a power loss would leave it.
func untilSignal(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(background(cmd.Context()), syscall.SIGINT, syscall.SIGTERM)
}

// confirm asks a person at the terminal to type yes; without a terminal nobody is asked.
func confirm(ctx context.Context, s std, format string, args ...any) error {
	in, ok := isTerminal(s.in)
	if !ok {
		return nil
	}
	fmt.Fprintf(s.err, format+"\nType yes to go on: ", args...)
	answer := make(chan string, 1)
	go func() { // left reading if ctx ends first: the program is about to end
		line, _ := bufio.NewReader(in).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		if strings.EqualFold(strings.TrimSpace(line), "yes") {
			return nil
		}
	case <-ctx.Done():
		fmt.Fprintln(s.err)
	}
	return errors.New("nothing was changed, since the answer was not yes")
}

// A fetched passphrase has been asked for already.
type fetched struct {
	key.Source
	passphrase *secret.Bytes
}

// fetch asks now, so that the image is not held while a person types. The caller releases the passphrase.
func fetch(ctx context.Context, source key.Source) (fetched, error) {
	b, err := source.Passphrase(ctx)
	return fetched{source, b}, err
}

// Passphrase implements key.Source.
func (f fetched) Passphrase(context.Context) (*secret.Bytes, error) {
	return secret.Copy(f.passphrase.Bytes())
}

// look holds an image for a moment: who cannot have it need not think of a passphrase.
func look(cfg gateway.Config) (*luks.Header, error) {
	held, err := gateway.Hold(cfg)
	if err != nil {
		return nil, err
	}
	header, err := held.Header()
	return header, errors.Join(err, held.Close())
}

// newPassphrase gets a passphrase for a new keyslot. A newline at its end is part of it, which is seldom what was meant.
func newPassphrase(ctx context.Context, s std, source key.Source, f *keyFlags) (*secret.Bytes, error) {
	b, err := source.Passphrase(ctx)
	if err == nil && key.EndsInNewline(b) {
		fmt.Fprintf(s.err, "luksgate: warning: the new passphrase ends in a newline, which is part of it (%skey-trim-newline drops it)\n", f.prefix)
	}
	return b, err
}

// forceHint tells which flag overrules an error.
func forceHint(err error) error {
	if errors.Is(err, luks.ErrInUse) || errors.Is(err, luks.ErrLastKeyslot) {
		return fmt.Errorf("%w (--force does it all the same)", err)
	}
	return err
}

// keyslotFlag is --keyslot; -1 means that it is not given.
type keyslotFlag int

func (f *keyslotFlag) add(fs *pflag.FlagSet, usageText string) {
	fs.IntVar((*int)(f), "keyslot", -1, usageText)
}

// number is nil without the flag.
func (f keyslotFlag) number(fs *pflag.FlagSet) (*int, error) {
	if !fs.Changed("keyslot") {
		return nil, nil
	}
	if f < 0 {
		return nil, usage("--keyslot %d: expected a number from 0 on", int(f))
	}
	return new(int(f)), nil
}
