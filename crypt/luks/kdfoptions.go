// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/luks1"
)

// KDFOptions say how a new keyslot works on its passphrase. The zero value is cryptsetup's default: argon2id for LUKS2 and
// pbkdf2 for LUKS1, taking about two seconds on this machine.
type KDFOptions struct {
	Type string // "argon2id", "argon2i" or "pbkdf2" (LUKS1: only that)
	Hash string // pbkdf2; "" is sha256. LUKS1 keyslots use the hash of their header.

	// Target is how long unlocking shall take on this machine, 0 for 2 s. It is not used for what is given below.
	Target time.Duration

	Iterations uint32 // pbkdf2; 0: measure
	TimeCost   uint32 // argon2 passes; 0: measure
	MemoryKiB  uint32 // argon2; 0: 1 GiB, half of this machine's memory, or what the target allows, whichever is less
	Threads    uint32 // argon2; 0: the CPUs of this machine, 4 at most

	// Gate bounds the derivations at work; nil is the gate that the whole process shares.
	Gate *kdf.Gate
}

// fixed tells whether nothing is measured.
func (o *KDFOptions) fixed() bool { return o.Iterations != 0 || o.TimeCost != 0 }

// params completes the options for a key of keyBytes, with a fresh salt.
func (o *KDFOptions) params(ctx context.Context, version, keyBytes int) (kdf.Params, error) {
	want := kdf.Params{
		Type: o.Type, Hash: o.Hash, Iterations: o.Iterations, TimeCost: o.TimeCost, MemoryKiB: o.MemoryKiB, Threads: o.Threads,
		Salt: make([]byte, luks1.SaltBytes),
	}
	if _, err := rand.Read(want.Salt); err != nil {
		return kdf.Params{}, err
	}
	if want.Type == "" {
		want.Type = kdf.Argon2id
		if version == 1 {
			want.Type = kdf.PBKDF2
		}
	}
	if version == 1 && want.Type != kdf.PBKDF2 {
		return kdf.Params{}, unsupportedf("LUKS1 with kdf %q, expected pbkdf2", want.Type)
	}
	target := o.Target
	if target == 0 {
		target = kdf.DefaultTarget
	}
	return kdf.Choose(ctx, o.Gate, want, target, keyBytes)
}
