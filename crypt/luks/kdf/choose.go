// SPDX-License-Identifier: Apache-2.0

package kdf

import (
	"context"
	"runtime"
	"time"

	"github.com/luksgate/luksgate/crypt/secret"
	"golang.org/x/sys/unix"
)

// What cryptsetup aims at for new keyslots and digests, and the least it takes.
const (
	DefaultTarget  = 2 * time.Second
	DigestTarget   = 125 * time.Millisecond
	MinIterations  = 1000
	minTimeCost    = 4
	minMemoryKiB   = 64 << 10
	maxNewThreads  = 4
	probeMemoryKiB = 64 << 10
	probeTime      = 100 * time.Millisecond
)

// Choose completes the parameters that are 0 such that a derivation of keyBytes takes about target on this machine, measured
// by derivations that wait at gate as all do. Type and Salt are given; the result has passed Check with the largest limit.
// What the caller gave stays as it is.
func Choose(ctx context.Context, gate *Gate, want Params, target time.Duration, keyBytes int) (Params, error) {
	if want.Type == PBKDF2 {
		if want.Hash == "" {
			want.Hash = "sha256"
		}
		if want.Iterations == 0 {
			n, err := measurePBKDF2(ctx, gate, want.Hash, target, keyBytes)
			if err != nil {
				return want, err
			}
			want.Iterations = n
		}
		want.TimeCost, want.MemoryKiB, want.Threads = 0, 0, 0
		return want, want.Check(MaxMemoryLimitBytes)
	}
	want.Hash, want.Iterations = "", 0
	if want.Threads == 0 {
		want.Threads = uint32(min(maxNewThreads, runtime.NumCPU()))
	}
	if err := chooseArgon2(ctx, gate, &want, target, keyBytes); err != nil {
		return want, err
	}
	return want, want.Check(MaxMemoryLimitBytes)
}

// chooseArgon2 sets time and memory: as much memory as the target allows with the fewest passes, then more passes.
func chooseArgon2(ctx context.Context, gate *Gate, p *Params, target time.Duration, keyBytes int) error {
	most := uint32(defaultMemoryKiB())
	if p.MemoryKiB != 0 {
		most = p.MemoryKiB
	}
	if p.TimeCost != 0 {
		p.MemoryKiB = most
		return nil
	}
	probe := *p
	probe.TimeCost, probe.MemoryKiB = 1, min(most, probeMemoryKiB)
	took, err := measure(ctx, gate, probe, keyBytes)
	if err != nil {
		return err
	}
	// KiB filled in the target time.
	work := uint64(float64(probe.MemoryKiB) * float64(target) / float64(max(took, time.Microsecond)))
	memory := min(uint64(most), max(work/minTimeCost, min(minMemoryKiB, uint64(most))))
	if p.MemoryKiB != 0 {
		memory = uint64(p.MemoryKiB)
	}
	p.MemoryKiB = uint32(memory)
	p.TimeCost = uint32(min(max(work/max(memory, 1), minTimeCost), MaxWorkKiB/max(memory, 1)))
	return nil
}

// defaultMemoryKiB is the most that a new keyslot takes unless told otherwise.
func defaultMemoryKiB() uint64 {
	most := uint64(DefaultMemoryLimitBytes) >> 10
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		most = min(most, info.Totalram*uint64(info.Unit)>>11)
	}
	return max(most, minMemoryKiB)
}

// measurePBKDF2 returns the iterations that take target.
func measurePBKDF2(ctx context.Context, gate *Gate, hashName string, target time.Duration, keyBytes int) (uint32, error) {
	p := Params{Type: PBKDF2, Hash: hashName, Iterations: MinIterations, Salt: make([]byte, 32)}
	for {
		took, err := measure(ctx, gate, p, keyBytes)
		if err != nil {
			return 0, err
		}
		if took >= probeTime || p.Iterations >= MaxIterations/4 {
			n := float64(p.Iterations) * float64(target) / float64(max(took, time.Microsecond))
			return uint32(min(max(n, MinIterations), MaxIterations)), nil
		}
		p.Iterations *= 4
	}
}

// measure times one derivation from a passphrase of usual length, without the wait at the gate.
func measure(ctx context.Context, gate *Gate, p Params, keyBytes int) (time.Duration, error) {
	passphrase, err := secret.New(16)
	if err != nil {
		return 0, err
	}
	defer passphrase.Release()
	out := make([]byte, keyBytes)
	if gate == nil {
		gate = processGate()
	}
	release, err := gate.Acquire(ctx, p.memoryBytes())
	if err != nil {
		return 0, err
	}
	defer release()
	start := time.Now()
	// Its own gate: the turn has been taken above.
	if err := Derive(ctx, NewGate(MaxMemoryLimitBytes, 1), p, MaxMemoryLimitBytes, passphrase, out); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}
