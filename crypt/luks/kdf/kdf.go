// SPDX-License-Identifier: Apache-2.0

package kdf

import (
	"context"
	"crypto/hmac"
	"crypto/subtle"
	"fmt"
	"hash"
	"runtime/debug"

	"github.com/luksgate/luksgate/crypt/luks/lukserr"
	"github.com/luksgate/luksgate/crypt/secret"
	"golang.org/x/crypto/argon2"
)

// Names of the functions in LUKS2 metadata.
const (
	PBKDF2   = "pbkdf2"
	Argon2i  = "argon2i"
	Argon2id = "argon2id"
)

// Our limits. cryptsetup writes nothing that comes near them unless it is told to.
const (
	// DefaultMemoryLimitBytes is what a derivation may use unless the caller says otherwise: the most that cryptsetup
	// and librbd choose by themselves.
	DefaultMemoryLimitBytes = 1 << 30
	// MaxMemoryLimitBytes is the most a caller may allow, and the most cryptsetup can make.
	MaxMemoryLimitBytes = 4 << 30
	// MaxIterations bounds PBKDF2, at some 2 million a second and core: minutes.
	MaxIterations = 1 << 28
	// MaxThreads bounds the lanes of Argon2; cryptsetup uses 4 at most.
	MaxThreads = 32
	// MaxWorkKiB bounds Argon2's passes times memory: 1 TiB filled, tens of minutes.
	MaxWorkKiB = 1 << 30
	// MaxSaltBytes bounds the salt; LUKS uses 32.
	MaxSaltBytes = 1024
)

// freeAboveKiB is the size from which the memory of a derivation is handed back to the system at once.
const freeAboveKiB = 16 << 10

// cancelEvery is the number of PBKDF2 iterations between looks at the context.
const cancelEvery = 1 << 14

// Params are the parameters of one derivation, as read from a header.
type Params struct {
	Type       string // PBKDF2, Argon2i or Argon2id
	Hash       string // PBKDF2 only
	Iterations uint32 // PBKDF2 only
	TimeCost   uint32 // Argon2 only: passes
	MemoryKiB  uint32 // Argon2 only
	Threads    uint32 // Argon2 only: lanes
	Salt       []byte
}

// memoryBytes is what the derivation allocates.
func (p *Params) memoryBytes() uint64 {
	if p.Type == PBKDF2 {
		return 0
	}
	return uint64(p.MemoryKiB) << 10
}

// Check tells whether the parameters can be used within memoryLimitBytes (0: DefaultMemoryLimitBytes). It allocates
// nothing. Errors match lukserr.Unsupported for an unknown function or hash, and lukserr.Limit for too much.
func (p *Params) Check(memoryLimitBytes uint64) error {
	if memoryLimitBytes == 0 {
		memoryLimitBytes = DefaultMemoryLimitBytes
	}
	memoryLimitBytes = min(memoryLimitBytes, MaxMemoryLimitBytes)
	if len(p.Salt) > MaxSaltBytes {
		return fmt.Errorf("%w: kdf salt of %d bytes, at most %d", lukserr.Limit, len(p.Salt), MaxSaltBytes)
	}
	switch p.Type {
	case PBKDF2:
		return p.checkPBKDF2()
	case Argon2i, Argon2id:
		return p.checkArgon2(memoryLimitBytes)
	}
	return fmt.Errorf("%w: kdf %q", lukserr.Unsupported, p.Type)
}

func (p *Params) checkPBKDF2() error {
	if _, err := Hash(p.Hash); err != nil {
		return err
	}
	if p.Iterations == 0 {
		return fmt.Errorf("%w: pbkdf2 with 0 iterations", lukserr.Damaged)
	}
	if p.Iterations > MaxIterations {
		return fmt.Errorf("%w: pbkdf2 with %d iterations, at most %d", lukserr.Limit, p.Iterations, MaxIterations)
	}
	return nil
}

