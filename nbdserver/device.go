// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"context"
	"errors"
)

// A Device is what one export serves: plaintext bytes addressed from 0.
//
// All methods may be called by many goroutines at once, for overlapping ranges too; the device orders what overlaps so
// that a reader sees old or new bytes of a sector, never a mixture. The server has checked every range against
// SizeBytes and every flag against Properties before it calls.
//
// An error that wraps a [syscall.Errno] reaches the client as the nearest NBD error (EPERM, EIO, ENOMEM, EINVAL,
// ENOSPC, ENOTSUP); any other error reaches it as EIO. The server logs the whole error first.
type Device interface {
	// SizeBytes is the size of the device. It does not change while the device is open.
	SizeBytes() int64

	// Properties says what the device can do. It is asked once per connection.
	Properties() Properties

	// ReadAt fills p with the bytes at offsetBytes. p belongs to the caller; it is borrowed for the call.
	ReadAt(p []byte, offsetBytes int64) error

	// WriteAt writes p at offsetBytes. p is borrowed for the call and its content is undefined afterwards (a volume
	// encrypts in place). With fua the bytes are on stable storage when it returns.
	WriteAt(p []byte, offsetBytes int64, fua bool) error

	// Flush returns when every write that returned before the call, on any connection, is on stable storage.
	Flush() error

	// Trim says that the content of the range is no longer needed; what it reads as afterwards is undefined.
	Trim(offsetBytes, lengthBytes int64, fua bool) error

	// WriteZeroes makes the range read as zeros.
	WriteZeroes(offsetBytes, lengthBytes int64, flags ZeroFlags) error

	// Cache asks the device to bring the range nearer. Doing nothing is right.
	Cache(offsetBytes, lengthBytes int64) error

	// Extents appends to dst the extents of one metadata context from offsetBytes on, in order and without gaps, at
	// most cap(dst)-len(dst) of them, and returns it. They may end before or after offsetBytes+lengthBytes, but
	// there is at least one. The context is one of Properties.Contexts.
	Extents(metaContext string, offsetBytes, lengthBytes int64, dst []Extent) ([]Extent, error)

	// Close gives the device back. No method is called after it.
	Close() error
}

// A Lender is what a Device in memory has besides, to let the server send from there and receive into it without a copy
// between. It is asked only where Properties.Immediate is set, and may always have nothing to lend; then ReadAt and WriteAt
// do it.
type Lender interface {
	// Lend returns the device's own memory of the first bytes of a range that is not empty, or nil. Nothing changes these
	// bytes until the server, soon and without waiting for anybody, calls TakeBack with the same offset. The server does
	// not write to them, and borrows one piece at a time.
	Lend(offsetBytes, lengthBytes int64) []byte
	TakeBack(offsetBytes int64)

	// Spare appends to dst pieces of memory for a write to a range that is not empty, of undefined content and not part
	// of the device's, or nothing. They are the server's until it calls, without waiting after they are filled, Adopt,
	// which does what WriteAt would do with them; or, when the write does not come to its end, GiveUp. Either gets them
	// as they are in dst.
	Spare(offsetBytes, lengthBytes int64, dst [][]byte) [][]byte
	Adopt(offsetBytes int64, pieces [][]byte, fua bool) error
	GiveUp(pieces [][]byte)
}

// ZeroFlags modify WriteZeroes.
type ZeroFlags uint8

const (
	// ZeroFUA asks for stable storage before the return.
	ZeroFUA ZeroFlags = 1 << iota
	// ZeroNoHole asks for allocated zeros; without it the device may free the range.
	ZeroNoHole
	// ZeroFast asks for ENOTSUP at once where zeroing is no faster than writing.
	ZeroFast
)

// An Extent is a run of bytes of one state. What Flags means is the metadata context's business.
type Extent struct {
	LengthBytes int64
	Flags       uint64
}

// Flags of the base:allocation context (NBD proto.md, "Metadata querying").
const (
	StateHole = 1 << 0
	StateZero = 1 << 1
)

// ContextAllocation is the context of holes and zeros that every NBD client knows.
const ContextAllocation = "base:allocation"

// ContextDepth is qemu's context of layers: 0 unallocated, 1 in this image, 2 in its parent, and so on.
const ContextDepth = "qemu:allocation-depth"

// Properties say what a Device can do; a false one is not advertised.
type Properties struct {
	ReadOnly    bool
	Flush       bool
	FUA         bool
	Trim        bool
	WriteZeroes bool
	FastZero    bool
	Cache       bool
	// MultiConn: a Flush on one connection covers the finished writes of all others.
	MultiConn  bool
	Rotational bool
	// Immediate: ReadAt and WriteAt wait for memory and processor only, so that the server may call them from the
	// goroutine that reads the socket.
	Immediate bool
	// Contexts are the metadata contexts that Extents knows.
	Contexts []string
	// Block sizes in bytes; zero means 1, 4096 and 32 MiB.
	MinBlockBytes, PreferredBlockBytes, MaxBlockBytes uint32
}

// A Catalog knows the exports. The server calls it from many goroutines.
type Catalog interface {
	// List returns the exports that peer may know of.
	List(ctx context.Context, peer *Peer) ([]ExportInfo, error)

	// Open opens an export for one connection of peer. Whether peer may have it is decided before anything is
	// opened. The name "" asks for the default export. It returns ErrUnknownExport or ErrDenied, or what went wrong.
	Open(ctx context.Context, name string, peer *Peer) (ExportInfo, Device, error)
}

// ExportInfo names an export to clients.
type ExportInfo struct {
	Name        string
	Description string
}

// Errors of a Catalog that clients are told by an NBD error of their own.
var (
	ErrUnknownExport = errors.New("no such export")
	ErrDenied        = errors.New("not allowed")
)
