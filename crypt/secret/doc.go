// SPDX-License-Identifier: Apache-2.0

// Package secret holds passphrases and keys in memory that the rest of the process cannot leak by accident.
//
// A Bytes lives in its own anonymous mapping outside the Go heap, so the garbage collector never copies it. The mapping
// is locked (it never reaches swap), left out of core dumps, emptied in a forked child, and overwritten before it is
// given back. Every way of printing or encoding a Bytes yields "[secret]".
//
// # When memory cannot be locked
//
// RLIMIT_MEMLOCK may forbid locking (often 64 KiB to 8 MiB for an ordinary user). New then still succeeds, with memory
// that has every property but the lock: refusing to open an image is the greater harm on a host whose swap is encrypted
// or absent. The caller can see it: Bytes.Locked for one value, LockError for the process, whose text names the limit to
// raise. A program that must not go on without the lock asks LockError after its first New.
//
// # What it cannot do
//
// A Go string cannot be wiped and the heap copies freely, so callers pass []byte, and wipe with Wipe what they must hold
// elsewhere. Registers and stacks are out of reach of any Go program.
package secret
