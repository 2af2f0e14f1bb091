// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"time"

	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/virt"
)

// askTimeout bounds how long libvirt is waited for where it is only asked for its version: one that has
// just started looks at its emulators first, which takes seconds.
const askTimeout = 15 * time.Second

// hostFlags say what output is written for.
type hostFlags struct{ libvirt, qemu, connect string }

func (f *hostFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.libvirt, "libvirt", "", "version of libvirt to write for (default: that of the running one, else 6.0)")
	fs.StringVar(&f.qemu, "qemu", "", "version of qemu to write for (default: that of the running libvirt, else 4.2)")
	fs.StringVar(&f.connect, "connect", "", "URI of the libvirt to ask (default: $LIBVIRT_DEFAULT_URI, else qemu:///system)")
}

// versions are those of the flags; what they leave open is asked of libvirt. Where none runs, the oldest ones are meant.
func (f *hostFlags) versions(ctx context.Context) (lib, qemu attach.Version, err error) {
	if lib, err = version(f.libvirt, "--libvirt"); err != nil {
		return lib, qemu, err
	}
	if qemu, err = version(f.qemu, "--qemu"); err != nil {
		return lib, qemu, err
	}
	if f.libvirt != "" && f.qemu != "" {
		return lib, qemu, nil
	}
	runningLib, runningQemu, err := askVersions(ctx, f.connect)
	if err != nil && f.connect != "" {
		return lib, qemu, err
	}
	if f.libvirt == "" {
		lib = atLeast(runningLib, attach.OldestLibvirt)
	}
	if f.qemu == "" {
		qemu = atLeast(runningQemu, attach.OldestQemu)
	}
	return lib, qemu, nil
}

// atLeast is v, or oldest where v is unknown or older than anything that output can be written for.
func atLeast(v, oldest attach.Version) attach.Version {
	if v.AtLeast(oldest) {
		return v
	}
	return oldest
}

func askVersions(ctx context.Context, uri string) (lib, qemu attach.Version, err error) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := virt.Open(ctx, uri)
	if err != nil {
		return lib, qemu, err
	}
	defer conn.Close()
	return conn.Versions(ctx)
}
