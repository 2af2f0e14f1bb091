// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/luksgate/luksgate/crypt/luks/af"
	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/keyarea"
	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
	"github.com/luksgate/luksgate/crypt/secret"
)

// What new LUKS2 keyslots have; cryptsetup's defaults.
const (
	areaEncryption = "aes-xts-plain64"
	areaKeyBytes   = 64
	afHash         = "sha256"
)

// KeyslotOptions modify AddKey and ChangeKey.
type KeyslotOptions struct {
	// Keyslot is the number of the new keyslot, which must be free; nil takes the lowest free one. ChangeKey of LUKS2
	// ignores it: the number stays.
	Keyslot *int
	// KDF says how the passphrase is to be worked on; its zero value measures this machine.
	KDF KDFOptions
	// Priority of a LUKS2 keyslot (PriorityIgnore to PriorityPrefer); nil is normal for a new one, and no change for an old one.
	Priority *int
}

// AddKey adds a keyslot for a new passphrase and returns its number and the header as it then is. key is the volume key,
// from Unlock; it is verified first. dev is what h was read from. On an error the header on the device opens as before.
func (h *Header) AddKey(ctx context.Context, dev Device, key *VolumeKey, passphrase *secret.Bytes, opts KeyslotOptions) (int, *Header, error) {
	id, err := h.addKey(ctx, dev, key, passphrase, opts)
	if err != nil {
		return 0, nil, wrap(err)
	}
	fresh, err := h.reread(dev)
	return id, fresh, wrap(err)
}

func (h *Header) addKey(ctx context.Context, dev Device, key *VolumeKey, passphrase *secret.Bytes, opts KeyslotOptions) (int, error) {
	if err := h.readyWithKey(ctx, dev, key); err != nil {
		return 0, err
	}
	id, err := h.freeKeyslot(opts.Keyslot)
	if err != nil {
		return 0, err
	}
	if h.Version == 1 {
		return id, h.fill1(ctx, dev, id, key.Key, passphrase, opts)
	}
	meta, err := fill2(ctx, dev, h.v2.Used().Meta, id, h.digest.ID, key.Key, passphrase, opts)
	if err != nil {
		return 0, err
	}
	return id, h.commit2(dev, meta)
}

// readyWithKey is ready, and checks that key is the volume key.
func (h *Header) readyWithKey(ctx context.Context, dev Device, key *VolumeKey) error {
	if err := h.ready(dev); err != nil {
		return err
	}
	ok, err := h.verify(ctx, key.Key)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: the volume key is not the one of this header", ErrWrongPassphrase)
	}
	return nil
}

