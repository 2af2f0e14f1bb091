// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/gateway"
)

func newXML(s std) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "xml",
		Short: "Print libvirt XML and qemu options for an export",
		Long: `Print what a host needs to use an export. These commands only print: they change nothing.

The output is for the versions of libvirt and qemu that --libvirt and --qemu name; without them the libvirt that runs on
this host is asked, and where none runs the output is for libvirt 6.0 and qemu 4.2 (Ubuntu 20.04). The commands of "secret"
are for libvirt 6.0 unless --libvirt says otherwise: newer ones take them too.`,
	}
	cmd.AddCommand(newXMLDisk(s), newXMLQemu(s), newXMLSecret(s), newXMLToGateway(s), newXMLToLibrbd(s))
	return cmd
}

// attachError makes what attach refuses a usage error: it comes from flags only.
func attachError(err error) error {
	if err == nil {
		return nil
	}
	return gateway.NewUsageError("%v", err)
}

func newXMLDisk(s std) *cobra.Command {
	var f diskFlags
	cmd := &cobra.Command{
		Use:   "disk (--uri URI | --socket PATH | --listen HOST:PORT) --target DEV",
		Short: "Print the <disk> element for an export",
		Example: `  luksgate xml disk --socket /run/luksgate/vm1.sock --name vm1 --target vda --boot-order 1
  luksgate xml disk --uri nbds://gateway.example/vm1 --target sda > disk.xml && virsh attach-device vm1 disk.xml --config`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := f.options(cmd.Context())
			if err != nil {
				return err
			}
			text, err := attach.Disk(opts)
			if err != nil {
				return attachError(err)
			}
			_, err = fmt.Fprint(s.out, text)
			return err
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func newXMLQemu(s std) *cobra.Command {
	var f diskFlags
	var form string
	cmd := &cobra.Command{
		Use:   "qemu (--uri URI | --socket PATH | --listen HOST:PORT) --target DEV [--form blockdev|drive]",
		Short: "Print the options for a qemu that is started by hand",
		Example: `  luksgate xml qemu --socket /run/luksgate/vm1.sock --target vda
  luksgate xml qemu --socket /run/luksgate/vm1.sock --target vda --form drive --reconnect-delay 20`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts, err := f.options(cmd.Context())
			if err != nil {
				return err
			}
			options := attach.QemuBlockdev
			switch form {
			case "blockdev":
			case "drive":
				options = attach.QemuDrive
			default:
				return usage("--form %q: expected blockdev or drive", form)
			}
			args, err := options(opts)
			if err != nil {
				return attachError(err)
			}
			_, err = fmt.Fprintln(s.out, attach.ShellLine(args))
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&form, "form", "blockdev", "blockdev (-blockdev with JSON) or drive (the older -drive)")
	return cmd
}

func newXMLSecret(s std) *cobra.Command {
	var opts attach.SecretOptions
	var commands bool
	var libvirt, xmlFile, valueFile string
	cmd := &cobra.Command{
		Use:   "secret --kind ceph|passphrase --usage NAME --uuid UUID",
		Short: "Print the <secret> element for a ceph key or a passphrase, or the commands that define it",
		Example: `  luksgate xml secret --kind passphrase --usage /rbd/volumes/vm1 --uuid 5b3f7a24-38a3-4a0c-8b8f-2c4be7f2d0ea > secret.xml
  luksgate xml secret --kind passphrase --usage /rbd/volumes/vm1 --uuid 5b3f7a24-38a3-4a0c-8b8f-2c4be7f2d0ea \
      --commands --xml-file secret.xml --value-file vm1.key`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var err error
			if opts.Libvirt, err = version(libvirt, "--libvirt"); err != nil {
				return err
			}
			if !commands {
				text, err := attach.SecretXML(opts)
				if err != nil {
					return attachError(err)
				}
				_, err = fmt.Fprint(s.out, text)
				return err
			}
			lines, err := attach.SecretCommands(opts, xmlFile, valueFile)
			if err != nil {
				return attachError(err)
			}
			for _, line := range lines {
				fmt.Fprintln(s.out, line)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&opts.Kind, "kind", "", "ceph (the key of a ceph user) or passphrase (that of an image)")
	fs.StringVar(&opts.Usage, "usage", "", "the name by which XML may refer to the secret")
	fs.StringVar(&opts.UUID, "uuid", "", "the secret's identity, the same on every host")
	fs.StringVar(&opts.Description, "description", "", "a text for people")
	fs.BoolVar(&opts.Ephemeral, "ephemeral", false, "the secret is lost when libvirtd ends")
	fs.BoolVar(&opts.Private, "private", false, "the value never leaves libvirtd, not even for luksgate")
	fs.StringVar(&libvirt, "libvirt", "", "version of libvirt that the commands are for (default 6.0)")
	fs.BoolVar(&commands, "commands", false, "print the shell lines that define the secret and set its value")
	fs.StringVar(&xmlFile, "xml-file", "secret.xml", "with --commands: the file that has the XML")
	fs.StringVar(&valueFile, "value-file", "secret.value", "with --commands: the file that has the value")
	return cmd
}
