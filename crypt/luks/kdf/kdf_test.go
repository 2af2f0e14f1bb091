// SPDX-License-Identifier: Apache-2.0

package kdf_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
	"github.com/luksgate/luksgate/crypt/secret"
)

func passphrase(t testing.TB, text string) *secret.Bytes {
	s, err := secret.Copy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Release)
	return s
}

// TestVectors: RFC 6070 (PBKDF2 with SHA-1), RFC 7914 section 11 (with SHA-256), and argon2(1), the reference program, version 13.
func TestVectors(t *testing.T) {
	for name, tc := range map[string]struct {
		p          kdf.Params
		pass, want string
	}{
		"rfc6070 1": {
			kdf.Params{Type: kdf.PBKDF2, Hash: "sha1", Iterations: 2, Salt: []byte("salt")}, "password",
			"ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957",
		},
		"rfc6070 two blocks": {
			kdf.Params{Type: kdf.PBKDF2, Hash: "SHA1", Iterations: 4096, Salt: []byte("saltSALTsaltSALTsaltSALTsaltSALTsalt")},
			"passwordPASSWORDpassword", "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038",
		},
		"rfc6070 nul": {
			kdf.Params{Type: kdf.PBKDF2, Hash: "sha1", Iterations: 4096, Salt: []byte("sa\x00lt")}, "pass\x00word",
			"56fa6aa75548099dcc37d7f03425e0c3",
		},
		"rfc7914": {
			kdf.Params{Type: kdf.PBKDF2, Hash: "sha256", Iterations: 1, Salt: []byte("salt")}, "passwd",
			"55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
		},
		"argon2id": {
			kdf.Params{Type: kdf.Argon2id, TimeCost: 2, MemoryKiB: 256, Threads: 1, Salt: []byte("somesalt")}, "password",
			"9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe",
		},
		"argon2i": {
			kdf.Params{Type: kdf.Argon2i, TimeCost: 2, MemoryKiB: 256, Threads: 1, Salt: []byte("somesalt")}, "password",
			"89e9029f4637b295beb027056a7336c414fadd43f6b208645281cb214a56452f",
		},
	} {
		want, err := hex.DecodeString(tc.want)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if err := kdf.Derive(context.Background(), nil, tc.p, 0, passphrase(t, tc.pass), got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %x, expected %x", name, got, want)
		}
	}
}

func TestLimitsComeBeforeMemory(t *testing.T) {
	salt := make([]byte, 32)
	for name, tc := range map[string]struct {
		p     kdf.Params
		limit uint64
		want  error
	}{
		"8 GiB":            {kdf.Params{Type: kdf.Argon2id, TimeCost: 4, MemoryKiB: 8 << 20, Threads: 4, Salt: salt}, 0, lukserr.Limit},
		"8 GiB allowed":    {kdf.Params{Type: kdf.Argon2id, TimeCost: 4, MemoryKiB: 8 << 20, Threads: 4, Salt: salt}, 1 << 40, lukserr.Limit},
		"2 GiB":            {kdf.Params{Type: kdf.Argon2i, TimeCost: 4, MemoryKiB: 2 << 20, Threads: 4, Salt: salt}, 0, lukserr.Limit},
		"2 MiB, 1 allowed": {kdf.Params{Type: kdf.Argon2i, TimeCost: 4, MemoryKiB: 2 << 10, Threads: 4, Salt: salt}, 1 << 20, lukserr.Limit},
		"most memory":      {kdf.Params{Type: kdf.Argon2id, TimeCost: 1<<32 - 1, MemoryKiB: 1<<32 - 1, Threads: 1, Salt: salt}, 0, lukserr.Limit},
		"most time":        {kdf.Params{Type: kdf.Argon2id, TimeCost: 1<<32 - 1, MemoryKiB: 1 << 10, Threads: 1, Salt: salt}, 0, lukserr.Limit},
		"threads":          {kdf.Params{Type: kdf.Argon2id, TimeCost: 4, MemoryKiB: 1 << 10, Threads: 257, Salt: salt}, 0, lukserr.Limit},
		"no threads":       {kdf.Params{Type: kdf.Argon2id, TimeCost: 4, MemoryKiB: 1 << 10, Salt: salt}, 0, lukserr.Damaged},
		"no time":          {kdf.Params{Type: kdf.Argon2id, Threads: 4, MemoryKiB: 1 << 10, Salt: salt}, 0, lukserr.Damaged},
		"no memory":        {kdf.Params{Type: kdf.Argon2id, TimeCost: 4, Threads: 4, Salt: salt}, 0, lukserr.Damaged},
		"iterations":       {kdf.Params{Type: kdf.PBKDF2, Hash: "sha256", Iterations: 1<<32 - 1, Salt: salt}, 0, lukserr.Limit},
		"no iterations":    {kdf.Params{Type: kdf.PBKDF2, Hash: "sha256", Salt: salt}, 0, lukserr.Damaged},
		"hash":             {kdf.Params{Type: kdf.PBKDF2, Hash: "md5", Iterations: 1000, Salt: salt}, 0, lukserr.Unsupported},
		"kdf":              {kdf.Params{Type: "scrypt", Salt: salt}, 0, lukserr.Unsupported},
		"salt":             {kdf.Params{Type: kdf.PBKDF2, Hash: "sha256", Iterations: 1000, Salt: make([]byte, 2000)}, 0, lukserr.Limit},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := kdf.Derive(context.Background(), nil, tc.p, tc.limit, passphrase(t, "p"), make([]byte, 32))
		runtime.ReadMemStats(&after)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, expected %v", name, err, tc.want)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
			t.Errorf("%s: %d bytes allocated", name, grown)
		}
	}
	err := (&kdf.Params{Type: kdf.Argon2id, TimeCost: 4, MemoryKiB: 2 << 20, Threads: 4}).Check(0)
	if err == nil || !strings.Contains(err.Error(), "kdf memory limit can be raised") {
		t.Errorf("the error does not say what to do: %v", err)
	}
}

func TestCancelledPBKDF2Stops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p := kdf.Params{Type: kdf.PBKDF2, Hash: "sha256", Iterations: kdf.MaxIterations, Salt: []byte("salt")}
	pass := passphrase(t, "p")
	done := make(chan error, 1)
	go func() { done <- kdf.Derive(ctx, kdf.NewGate(1, 1), p, 0, pass, make([]byte, 64)) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestHashes(t *testing.T) {
	for name, size := range map[string]int{
		"sha1": 20, "SHA224": 28, "sha256": 32, "sha384": 48, "sha512": 64, "ripemd160": 20, "whirlpool": 64,
	} {
		h, err := kdf.Hash(name)
		if err != nil || h().Size() != size {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := kdf.Hash("md5"); !errors.Is(err, lukserr.Unsupported) {
		t.Errorf("md5: %v", err)
	}
}
