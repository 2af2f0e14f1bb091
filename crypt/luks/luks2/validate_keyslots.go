// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/json"
	"math"
	"slices"

	"github.com/luksgate/luksgate/crypt/luks/af"
	"github.com/luksgate/luksgate/crypt/luks/kdf"
)

// maxKeyslotsBytes bounds the space for all keyslot areas (cryptsetup's LUKS2_MAX_KEYSLOTS_SIZE).
const maxKeyslotsBytes = 128 << 20

func (m *Metadata) readKeyslots() error {
	return each(m.tree, "keyslots", func(id int, where string, o object) (err error) {
		k := Keyslot{ID: id, Priority: 1}
		if k.Type, err = getString(o, where, "type"); err != nil {
			return err
		}
		if k.KeyBytes, err = getUint32(o, where, "key_size"); err != nil {
			return err
		}
		if _, ok := o["priority"]; ok {
			if k.Priority, err = getUint32(o, where, "priority"); err != nil {
				return err
			}
		}
		m.Keyslots = append(m.Keyslots, k)
		return nil
	})
}

func (m *Metadata) readConfig() error {
	config, err := getObject(m.tree, "metadata", "config")
	if err != nil {
		return err
	}
	c := &m.Config
	if c.JSONBytes, err = getUint64(config, "config", "json_size"); err != nil {
		return err
	}
	if c.KeyslotsBytes, err = getUint64(config, "config", "keyslots_size"); err != nil {
		return err
	}
	if c.JSONBytes > MaxHeaderBytes || !slices.Contains(headerSizes, c.JSONBytes+BinaryBytes) {
		return badf("config: json_size %d belongs to no size that a header may have", c.JSONBytes)
	}
	if c.KeyslotsBytes%4096 != 0 || c.KeyslotsBytes > maxKeyslotsBytes {
		return badf("config: keyslots_size %d, expected a multiple of 4096 up to %d", c.KeyslotsBytes, maxKeyslotsBytes)
	}
	first := uint64(math.MaxUint64)
	for i := range m.Segments {
		if !m.Segments[i].isBackup() {
			first = min(first, m.Segments[i].OffsetBytes)
		}
	}
	// Offset 0 is the data device of a detached header.
	if first != 0 && m.EndBytes() > first {
		return badf("config: keyslots_size %d reaches to byte %d, into the data at %d", c.KeyslotsBytes, m.EndBytes(), first)
	}
	c.Flags, err = getStrings(config, "config", "flags")
	return err
}

// checkAreas checks that every keyslot area lies in the space for them and that none overlap.
func (m *Metadata) checkAreas() error {
	i := 0
	err := each(m.tree, "keyslots", func(_ int, where string, o object) error {
		area, err := getObject(o, where, "area")
		if err != nil {
			return err
		}
		if _, err := getString(area, where+" area", "type"); err != nil {
			return err
		}
		a := &m.Keyslots[i].Area
		i++
		if a.OffsetBytes, err = getUint64(area, where+" area", "offset"); err != nil {
			return err
		}
		a.SizeBytes, err = getUint64(area, where+" area", "size")
		return err
	})
	if err != nil {
		return err
	}
	for i := range m.Keyslots {
		name, a := keyslotName(m.Keyslots[i].ID), &m.Keyslots[i].Area
		switch {
		case a.OffsetBytes < 2*m.HeaderBytes():
			return badf("%s: area at byte %d lies in the header", name, a.OffsetBytes)
		case a.SizeBytes == 0:
			return badf("%s: area is empty", name)
		case a.OffsetBytes > math.MaxUint64-a.SizeBytes || a.OffsetBytes+a.SizeBytes > m.EndBytes():
			return badf("%s: area of %d bytes at %d reaches behind the keyslot areas, which end at %d", name, a.SizeBytes,
				a.OffsetBytes, m.EndBytes())
		}
	}
	// All ends are below 2^28 now.
	for i := range m.Keyslots {
		for j := range m.Keyslots[:i] {
			a, b := &m.Keyslots[i].Area, &m.Keyslots[j].Area
			if a.OffsetBytes < b.OffsetBytes+b.SizeBytes && b.OffsetBytes < a.OffsetBytes+a.SizeBytes {
				return badf("areas of keyslots %d and %d overlap", m.Keyslots[j].ID, m.Keyslots[i].ID)
			}
		}
	}
	return nil
}

