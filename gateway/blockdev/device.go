// SPDX-License-Identifier: Apache-2.0

//go:build linux && (cgo || amd64)

package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	kernel "github.com/pojntfx/go-nbd/pkg/client"
	"github.com/pojntfx/go-nbd/pkg/ioctl"
	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/nbdserver/client"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// nbdMajor is the number of the kernel's driver (Documentation/admin-guide/devices.txt).
const nbdMajor = 43

// setFlags is NBD_SET_FLAGS of linux/nbd.h, which go-nbd has not.
const setFlags = ioctl.NEGOTIATION_IOCTL_SET_TIMEOUT + 1

// readyInterval is how often a new device is looked at until it is there.
const readyInterval = time.Millisecond

// retryInterval is how often a device that somebody uses is looked at again.
const retryInterval = 200 * time.Millisecond

// Run attaches the device and returns when it is gone again: with nil after ctx has ended, with ErrLost if the server went
// away. A device that somebody has mounted, or has opened for himself, stays attached until he lets go of it.
func Run(ctx context.Context, opts Options) error {
	device, err := open(opts.Device)
	if err != nil {
		return err
	}
	defer func() { _ = device.Close() }()
	conns, info, err := connect(ctx, opts)
	for _, c := range conns {
		defer func() { _ = c.Close() }()
	}
	if err != nil {
		return err
	}
	block, err := blockBytes(info, opts.BlockBytes)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- attach(device, conns, info, block) }()
	ready := time.NewTicker(readyInterval)
	defer ready.Stop()
	ended := ctx.Done()
	for {
		select {
		case <-ready.C:
			if size(device) == info.SizeBytes && Holder(opts.Device) != 0 {
				ready.Stop()
				opts.Ready(Attached{SizeBytes: info.SizeBytes, Connections: len(conns), ReadOnly: info.Flags&wire.ExportReadOnly != 0})
			}
		case err := <-done:
			return ending(ctx, opts.Device, err)
		case <-ended:
			ended = nil
			go letGo(device, opts)
		}
	}
}

// size is the device's in bytes, as those see it who open it; -1 if it cannot be told.
func size(device *os.File) int64 {
	n, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return -1
	}
	return n
}

// open opens the device, if it is one of the driver's that is free. Not for itself only: the kernel could not read the
// partition table then.
func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("blockdev: %s: no such device: load the kernel's driver with modprobe nbd", path)
	case err != nil:
		return nil, fmt.Errorf("blockdev: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(st.Rdev) != nbdMajor {
		_ = f.Close()
		return nil, fmt.Errorf("blockdev: %s is no device of the kernel's NBD driver: expected /dev/nbd0, /dev/nbd1 or one like them", path)
	}
	if pid := Holder(path); pid != 0 {
		_ = f.Close()
		return nil, fmt.Errorf("blockdev: %s: %w: process %d has attached it", path, ErrBusy, pid)
	}
	return f, nil
}

// Holder is the process that has attached a device, or 0.
func Holder(path string) int {
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(path), "pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// InUse is an error if somebody has mounted the device, or has claimed it as LVM, swap and device mapper do.
func InUse(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("blockdev: %s: %w: it is mounted, or part of something that is", path, ErrBusy)
	}
	if err == nil {
		err = f.Close()
	}
	return err
}

// connect makes the connections: as many as there may be, or one if the export says that its connections do not know of
// each other's writes. What it returns is the caller's to close, with an error too.
func connect(ctx context.Context, opts Options) ([]net.Conn, client.Export, error) {
	var conns []net.Conn
	var info client.Export
	for len(conns) == 0 || len(conns) < opts.Connections && info.Flags&wire.ExportMultiConn != 0 {
		conn, err := opts.Dial(ctx)
		if err != nil {
			return conns, info, err
		}
		conns = append(conns, conn)
		e, err := client.Negotiate(conn, opts.Export)
		if err != nil {
			return conns, info, fmt.Errorf("blockdev: export %q: %w", opts.Export, err)
		}
		if len(conns) > 1 && e != info {
			return conns, info, fmt.Errorf("blockdev: export %q: it has changed between two connections", opts.Export)
		}
		info = e
	}
	return conns, info, nil
}

