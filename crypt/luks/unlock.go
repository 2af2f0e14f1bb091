// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/luksgate/luksgate/crypt/luks/af"
	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/keyarea"
	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
	"github.com/luksgate/luksgate/crypt/secret"
)

// UnlockOptions modify Unlock.
type UnlockOptions struct {
	// Keyslot is the only keyslot to try, whatever its priority; nil tries all: the preferred, then the normal ones, by
	// number.
	Keyslot *int
	// KDFMemoryLimitBytes is the most memory that a key derivation may use, 0 for kdf.DefaultMemoryLimitBytes (1 GiB). It
	// cannot go beyond kdf.MaxMemoryLimitBytes (4 GiB).
	KDFMemoryLimitBytes uint64
	// Gate bounds the derivations at work; nil is the gate that the whole process shares.
	Gate *kdf.Gate
}

// VolumeKey is the key of the data. Its owner calls Release.
type VolumeKey struct {
	Key     *secret.Bytes
	Keyslot int // that opened
}

// Release wipes the key. It may be called again.
func (k *VolumeKey) Release() {
	if k != nil {
		k.Key.Release()
	}
}

// Unlock finds the volume key with a passphrase:
//
//  1. choose the keyslots to try;
//  2. derive the key of a keyslot's area, at the gate;
//  3. read the area and decrypt it;
//  4. merge the split key;
//  5. verify it by the digest; if it is wrong, go on with the next keyslot.
//
// r is what the header was read from. The passphrase is only read. ctx ends waiting for the gate, PBKDF2, and the tries
// between keyslots; an Argon2 derivation at work is finished first.
//
// If no keyslot opens, the error matches ErrWrongPassphrase as soon as one was tried in earnest. If none could be (each is
// unsupported or over a limit), it says why.
func (h *Header) Unlock(ctx context.Context, r io.ReaderAt, passphrase *secret.Bytes, opts UnlockOptions) (*VolumeKey, error) {
	if h.refused != nil {
		return nil, wrap(h.refused)
	}
	slots, err := h.candidates(opts.Keyslot)
	if err != nil {
		return nil, wrap(err)
	}
	tried := false
	var problems []error
	for i := range slots {
		key, err := h.open(ctx, r, &slots[i], passphrase, opts)
		switch {
		case err == nil:
			return &VolumeKey{Key: key, Keyslot: slots[i].id}, nil
		case errors.Is(err, ErrWrongPassphrase):
			tried = true
		case errors.Is(err, ErrUnsupported), errors.Is(err, ErrLimit), errors.Is(err, ErrDamaged):
			problems = append(problems, fmt.Errorf("keyslot %d: %w", slots[i].id, err))
		default:
			return nil, fmt.Errorf("luks: keyslot %d: %w", slots[i].id, err)
		}
	}
	return nil, wrap(verdict(tried, problems))
}

// verdict turns the outcomes of all keyslots into one error.
func verdict(tried bool, problems []error) error {
	if !tried && len(problems) > 0 {
		return errors.Join(problems...)
	}
	if len(problems) == 0 {
		return ErrWrongPassphrase
	}
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Error()
	}
	return fmt.Errorf("%w (not tried: %s)", ErrWrongPassphrase, strings.Join(texts, "; "))
}

// slot is what opening a keyslot takes, of either version.
type slot struct {
	id          int
	kdf         kdf.Params
	encryption  string
	areaKeyLen  int
	offsetBytes int64
	areaBytes   int // whole sectors of split key
	keyBytes    int
	afHash      string
	problem     error // why it cannot be tried
}

