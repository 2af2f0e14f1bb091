// SPDX-License-Identifier: Apache-2.0

package xts

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

// forEachKernel runs one test body over every kernel that this processor can
// run. TestEveryKernelRuns proves by other means that none is left out.
func forEachKernel(t *testing.T, body func(t *testing.T, kernel string)) {
	t.Helper()
	for _, name := range Kernels() {
		t.Run(name, func(t *testing.T) { body(t, name) })
	}
}

var sectorSizes = []int{512, 1024, 2048, 4096}

func mustCipher(tb testing.TB, kernel string, key []byte, sectorBytes int) *Cipher {
	tb.Helper()
	c, err := NewWithKernel(kernel, key, sectorBytes)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Release)
	return c
}

func mustHex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, rnd.Uint64())
	}
	return b[:n:n]
}

// wantPanic runs f and fails unless it panics.
func wantPanic(t *testing.T, what string, f func()) (value any) {
	t.Helper()
	defer func() {
		if value = recover(); value == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	f()
	return nil
}

func TestNewRefusesArguments(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		for _, keyBytes := range []int{0, 16, 31, 33, 48, 63, 65, 128} {
			if _, err := NewWithKernel(kernel, make([]byte, keyBytes), 512); err == nil {
				t.Errorf("a key of %d bytes is accepted", keyBytes)
			}
		}
		for _, sectorBytes := range []int{-512, 0, 16, 256, 513, 1536, 8192} {
			if _, err := NewWithKernel(kernel, make([]byte, 64), sectorBytes); err == nil {
				t.Errorf("a sector size of %d is accepted", sectorBytes)
			}
		}
	})
}

func TestMisusePanics(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		c := mustCipher(t, kernel, make([]byte, 64), 1024)
		buf := make([]byte, 8192)
		for _, n := range []int{1, 16, 512, 1023, 1025, 1536} {
			wantPanic(t, "partial sector", func() { c.Encrypt(buf, buf[:n], 0) })
			wantPanic(t, "partial sector", func() { c.Decrypt(buf, buf[:n], 0) })
		}
		wantPanic(t, "short destination", func() { c.Encrypt(buf[:2047], buf[4096:6144], 0) })
		for _, shift := range []int{1, 15, 16, 512, 1024, 2047} {
			wantPanic(t, "overlap, destination behind", func() { c.Encrypt(buf[shift:], buf[:2048], 0) })
			wantPanic(t, "overlap, destination ahead", func() { c.Decrypt(buf, buf[shift:shift+2048], 0) })
		}
		if !bytes.Equal(buf, make([]byte, len(buf))) {
			t.Error("a refused call wrote to its buffers")
		}
		c.Encrypt(buf[2048:], buf[:2048], 0) // neighbours do not overlap
		c.Encrypt(nil, nil, 0)
		c.Encrypt(buf, buf[:0], 0)
	})
}

func TestReleasedCipherPanics(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		c := mustCipher(t, kernel, make([]byte, 32), 512)
		c.Release()
		c.Release()
		if got := wantPanic(t, "use after Release", func() { c.Encrypt(nil, nil, 0) }); got != nil && !errors.Is(got.(error), errReleased) {
			t.Errorf("panic value is %v", got)
		}
		if c.SectorBytes() != 512 {
			t.Error("SectorBytes changed")
		}
	})
}

func TestKeyIsCopied(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		key := bytes.Repeat([]byte{7}, 64)
		c := mustCipher(t, kernel, key, 512)
		want := make([]byte, 512)
		c.Encrypt(want, make([]byte, 512), 9)
		clear(key)
		got := make([]byte, 512)
		c.Encrypt(got, make([]byte, 512), 9)
		if !bytes.Equal(got, want) {
			t.Error("wiping the caller's key changed the cipher")
		}
	})
}

// TestKernelsAgree compares every kernel with the portable one on random runs,
// alignments and IVs, many of them close to the wrap at 2^64, in place and not.
func TestKernelsAgree(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		rnd := rand.New(rand.NewPCG(3, 4))
		for _, keyBytes := range []int{32, 64} {
			for _, sectorBytes := range sectorSizes {
				key := randomBytes(rnd, keyBytes)
				c := mustCipher(t, kernel, key, sectorBytes)
				portable := mustCipher(t, "portable", key, sectorBytes)
				for range 60 {
					compareRun(t, rnd, c, portable)
				}
			}
		}
	})
}

