// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/bridge"
	"github.com/luksgate/luksgate/attach/plug"
	"github.com/luksgate/luksgate/attach/virt"
	"github.com/luksgate/luksgate/gateway/image"
)

// plugFlags are what attach and detach have in common.
type plugFlags struct {
	admin        adminFlags
	domain       string
	live, config bool
	wait         time.Duration
	name         string
	socketDir    string
}

func (f *plugFlags) add(fs *pflag.FlagSet) {
	f.admin.add(fs)
	fs.StringVar(&f.domain, "domain", "", "name or UUID of the domain")
	fs.BoolVar(&f.live, "live", false, "the running domain only, unless --config is given too")
	fs.BoolVar(&f.config, "config", false, "the configuration for the next start only, unless --live is given too")
	fs.DurationVar(&f.wait, "wait", 30*time.Second, "how long the guest may take; 0 does not wait for it")
	fs.StringVar(&f.name, "name", "", "name of the export (default: DOMAIN-TARGET)")
	fs.StringVar(&f.socketDir, "socket-dir", bridge.DefaultSocketDir, "directory of the export's socket, which is named after it")
}

type attachFlags struct {
	plugFlags
	disk      diskFlags
	device    deviceFlags
	image     string
	keyFile   string
	keySecret string
	trim      bool
	ceph      cephFlags
	engine    string
}

func newAttach(s std) *cobra.Command {
	var f attachFlags
	cmd := &cobra.Command{
		Use:   "attach --image IMAGE (--domain VM --target DEV [--live] [--config] | --device /dev/nbdN)",
		Short: "Export an image with the running daemon and plug it into a domain or this host as a disk",
		Long: `Have the running daemon export IMAGE, add it to a domain of this host's libvirt as a disk, and wait until the guest has
read from it. If a step fails, those before it are undone. A disk that is there already is no error.

Without --live and --config both definitions that the domain has are changed: the running one, and the one for its next
start. The export is one that "luksgate rm" can remove; for a disk that is to come back after a restart of the daemon add
the export to luksgate.conf too.

With --device /dev/nbdN the disk is a block device of this host's kernel, for as long as the command runs: SIGTERM, SIGINT
and "luksgate detach --device" end it, as soon as nobody has the device mounted. It takes root, and the kernel's module
nbd. --uri takes an export that is there already, of any NBD server.`,
		Example: `  luksgate attach --domain vm1 --image rbd:volumes/data1 --key-file /etc/luksgate/keys/data1 --target vdb
  luksgate attach --domain vm1 --image rbd:volumes/data1 --key-secret 5b3f7a24-38a3-4a0c-8b8f-2c4be7f2d0ea --target vdb --live
  luksgate attach --device /dev/nbd0 --image rbd:volumes/data1 --key-file /etc/luksgate/keys/data1
  luksgate attach --device /dev/nbd0 --uri 'nbd+unix:///vm1?socket=/run/luksgate/vm1.sock'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilSignal(cmd)
			defer stop()
			return f.run(ctx, s)
		},
	}
	fs := cmd.Flags()
	f.plugFlags.add(fs)
	f.disk.addGuestView(fs)
	fs.Lookup("device").Usage = "disk or cdrom (default disk); /dev/nbdN is a device of this host"
	f.device.add(fs)
	fs.StringVar(&f.disk.host.connect, "connect", "", "URI of libvirt (default: $LIBVIRT_DEFAULT_URI, else qemu:///system)")
	f.ceph.add(fs)
	fs.StringVar(&f.image, "image", "", "rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT], or file:PATH")
	fs.StringVar(&f.keyFile, "key-file", "", "file with the passphrase, which the daemon reads")
	fs.StringVar(&f.keySecret, "key-secret", "", "UUID or usage of the libvirt secret with the passphrase")
	fs.BoolVar(&f.trim, "key-trim-newline", false, "drop one newline at the end of the passphrase")
	fs.StringVar(&f.engine, "engine", "", "who decrypts: auto, native or librbd (default: the daemon's)")
	return cmd
}

func (f *attachFlags) run(ctx context.Context, s std) error {
	if isDevice(f.disk.opts.Device) {
		return f.runDevice(ctx, s)
	}
	ref, err := f.check()
	if err != nil {
		return err
	}
	conn, opts, err := f.open(ctx, f.disk.host.connect, f.disk.opts.Target)
	if err != nil {
		return err
	}
	defer conn.Close()
	if f.disk.opts.Libvirt, f.disk.opts.Qemu, err = conn.Versions(ctx); err != nil {
		return err
	}
	f.disk.opts.URI = f.uri()
	if err := f.disk.finish(); err != nil {
		return err
	}
	xml, err := attach.Disk(f.disk.opts)
	if err != nil {
		return attachError(err)
	}
	gate := &daemonGateway{client: f.admin.client(), name: f.disk.opts.URI.Export, image: ref.String()}
	if gate.export, err = f.export(ref, f.disk.opts.URI); err != nil {
		return err
	}
	changed, err := plug.Attach(ctx, conn, gate, opts, f.disk.opts.URI, xml)
	if err != nil {
		return err
	}
	report(s, changed, "%s has %s as %s", opts.Domain.Name, f.disk.opts.URI, opts.Target)
	return nil
}

func report(s std, changed bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !changed {
		text += " (nothing was to be done)"
	}
	fmt.Fprintln(s.out, text)
}

func (f *attachFlags) check() (image.Ref, error) {
	if f.domain == "" || f.image == "" || f.disk.opts.Target == "" {
		return image.Ref{}, usage("give --image with --domain and --target, or with --device /dev/nbdN")
	}
	if f.device.uri != "" {
		return image.Ref{}, usage("--uri goes with --device /dev/nbdN only")
	}
	return f.ref()
}

// ref is the image, as the daemon has to be told.
func (f *attachFlags) ref() (image.Ref, error) {
	if f.keyFile != "" && f.keySecret != "" {
		return image.Ref{}, usage("--key-file and --key-secret exclude each other")
	}
	ref, err := image.ParseRef(f.image)
	if err == nil && ref.Scheme == image.File {
		// The daemon is in another folder.
		ref.Path, err = filepath.Abs(ref.Path)
	}
	return ref, err
}

// open connects to libvirt and finds the domain.
func (f *plugFlags) open(ctx context.Context, uri, target string) (*virt.Conn, plug.Options, error) {
	opts := plug.Options{Target: target, Wait: f.wait}
	conn, err := virt.Open(ctx, uri)
	if err != nil {
		return nil, opts, err
	}
	if opts.Domain, err = conn.Domain(ctx, f.domain); err == nil {
		opts.Scopes, err = plug.Scopes(opts.Domain, f.live, f.config)
	}
	if err != nil {
		conn.Close()
		return nil, opts, err
	}
	if f.name == "" {
		f.name = bridge.ExportName(opts.Domain.Name, opts.Domain.UUIDText(), target)
	}
	return conn, opts, nil
}

// uri is where the export is.
func (f *plugFlags) uri() attach.URI {
	return attach.URI{Socket: filepath.Join(f.socketDir, f.name+".sock"), Export: f.name}
}