// candidates returns the keyslots to try, in order.
func (h *Header) candidates(only *int) ([]slot, error) {
	if only != nil {
		k, ok := h.Info.Keyslot(*only)
		if !ok {
			return nil, fmt.Errorf("%w: keyslot %d is not in use", ErrNoKeyslot, *only)
		}
		if !k.Bound {
			return nil, fmt.Errorf("%w: keyslot %d is unbound, it does not hold the key of the data", ErrUnsupported, *only)
		}
		return []slot{h.slot(*only)}, nil
	}
	var out []slot
	for _, priority := range []int{PriorityPrefer, PriorityNormal} {
		for _, k := range h.Keyslots {
			if k.Priority == priority && k.Bound {
				out = append(out, h.slot(k.ID))
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: there is no keyslot to try (%d in use, none both bound to the data and not to be ignored)",
			ErrNoKeyslot, len(h.Keyslots))
	}
	return out, nil
}

// slot collects what keyslot id takes to open. The keyslot exists.
func (h *Header) slot(id int) slot {
	if h.Version == 1 {
		return slotOf1(h.v1, id)
	}
	k, _ := h.v2.Used().Meta.Keyslot(id)
	return slotOf2(k)
}

func slotOf1(v1 *luks1.Header, id int) slot {
	s := &v1.Slots[id]
	return slot{
		id:         id,
		kdf:        kdf.Params{Type: kdf.PBKDF2, Hash: v1.HashSpec, Iterations: s.Iterations, Salt: s.Salt[:]},
		encryption: v1.CipherName + "-" + v1.CipherMode, areaKeyLen: int(v1.KeyBytes),
		offsetBytes: s.AreaOffsetBytes(), areaBytes: int(v1.AreaBytes()), keyBytes: int(v1.KeyBytes), afHash: v1.HashSpec,
	}
}

func slotOf2(k *luks2.Keyslot) slot {
	s := slot{
		id: k.ID, kdf: k.KDF, encryption: k.Area.Encryption, areaKeyLen: int(k.Area.KeyBytes),
		offsetBytes: int64(k.Area.OffsetBytes), keyBytes: int(k.KeyBytes), afHash: k.AFHash, problem: k.SaltError,
	}
	n, ok := k.SplitKeyBytes()
	s.areaBytes = n
	switch {
	case k.Type != "luks2":
		s.problem = fmt.Errorf("%w: type %q", ErrUnsupported, k.Type)
	case !ok:
		s.problem = fmt.Errorf("%w: a key of %d bytes in %d stripes does not fit into its area of %d bytes", ErrDamaged,
			k.KeyBytes, k.Stripes, k.Area.SizeBytes)
	}
	return s
}

// check tells whether the slot can be tried at all. It allocates nothing.
func (s *slot) check(h *Header, memoryLimitBytes uint64) error {
	if s.problem != nil {
		return s.problem
	}
	if err := keyarea.Check(s.encryption, s.areaKeyLen); err != nil {
		return err
	}
	if s.keyBytes != h.KeyBytes {
		return fmt.Errorf("%w: holds a key of %d bytes, expected %d", ErrDamaged, s.keyBytes, h.KeyBytes)
	}
	if _, err := kdf.Hash(s.afHash); err != nil {
		return err
	}
	return s.kdf.Check(memoryLimitBytes)
}

// open tries one keyslot.
func (h *Header) open(ctx context.Context, r io.ReaderAt, s *slot, passphrase *secret.Bytes, opts UnlockOptions) (*secret.Bytes, error) {
	if err := s.check(h, opts.KDFMemoryLimitBytes); err != nil {
		return nil, err
	}
	areaKey, err := secret.New(s.areaKeyLen)
	if err != nil {
		return nil, err
	}
	defer areaKey.Release()
	if err := kdf.Derive(ctx, opts.Gate, s.kdf, opts.KDFMemoryLimitBytes, passphrase, areaKey.Bytes()); err != nil {
		return nil, err
	}
	key, err := s.recover(r, areaKey)
	if err != nil {
		return nil, err
	}
	ok, err := h.verify(ctx, key)
	if err != nil || !ok {
		key.Release()
		if err == nil {
			err = ErrWrongPassphrase
		}
		return nil, err
	}
	return key, nil
}

// recover reads, decrypts and merges the split key. The caller owns the result.
func (s *slot) recover(r io.ReaderAt, areaKey *secret.Bytes) (*secret.Bytes, error) {
	area, err := secret.New(s.areaBytes)
	if err != nil {
		return nil, err
	}
	defer area.Release()
	if n, err := r.ReadAt(area.Bytes(), s.offsetBytes); n < area.Len() {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read its area at byte %d: %w", s.offsetBytes, err)
	}
	if err := keyarea.Decrypt(s.encryption, areaKey.Bytes(), area.Bytes()); err != nil {
		return nil, err
	}
	newHash, err := kdf.Hash(s.afHash)
	if err != nil {
		return nil, err
	}
	key, err := secret.New(s.keyBytes)
	if err != nil {
		return nil, err
	}
	if err := af.Merge(key.Bytes(), area.Bytes()[:af.SplitBytes(s.keyBytes)], newHash); err != nil {
		key.Release()
		return nil, err
	}
	return key, nil
}

// verify compares the digest of a candidate for the volume key with that of the header, in constant time.
func (h *Header) verify(ctx context.Context, key *secret.Bytes) (bool, error) {
	hash, iterations := "", uint32(0)
	var salt, want []byte
	if h.Version == 1 {
		hash, iterations, salt, want = h.v1.HashSpec, h.v1.DigestIterations, h.v1.DigestSalt[:], h.v1.Digest[:]
	} else {
		d := h.digest
		if d.Type != kdf.PBKDF2 {
			return false, fmt.Errorf("%w: digest type %q", ErrUnsupported, d.Type)
		}
		if d.FieldError != nil {
			return false, d.FieldError
		}
		hash, iterations, salt, want = d.Hash, d.Iterations, d.Salt, d.Digest
		newHash, err := kdf.Hash(hash)
		if err != nil {
			return false, err
		}
		if size := newHash().Size(); len(want) != luks1.DigestBytes && len(want) != size {
			return false, fmt.Errorf("%w: digest of %d bytes, expected %d or %d", ErrDamaged, len(want), luks1.DigestBytes, size)
		}
	}
	got := make([]byte, len(want))
	defer secret.Wipe(got)
	if err := kdf.PBKDF2Key(ctx, hash, key.Bytes(), salt, iterations, got); err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}
