// SPDX-License-Identifier: Apache-2.0

// Package kdf derives keys from passphrases as LUKS does: PBKDF2 (RFC 8018), Argon2i and Argon2id version 0x13 (RFC 9106).
//
// Parameters come from the header of an image that anybody may have written, so Params.Check compares them with Limits
// before a byte is allocated, and Derive passes a Gate that bounds how much memory and how many derivations the process
// has at work at once.
//
// # What stays in memory
//
// PBKDF2 is done here, on byte slices: the standard library's takes the passphrase as a string, which nobody can wipe.
// The state of its HMAC (two compressed key blocks) stays on the Go heap until it is collected; Go has no way to reach it.
// Argon2 is golang.org/x/crypto/argon2: its block matrix is on the Go heap and is not wiped. For that reason, and
// to make the Gate's accounting true, Derive hands memory of large derivations back to the system (debug.FreeOSMemory)
// before it leaves the gate; the kernel clears pages before it gives them to anybody.
package kdf
