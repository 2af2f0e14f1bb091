// SPDX-License-Identifier: Apache-2.0

// Package volume turns ciphertext into a plaintext block device and back.
//
// A READ: the sector-aligned span is locked shared, read from the Store straight into the caller's buffer, decrypted in
// place on the worker pool, unlocked. A WRITE: the span is locked exclusively, the caller's buffer is encrypted in place
// and handed to the Store. Where a request does not begin or end on a sector boundary, the ragged first and last sector
// go through a scratch sector each; a write reads, decrypts and merges them first, under the same lock, so that a
// neighbour's bytes are never lost.
//
// Nothing in this package knows LUKS headers, Ceph or NBD.
package volume
