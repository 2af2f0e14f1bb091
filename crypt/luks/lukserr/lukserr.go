// SPDX-License-Identifier: Apache-2.0

// Package lukserr holds the sentinels that crypt/luks and its sub-packages share. Package luks exports them under its own
// name; match them with errors.Is.
package lukserr

import "errors"

// Sentinels. Their texts carry no package prefix: package luks puts its own in front, once.
var (
	NotLUKS         = errors.New("no LUKS header")
	Unsupported     = errors.New("unsupported")
	Damaged         = errors.New("damaged LUKS header")
	WrongPassphrase = errors.New("no keyslot opens with this passphrase")
	Limit           = errors.New("over the limit")
	InUse           = errors.New("the place is not empty")
	LastKeyslot     = errors.New("the last keyslot")
	NoSpace         = errors.New("no space left")
	NoKeyslot       = errors.New("no such keyslot")
	Changed         = errors.New("the header was changed by somebody else")
)
