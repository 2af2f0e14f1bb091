// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
)

// Header is a header as it was read. It is immutable: changes to the disk give a new one. It may be used concurrently.
type Header struct {
	Info

	v1 *luks1.Header
	v2 *luks2.Disk
	// refused is why the header cannot be unlocked, nil if it can.
	refused error
	// digest verifies the volume key of a LUKS2 header.
	digest *luks2.Digest
	// sizeBytes is the length of the image that the header was read from.
	sizeBytes int64
}

// Info is what a header says about itself, fit for JSON. It holds no secrets, salts or digests.
type Info struct {
	Version   int    `json:"version"` // 1 or 2
	UUID      string `json:"uuid"`
	Label     string `json:"label,omitempty"`
	Subsystem string `json:"subsystem,omitempty"`

	Cipher string `json:"cipher"` // "aes"
	Mode   string `json:"mode"`   // "xts-plain64"
	// KeyBytes is the length of the volume key: 32 for AES-128, 64 for AES-256. It is 0 without keyslots.
	KeyBytes    int `json:"key_bytes"`
	SectorBytes int `json:"sector_bytes"`

	// DataOffsetBytes is where the ciphertext begins in the image; for a detached header, in the image of the data.
	DataOffsetBytes int64 `json:"data_offset_bytes"`
	// DataLengthBytes is the length of the data, 0 if it goes to the end of the image.
	DataLengthBytes int64 `json:"data_length_bytes"`
	// IVOffset is the IV of the first sector, in units of 512 bytes.
	IVOffset uint64 `json:"iv_offset"`
	// HeaderBytes is the length of the image's start that belongs to headers and keyslots.
	HeaderBytes int64 `json:"header_bytes"`
	// SequenceID counts the changes of a LUKS2 header.
	SequenceID uint64 `json:"sequence_id,omitempty"`

	Detached bool `json:"detached"`
	// CloneMagic tells that librbd formatted this image as a clone whose parent has another key.
	CloneMagic bool `json:"clone_magic"`

	Keyslots     []Keyslot `json:"keyslots"`
	Tokens       []Token   `json:"tokens"`
	Digests      []Digest  `json:"digests"`
	Segments     []Segment `json:"segments"`
	Flags        []string  `json:"flags"`
	Requirements []string  `json:"requirements"`

	// Warnings tell what is not as it should be, and how to repair it.
	Warnings []string `json:"warnings"`
	// Unsupported tells why the image cannot be opened, "" if it can.
	Unsupported string `json:"unsupported,omitempty"`
}

// Priorities of keyslots.
const (
	PriorityIgnore = 0 // tried only when it is named
	PriorityNormal = 1
	PriorityPrefer = 2 // tried first
)

// Keyslot describes a keyslot that is in use.
type Keyslot struct {
	ID       int    `json:"id"`
	Type     string `json:"type"` // "luks1", "luks2", ...
	Priority int    `json:"priority"`
	KeyBytes int    `json:"key_bytes"` // length of the key inside
	// Bound tells whether the key inside is that of the data. Others hold keys that belong to nothing.
	Bound           bool   `json:"bound"`
	AreaEncryption  string `json:"area_encryption"`
	AreaKeyBytes    int    `json:"area_key_bytes"`
	AreaOffsetBytes int64  `json:"area_offset_bytes"`
	AreaLengthBytes int64  `json:"area_length_bytes"`
	AFHash          string `json:"af_hash"`
	KDF             KDF    `json:"kdf"`
}

// KDF describes how the key of a keyslot's area is derived from the passphrase.
type KDF struct {
	Type       string `json:"type"`                 // "pbkdf2", "argon2i" or "argon2id"
	Hash       string `json:"hash,omitempty"`       // pbkdf2
	Iterations uint32 `json:"iterations,omitempty"` // pbkdf2
	TimeCost   uint32 `json:"time_cost,omitempty"`  // argon2: passes
	MemoryKiB  uint32 `json:"memory_kib,omitempty"` // argon2
	Threads    uint32 `json:"threads,omitempty"`    // argon2
}

// Token describes a LUKS2 token: another tool's note on how to come by a passphrase.
type Token struct {
	ID       int    `json:"id"`
	Type     string `json:"type"`
	Keyslots []int  `json:"keyslots"`
}

// Digest describes how a volume key is verified.
type Digest struct {
	ID         int    `json:"id"`
	Type       string `json:"type"`
	Hash       string `json:"hash"`
	Iterations uint32 `json:"iterations"`
	Keyslots   []int  `json:"keyslots"`
	Segments   []int  `json:"segments"`
}

// Segment describes a LUKS2 segment, or the data of LUKS1.
type Segment struct {
	ID          int      `json:"id"`
	Type        string   `json:"type"`
	OffsetBytes uint64   `json:"offset_bytes"`
	LengthBytes uint64   `json:"length_bytes"` // 0: to the end
	Encryption  string   `json:"encryption,omitempty"`
	SectorBytes int      `json:"sector_bytes,omitempty"`
	Integrity   string   `json:"integrity,omitempty"`
	Flags       []string `json:"flags,omitempty"`
}

// Keyslot returns a keyslot by number.
func (i *Info) Keyslot(id int) (Keyslot, bool) {
	for _, k := range i.Keyslots {
		if k.ID == id {
			return k, true
		}
	}
	return Keyslot{}, false
}