// compareRun does one random run with both ciphers and checks that nothing
// outside the destination is written.
func compareRun(t *testing.T, rnd *rand.Rand, c, portable *Cipher) {
	t.Helper()
	sectors := 1 + rnd.IntN(20)
	if rnd.IntN(8) == 0 {
		sectors = 1 + rnd.IntN(3*maxCallBytes/c.sectorBytes)
	}
	n := sectors * c.sectorBytes
	iv := rnd.Uint64()
	if rnd.IntN(2) == 0 {
		iv = -uint64(rnd.IntN(2 * n / IVUnitBytes))
	}
	const guard = 128
	srcAt, dstAt := guard+rnd.IntN(64), guard+rnd.IntN(64)
	plain := randomBytes(rnd, n)
	want := make([]byte, n)
	portable.Encrypt(want, plain, iv)

	src, dst := make([]byte, srcAt+n+guard), make([]byte, dstAt+n+guard)
	for step, inOut := range [][2][]byte{{plain, want}, {want, plain}} {
		crypt := []func(dst, src []byte, iv uint64){c.Encrypt, c.Decrypt}[step]
		copy(src[srcAt:], inOut[0])
		crypt(dst[dstAt:dstAt+n], src[srcAt:srcAt+n], iv)
		expectIn(t, dst, dstAt, inOut[1])
		expectIn(t, src, srcAt, inOut[0])
		crypt(src[srcAt:srcAt+n], src[srcAt:srcAt+n], iv)
		expectIn(t, src, srcAt, inOut[1])
	}
}

// expectIn checks that buf holds want at offset at, and zeros around it.
func expectIn(t *testing.T, buf []byte, at int, want []byte) {
	t.Helper()
	if got := buf[at : at+len(want)]; !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		t.Fatalf("run of %d bytes differs from the portable kernel at byte %d", len(want), i)
	}
	for i, b := range buf {
		if b != 0 && (i < at || i >= at+len(want)) {
			t.Fatalf("byte %d relative to a buffer of %d bytes was overwritten", i-at, len(want))
		}
	}
}

// TestRunIsSectorBySector checks the IV rule: a run equals its sectors one by
// one with IVs in 512-byte units.
func TestRunIsSectorBySector(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		rnd := rand.New(rand.NewPCG(5, 6))
		for _, sectorBytes := range sectorSizes {
			c := mustCipher(t, kernel, randomBytes(rnd, 64), sectorBytes)
			const sectors = 37
			src := randomBytes(rnd, sectors*sectorBytes)
			run, single := make([]byte, len(src)), make([]byte, len(src))
			iv := ^uint64(0) - 9
			c.Encrypt(run, src, iv)
			for s := range sectors {
				at := s * sectorBytes
				c.Encrypt(single[at:], src[at:at+sectorBytes], iv+uint64(at/512))
			}
			if !bytes.Equal(run, single) {
				t.Errorf("sector size %d: a run differs from its sectors", sectorBytes)
			}
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		c := mustCipher(t, kernel, bytes.Repeat([]byte{5}, 64), 4096)
		src := randomBytes(rand.New(rand.NewPCG(7, 8)), 32<<10)
		want := make([]byte, len(src))
		c.Encrypt(want, src, 1)
		var wg sync.WaitGroup
		for range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				got := make([]byte, len(src))
				for range 20 {
					c.Encrypt(got, src, 1)
					if !bytes.Equal(got, want) {
						t.Error("concurrent calls disturb each other")
						return
					}
				}
			}()
		}
		wg.Wait()
	})
}

func TestNoAllocation(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		c := mustCipher(t, kernel, make([]byte, 64), 512)
		buf := make([]byte, 2*maxCallBytes)
		if n := testing.AllocsPerRun(10, func() { c.Encrypt(buf, buf, 3); c.Decrypt(buf, buf, 3) }); n != 0 {
			t.Errorf("%v allocations a call", n)
		}
	})
}

// FuzzKernelsAgree: every kernel equals the portable one, and decryption is the
// inverse of encryption.
func FuzzKernelsAgree(f *testing.F) {
	f.Add([]byte("key"), []byte("data"), uint64(0), uint8(0), uint8(1))
	f.Add([]byte{1}, bytes.Repeat([]byte{9}, 1500), ^uint64(0), uint8(5), uint8(15))
	f.Add([]byte{}, []byte{}, uint64(1)<<63, uint8(3), uint8(255))
	f.Fuzz(func(t *testing.T, keySeed, data []byte, iv uint64, shape, copies uint8) {
		key := make([]byte, 32<<(shape>>2&1))
		copy(key, keySeed)
		sectorBytes := sectorSizes[shape&3]
		// The data is repeated, then cut to whole sectors.
		data = bytes.Repeat(append(data, 0), int(copies)+1)
		data = append(data, make([]byte, sectorBytes)...)
		data = data[:min(len(data), 4*maxCallBytes)/sectorBytes*sectorBytes]
		want := make([]byte, len(data))
		mustCipher(t, "portable", key, sectorBytes).Encrypt(want, data, iv)
		for _, kernel := range Kernels() {
			c := mustCipher(t, kernel, key, sectorBytes)
			got := make([]byte, len(data))
			c.Encrypt(got, data, iv)
			if !bytes.Equal(got, want) {
				t.Fatalf("kernel %s encrypts otherwise than the portable one", kernel)
			}
			c.Decrypt(got, got, iv)
			if !bytes.Equal(got, data) {
				t.Fatalf("kernel %s does not decrypt what it encrypted", kernel)
			}
		}
	})
}