// freeKeyslot checks the number that was wanted, or finds one.
func (h *Header) freeKeyslot(wanted *int) (int, error) {
	if wanted != nil {
		slots := luks1.Slots
		if h.Version == 2 {
			slots = luks2.MaxKeyslots
		}
		if *wanted < 0 || *wanted >= slots {
			return 0, fmt.Errorf("%w: keyslot %d, LUKS%d has 0 to %d", ErrNoKeyslot, *wanted, h.Version, slots-1)
		}
		if _, used := h.Info.Keyslot(*wanted); used {
			return 0, fmt.Errorf("%w: keyslot %d is in use", ErrInUse, *wanted)
		}
		return *wanted, nil
	}
	if h.Version == 2 {
		return h.v2.Used().Meta.FreeKeyslot()
	}
	for i := range h.v1.Slots {
		if s := &h.v1.Slots[i]; !s.Active && !s.Invalid() {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d keyslots are in use", ErrNoSpace, luks1.Slots)
}

// fill1 writes the area of a free LUKS1 keyslot, then the header that makes it active.
func (h *Header) fill1(ctx context.Context, dev Device, id int, key, passphrase *secret.Bytes, opts KeyslotOptions) error {
	if opts.Priority != nil {
		return fmt.Errorf("%w: LUKS1 keyslots have no priority", ErrUnsupported)
	}
	opts.KDF.Hash = h.v1.HashSpec
	params, err := opts.KDF.params(ctx, 1, int(h.v1.KeyBytes))
	if err != nil {
		return err
	}
	v1 := *h.v1
	v1.Activate(id, params.Iterations, [luks1.SaltBytes]byte(params.Salt))
	s := slotOf1(&v1, id)
	if err := s.store(ctx, dev, opts.KDF, key, passphrase); err != nil {
		return err
	}
	return commit1(dev, &v1)
}

// fill2 writes the area of a new LUKS2 keyslot into free space and returns the metadata that knows it. A keyslot that has
// the number already moves to the new area.
func fill2(ctx context.Context, dev Device, meta *luks2.Metadata, id, digest int, key, passphrase *secret.Bytes, opts KeyslotOptions) (*luks2.Metadata, error) {
	params, err := opts.KDF.params(ctx, 2, areaKeyBytes)
	if err != nil {
		return nil, err
	}
	var priority *uint32
	if opts.Priority != nil {
		if *opts.Priority < PriorityIgnore || *opts.Priority > PriorityPrefer {
			return nil, fmt.Errorf("%w: keyslot priority %d, expected 0 to 2", ErrUnsupported, *opts.Priority)
		}
		priority = new(uint32(*opts.Priority))
	}
	offset, size, err := meta.FreeArea(key.Len())
	if err != nil {
		return nil, err
	}
	k := luks2.Keyslot{
		ID: id, Type: "luks2", KeyBytes: uint32(key.Len()), AFHash: afHash, Stripes: af.Stripes, KDF: params,
		Area: luks2.Area{Encryption: areaEncryption, KeyBytes: areaKeyBytes, OffsetBytes: offset, SizeBytes: size},
	}
	out, err := meta.SetKeyslot(k, digest, priority)
	if err != nil {
		return nil, err
	}
	s := slotOf2(&k)
	return out, s.store(ctx, dev, opts.KDF, key, passphrase)
}

// store splits the volume key, encrypts it with the key derived from the passphrase, and writes it to the area of the slot.
func (s *slot) store(ctx context.Context, dev Device, opts KDFOptions, key, passphrase *secret.Bytes) error {
	areaKey, err := secret.New(s.areaKeyLen)
	if err != nil {
		return err
	}
	defer areaKey.Release()
	if err := kdf.Derive(ctx, opts.Gate, s.kdf, kdf.MaxMemoryLimitBytes, passphrase, areaKey.Bytes()); err != nil {
		return err
	}
	area, err := secret.New(s.areaBytes)
	if err != nil {
		return err
	}
	defer area.Release()
	newHash, err := kdf.Hash(s.afHash)
	if err != nil {
		return err
	}
	if err := af.Split(area.Bytes()[:af.SplitBytes(s.keyBytes)], key.Bytes(), newHash, rand.Reader); err != nil {
		return err
	}
	if err := keyarea.Encrypt(s.encryption, areaKey.Bytes(), area.Bytes()); err != nil {
		return err
	}
	if err := writeStable(dev, area.Bytes(), s.offsetBytes); err != nil {
		return fmt.Errorf("write the area of keyslot %d at byte %d: %w", s.id, s.offsetBytes, err)
	}
	return nil
}

// RemoveKey destroys a keyslot and returns the header as it then is. The last keyslot that holds the key of the data is
// removed only with force: after that nobody can open the image. Snapshots, clones and backups of the image keep what they
// have.
func (h *Header) RemoveKey(dev Device, id int, force bool) (*Header, error) {
	if err := h.removeKey(dev, id, force); err != nil {
		return nil, wrap(err)
	}
	fresh, err := h.reread(dev)
	return fresh, wrap(err)
}

func (h *Header) removeKey(dev Device, id int, force bool) error {
	if err := h.ready(dev); err != nil {
		return err
	}
	k, ok := h.Info.Keyslot(id)
	if !ok {
		return fmt.Errorf("%w: keyslot %d is not in use", ErrNoKeyslot, id)
	}
	others := 0
	for _, o := range h.Keyslots {
		if o.ID != id && o.Bound {
			others++
		}
	}
	if k.Bound && others == 0 && !force {
		return fmt.Errorf("%w: without keyslot %d nobody can open the image", ErrLastKeyslot, id)
	}
	var meta *luks2.Metadata
	if h.Version == 2 {
		var err error
		if meta, err = h.v2.Used().Meta.RemoveKeyslot(id); err != nil {
			return err
		}
	}
	if err := wipe(dev, k.AreaOffsetBytes, k.AreaLengthBytes, true); err != nil {
		return err
	}
	if h.Version == 1 {
		v1 := *h.v1
		v1.Deactivate(id)
		return commit1(dev, &v1)
	}
	return h.commit2(dev, meta)
}

// ChangeKey replaces the passphrase of the keyslot that key was unlocked with. LUKS2 keyslots keep their number; LUKS1 takes
// another one, which is returned. There must be room for a second area while the change is under way (ErrNoSpace):
// overwriting the only one would lose both passphrases if the power failed.
func (h *Header) ChangeKey(ctx context.Context, dev Device, key *VolumeKey, passphrase *secret.Bytes, opts KeyslotOptions) (int, *Header, error) {
	old, ok := h.Info.Keyslot(key.Keyslot)
	if !ok {
		return 0, nil, wrap(fmt.Errorf("%w: keyslot %d is not in use", ErrNoKeyslot, key.Keyslot))
	}
	if h.Version == 1 {
		id, added, err := h.AddKey(ctx, dev, key, passphrase, opts)
		if err != nil {
			return 0, nil, err
		}
		fresh, err := added.RemoveKey(dev, old.ID, false)
		return id, fresh, err
	}
	if err := h.changeKey2(ctx, dev, &old, key, passphrase, opts); err != nil {
		return 0, nil, wrap(err)
	}
	fresh, err := h.reread(dev)
	return old.ID, fresh, wrap(err)
}

func (h *Header) changeKey2(ctx context.Context, dev Device, old *Keyslot, key *VolumeKey, passphrase *secret.Bytes, opts KeyslotOptions) error {
	if err := h.readyWithKey(ctx, dev, key); err != nil {
		return err
	}
	meta, err := fill2(ctx, dev, h.v2.Used().Meta, old.ID, h.digest.ID, key.Key, passphrase, opts)
	if err != nil {
		return err
	}
	if err := h.commit2(dev, meta); err != nil {
		return err
	}
	return wipe(dev, old.AreaOffsetBytes, old.AreaLengthBytes, true)
}
