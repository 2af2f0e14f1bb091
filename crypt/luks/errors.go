// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"

	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

// Errors to match with errors.Is. Errors of the reader or device are wrapped unchanged.
var (
	// ErrNotLUKS: there is no LUKS header.
	ErrNotLUKS = lukserr.NotLUKS
	// ErrUnsupported: it is LUKS, and valid, but uses something that we refuse; the text names it.
	ErrUnsupported = lukserr.Unsupported
	// ErrDamaged: it was LUKS, or claims to be, but breaks the rules of the format.
	ErrDamaged = lukserr.Damaged
	// ErrWrongPassphrase: no keyslot opens with the passphrase.
	ErrWrongPassphrase = lukserr.WrongPassphrase
	// ErrLimit: the header asks for more memory or time than we grant; the text names the limit.
	ErrLimit = lukserr.Limit
	// ErrInUse: the place to format is not empty.
	ErrInUse = lukserr.InUse
	// ErrLastKeyslot: without Force, the last keyslot is not removed.
	ErrLastKeyslot = lukserr.LastKeyslot
	// ErrNoSpace: no free keyslot, no room for its area or its metadata, or an image too small for a header.
	ErrNoSpace = lukserr.NoSpace
	// ErrNoKeyslot: the keyslot named is not in use.
	ErrNoKeyslot = lukserr.NoKeyslot
	// ErrChanged: the header on the device is not the one that was read.
	ErrChanged = lukserr.Changed
)

// wrap puts the prefix of the package in front of an error of its parts.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("luks: %w", err)
}

// unsupportedf returns an error that matches ErrUnsupported.
func unsupportedf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}
