// SPDX-License-Identifier: Apache-2.0

// Package keyarea encrypts and decrypts the areas that hold split keys: 512-byte sectors whose numbers start at 0.
//
// A keyslot area may have another cipher than the data. cryptsetup writes aes-xts-plain64 unless told otherwise; headers
// of older tools carry AES-CBC, which is read (and kept when a keyslot is rewritten) for keyslot areas only.
package keyarea

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/luksgate/luksgate/crypt/luks/lukserr"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/xts"
)

// SectorBytes is the unit of the sector numbers and of encryption.
const SectorBytes = 512

// ciphers maps the specifications that are supported to their key sizes in bytes.
var ciphers = map[string][]int{
	"aes-xts-plain64":      {32, 64},
	"aes-xts-plain":        {32, 64}, // 32-bit sector numbers: the same below 2 TiB, where every keyslot area is
	"aes-cbc-plain":        {16, 24, 32},
	"aes-cbc-plain64":      {16, 24, 32},
	"aes-cbc-essiv:sha256": {16, 24, 32},
}

// Check tells whether areas of this cipher specification and key size can be used; the error names what is not supported.
func Check(spec string, keyBytes int) error {
	if IsNull(spec) {
		return fmt.Errorf("%w: keyslot encryption %q is no encryption", lukserr.Unsupported, spec)
	}
	sizes, ok := ciphers[spec]
	if !ok {
		return fmt.Errorf("%w: keyslot encryption %q", lukserr.Unsupported, spec)
	}
	if !slices.Contains(sizes, keyBytes) {
		return fmt.Errorf("%w: keyslot encryption %q with a key of %d bytes", lukserr.Unsupported, spec, keyBytes)
	}
	return nil
}

// IsNull tells whether a cipher specification means no encryption at all.
func IsNull(spec string) bool {
	const null = "cipher_null"
	return spec == null || len(spec) > len(null) && spec[:len(null)+1] == null+"-" || spec == "null"
}

// Encrypt encrypts data, whole sectors, in place.
func Encrypt(spec string, key, data []byte) error { return crypt(spec, key, data, true) }

// Decrypt decrypts data, whole sectors, in place.
func Decrypt(spec string, key, data []byte) error { return crypt(spec, key, data, false) }

func crypt(spec string, key, data []byte, encrypt bool) error {
	if err := Check(spec, len(key)); err != nil {
		return err
	}
	if len(data)%SectorBytes != 0 {
		return fmt.Errorf("%w: keyslot area of %d bytes is not whole sectors", lukserr.Damaged, len(data))
	}
	switch spec {
	case "aes-xts-plain64", "aes-xts-plain":
		c, err := xts.New(key, SectorBytes)
		if err != nil {
			return err
		}
		defer c.Release()
		if encrypt {
			c.Encrypt(data, data, 0)
		} else {
			c.Decrypt(data, data, 0)
		}
		return nil
	case "aes-cbc-essiv:sha256":
		salt := sha256.Sum256(key)
		defer secret.Wipe(salt[:])
		essiv, err := aes.NewCipher(salt[:])
		if err != nil {
			return err
		}
		return cbc(key, data, encrypt, essiv.Encrypt)
	default:
		return cbc(key, data, encrypt, func(dst, src []byte) { copy(dst, src) })
	}
}

// cbc runs AES-CBC over each sector. The IV is the little-endian sector number, passed through tweak.
func cbc(key, data []byte, encrypt bool, tweak func(dst, src []byte)) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	var number, iv [aes.BlockSize]byte
	for sector := uint64(0); len(data) > 0; sector++ {
		binary.LittleEndian.PutUint64(number[:], sector)
		tweak(iv[:], number[:])
		if encrypt {
			cipher.NewCBCEncrypter(block, iv[:]).CryptBlocks(data[:SectorBytes], data[:SectorBytes])
		} else {
			cipher.NewCBCDecrypter(block, iv[:]).CryptBlocks(data[:SectorBytes], data[:SectorBytes])
		}
		data = data[SectorBytes:]
	}
	return nil
}