// readKeyslotDetails is the part that depends on the type of a keyslot. Unknown types are left alone.
func (m *Metadata) readKeyslotDetails() error {
	i, reencrypt := 0, 0
	err := each(m.tree, "keyslots", func(_ int, where string, o object) error {
		k := &m.Keyslots[i]
		i++
		if k.Type == "reencrypt" {
			reencrypt++
		}
		if k.Type != "luks2" {
			return nil
		}
		if err := k.readDetails(where, o); err != nil {
			return err
		}
		digests := 0
		for d := range m.Digests {
			if m.Digests[d].Has(k.ID) {
				digests++
			}
		}
		if digests != 1 {
			return badf("%s is assigned to %d digests, expected 1", where, digests)
		}
		return nil
	})
	if err != nil {
		return err
	}
	online := slices.ContainsFunc(m.Config.Requirements, isOnlineReencrypt)
	switch {
	case reencrypt > 1:
		return badf("%d reencryption keyslots", reencrypt)
	case reencrypt == 1 && !online:
		return badf("a reencryption keyslot without the requirement for it")
	case reencrypt == 0 && online:
		return badf("the reencryption requirement without a keyslot for it")
	}
	return nil
}

// readDetails reads kdf, af and area of a keyslot of type luks2.
func (k *Keyslot) readDetails(where string, o object) error {
	kdfObject, err := getObject(o, where, "kdf")
	if err != nil {
		return err
	}
	if err := k.readKDF(where+" kdf", kdfObject); err != nil {
		return err
	}
	afObject, err := getObject(o, where, "af")
	if err != nil {
		return err
	}
	if t, err := getString(afObject, where+" af", "type"); err != nil || t != "luks1" {
		return badf("%s af: type %q, expected \"luks1\"", where, clip(t))
	}
	if k.AFHash, err = getString(afObject, where+" af", "hash"); err != nil {
		return err
	}
	if k.Stripes, err = getUint32(afObject, where+" af", "stripes"); err != nil {
		return err
	}
	area, err := getObject(o, where, "area")
	if err != nil {
		return err
	}
	if t, err := getString(area, where+" area", "type"); err != nil || t != "raw" {
		return badf("%s area: type %q, expected \"raw\"", where, clip(t))
	}
	if k.Area.Encryption, err = getString(area, where+" area", "encryption"); err != nil {
		return err
	}
	k.Area.KeyBytes, err = getUint32(area, where+" area", "key_size")
	return err
}

// kdfMembers are exactly the members that the kdf object may have, by its type.
var kdfMembers = map[string][]string{
	kdf.PBKDF2:   {"type", "salt", "hash", "iterations"},
	kdf.Argon2i:  {"type", "salt", "time", "memory", "cpus"},
	kdf.Argon2id: {"type", "salt", "time", "memory", "cpus"},
}

func (k *Keyslot) readKDF(where string, o object) (err error) {
	p := &k.KDF
	if p.Type, err = getString(o, where, "type"); err != nil {
		return err
	}
	members, known := kdfMembers[p.Type]
	if !known {
		return nil // valid, and refused when it is to be used
	}
	if len(o) != len(members) {
		return badf("%s: %d members, %s has %d", where, len(o), p.Type, len(members))
	}
	if p.Type == kdf.PBKDF2 {
		if p.Hash, err = getString(o, where, "hash"); err != nil {
			return err
		}
		if p.Iterations, err = getUint32(o, where, "iterations"); err != nil {
			return err
		}
	} else {
		for key, field := range map[string]*uint32{"time": &p.TimeCost, "memory": &p.MemoryKiB, "cpus": &p.Threads} {
			if *field, err = getUint32(o, where, key); err != nil {
				return err
			}
		}
	}
	if _, err := getString(o, where, "salt"); err != nil {
		return err
	}
	if p.Salt, k.SaltError = getBase64(o, where, "salt"); k.SaltError == nil && len(p.Salt) != saltBytes {
		k.SaltError = badf("%s: salt of %d bytes, expected %d", where, len(p.Salt), saltBytes)
	}
	return nil
}

// SplitKeyBytes is the length of the encrypted split key in the area, whole sectors; ok is false when it does not fit or
// the keyslot does not have the only stripe count there is.
func (k *Keyslot) SplitKeyBytes() (n int, ok bool) {
	if k.KeyBytes == 0 || k.KeyBytes > 512 || k.Stripes != af.Stripes {
		return 0, false
	}
	n = af.AreaBytes(int(k.KeyBytes))
	return n, uint64(n) <= k.Area.SizeBytes
}

// repair removes members that old cryptsetup left in kdf objects when it changed their type. It tells whether it changed
// anything.
func repair(tree object) bool {
	keyslots, _ := tree["keyslots"].(object)
	changed := false
	for _, v := range keyslots {
		k, _ := v.(object)
		o, _ := k["kdf"].(object)
		t, _ := o["type"].(string)
		members, known := kdfMembers[t]
		if !known {
			continue
		}
		for key := range o {
			if !slices.Contains(members, key) {
				delete(o, key)
				changed = true
			}
		}
	}
	return changed
}

// number makes a JSON number.
func number(n uint32) json.Number {
	b, _ := json.Marshal(n)
	return json.Number(b)
}
