// SPDX-License-Identifier: Apache-2.0

package af_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"hash"
	"testing"
	"testing/iotest"

	"github.com/luksgate/luksgate/crypt/luks/af"
)

func TestMergeUndoesSplit(t *testing.T) {
	for _, newHash := range []func() hash.Hash{sha1.New, sha256.New, sha512.New} {
		for _, n := range []int{1, 16, 20, 32, 33, 64, 100} {
			key, split, got := make([]byte, n), make([]byte, af.SplitBytes(n)), make([]byte, n)
			_, _ = rand.Read(key)
			if err := af.Split(split, key, newHash, rand.Reader); err != nil {
				t.Fatal(err)
			}
			if err := af.Merge(got, split, newHash); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, key) {
				t.Errorf("%d bytes: another key", n)
			}
			split[len(split)/2] ^= 1
			if err := af.Merge(got, split, newHash); err != nil {
				t.Fatal(err)
			}
			// The hash of a few bytes is no permutation: after many steps different ones meet.
			if n >= 16 && bytes.Equal(got, key) {
				t.Errorf("%d bytes: one bit of the stripes did not matter", n)
			}
		}
	}
}

// TestMergeIsThatOfTheFormat pins the result for stripes of a fixed pattern. Images of cryptsetup pin it too.
func TestMergeIsThatOfTheFormat(t *testing.T) {
	split := make([]byte, af.SplitBytes(32))
	for i := range split {
		split[i] = byte(i * 7)
	}
	want := reference(split, 32)
	got := make([]byte, 32)
	if err := af.Merge(got, split, sha256.New); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s, expected %s", hex.EncodeToString(got), hex.EncodeToString(want))
	}
}

// reference is the specification written down plainly, for keys of one SHA-256.
func reference(split []byte, n int) []byte {
	d := make([]byte, n)
	for i := 0; i < af.Stripes; i++ {
		for j := range d {
			d[j] ^= split[i*n+j]
		}
		if i < af.Stripes-1 {
			sum := sha256.Sum256(append([]byte{0, 0, 0, 0}, d...))
			copy(d, sum[:])
		}
	}
	return d
}

func TestLengths(t *testing.T) {
	if af.AreaBytes(64) != 256000 || af.AreaBytes(32) != 128000 || af.AreaBytes(33) != 132096 || af.SplitBytes(33) != 132000 {
		t.Error("lengths")
	}
	if err := af.Merge(make([]byte, 32), make([]byte, 100), sha256.New); err == nil {
		t.Error("short stripes merged")
	}
	if err := af.Split(make([]byte, 100), make([]byte, 32), sha256.New, rand.Reader); err == nil {
		t.Error("split into short stripes")
	}
	boom := errors.New("boom")
	if err := af.Split(make([]byte, af.SplitBytes(32)), make([]byte, 32), sha256.New, iotest.ErrReader(boom)); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
}
