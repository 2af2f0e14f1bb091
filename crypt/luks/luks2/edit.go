// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"

	"github.com/luksgate/luksgate/crypt/luks/af"
	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

// areaAlignBytes is the unit of keyslot areas that cryptsetup writes.
const areaAlignBytes = 4096

// Layout is the geometry and data description of new metadata.
type Layout struct {
	HeaderBytes     uint64 // of one copy
	KeyslotsBytes   uint64
	DataOffsetBytes uint64 // 0: detached
	SectorBytes     uint32
	Encryption      string // of the data
}

// NewMetadata returns metadata without keyslots: one dynamic crypt segment and one digest.
func NewMetadata(l Layout, d Digest) (*Metadata, error) {
	tree := object{
		"keyslots": object{}, "tokens": object{},
		"segments": object{"0": object{
			"type": "crypt", "offset": decimal(l.DataOffsetBytes), "size": "dynamic", "iv_tweak": "0",
			"encryption": l.Encryption, "sector_size": number(l.SectorBytes),
		}},
		"digests": object{"0": object{
			"type": kdf.PBKDF2, "keyslots": []any{}, "segments": []any{"0"}, "hash": d.Hash,
			"iterations": number(d.Iterations), "salt": encode(d.Salt), "digest": encode(d.Digest),
		}},
		"config": object{
			"json_size": decimal(l.HeaderBytes - BinaryBytes), "keyslots_size": decimal(l.KeyslotsBytes),
		},
	}
	return fromTree(tree, l.HeaderBytes-BinaryBytes)
}

// SetKeyslot returns metadata in which keyslot k.ID is k, bound to a digest. A keyslot that is there already keeps its
// members that k does not have, its priority and the references to it.
func (m *Metadata) SetKeyslot(k Keyslot, digest int, priority *uint32) (*Metadata, error) {
	return m.edit(func(tree object) {
		keyslots := tree["keyslots"].(object)
		id := strconv.Itoa(k.ID)
		o, ok := keyslots[id].(object)
		if !ok {
			o = object{}
			keyslots[id] = o
		}
		o["type"], o["key_size"] = "luks2", number(k.KeyBytes)
		o["af"] = object{"type": "luks1", "stripes": number(af.Stripes), "hash": k.AFHash}
		o["area"] = object{
			"type": "raw", "offset": decimal(k.Area.OffsetBytes), "size": decimal(k.Area.SizeBytes),
			"encryption": k.Area.Encryption, "key_size": number(k.Area.KeyBytes),
		}
		o["kdf"] = kdfObject(k.KDF)
		if priority != nil {
			o["priority"] = number(*priority)
		}
		for name, v := range tree["digests"].(object) {
			d := v.(object)
			list := without(d["keyslots"].([]any), id)
			if name == strconv.Itoa(digest) {
				list = append(list, id)
			}
			d["keyslots"] = list
		}
	})
}

// RemoveKeyslot returns metadata without a keyslot and without the references to it.
func (m *Metadata) RemoveKeyslot(id int) (*Metadata, error) {
	return m.edit(func(tree object) {
		name := strconv.Itoa(id)
		delete(tree["keyslots"].(object), name)
		for _, section := range []string{"digests", "tokens"} {
			for _, v := range tree[section].(object) {
				o := v.(object)
				o["keyslots"] = without(o["keyslots"].([]any), name)
			}
		}
	})
}

// edit applies a change to a copy of the tree and validates the result. The tree has been validated, so its sections have
// their types.
func (m *Metadata) edit(change func(tree object)) (*Metadata, error) {
	tree := deepCopy(m.tree).(object)
	change(tree)
	out, err := fromTree(tree, m.Config.JSONBytes)
	if err != nil {
		return nil, fmt.Errorf("metadata after the change: %w", err)
	}
	text, err := out.JSON()
	if err != nil {
		return nil, err
	}
	if uint64(len(text)) >= m.Config.JSONBytes {
		return nil, fmt.Errorf("%w: metadata of %d bytes in a JSON area of %d", lukserr.NoSpace, len(text), m.Config.JSONBytes)
	}
	return out, nil
}

// FreeKeyslot returns the lowest number that no keyslot has.
func (m *Metadata) FreeKeyslot() (int, error) {
	for id := range maxObjects {
		if _, ok := m.Keyslot(id); !ok {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d keyslots are in use", lukserr.NoSpace, maxObjects)
}

// FreeArea finds room for the area of a key of keyBytes, between the areas of all keyslots.
func (m *Metadata) FreeArea(keyBytes int) (offsetBytes, sizeBytes uint64, err error) {
	sizeBytes = alignUp(uint64(af.AreaBytes(keyBytes)))
	areas := make([]Area, 0, len(m.Keyslots)+1)
	for i := range m.Keyslots {
		areas = append(areas, m.Keyslots[i].Area)
	}
	slices.SortFunc(areas, func(a, b Area) int { return int(int64(a.OffsetBytes) - int64(b.OffsetBytes)) })
	areas = append(areas, Area{OffsetBytes: m.EndBytes()})
	at := 2 * m.HeaderBytes()
	for _, a := range areas {
		if a.OffsetBytes >= at && a.OffsetBytes-at >= sizeBytes {
			return at, sizeBytes, nil
		}
		at = alignUp(a.OffsetBytes + a.SizeBytes)
	}
	return 0, 0, fmt.Errorf("%w: no gap of %d bytes between the keyslot areas, remove a keyslot first", lukserr.NoSpace, sizeBytes)
}

func kdfObject(p kdf.Params) object {
	o := object{"type": p.Type, "salt": encode(p.Salt)}
	if p.Type == kdf.PBKDF2 {
		o["hash"], o["iterations"] = p.Hash, number(p.Iterations)
	} else {
		o["time"], o["memory"], o["cpus"] = number(p.TimeCost), number(p.MemoryKiB), number(p.Threads)
	}
	return o
}

// without returns list without the string s.
func without(list []any, s string) []any {
	out := make([]any, 0, len(list)+1)
	for _, v := range list {
		if v != s {
			out = append(out, v)
		}
	}
	return out
}

// deepCopy copies objects and arrays; all else is immutable. Depth is bounded by decodeTree.
func deepCopy(v any) any {
	switch v := v.(type) {
	case object:
		out := make(object, len(v))
		for key, member := range v {
			out[key] = deepCopy(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, member := range v {
			out[i] = deepCopy(member)
		}
		return out
	}
	return v
}

func alignUp(n uint64) uint64 { return (n + areaAlignBytes - 1) / areaAlignBytes * areaAlignBytes }
func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
func encode(b []byte) string  { return base64.StdEncoding.EncodeToString(b) }
