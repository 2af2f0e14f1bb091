// SPDX-License-Identifier: Apache-2.0

// Package luks2 is the on-disk header of LUKS version 2: two copies, each a binary header and a JSON area.
//
// Read finds the copy to use with cryptsetup's recovery order. ParseMetadata validates JSON in cryptsetup's order and by
// its rules, on input that may be hostile: its depth, number of values and every number are bounded. Metadata keeps the
// whole JSON tree, so that editing it loses nothing that other tools keep there. The package knows no passphrases and no
// keys, and writes nothing: Encode returns the bytes that belong on the disk.
//
// It is stricter than cryptsetup in places that no tool writes: JSON must be RFC 8259 and UTF-8 (json-c also takes
// comments and single quotes), and object numbers must be canonical and below 32.
//
// Reference: LUKS2 On-Disk Format Specification 1.1.0; docs/luks-format.md has the byte tables.
package luks2
