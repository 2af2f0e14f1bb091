// SPDX-License-Identifier: Apache-2.0

package kdf

import (
	"crypto/sha1" //nolint:gosec // old LUKS1 headers use it, as HMAC and as a diffuser, where it is sound
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"strings"

	"github.com/jzelinskie/whirlpool"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
	"golang.org/x/crypto/ripemd160" //nolint:staticcheck // LUKS1 headers of old systems name it
)

// hashes are the digests a header may name, by cryptsetup's names.
var hashes = map[string]func() hash.Hash{
	"sha1":      sha1.New,
	"sha224":    sha256.New224,
	"sha256":    sha256.New,
	"sha384":    sha512.New384,
	"sha512":    sha512.New,
	"ripemd160": ripemd160.New,
	"whirlpool": whirlpool.New,
}

// Hash returns the constructor of a digest by the name that a header uses; case does not matter. An unknown name matches
// lukserr.Unsupported.
func Hash(name string) (func() hash.Hash, error) {
	if h, ok := hashes[strings.ToLower(name)]; ok {
		return h, nil
	}
	return nil, fmt.Errorf("%w: hash %q", lukserr.Unsupported, name)
}
