// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ParseMetadata decodes and validates the JSON area of a copy. The checks run in cryptsetup's order; when they fail, known
// mistakes of old tools are corrected in memory and the checks run again.
func ParseMetadata(area []byte) (*Metadata, error) {
	tree, err := decodeTree(area)
	if err != nil {
		return nil, err
	}
	m, err := fromTree(tree, uint64(len(area)))
	if err == nil {
		return m, nil
	}
	if !repair(tree) {
		return nil, err
	}
	if m, err = fromTree(tree, uint64(len(area))); err != nil {
		return nil, err
	}
	m.Repaired = true
	return m, nil
}

// fromTree validates a tree that fills an area of areaBytes and returns its views.
func fromTree(tree object, areaBytes uint64) (*Metadata, error) {
	m := &Metadata{tree: tree}
	for _, check := range []func() error{
		m.readRequirements, m.readTokens, m.readDigests, m.readSegments, m.readKeyslots, m.readConfig, m.checkAreas,
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	if m.Config.JSONBytes != areaBytes {
		return nil, badf("config: json_size is %d, the JSON area has %d bytes", m.Config.JSONBytes, areaBytes)
	}
	if err := m.readKeyslotDetails(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Metadata) readRequirements() error {
	config, err := getObject(m.tree, "metadata", "config")
	if err != nil {
		return err
	}
	if _, ok := config["requirements"]; !ok {
		return nil
	}
	requirements, err := getObject(config, "config", "requirements")
	if err != nil {
		return err
	}
	m.Config.Requirements, err = getStrings(requirements, "requirements", "mandatory")
	if err != nil {
		return err
	}
	online := 0
	for _, r := range m.Config.Requirements {
		if isOnlineReencrypt(r) {
			online++
		}
	}
	if online > 1 {
		return badf("several online reencryption requirements")
	}
	return nil
}

// isOnlineReencrypt tells whether a requirement is "online-reencrypt", with or without a version.
func isOnlineReencrypt(requirement string) bool {
	const name = "online-reencrypt"
	version, versioned := strings.CutPrefix(requirement, name+"-v")
	return requirement == name || versioned && version != "" && strings.Trim(version, "0123456789") == ""
}

// each calls f for the members of a section in order of their numbers.
func each(tree object, section string, f func(id int, where string, o object) error) error {
	members, err := getObject(tree, "metadata", section)
	if err != nil {
		return err
	}
	ids := make([]int, 0, maxObjects)
	for key := range members {
		id, err := objectID(section, key)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		where := strings.TrimSuffix(section, "s") + " " + strconv.Itoa(id)
		o, ok := members[strconv.Itoa(id)].(object)
		if !ok {
			return badf("%s is no object", where)
		}
		if err := f(id, where, o); err != nil {
			return err
		}
	}
	return nil
}

// references returns an array of the numbers of members of another section, which must exist.
func (m *Metadata) references(o object, where, key, section string) ([]int, error) {
	if _, err := getArray(o, where, key); err != nil {
		return nil, err
	}
	names, err := getStrings(o, where, key)
	if err != nil {
		return nil, err
	}
	members, err := getObject(m.tree, "metadata", section)
	if err != nil {
		return nil, err
	}
	out := make([]int, 0, min(len(names), maxObjects))
	for _, name := range names {
		if _, ok := members[name].(object); !ok {
			return nil, badf("%s refers to %q of %s, which is missing", where, clip(name), section)
		}
		id, err := objectID(section, name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out, nil
}

func (m *Metadata) readTokens() error {
	if _, err := getObject(m.tree, "metadata", "keyslots"); err != nil {
		return err
	}
	return each(m.tree, "tokens", func(id int, where string, o object) (err error) {
		t := Token{ID: id}
		if t.Type, err = getString(o, where, "type"); err != nil {
			return err
		}
		if t.Keyslots, err = m.references(o, where, "keyslots", "keyslots"); err != nil {
			return err
		}
		m.Tokens = append(m.Tokens, t)
		return nil
	})
}

func (m *Metadata) readDigests() error {
	return each(m.tree, "digests", func(id int, where string, o object) (err error) {
		d := Digest{ID: id}
		if d.Type, err = getString(o, where, "type"); err != nil {
			return err
		}
		if d.Keyslots, err = m.references(o, where, "keyslots", "keyslots"); err != nil {
			return err
		}
		if d.Segments, err = m.references(o, where, "segments", "segments"); err != nil {
			return err
		}
		if d.Type == "pbkdf2" {
			d.FieldError = d.readFields(o, where)
		}
		m.Digests = append(m.Digests, d)
		return nil
	})
}

// saltBytes is the length that cryptsetup demands of the salts in JSON.
const saltBytes = 32

// readFields reads what cryptsetup looks at only when it verifies a key.
func (d *Digest) readFields(o object, where string) (err error) {
	if d.Hash, err = getString(o, where, "hash"); err != nil {
		return err
	}
	if d.Iterations, err = getUint32(o, where, "iterations"); err != nil {
		return err
	}
	if d.Salt, err = getBase64(o, where, "salt"); err != nil {
		return err
	}
	if d.Digest, err = getBase64(o, where, "digest"); err != nil {
		return err
	}
	if len(d.Salt) != saltBytes {
		return badf("%s: salt of %d bytes, expected %d", where, len(d.Salt), saltBytes)
	}
	if len(d.Digest) < 20 || len(d.Digest) > 64 {
		return badf("%s: digest of %d bytes, expected 20 to 64", where, len(d.Digest))
	}
	return nil
}

// maxBase64Chars bounds what is decoded: salts have 32 bytes, digests 64 at most.
const maxBase64Chars = 1024

func getBase64(o object, where, key string) ([]byte, error) {
	text, err := getString(o, where, key)
	if err != nil {
		return nil, err
	}
	if len(text) > maxBase64Chars {
		return nil, badf("%s: %q has %d characters, at most %d", where, key, len(text), maxBase64Chars)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, badf("%s: %q is no base64: %v", where, key, err)
	}
	return b, nil
}

// keyslotName is for messages.
func keyslotName(id int) string { return fmt.Sprintf("keyslot %d", id) }