func (p *Params) checkArgon2(memoryLimitBytes uint64) error {
	if p.TimeCost == 0 || p.Threads == 0 || p.MemoryKiB == 0 {
		return fmt.Errorf("%w: %s with time %d, memory %d KiB, %d threads: none may be 0", lukserr.Damaged, p.Type,
			p.TimeCost, p.MemoryKiB, p.Threads)
	}
	if p.Threads > MaxThreads {
		return fmt.Errorf("%w: %s with %d threads, at most %d", lukserr.Limit, p.Type, p.Threads, MaxThreads)
	}
	if p.memoryBytes() > memoryLimitBytes {
		return fmt.Errorf("%w: %s needs %d MiB of memory, allowed are %d MiB (the kdf memory limit can be raised to %d MiB)",
			lukserr.Limit, p.Type, p.memoryBytes()>>20, memoryLimitBytes>>20, MaxMemoryLimitBytes>>20)
	}
	if work := uint64(p.TimeCost) * uint64(p.MemoryKiB); work > MaxWorkKiB {
		return fmt.Errorf("%w: %s with %d passes over %d MiB, at most %d GiB in all", lukserr.Limit, p.Type, p.TimeCost,
			p.memoryBytes()>>20, MaxWorkKiB>>20)
	}
	return nil
}

// Derive fills out with the key derived from passphrase. It checks the parameters, waits for its turn at gate (nil: the
// process-wide gate) and then works: PBKDF2 looks at ctx often, Argon2 cannot be interrupted once begun. The passphrase is
// read only; out belongs to the caller, who wipes it.
func Derive(ctx context.Context, gate *Gate, p Params, memoryLimitBytes uint64, passphrase *secret.Bytes, out []byte) error {
	if err := p.Check(memoryLimitBytes); err != nil {
		return err
	}
	if gate == nil {
		gate = processGate()
	}
	release, err := gate.Acquire(ctx, p.memoryBytes())
	if err != nil {
		return err
	}
	defer release()
	if p.Type == PBKDF2 {
		newHash, err := Hash(p.Hash)
		if err != nil {
			return err
		}
		return pbkdf2(ctx, newHash, passphrase.Bytes(), p.Salt, p.Iterations, out)
	}
	derive := argon2.IDKey
	if p.Type == Argon2i {
		derive = argon2.Key
	}
	key := derive(passphrase.Bytes(), p.Salt, p.TimeCost, p.MemoryKiB, uint8(p.Threads), uint32(len(out)))
	copy(out, key)
	secret.Wipe(key)
	if p.MemoryKiB >= freeAboveKiB {
		debug.FreeOSMemory()
	}
	return ctx.Err()
}

// PBKDF2Key is PBKDF2 without gate and limits, for digests of volume keys: key is wiped by its owner, as is out.
func PBKDF2Key(ctx context.Context, hashName string, key, salt []byte, iterations uint32, out []byte) error {
	p := Params{Type: PBKDF2, Hash: hashName, Iterations: iterations, Salt: salt}
	if err := p.Check(0); err != nil {
		return err
	}
	newHash, err := Hash(hashName)
	if err != nil {
		return err
	}
	return pbkdf2(ctx, newHash, key, salt, iterations, out)
}

// pbkdf2 is RFC 8018 section 5.2 with HMAC.
func pbkdf2(ctx context.Context, newHash func() hash.Hash, password, salt []byte, iterations uint32, out []byte) error {
	prf := hmac.New(newHash, password)
	u := make([]byte, 0, prf.Size())
	t := make([]byte, prf.Size())
	defer func() {
		secret.Wipe(u[:cap(u)])
		secret.Wipe(t)
	}()
	for block := uint32(1); len(out) > 0; block++ {
		prf.Reset()
		_, _ = prf.Write(salt)
		_, _ = prf.Write([]byte{byte(block >> 24), byte(block >> 16), byte(block >> 8), byte(block)})
		u = prf.Sum(u[:0])
		copy(t, u)
		for n := uint32(1); n < iterations; n++ {
			if n%cancelEvery == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			prf.Reset()
			_, _ = prf.Write(u)
			u = prf.Sum(u[:0])
			subtle.XORBytes(t, t, u)
		}
		out = out[copy(out, t):]
	}
	return ctx.Err()
}
