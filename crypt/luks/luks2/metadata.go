// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"github.com/luksgate/luksgate/crypt/luks/kdf"
)

// Metadata is validated JSON metadata. The typed fields are views of the tree; Edit changes both.
type Metadata struct {
	Keyslots []Keyslot // by number
	Tokens   []Token
	Segments []Segment
	Digests  []Digest
	Config   Config
	// Repaired tells that a known mistake of an old tool was corrected in memory, as cryptsetup does.
	Repaired bool

	tree object
}

// Keyslot is one entry of "keyslots". The fields behind Priority are set for type "luks2" only, the area for all.
type Keyslot struct {
	ID       int
	Type     string
	KeyBytes uint32 // length of the key inside
	Priority uint32 // 0 ignore, 1 normal, 2 prefer
	AFHash   string
	Stripes  uint32
	KDF      kdf.Params
	Area     Area
	// SaltError tells why the salt of the KDF cannot be used; the header may be valid all the same.
	SaltError error
}

// Area is where a keyslot has its encrypted bytes.
type Area struct {
	Encryption  string
	KeyBytes    uint32
	OffsetBytes uint64
	SizeBytes   uint64
}

// Token is one entry of "tokens".
type Token struct {
	ID       int
	Type     string
	Keyslots []int
}

// Segment is one entry of "segments". The fields behind Flags are set for crypt segments only.
type Segment struct {
	ID          int
	Type        string
	OffsetBytes uint64
	SizeBytes   uint64 // 0: dynamic, to the end
	Flags       []string
	IVTweak     uint64 // added to the IV of every sector, in units of 512 bytes
	Encryption  string
	SectorBytes uint32
	Integrity   string
}

// Digest is one entry of "digests". The fields behind Segments are those of type "pbkdf2".
type Digest struct {
	ID         int
	Type       string
	Keyslots   []int
	Segments   []int
	Hash       string
	Iterations uint32
	Salt       []byte
	Digest     []byte
	// FieldError tells why the digest cannot be used; the header may be valid all the same.
	FieldError error
}

// Config is "config".
type Config struct {
	JSONBytes     uint64
	KeyslotsBytes uint64
	Flags         []string
	Requirements  []string // mandatory
}

// HeaderBytes is the length of one copy.
func (m *Metadata) HeaderBytes() uint64 { return m.Config.JSONBytes + BinaryBytes }

// EndBytes is where the keyslot areas end.
func (m *Metadata) EndBytes() uint64 { return 2*m.HeaderBytes() + m.Config.KeyslotsBytes }

// Keyslot returns a keyslot by number.
func (m *Metadata) Keyslot(id int) (*Keyslot, bool) {
	for i := range m.Keyslots {
		if m.Keyslots[i].ID == id {
			return &m.Keyslots[i], true
		}
	}
	return nil, false
}

// SegmentDigest returns the digest that is assigned to a segment: the first, as cryptsetup takes.
func (m *Metadata) SegmentDigest(segment int) (*Digest, bool) {
	for i := range m.Digests {
		for _, s := range m.Digests[i].Segments {
			if s == segment {
				return &m.Digests[i], true
			}
		}
	}
	return nil, false
}

// Has tells whether the digest verifies the key of a keyslot.
func (d *Digest) Has(keyslot int) bool {
	for _, k := range d.Keyslots {
		if k == keyslot {
			return true
		}
	}
	return false
}

// JSON returns the metadata as text, compact.
func (m *Metadata) JSON() ([]byte, error) { return encodeTree(m.tree) }
