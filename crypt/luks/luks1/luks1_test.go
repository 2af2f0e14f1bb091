// SPDX-License-Identifier: Apache-2.0

package luks1_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

// sample is a header with every field set.
func sample(t testing.TB) *luks1.Header {
	h, err := luks1.New(64, 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	h.CipherName, h.CipherMode, h.HashSpec, h.UUID = "aes", "xts-plain64", "sha256", "01234567-89ab-cdef-0123-456789abcdef"
	h.DigestIterations = 77777
	for i := range h.Digest {
		h.Digest[i] = byte(i)
	}
	h.Activate(6, 1234, [32]byte{1, 2, 3})
	return h
}

func TestEncodeIsTheFormat(t *testing.T) {
	h := sample(t)
	b := h.Encode()
	for offset, want := range map[int]string{
		0: "LUKS\xba\xbe\x00\x01aes\x00", 40: "xts-plain64\x00", 72: "sha256\x00", 104: "\x00\x00\x20\x00", 108: "\x00\x00\x00\x40",
		112: "\x00\x01\x02\x03", 164: "\x00\x01\x2f\xd1", 168: "01234567-89ab", 208: "\x00\x00\xde\xad\x00\x00\x00\x00",
		208 + 6*48: "\x00\xac\x71\xf3\x00\x00\x04\xd2\x01\x02\x03", 208 + 40: "\x00\x00\x00\x08\x00\x00\x0f\xa0",
	} {
		if got := string(b[offset : offset+len(want)]); got != want {
			t.Errorf("at %d: %q, expected %q", offset, got, want)
		}
	}
	back, err := luks1.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if *back != *h {
		t.Errorf("%+v, expected %+v", back, h)
	}
	if !bytes.Equal(back.Encode(), b) || len(b) != luks1.DiskBytes {
		t.Error("encoded differently")
	}
	if h.EndBytes() != 4096+7*258048+256000 || luks1.MinPayloadBytes(64) != 2068480 || luks1.MinPayloadBytes(32) != 1052672 {
		t.Errorf("ends at %d, payload from %d", h.EndBytes(), luks1.MinPayloadBytes(64))
	}
}

func TestParseRefuses(t *testing.T) {
	put := func(offset int, v uint32) func(b []byte) {
		return func(b []byte) { binary.BigEndian.PutUint32(b[offset:], v) }
	}
	const slot3 = 208 + 3*48
	for want, spoil := range map[string]func(b []byte){
		"no LUKS header":            func(b []byte) { b[3] = 'X' },
		"LUKS version 7":            func(b []byte) { b[7] = 7 },
		"volume key of 0 bytes":     put(108, 0),
		"volume key of 4294967295":  put(108, 1<<32-1),
		"keyslot 3 has 3999":        put(slot3+44, 3999),
		"keyslot 3 at byte 512":     put(slot3+40, 1),
		"keyslot 3 ends at byte":    put(slot3+40, 1<<32-1),
		"behind the payload offset": put(104, 100),
		"keyslots 2 and 3 overlap":  put(slot3+40, 1017),
	} {
		b := sample(t).Encode()
		spoil(b)
		if _, err := luks1.Parse(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, expected %q", err, want)
		}
	}
	if _, err := luks1.Parse(make([]byte, 591)); !errors.Is(err, lukserr.Damaged) {
		t.Errorf("short: %v", err)
	}
	b := sample(t).Encode()
	put(208, 1)(b)
	if h, err := luks1.Parse(b); err != nil || !h.Slots[0].Invalid() || h.Slots[0].Active || !h.Slots[6].Active {
		t.Errorf("an invalid state: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, offset := range []int64{1000, -512, 1 << 20, 1 << 50} {
		if _, err := luks1.New(64, offset); err == nil {
			t.Errorf("payload at %d accepted", offset)
		}
	}
	if h, err := luks1.New(32, 0); err != nil || h.PayloadOffsetBytes() != 0 {
		t.Errorf("detached: %v", err)
	}
}

// FuzzParse: what is accepted keeps every area inside of the payload offset and encodes to what was parsed.
func FuzzParse(f *testing.F) {
	f.Add(sample(f).Encode()[:luks1.HeaderBytes])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := luks1.Parse(b)
		if err != nil {
			if h != nil {
				t.Errorf("a header with %v", err)
			}
			return
		}
		if h.PayloadOffsetSectors != 0 && h.EndBytes() > h.PayloadOffsetBytes() || h.AreaBytes() > 1<<22 {
			t.Errorf("areas end at %d, payload at %d", h.EndBytes(), h.PayloadOffsetBytes())
		}
		again, err := luks1.Parse(h.Encode())
		if err != nil || *again != *h {
			t.Errorf("%v: %+v became %+v", err, h, again)
		}
		// All but the names is the same, byte for byte.
		c := h.Encode()
		for _, r := range [][2]int{{0, 8}, {104, 168}, {208, 592}} {
			if !bytes.Equal(b[r[0]:r[1]], c[r[0]:r[1]]) {
				t.Errorf("bytes %d to %d changed", r[0], r[1])
			}
		}
	})
}