// blockBytes is the block size for the device: what was asked for, if the export allows it and is a multiple of it.
func blockBytes(e client.Export, asked int) (int, error) {
	if asked == 0 {
		asked = MinBlockBytes
	}
	switch {
	case asked < MinBlockBytes || asked > MaxBlockBytes || asked&(asked-1) != 0:
		return 0, fmt.Errorf("blockdev: block size %d: expected a power of two from %d to %d", asked, MinBlockBytes, MaxBlockBytes)
	case int64(asked) < int64(e.MinBlockBytes):
		return 0, fmt.Errorf("blockdev: block size %d: the export takes no request below %d bytes", asked, e.MinBlockBytes)
	case e.SizeBytes%int64(asked) != 0:
		return 0, fmt.Errorf("blockdev: block size %d: the export has %d bytes, which is no multiple of it", asked, e.SizeBytes)
	}
	return asked, nil
}

// attach gives the kernel everything and waits until the device is gone.
func attach(device *os.File, conns []net.Conn, info client.Export, blockBytes int) error {
	// The driver takes all sockets from one thread only (drivers/block/nbd.c, nbd_add_socket).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, set := range []struct {
		what              string
		request, argument uintptr
	}{
		// The flags first: with the size the kernel decides what the device can do.
		{"flags", setFlags, uintptr(info.Flags)},
		{"block size", ioctl.NEGOTIATION_IOCTL_SET_BLOCKSIZE, uintptr(blockBytes)},
		{"size", ioctl.NEGOTIATION_IOCTL_SET_SIZE_BLOCKS, uintptr(info.SizeBytes / int64(blockBytes))},
		{"timeout", ioctl.NEGOTIATION_IOCTL_SET_TIMEOUT, 0},
	} {
		if err := ioctlOf(device, set.request, set.argument); err != nil {
			return explain(device.Name(), set.what, err)
		}
	}
	for _, c := range conns {
		f, err := c.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			return err
		}
		err = ioctlOf(device, ioctl.NEGOTIATION_IOCTL_SET_SOCK, f.Fd())
		_ = f.Close() // the kernel has its own reference
		if err != nil {
			return explain(device.Name(), "socket", err)
		}
	}
	// A signal that finds this thread would end the ioctl, and take the device from under a file system.
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fmt.Errorf("blockdev: signals: %w", err)
	}
	err := ioctlOf(device, ioctl.NEGOTIATION_IOCTL_DO_IT, 0)
	if maskErr := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); maskErr != nil {
		return errors.Join(err, fmt.Errorf("blockdev: signals: %w", maskErr))
	}
	if err != nil {
		return explain(device.Name(), "attach", err)
	}
	return nil
}

func ioctlOf(device *os.File, request, argument uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), request, argument); errno != 0 {
		return errno
	}
	return nil
}

func explain(path, what string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("blockdev: %s: %s: %w: attaching devices takes root (CAP_SYS_ADMIN)", path, what, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("blockdev: %s: %s: %w", path, what, ErrBusy)
	}
	return fmt.Errorf("blockdev: %s: %s: %w", path, what, err)
}

// letGo detaches the device as soon as nobody uses it.
func letGo(device *os.File, opts Options) {
	err := InUse(opts.Device)
	if err != nil {
		opts.Refused(err)
	}
	for ; err != nil; err = InUse(opts.Device) {
		time.Sleep(retryInterval)
		if Holder(opts.Device) == 0 {
			return
		}
	}
	_ = device.Sync() // what was written through the page cache
	_ = kernel.Disconnect(device)
}

// ending says why the device is gone.
func ending(ctx context.Context, path string, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		return fmt.Errorf("blockdev: %s: %w", path, ErrLost)
	}
	return err
}
