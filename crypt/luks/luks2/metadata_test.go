// SPDX-License-Identifier: Apache-2.0

package luks2_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks/luks2"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

func TestSampleIsValid(t *testing.T) {
	m, err := luks2.ParseMetadata(area(sampleJSON(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Keyslots) != 2 || m.Keyslots[1].KDF.Iterations != 1000 || m.Keyslots[0].KDF.MemoryKiB != 64 || m.Repaired {
		t.Errorf("%+v", m.Keyslots)
	}
	if m.EndBytes() != 2*headerBytes+keyslotsBytes {
		t.Errorf("ends at %d", m.EndBytes())
	}
	if s, err := m.DataSegment(); err != nil || s.OffsetBytes != dataBytes {
		t.Errorf("segment %+v, %v", s, err)
	}
}

// TestRules breaks one rule of the metadata after the other.
func TestRules(t *testing.T) {
	for _, tc := range []struct{ path, value, want string }{
		{"config", "", `"config" is missing`},
		{"config/requirements", `[]`, `"requirements" is missing or no object`},
		{"config/requirements", `{"mandatory":[1]}`, "is no string"},
		{"config/requirements", `{"mandatory":["online-reencrypt","online-reencrypt-v2"]}`, "several online"},
		{"config/requirements", `{"mandatory":["online-reencrypt-v2"]}`, "without a keyslot for it"},
		{"config/json_size", `12288`, `"json_size" is missing, empty or no string`},
		{"config/json_size", `"12289"`, "belongs to no size"},
		{"config/json_size", `"28672"`, "lies in the header"},
		{"config/json_size", `"18446744073709551615"`, "belongs to no size"},
		{"config/json_size", `"18446744073709551616"`, "64-bit"},
		{"config/keyslots_size", `"4097"`, "multiple of 4096"},
		{"config/keyslots_size", `"1044480"`, "into the data"},
		{"config/keyslots_size", `"268435456"`, "multiple of 4096 up to"},
		{"config/flags", `"x"`, "no array"},
		{"tokens", "", `"tokens" is missing`},
		{"tokens", `{"x":{}}`, "no plain decimal"},
		{"tokens", `{"07":{}}`, "no plain decimal"},
		{"tokens", `{"32":{}}`, "number 32"},
		{"tokens", `{"0":[]}`, "token 0 is no object"},
		{"tokens", `{"0":{"type":"t"}}`, `"keyslots" is missing`},
		{"tokens", `{"0":{"type":"t","keyslots":["9"]}}`, "which is missing"},
		{"tokens", `{"0":{"type":"","keyslots":[]}}`, `"type" is missing, empty`},
		{"digests/0/keyslots", `["0","9"]`, "which is missing"},
		{"digests/0/keyslots", `["0"]`, "assigned to 0 digests"},
		{"digests/1", `{"type":"pbkdf2","keyslots":["0"],"segments":[]}`, "assigned to 2 digests"},
		{"digests/0/segments", `["5"]`, "which is missing"},
		{"digests/0/segments", `[]`, "has no digest"},
		{"digests/0/type", `7`, `"type" is missing`},
		{"segments", `{}`, "which is missing"},
		{"segments/1", `{"type":"linear","offset":"0","size":"dynamic"}`, "segment 0 is dynamic"},
		{"segments/2", `{"type":"linear","offset":"0","size":"512"}`, "number 1 is missing"},
		{"segments/0/flags", `["backup-final"]`, "only backup segments"},
		{"segments/0/flags", `[1]`, "is no string"},
		{"segments/0/offset", `"1000"`, "multiples of 512"},
		{"segments/0/offset", `1048576`, "no string"},
		{"segments/0/size", `"0"`, "size is 0"},
		{"segments/0/size", `"+512"`, "decimal digits"},
		{"segments/0/size", `"512"`, "no multiple of its sector size"},
		{"segments/0/iv_tweak", `"-1"`, "decimal digits"},
		{"segments/0/sector_size", `"512"`, "no number"},
		{"segments/0/sector_size", `512.0`, "expected an integer"},
		{"segments/0/sector_size", `100`, "multiple of 512"},
		{"segments/0/sector_size", `4294967808`, "expected an integer"},
		{"segments/0/integrity", `{"type":"x"}`, "journal_encryption"},
		{"keyslots/0/key_size", `-1`, "expected an integer"},
		{"keyslots/0/kdf", ``, `"kdf" is missing`},
		{"keyslots/0/kdf/cpus", ``, "4 members"},
		{"keyslots/0/kdf/time", `"4"`, "no number"},
		{"keyslots/0/af/type", `"luks9"`, `expected "luks1"`},
		{"keyslots/0/af/stripes", ``, "stripes"},
		{"keyslots/0/area", `{}`, `"type" is missing`},
		{"keyslots/0/area/type", `"journal"`, `expected "raw"`},
		{"keyslots/0/area/offset", `"4096"`, "lies in the header"},
		{"keyslots/0/area/size", `"0"`, "is empty"},
		{"keyslots/0/area/size", `"18446744073709551615"`, "reaches behind"},
		{"keyslots/0/area/size", `"131073"`, "overlap"},
		{"keyslots/0/area/encryption", `""`, "encryption"},
		{"keyslots/0/priority", `"x"`, "priority"},
		{"keyslots/2", `{"type":"reencrypt","key_size":1,"area":{"type":"none","offset":"400000","size":"4096"}}`, "without the requirement"},
	} {
		text := set(t, sampleJSON(t), tc.path, tc.value)
		m, err := luks2.ParseMetadata(area(text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s = %s: %v, expected %q", tc.path, tc.value, err, tc.want)
		}
		if err != nil && (!errors.Is(err, lukserr.Damaged) || m != nil) {
			t.Errorf("%s = %s: %v is no lukserr.Damaged", tc.path, tc.value, err)
		}
	}
}

// TestSizesOfHeader has metadata that is right in itself, in an area of another size.
func TestSizesOfHeader(t *testing.T) {
	m := sample(t)
	for _, id := range []int{0, 1} {
		var err error
		if m, err = m.RemoveKeyslot(id); err != nil {
			t.Fatal(err)
		}
	}
	text, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	wide := make([]byte, 32<<10-luks2.BinaryBytes)
	copy(wide, text)
	if _, err := luks2.ParseMetadata(wide); err == nil || !strings.Contains(err.Error(), "the JSON area has 28672 bytes") {
		t.Errorf("error %v", err)
	}
	none := set(t, set(t, string(text), "segments", "{}"), "digests", "{}")
	if _, err := luks2.ParseMetadata(area(none)); err == nil || !strings.Contains(err.Error(), "no segments") {
		t.Errorf("error %v", err)
	}
}

// TestUnsupported sees valid metadata refused by name.
func TestUnsupported(t *testing.T) {
	for _, tc := range []struct{ path, value, want string }{
		{"config/requirements", `{"mandatory":["offline-reencrypt"]}`, "offline reencryption"},
		{"config/requirements", `{"mandatory":["opal"]}`, "hardware encryption"},
		{"config/requirements", `{"mandatory":["inline-hw-tags"]}`, "inline-hw-tags"},
		{"config/requirements", `{"mandatory":["surprise"]}`, "surprise"},
		{"segments/0/integrity", `{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`, "hmac(sha256)"},
		{"segments/0/type", `"linear"`, "linear"},
	} {
		m, err := luks2.ParseMetadata(area(set(t, sampleJSON(t), tc.path, tc.value)))
		if err != nil {
			t.Errorf("%s = %s: %v", tc.path, tc.value, err)
			continue
		}
		if _, err := m.DataSegment(); !errors.Is(err, lukserr.Unsupported) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s = %s: %v", tc.path, tc.value, err)
		}
	}
	text := set(t, sampleJSON(t), "config/requirements", `{"mandatory":["online-reencrypt-v2"]}`)
	text = set(t, text, "keyslots/2", `{"type":"reencrypt","key_size":1,"area":{"type":"none","offset":"400000","size":"4096"}}`)
	m, err := luks2.ParseMetadata(area(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.DataSegment(); !errors.Is(err, lukserr.Unsupported) || !strings.Contains(err.Error(), "under way") {
		t.Errorf("reencryption: %v", err)
	}
}

func TestJSONText(t *testing.T) {
	good := sampleJSON(t)
	full := good + strings.Repeat(" ", headerBytes-luks2.BinaryBytes-len(good))
	for name, tc := range map[string]struct {
		area []byte
		ok   bool
	}{
		"empty":            {nil, false},
		"space before":     {area(" " + good), false},
		"garbage behind":   {area(good + "x"), false},
		"later garbage":    {append(area(good)[:12287], 'x'), false},
		"space behind":     {area(good + " "), false},
		"no NUL":           {[]byte(full), false},
		"array":            {area("[]"), false},
		"cut":              {area(good[:len(good)-1]), false},
		"no UTF-8":         {area(strings.Replace(good, "{", "{\"x\":\"\xff\",", 1)), false},
		"deep":             {area(`{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}"), false},
		"deep in a string": {area(strings.Replace(good, "{", `{"x":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[",`, 1)), true},
		"unknown members":  {area(strings.Replace(good, "{", `{"x":[1,{"y":null}],`, 1)), true},
	} {
		if _, err := luks2.ParseMetadata(tc.area); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := make([]byte, luks2.MaxHeaderBytes-luks2.BinaryBytes)
	copy(many, `{"a":[`+strings.Repeat("0,", 1<<20)+`0]}`)
	if _, err := luks2.ParseMetadata(many); !errors.Is(err, lukserr.Limit) {
		t.Errorf("a million values: %v", err)
	}
}

func TestLeftoverKDFMembersAreIgnored(t *testing.T) {
	text := set(t, sampleJSON(t), "keyslots/1/kdf/time", "4")
	m, err := luks2.ParseMetadata(area(text))
	if err != nil || !m.Repaired {
		t.Fatalf("%v", err)
	}
	out, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := luks2.ParseMetadata(area(string(out))); err != nil || m.Repaired {
		t.Errorf("still to be repaired: %v", err)
	}
}

func TestAreasAreReused(t *testing.T) {
	m := sample(t)
	first, second := m.Keyslots[0].Area, m.Keyslots[1].Area
	if second.OffsetBytes != first.OffsetBytes+first.SizeBytes || first.OffsetBytes != 2*headerBytes {
		t.Errorf("areas %+v %+v", first, second)
	}
	m, err := m.RemoveKeyslot(0)
	if err != nil {
		t.Fatal(err)
	}
	if at, _, err := m.FreeArea(32); err != nil || at != first.OffsetBytes {
		t.Errorf("gap at %d, %v", at, err)
	}
	if at, _, err := m.FreeArea(64); err != nil || at != second.OffsetBytes+second.SizeBytes {
		t.Errorf("larger gap at %d, %v", at, err)
	}
	if id, err := m.FreeKeyslot(); err != nil || id != 0 {
		t.Errorf("keyslot %d, %v", id, err)
	}
	if _, _, err := m.FreeArea(500); !errors.Is(err, lukserr.NoSpace) {
		t.Errorf("no room: %v", err)
	}
}

// FuzzParseMetadata: what is accepted stays inside its bounds, and writing it is lossless.
func FuzzParseMetadata(f *testing.F) {
	f.Add(sampleJSON(f))
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) >= headerBytes-luks2.BinaryBytes {
			return
		}
		m, err := luks2.ParseMetadata(area(text))
		if err != nil {
			return
		}
		for i := range m.Keyslots {
			a := m.Keyslots[i].Area
			if a.OffsetBytes < 2*headerBytes || a.OffsetBytes+a.SizeBytes > m.EndBytes() {
				t.Errorf("keyslot %d: area %+v", m.Keyslots[i].ID, a)
			}
			if n, ok := m.Keyslots[i].SplitKeyBytes(); ok && uint64(n) > a.SizeBytes {
				t.Errorf("keyslot %d: %d bytes in %+v", m.Keyslots[i].ID, n, a)
			}
		}
		if s, err := m.DataSegment(); err == nil && s.OffsetBytes != 0 && s.OffsetBytes < m.EndBytes() {
			t.Errorf("data at %d, keyslots end at %d", s.OffsetBytes, m.EndBytes())
		}
		out, err := m.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if len(out) >= headerBytes-luks2.BinaryBytes {
			return // escapes take more room than what they stand for
		}
		again, err := luks2.ParseMetadata(area(string(out)))
		if err != nil {
			t.Fatalf("%v\n%s\nbecame\n%s", err, text, out)
		}
		if second, err := again.JSON(); err != nil || string(second) != string(out) {
			t.Errorf("%v\n%s\nbecame\n%s", err, out, second)
		}
	})
}
