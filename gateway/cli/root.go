// SPDX-License-Identifier: Apache-2.0

// Package cli is luksgate's command line: one file a verb.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway"
)

// std are the streams of a run.
type std struct {
	in       io.Reader
	out, err io.Writer
}

// Main runs luksgate with args (without the program's name) and returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if err := secret.HardenProcess(); err != nil {
		fmt.Fprintf(stderr, "luksgate: warning: %v\n", err)
	}
	root := newRoot(std{stdin, stdout, stderr})
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "luksgate: error: %v\n", err)
	var misuse *flagError
	if errors.As(err, &misuse) {
		fmt.Fprintf(stderr, "Try '%s --help'.\n", misuse.command)
		return exitUsage
	}
	return exitCode(err)
}

// A flagError is a command line that cobra does not understand.
type flagError struct {
	command string
	err     error
}

func (e *flagError) Error() string { return e.err.Error() }
func (e *flagError) Unwrap() error { return e.err }

func newRoot(s std) *cobra.Command {
	root := &cobra.Command{
		Use:   "luksgate",
		Short: "Serve LUKS-encrypted Ceph RBD images as plaintext over NBD",
		Long: `luksgate opens a LUKS1 or LUKS2 image raw (from Ceph RBD or a file), decrypts it itself, and serves the plaintext
over NBD to qemu or any other NBD client. It is for hosts whose qemu and libvirt cannot open such images.`,
		Example: `  # Serve an encrypted RBD image on a unix socket, for one host's qemu
  luksgate export rbd:volumes/vm1 --key-file /etc/luksgate/vm1.key --socket /run/luksgate/vm1.sock

  # What is this image?
  luksgate inspect rbd:volumes/vm1

  # The disk element for libvirt
  luksgate xml disk --socket /run/luksgate/vm1.sock --name vm1 --target vda`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(newExport(s), newInspect(s), newXML(s), newAttach(s), newDetach(s), newDoctor(s), newBench(s), newVersion(s))
	root.AddCommand(maintenanceCommands(s)...)
	root.AddCommand(daemonCommands(s)...)
	misuseIsUsage(root)
	return root
}

// misuseIsUsage makes every complaint about flags and arguments, of every command, a flagError.
func misuseIsUsage(c *cobra.Command) {
	wrap := func(c *cobra.Command, err error) error {
		if err == nil {
			return nil
		}
		return &flagError{c.CommandPath(), err}
	}
	c.SetFlagErrorFunc(wrap)
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error { return wrap(c, check(c, args)) }
	} else if !c.Runnable() {
		// A command of commands: without this, a misspelt verb prints the help and succeeds.
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return wrap(c, fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath()))
			}
			return nil
		}
		c.RunE = func(c *cobra.Command, _ []string) error {
			_ = c.Help()
			return wrap(c, errors.New("a command is missing"))
		}
	}
	for _, sub := range c.Commands() {
		misuseIsUsage(sub)
	}
}

func usage(format string, args ...any) error { return gateway.NewUsageError(format, args...) }

// isTerminal tells whether a stream is a terminal, and which file it is.
func isTerminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && terminal(f)
}
