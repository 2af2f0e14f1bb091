// SPDX-License-Identifier: Apache-2.0

package luks

import "io"

// Device is where headers are written: an image, or the start of one.
//
// ReadAt and WriteAt follow io.ReaderAt and io.WriterAt, with these additions: a WriteAt whose error is nil has been seen by
// all later ReadAt; it may be in parts or not at all on stable storage until Sync has returned nil; writes between two
// Syncs may reach it in any order. Nobody else writes the header while a function of this package works on it: what the
// exclusive lock of an RBD image is for.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}
