// SPDX-License-Identifier: Apache-2.0

// Package luks reads, unlocks, makes and changes LUKS1 and LUKS2 headers: what cryptsetup does, without device-mapper and
// without any path. The caller brings something to read from (io.ReaderAt), and for changes a Device.
//
//	hdr, err := luks.Read(image, sizeBytes, luks.ReadOptions{})
//	key, err := hdr.Unlock(ctx, image, passphrase, luks.UnlockOptions{})
//	defer key.Release()
//	cipher, err := xts.New(key.Key.Bytes(), hdr.SectorBytes)
//
// The package knows neither data nor its encryption: that is package xts, with the IV of a sector being its distance from
// DataOffsetBytes plus IVOffset, in units of 512 bytes.
//
// # What is opened and what is refused
//
// Data: aes-xts-plain64 with 128 or 256 bit keys and sectors of 512 to 4096 bytes. All else is refused with an error that
// matches ErrUnsupported and names it: other ciphers, integrity, reencryption under way, any mandatory requirement,
// several data segments, hardware encryption, keyslots without encryption. cryptsetup's validation is applied in its
// order. The sub-packages are the parts: luks1 and luks2 the formats, kdf and af the cryptography of keyslots, keyarea
// their encryption, signature what else may begin an image.
//
// # Secrets
//
// Keys and passphrases are secret.Bytes and never Go strings. Derived keys and split keys are wiped on every path. What
// cannot be wiped is told in package kdf.
//
// # Writing
//
// Every change is a sequence of writes with a Sync between those whose order matters, such that a power loss at any of
// them, torn or not, leaves a header that opens: with the old passphrases, with the new ones, or with both. See write.go.
package luks
