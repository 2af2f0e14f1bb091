// SPDX-License-Identifier: Apache-2.0

package luks2_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
)

const (
	headerBytes   = 16 << 10
	keyslotsBytes = 512 << 10
	dataBytes     = 1 << 20
)

// sample is metadata with two keyslots.
func sample(t testing.TB) *luks2.Metadata {
	m, err := luks2.NewMetadata(luks2.Layout{
		HeaderBytes: headerBytes, KeyslotsBytes: keyslotsBytes, DataOffsetBytes: dataBytes, SectorBytes: 4096, Encryption: "aes-xts-plain64",
	}, luks2.Digest{Hash: "sha256", Iterations: 1000, Salt: make([]byte, 32), Digest: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for id, p := range []kdf.Params{
		{Type: kdf.Argon2id, TimeCost: 4, MemoryKiB: 64, Threads: 1, Salt: make([]byte, 32)},
		{Type: kdf.PBKDF2, Hash: "sha256", Iterations: 1000, Salt: make([]byte, 32)},
	} {
		offset, size, err := m.FreeArea(32)
		if err != nil {
			t.Fatal(err)
		}
		m, err = m.SetKeyslot(luks2.Keyslot{
			ID: id, KeyBytes: 32, AFHash: "sha256", KDF: p,
			Area: luks2.Area{Encryption: "aes-xts-plain64", KeyBytes: 64, OffsetBytes: offset, SizeBytes: size},
		}, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func sampleJSON(t testing.TB) string {
	b, err := sample(t).JSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// area pads text to the JSON area of sample.
func area(text string) []byte {
	b := make([]byte, headerBytes-luks2.BinaryBytes)
	copy(b, text)
	return b
}

// set returns the JSON text with the member at a path replaced by JSON, or removed if that is "".
func set(t testing.TB, text, path, value string) string {
	var tree map[string]any
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	steps := strings.Split(path, "/")
	o := tree
	for _, s := range steps[:len(steps)-1] {
		next, ok := o[s].(map[string]any)
		if !ok {
			t.Fatalf("no object %q of %q", s, path)
		}
		o = next
	}
	last := steps[len(steps)-1]
	delete(o, last)
	if value != "" {
		o[last] = json.RawMessage(value)
	}
	out, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// disk is an image with both copies of this metadata.
func disk(t testing.TB, primary, secondary luks2.Binary, text string) []byte {
	img := make([]byte, dataBytes)
	for _, b := range []luks2.Binary{primary, secondary} {
		encoded, err := b.Encode([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		copy(img[b.OffsetBytes():], encoded)
	}
	return img
}

func binaries(seqPrimary, seqSecondary uint64) (luks2.Binary, luks2.Binary) {
	p := luks2.Binary{HeaderBytes: headerBytes, SeqID: seqPrimary, ChecksumAlg: "sha256", UUID: "u", Label: "primary"}
	s := p
	s.Secondary, s.SeqID, s.Label = true, seqSecondary, "secondary"
	return p, s
}

func read(img []byte) (*luks2.Disk, error) { return luks2.Read(bytes.NewReader(img), int64(len(img))) }
