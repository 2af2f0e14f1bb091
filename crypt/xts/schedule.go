// SPDX-License-Identifier: Apache-2.0

package xts

import "encoding/binary"

// The expanded keys as assembly kernels read them: three schedules of up to 15
// round keys, for encrypting data, decrypting data (equivalent inverse cipher,
// FIPS 197, 5.3.5) and encrypting tweaks. Each round key is stored four times
// in a row so that it is an operand for 16, 32 and 64 byte registers. Decryption
// keys are in the order of use.
const (
	maxRoundKeys      = 15
	roundKeyBytes     = 4 * blockBytes
	encryptKeysOffset = 0
	decryptKeysOffset = encryptKeysOffset + maxRoundKeys*roundKeyBytes
	tweakKeysOffset   = decryptKeysOffset + maxRoundKeys*roundKeyBytes
	scheduleBytes     = tweakKeysOffset + maxRoundKeys*roundKeyBytes
)

// expandKeys fills schedule from a key of 32 or 64 bytes. It takes the same time for every key: the S-box is
// computed and not looked up.
func expandKeys(schedule, key []byte) {
	half := len(key) / 2
	rounds := half/4 + 6
	expandKey(schedule[encryptKeysOffset:decryptKeysOffset], key[:half], rounds)
	expandKey(schedule[tweakKeysOffset:scheduleBytes], key[half:], rounds)
	invertKey(schedule[decryptKeysOffset:tweakKeysOffset], schedule[encryptKeysOffset:decryptKeysOffset], rounds)
}

// wordAt returns where word i of a schedule is in its first copy.
func wordAt(keys []byte, i int) []byte {
	return keys[i/4*roundKeyBytes+i%4*4:][:4]
}

// expandKey is KeyExpansion of FIPS 197, 5.2, on little-endian words.
func expandKey(keys, key []byte, rounds int) {
	keyWords := len(key) / 4
	for i := range keyWords {
		copy(wordAt(keys, i), key[4*i:])
	}
	roundConstant := uint32(1)
	for i := keyWords; i < 4*(rounds+1); i++ {
		word := binary.LittleEndian.Uint32(wordAt(keys, i-1))
		switch i % keyWords {
		case 0:
			word = subWord(word>>8|word<<24) ^ roundConstant
			roundConstant = timesX(roundConstant)
		case 4:
			if keyWords > 6 {
				word = subWord(word)
			}
		}
		word ^= binary.LittleEndian.Uint32(wordAt(keys, i-keyWords))
		binary.LittleEndian.PutUint32(wordAt(keys, i), word)
	}
	repeatKeys(keys, rounds)
}

// invertKey makes the decryption schedule from the encryption schedule.
func invertKey(decryptKeys, encryptKeys []byte, rounds int) {
	for i := range 4 * (rounds + 1) {
		from := 4*(rounds-i/4) + i%4
		word := binary.LittleEndian.Uint32(wordAt(encryptKeys, from))
		if i >= 4 && i < 4*rounds {
			word = invMixColumn(word)
		}
		binary.LittleEndian.PutUint32(wordAt(decryptKeys, i), word)
	}
	repeatKeys(decryptKeys, rounds)
}

func repeatKeys(keys []byte, rounds int) {
	for r := range rounds + 1 {
		roundKey := keys[r*roundKeyBytes:][:roundKeyBytes]
		for at := blockBytes; at < roundKeyBytes; at += blockBytes {
			copy(roundKey[at:], roundKey[:blockBytes])
		}
	}
}

// The functions below treat a word as four elements of GF(2^8) modulo
// x^8 + x^4 + x^3 + x + 1, one in each byte, and have no branches.

// timesX multiplies each byte by x.
func timesX(word uint32) uint32 {
	return word<<1&0xfefefefe ^ word>>7&0x01010101*0x1b
}

// times multiplies byte by byte.
func times(a, b uint32) (product uint32) {
	for range 8 {
		product ^= a & (b & 0x01010101 * 0xff)
		a, b = timesX(a), b>>1&0x7f7f7f7f
	}
	return product
}

// subWord applies the S-box to each byte (FIPS 197, 5.1.1): the inverse, which
// is the 254th power, then an affine map.
func subWord(word uint32) uint32 {
	inverse := uint32(0x01010101)
	power := word
	for range 7 { // exponents 2, 4, .. 128 add up to 254
		power = times(power, power)
		inverse = times(inverse, power)
	}
	result := inverse ^ 0x63636363
	for range 4 {
		inverse = inverse<<1&0xfefefefe | inverse>>7&0x01010101 // rotate each byte
		result ^= inverse
	}
	return result
}

// invMixColumn is InvMixColumns on one column (FIPS 197, 5.3.3).
func invMixColumn(word uint32) uint32 {
	x2 := timesX(word)
	x4 := timesX(x2)
	x8 := timesX(x4)
	x9, x11, x13, x14 := x8^word, x8^x2^word, x8^x4^word, x8^x4^x2
	rotate := func(w uint32, bytes int) uint32 { return w>>(8*bytes) | w<<(32-8*bytes) }
	return x14 ^ rotate(x11, 1) ^ rotate(x13, 2) ^ rotate(x9, 3)
}
