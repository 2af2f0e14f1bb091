// SPDX-License-Identifier: Apache-2.0

package keyarea_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks/keyarea"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

func TestDecryptUndoesEncrypt(t *testing.T) {
	for spec, sizes := range map[string][]int{
		"aes-xts-plain64": {32, 64}, "aes-xts-plain": {32, 64}, "aes-cbc-plain": {16, 24, 32}, "aes-cbc-plain64": {32},
		"aes-cbc-essiv:sha256": {16, 32},
	} {
		for _, n := range sizes {
			key, data := make([]byte, n), make([]byte, 4*keyarea.SectorBytes)
			_, _ = rand.Read(key)
			if err := keyarea.Encrypt(spec, key, data); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(data[:512], data[512:1024]) {
				t.Errorf("%s: equal sectors encrypt equally", spec)
			}
			if err := keyarea.Decrypt(spec, key, data); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(data, make([]byte, len(data))) {
				t.Errorf("%s with %d bytes: plaintext differs", spec, n)
			}
		}
	}
}

// TestCBCOfNIST is the first block of SP 800-38A, F.2.1: with the IV 0 of sector 0, the plaintext is xored with its IV.
func TestCBCOfNIST(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	data := make([]byte, keyarea.SectorBytes)
	plain, iv := unhex("6bc1bee22e409f96e93d7e117393172a"), unhex("000102030405060708090a0b0c0d0e0f")
	for i := range plain {
		data[i] = plain[i] ^ iv[i]
	}
	if err := keyarea.Encrypt("aes-cbc-plain64", unhex("2b7e151628aed2a6abf7158809cf4f3c"), data); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(data[:16]); got != "7649abac8119b246cee98e9b12e9197d" {
		t.Errorf("first block %s", got)
	}
}

func TestRefusals(t *testing.T) {
	for spec, keyBytes := range map[string]int{
		"cipher_null-ecb": 32, "cipher_null": 32, "null": 16, "serpent-xts-plain64": 64, "aes-xts-plain64": 48, "aes-xts-essiv:sha256": 64,
		"aes-ecb": 16, "": 32, "aes-cbc-essiv:sha1": 16,
	} {
		if err := keyarea.Decrypt(spec, make([]byte, keyBytes), make([]byte, 512)); !errors.Is(err, lukserr.Unsupported) {
			t.Errorf("%q: %v", spec, err)
		}
	}
	if err := keyarea.Decrypt("aes-xts-plain64", make([]byte, 64), make([]byte, 513)); !errors.Is(err, lukserr.Damaged) {
		t.Errorf("513 bytes: %v", err)
	}
	if !keyarea.IsNull("cipher_null-ecb") || keyarea.IsNull("cipher_nullified") || keyarea.IsNull("aes-xts-plain64") {
		t.Error("IsNull")
	}
}
