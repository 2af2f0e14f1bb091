// SPDX-License-Identifier: Apache-2.0

package xts

import (
	"encoding/hex"
	"testing"
)

// TestExpandKeys compares with the examples of FIPS 197, A.1 and A.3, and with
// the decryption schedule of C.1 (equivalent inverse cipher).
func TestExpandKeys(t *testing.T) {
	for _, v := range []struct {
		key    string
		rounds int
		last   string // last encryption round key
	}{
		{"2b7e151628aed2a6abf7158809cf4f3c", 10, "d014f9a8c9ee2589e13f0cc8b6630ca6"},
		{"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", 14, "fe4890d1e6188d0b046df344706c631e"},
	} {
		key := mustHex(t, v.key)
		schedule := make([]byte, scheduleBytes)
		expandKeys(schedule, append(key, key...))
		for _, at := range []int{encryptKeysOffset, tweakKeysOffset} {
			if got := hex.EncodeToString(schedule[at:][:len(key)/2]); got != v.key[:len(key)] {
				t.Errorf("schedule at %d starts with %s, want the key %s", at, got, v.key)
			}
			for lane := range 4 {
				lastAt := at + v.rounds*roundKeyBytes + lane*blockBytes
				if got := hex.EncodeToString(schedule[lastAt:][:blockBytes]); got != v.last {
					t.Errorf("last round key at %d, lane %d is %s, want %s", at, lane, got, v.last)
				}
			}
		}
		if got := hex.EncodeToString(schedule[decryptKeysOffset:][:blockBytes]); got != v.last {
			t.Errorf("decryption starts with %s, want the last encryption key %s", got, v.last)
		}
	}
	schedule := make([]byte, scheduleBytes)
	expandKeys(schedule, append(mustHex(t, "000102030405060708090a0b0c0d0e0f"), make([]byte, 16)...))
	const second = "13aa29be9c8faff6f770f58000f7bf03" // round 1, ik_sch
	if got := hex.EncodeToString(schedule[decryptKeysOffset+roundKeyBytes:][:blockBytes]); got != second {
		t.Errorf("second decryption key is %s, want %s", got, second)
	}
}

// TestSubWord checks the S-box: it is a permutation with the values of FIPS 197,
// figure 7, at the corners.
func TestSubWord(t *testing.T) {
	for in, want := range map[uint32]uint32{0x00000000: 0x63636363, 0x01530fff: 0x7ced7616, 0xcf9a00c9: 0x8ab863dd} {
		if got := subWord(in); got != want {
			t.Errorf("subWord(%08x) = %08x, want %08x", in, got, want)
		}
	}
	seen := map[uint32]bool{}
	for b := range uint32(256) {
		seen[subWord(b*0x01010101)] = true
	}
	if len(seen) != 256 {
		t.Errorf("the S-box has %d values, want 256", len(seen))
	}
}
