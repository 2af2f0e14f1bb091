// SPDX-License-Identifier: Apache-2.0

// Package blockdev makes an NBD export a block device of this machine's kernel, /dev/nbdN.
//
// The kernel talks to the server itself; a process of ours waits in its ioctl(NBD_DO_IT) as long as the device is there.
// The numbers of the ioctls and the way to end it are go-nbd's. The handshake and the order of the ioctls are ours: that of
// go-nbd's client writes an option whose length is 0, which no server takes but its own, and has neither flags, without which
// the kernel neither flushes nor trims nor knows of read-only exports, nor several connections.
//
// Kernels cannot speak TLS to an NBD server.
package blockdev

import (
	"context"
	"errors"
	"net"
)

// Errors that callers tell apart.
var (
	// ErrBusy says that the device is somebody's: it is attached already, or mounted or in use otherwise.
	ErrBusy = errors.New("device is in use")
	// ErrLost says that the server ended the connection.
	ErrLost = errors.New("the server has closed the connection")
)

// Block sizes that go-nbd can give to a device.
const (
	MinBlockBytes = 512
	MaxBlockBytes = 4096
)

// Options say what to attach.
type Options struct {
	// Device is the path of the device, /dev/nbdN.
	Device string
	// Dial connects to the server, by a unix socket or TCP.
	Dial func(ctx context.Context) (net.Conn, error)
	// Export is the export's name.
	Export string
	// Connections is how many connections there may be; exports that cannot have several get one.
	Connections int
	// BlockBytes is the device's logical block size, a power of two; 0 means 512, as disks of guests have it.
	BlockBytes int
	// Ready is called once, when the device can be used.
	Ready func(Attached)
	// Refused is called when ctx has ended, but the device stays since somebody uses it.
	Refused func(error)
}

// Attached is what became of Options.
type Attached struct {
	SizeBytes   int64
	Connections int
	ReadOnly    bool
}
