// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/attach/bridge"
)

// maxDomainBytes bounds what is read as a domain's XML; libvirt itself stops at 10 MiB.
const maxDomainBytes = 16 << 20

// bridgeFlags are what both directions have in common.
type bridgeFlags struct {
	targets           []string
	config, configOut string
	partial           bool // config has more than was read of it
}

func (f *bridgeFlags) add(fs *pflag.FlagSet) {
	fs.StringArrayVar(&f.targets, "target", nil, "disk to move, such as vda; several times for several (default: all that can be)")
	fs.StringVar(&f.config, "config", "", "configuration with the gateway's exports")
	fs.StringVar(&f.configOut, "config-out", "", "file for the configuration with these exports; may be the same as --config")
}

func newXMLToGateway(s std) *cobra.Command {
	var f bridgeFlags
	var h hostFlags
	opts := bridge.GatewayOptions{}
	cmd := &cobra.Command{
		Use:   "to-gateway DOMAIN.xml --config-out FILE",
		Short: "Move a domain's encrypted RBD disks to the gateway",
		Long: `Read a domain as "virsh dumpxml" prints it and print it with its encrypted RBD disks as NBD disks of the gateway;
everything else stays byte for byte as it is. The exports that these disks need, with references to the same libvirt
secrets, go to --config-out. DOMAIN.xml may be - for standard input. Notes go to standard error.`,
		Example: `  virsh dumpxml --inactive vm1 > vm1.xml
  luksgate xml to-gateway vm1.xml --config-out exports.yaml > vm1-gateway.xml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.configOut == "" {
				return usage("give --config-out FILE: without the exports in it the domain cannot start")
			}
			existing, err := f.readConfig(false)
			if err != nil {
				return err
			}
			opts.Targets, opts.Existing = f.targets, existing
			if opts.Libvirt, opts.Qemu, err = h.versions(cmd.Context()); err != nil {
				return err
			}
			doc, err := readDomain(s, args[0])
			if err != nil {
				return err
			}
			result, err := bridge.ToGateway(doc, opts)
			return f.finish(s, args[0], existing, result, err)
		},
	}
	f.add(cmd.Flags())
	h.add(cmd.Flags())
	cmd.Flags().StringVar(&opts.SocketDir, "socket-dir", bridge.DefaultSocketDir, "directory of the gateway's sockets")
	return cmd
}

func newXMLToLibrbd(s std) *cobra.Command {
	var f bridgeFlags
	opts := bridge.LibrbdOptions{}
	cmd := &cobra.Command{
		Use:   "to-librbd DOMAIN.xml --config FILE",
		Short: "Move a domain's disks from the gateway back to librbd",
		Long: `Read a domain as "virsh dumpxml" prints it and print it with its disks of the gateway as RBD disks that qemu opens
itself, through librbd's encryption: the way back from "luksgate xml to-gateway", for a host with libvirt 7.9 and qemu 6.1
or newer. Everything else stays byte for byte as it is. DOMAIN.xml may be - for standard input.`,
		Example: `  luksgate xml to-librbd vm1-gateway.xml --config exports.yaml > vm1-librbd.xml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			config, err := f.readConfig(true)
			if err != nil {
				return err
			}
			doc, err := readDomain(s, args[0])
			if err != nil {
				return err
			}
			opts.Targets = f.targets
			result, err := bridge.ToLibrbd(doc, config, opts)
			return f.finish(s, args[0], config, result, err)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&opts.Format, "format", "", "luks, luks2 or luks-any, for exports whose configuration does not say it")
	return cmd
}

func readDomain(s std, name string) ([]byte, error) {
	in := s.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	doc, err := io.ReadAll(io.LimitReader(in, maxDomainBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(doc) > maxDomainBytes {
		return nil, fmt.Errorf("%s: more than %d bytes: this is no domain", name, maxDomainBytes)
	}
	return doc, nil
}

// readConfig reads --config: what an earlier call wrote, or a whole luksgate.conf, which is then not written again.
func (f *bridgeFlags) readConfig(required bool) (bridge.Config, error) {
	if f.config == "" {
		if required {
			return bridge.Config{}, usage("give --config FILE: the exports that \"luksgate xml to-gateway\" wrote")
		}
		return bridge.Config{}, nil
	}
	text, err := os.ReadFile(f.config)
	if err != nil {
		return bridge.Config{}, err
	}
	config, complete, err := bridge.ParseExports(text)
	if err != nil {
		return bridge.Config{}, fmt.Errorf("%s: %w", f.config, err)
	}
	f.partial = !complete
	if f.partial && f.configOut != "" && sameFile(f.config, f.configOut) {
		return config, usage("%s has more than exports, which would be lost: give another file as --config-out, and put its "+
			"exports into luksgate.conf", f.config)
	}
	return config, nil
}

func sameFile(a, b string) bool {
	first, errA := os.Stat(a)
	second, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(first, second)
}

// finish writes the configuration before the domain: whoever has the domain has the exports too.
func (f *bridgeFlags) finish(s std, name string, before bridge.Config, result bridge.Result, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if f.configOut != "" {
		if f.partial {
			before = bridge.Config{} // these exports are in luksgate.conf
		}
		text, err := before.With(result.Config).YAML()
		if err == nil {
			err = replaceFile(f.configOut, text)
		}
		if err != nil {
			return err
		}
	}
	for _, note := range result.Notes {
		fmt.Fprintf(s.err, "luksgate: note: %s: %v\n", name, note)
	}
	_, err = io.Copy(s.out, bytes.NewReader(result.Domain))
	return err
}

// replaceFile writes a file that only its owner may read, whole or not at all.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
