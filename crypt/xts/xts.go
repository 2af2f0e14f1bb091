// SPDX-License-Identifier: Apache-2.0

// Package xts is the sector cipher of disk encryption: AES-XTS (IEEE Std
// 1619-2018, NIST SP 800-38E) with the "plain64" initial vectors of dm-crypt,
// over runs of whole sectors.
//
// Kernels. The work is done by a kernel that is chosen once by what the
// processor can do: vaes512 (VAES, AVX-512), vaes256 (VAES, AVX2), aesni
// (AES-NI, AVX), armaes (ARMv8 AES) or portable (crypto/aes). EnvKernel forces
// one. The build tag purego leaves only portable.
//
// Keys. Assembly kernels keep the expanded keys in locked memory outside the Go
// heap, wiped by Release. The portable kernel uses crypto/aes, whose expanded
// keys are on the Go heap: Release can only forget them, and the garbage
// collector decides when the memory is used again. Not cleared after a call are
// the processor's registers, and encrypted initial vectors on the stack.
package xts

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"unsafe"

	"github.com/luksgate/luksgate/crypt/secret"
)

//go:generate go run -C _asm . ..

// From the specifications.
const (
	blockBytes = 16

	// IVUnitBytes is what one step of the initial vector stands for. dm-crypt
	// and librbd count in these units whatever the sector size.
	IVUnitBytes = 512
)

// maxCallBytes is the most that one call of an assembly kernel gets: the Go
// scheduler can not preempt assembly, and 64 KiB take a few microseconds.
const maxCallBytes = 64 << 10

// errReleased is what a Cipher panics with that is used after Release.
var errReleased = errors.New("xts: cipher used after Release")

// Cipher encrypts and decrypts sectors under one key. Its methods may be called
// from several goroutines at once, except Release, which must be the last call.
type Cipher struct {
	sectorBytes int
	released    bool

	// For assembly kernels. keys is the content of schedule (layout in
	// schedule.go), kept apart because schedule guards it by a mutex.
	schedule         *secret.Bytes
	keys             []byte
	encrypt, decrypt kernelFunc
	chunks           int    // of a sector
	ivStep           uint64 // from sector to sector

	// For the portable kernel, nil with others.
	dataBlock, tweakBlock cipher.Block
}

// New returns a cipher that uses the kernel named by Kernel. The key has 32
// bytes (AES-128) or 64 (AES-256): data key, then tweak key. It is copied; the
// caller keeps and wipes its own. sectorBytes is 512, 1024, 2048 or 4096. It
// fails for other arguments, with KernelError, and when there is no memory.
func New(key []byte, sectorBytes int) (*Cipher, error) {
	k, err := selected()
	if err != nil {
		return nil, err
	}
	return newCipher(k, key, sectorBytes)
}

// NewWithKernel is New with one of Kernels instead of the selected kernel, for
// comparing them.
func NewWithKernel(name string, key []byte, sectorBytes int) (*Cipher, error) {
	k, err := find(name)
	if err != nil {
		return nil, err
	}
	return newCipher(k, key, sectorBytes)
}

func newCipher(k *kernel, key []byte, sectorBytes int) (*Cipher, error) {
	if len(key) != 32 && len(key) != 64 {
		return nil, fmt.Errorf("xts: key has %d bytes, want 32 (aes-128) or 64 (aes-256)", len(key))
	}
	switch sectorBytes {
	case 512, 1024, 2048, 4096:
	default:
		return nil, fmt.Errorf("xts: sector size is %d bytes, want 512, 1024, 2048 or 4096", sectorBytes)
	}
	c := &Cipher{sectorBytes: sectorBytes, ivStep: uint64(sectorBytes / IVUnitBytes)}
	if k.encrypt128 == nil {
		if err := c.initPortable(key); err != nil {
			return nil, err
		}
		return c, nil
	}
	schedule, err := secret.New(scheduleBytes)
	if err != nil {
		return nil, fmt.Errorf("xts: expanded key: %w", err)
	}
	c.schedule, c.keys, c.chunks = schedule, schedule.Bytes(), sectorBytes/k.chunkBytes
	expandKeys(c.keys, key)
	c.encrypt, c.decrypt = k.encrypt256, k.decrypt256
	if len(key) == 32 {
		c.encrypt, c.decrypt = k.encrypt128, k.decrypt128
	}
	return c, nil
}

func (c *Cipher) initPortable(key []byte) (err error) {
	half := len(key) / 2
	if c.dataBlock, err = aes.NewCipher(key[:half]); err != nil {
		return fmt.Errorf("xts: data key: %w", err)
	}
	if c.tweakBlock, err = aes.NewCipher(key[half:]); err != nil {
		return fmt.Errorf("xts: tweak key: %w", err)
	}
	return nil
}

// SectorBytes returns the sector size.
func (c *Cipher) SectorBytes() int { return c.sectorBytes }

// Encrypt encrypts all of src, whole sectors, to the start of dst. iv is the
// initial vector of the first sector in units of 512 bytes; each further
// sector's is larger by SectorBytes()/512, modulo 2^64. dst and src either start
// at the same byte or do not overlap. It allocates nothing. A length that is no
// multiple of the sector size, a dst shorter than src, an overlap and use after
// Release are mistakes of the program: it panics.
func (c *Cipher) Encrypt(dst, src []byte, iv uint64) {
	c.check(dst, src)
	if c.dataBlock != nil {
		c.cryptPortable(dst, src, iv, c.dataBlock.Encrypt)
		return
	}
	c.run(c.encrypt, dst, src, iv)
}

// Decrypt is the inverse of Encrypt, with the same contract.
func (c *Cipher) Decrypt(dst, src []byte, iv uint64) {
	c.check(dst, src)
	if c.dataBlock != nil {
		c.cryptPortable(dst, src, iv, c.dataBlock.Decrypt)
		return
	}
	c.run(c.decrypt, dst, src, iv)
}

// Release wipes the expanded keys. The cipher must not be in use; afterwards
// only Release and SectorBytes may be called.
func (c *Cipher) Release() {
	c.schedule.Release()
	*c = Cipher{sectorBytes: c.sectorBytes, released: true}
}

// run calls f on pieces that are not too large.
func (c *Cipher) run(f kernelFunc, dst, src []byte, iv uint64) {
	for len(src) > 0 {
		n := min(len(src), maxCallBytes)
		f(&c.keys[0], &dst[0], &src[0], n/c.sectorBytes, c.chunks, iv, c.ivStep)
		dst, src, iv = dst[n:], src[n:], iv+uint64(n/IVUnitBytes)
	}
}

// check panics unless the arguments keep the contract of Encrypt. Kernels trust
// it.
func (c *Cipher) check(dst, src []byte) {
	switch {
	case c.released:
		panic(errReleased)
	case len(src)%c.sectorBytes != 0:
		panic(fmt.Sprintf("xts: length %d is no multiple of the sector size %d", len(src), c.sectorBytes))
	case len(dst) < len(src):
		panic(fmt.Sprintf("xts: destination has %d bytes, source %d", len(dst), len(src)))
	case inexactOverlap(dst[:len(src)], src):
		panic("xts: source and destination overlap without being the same")
	}
}

// inexactOverlap reports whether a and b, of equal length, share memory other
// than at the same index.
func inexactOverlap(a, b []byte) bool {
	if len(a) == 0 {
		return false
	}
	x, y := uintptr(unsafe.Pointer(&a[0])), uintptr(unsafe.Pointer(&b[0]))
	return x != y && x < y+uintptr(len(b)) && y < x+uintptr(len(a))
}
