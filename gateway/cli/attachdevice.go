// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/gateway/blockdev"
	"github.com/luksgate/luksgate/gateway/image"
)

// deviceFlags are those of attach for block devices of this host.
type deviceFlags struct {
	uri         string
	connections int
	blockBytes  int
}

func (f *deviceFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.uri, "uri", "", "with --device /dev/nbdN: NBD URI of an export, in place of --image")
	fs.IntVar(&f.connections, "connections", 4, "with --device /dev/nbdN: connections at most, where the export can have several")
	fs.IntVar(&f.blockBytes, "block-size", 0, "with --device /dev/nbdN: its logical block size in bytes, 512 to 4096 (default 512)")
}

// isDevice says whether what --device says is a device of this host, and not a kind of a guest's disk.
func isDevice(text string) bool { return strings.HasPrefix(text, "/") }

// runDevice attaches a device of this host until ctx ends.
func (f *attachFlags) runDevice(ctx context.Context, s std) error {
	uri, gate, err := f.deviceExport()
	if err != nil {
		return err
	}
	if gate != nil {
		if _, err := gate.Ensure(ctx); err != nil {
			return err
		}
		release := context.WithoutCancel(ctx)
		defer func() {
			if err := gate.Release(release, uri); err != nil {
				fmt.Fprintf(s.err, "luksgate: the export stays: %v\n", err)
			}
		}()
	}
	device := f.disk.opts.Device
	err = blockdev.Run(ctx, blockdev.Options{
		Device: device, Export: uri.Export, Connections: f.device.connections, BlockBytes: f.device.blockBytes,
		Dial: func(ctx context.Context) (net.Conn, error) { return dialURI(ctx, uri) },
		Ready: func(a blockdev.Attached) {
			fmt.Fprintf(s.out, "%s is %s (%d bytes, connections: %d, read-only: %t)\n", device, uri, a.SizeBytes, a.Connections, a.ReadOnly)
		},
		Refused: func(err error) { fmt.Fprintf(s.err, "luksgate: waiting until nobody uses it: %v\n", err) },
	})
	return deviceError(err)
}

// deviceExport says where the export is, and how to have the daemon make it; gate is nil for a URI.
func (f *attachFlags) deviceExport() (attach.URI, *daemonGateway, error) {
	if f.domain != "" || f.disk.opts.Target != "" || f.live || f.config {
		return attach.URI{}, nil, usage("--device %s is of this host, and excludes --domain, --target, --live and --config", f.disk.opts.Device)
	}
	if (f.device.uri == "") == (f.image == "") {
		return attach.URI{}, nil, usage("give one of --image and --uri with --device %s", f.disk.opts.Device)
	}
	if f.device.uri != "" {
		uri, err := attach.ParseURI(f.device.uri)
		if err == nil && uri.TLS {
			err = usage("the kernel cannot speak TLS: %s", f.device.uri)
		}
		return uri, nil, err
	}
	ref, err := f.ref()
	if err != nil {
		return attach.URI{}, nil, err
	}
	if f.name == "" {
		f.name = filepath.Base(f.disk.opts.Device)
	}
	gate := &daemonGateway{client: f.admin.client(), name: f.name, image: ref.String()}
	gate.export, err = f.export(ref, f.uri())
	return f.uri(), gate, err
}

func dialURI(ctx context.Context, uri attach.URI) (net.Conn, error) {
	var d net.Dialer
	network, address := uri.Address()
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", image.ErrUnreachable, uri, err)
	}
	return conn, nil
}

// deviceError gives an error its exit code.
func deviceError(err error) error {
	switch {
	case errors.Is(err, blockdev.ErrBusy):
		return fmt.Errorf("%w: %w", image.ErrBusy, err)
	case errors.Is(err, blockdev.ErrLost):
		return fmt.Errorf("%w: %w", image.ErrUnreachable, err)
	}
	return err
}

// detachDevice has the process that attached a device let it go, and waits for that.
func detachDevice(ctx context.Context, s std, device string, wait time.Duration) error {
	pid := blockdev.Holder(device)
	if pid == 0 {
		report(s, false, "%s is not attached", device)
		return nil
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || strings.TrimSpace(string(name)) != "luksgate" {
		return fmt.Errorf("%s was attached by process %d (%s), which is not luksgate: detach it as it was attached",
			device, pid, strings.TrimSpace(string(name)))
	}
	if err := blockdev.InUse(device); err != nil {
		return deviceError(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("process %d, which attached %s: %w", pid, device, err)
	}
	for deadline := time.Now().Add(wait); blockdev.Holder(device) != 0; {
		if wait > 0 && time.Now().After(deadline) {
			return fmt.Errorf("%s is still attached after %v: see what process %d says", device, wait, pid)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	report(s, true, "%s is detached", device)
	return nil
}
