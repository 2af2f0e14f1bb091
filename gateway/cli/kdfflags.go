// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/gateway/image"
)

// Bounds of new keyslots, within which cryptsetup makes them too.
const (
	minIterations = 1000
	minPasses     = 4
	minMemory     = 32 << 10
	maxMemory     = kdf.MaxMemoryLimitBytes
	maxThreads    = 4
	maxTarget     = time.Minute
)

// kdfFlags say how a new keyslot works on its passphrase.
type kdfFlags struct {
	kind, hash, memory          string
	target                      time.Duration
	iterations, passes, threads uint32
}

func (f *kdfFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.kind, "kdf", "", "key derivation: argon2id, argon2i or pbkdf2 (default argon2id; LUKS1 has pbkdf2 only)")
	fs.DurationVar(&f.target, "kdf-target", kdf.DefaultTarget,
		"how long trying a passphrase shall take on this machine, which is measured")
	fs.StringVar(&f.hash, "kdf-hash", "", "pbkdf2: sha256 (default), sha512, sha384, sha224, sha1, ripemd160 or whirlpool")
	fs.Uint32Var(&f.iterations, "kdf-iterations", 0, "pbkdf2: iterations, instead of measuring (at least 1000)")
	fs.Uint32Var(&f.passes, "kdf-passes", 0, "argon2: passes over the memory, instead of measuring (at least 4)")
	fs.StringVar(&f.memory, "kdf-memory", "", "argon2: memory, at most 4G (default: up to 1G, or half of this machine's)")
	fs.Uint32Var(&f.threads, "kdf-threads", 0, "argon2: threads, 1 to 4 (default: the processors of this machine)")
}

// options checks the flags for a keyslot of a LUKS version.
func (f *kdfFlags) options(version int) (luks.KDFOptions, error) {
	o := luks.KDFOptions{
		Type: f.kind, Hash: f.hash, Target: f.target, Iterations: f.iterations, TimeCost: f.passes, Threads: f.threads,
	}
	if o.Type == "" {
		o.Type = kdf.Argon2id
		if version == 1 {
			o.Type = kdf.PBKDF2
		}
	}
	switch {
	case o.Type != kdf.Argon2id && o.Type != kdf.Argon2i && o.Type != kdf.PBKDF2:
		return o, usage("--kdf %q: expected argon2id, argon2i or pbkdf2", f.kind)
	case version == 1 && o.Type != kdf.PBKDF2:
		return o, usage("--kdf %s: LUKS1 has pbkdf2 only", f.kind)
	case f.target <= 0 || f.target > maxTarget:
		return o, usage("--kdf-target %v: expected more than 0 and at most %v", f.target, maxTarget)
	case o.Type == kdf.PBKDF2 && (f.passes != 0 || f.memory != "" || f.threads != 0):
		return o, usage("--kdf-passes, --kdf-memory and --kdf-threads are for argon2, this is pbkdf2")
	case o.Type != kdf.PBKDF2 && (f.iterations != 0 || f.hash != ""):
		return o, usage("--kdf-iterations and --kdf-hash are for pbkdf2, this is %s", o.Type)
	case f.iterations != 0 && (f.iterations < minIterations || f.iterations > kdf.MaxIterations):
		return o, usage("--kdf-iterations %d: expected %d to %d", f.iterations, minIterations, kdf.MaxIterations)
	case f.passes != 0 && f.passes < minPasses:
		return o, usage("--kdf-passes %d: expected at least %d", f.passes, minPasses)
	case f.threads > maxThreads:
		return o, usage("--kdf-threads %d: expected 1 to %d", f.threads, maxThreads)
	}
	if o.Hash != "" {
		if _, err := kdf.Hash(o.Hash); err != nil {
			return o, usage("--kdf-hash: %v", err)
		}
	}
	return o, f.setMemory(&o)
}

func (f *kdfFlags) setMemory(o *luks.KDFOptions) error {
	if f.memory == "" {
		return nil
	}
	n, err := image.ParseSize(f.memory)
	if err != nil || n < minMemory || n > maxMemory {
		return usage("--kdf-memory %q: expected a size from 32K to 4G", f.memory)
	}
	o.MemoryKiB = uint32(n >> 10)
	if work := uint64(o.MemoryKiB) * uint64(o.TimeCost); work > kdf.MaxWorkKiB {
		return usage("--kdf-passes %d over --kdf-memory %s: expected at most %d GiB in all", o.TimeCost, f.memory, kdf.MaxWorkKiB>>20)
	}
	return nil
}

// announce says what takes so long, and what the choice means for whoever opens the image.
func (f *kdfFlags) announce(s std, o luks.KDFOptions) {
	if o.Iterations == 0 && o.TimeCost == 0 {
		fmt.Fprintf(s.err, "Measuring %s on this machine, so that trying a passphrase takes about %v.\n",
			strings.TrimSpace(o.Type+" "+o.Hash), f.target)
	}
	if o.MemoryKiB > kdf.DefaultMemoryLimitBytes>>10 {
		fmt.Fprintf(s.err, "A keyslot of more than 1 GiB is opened only with --kdf-memory-limit %s.\n", f.memory)
	}
}
