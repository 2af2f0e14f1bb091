// SPDX-License-Identifier: Apache-2.0

package rbd

// LockAlone is LockExclusive for changing what other clients would not expect to change, such as a LUKS header: the open
// fails with image.ErrBusy where another client has the image open for writing, even if it does not hold the lock now.
// Taken from such a client, the lock would make its next write an error. It is no mode for users: not one of LockModes.
// An image without the exclusive-lock feature is opened too.
const LockAlone LockMode = "alone"
