// SPDX-License-Identifier: Apache-2.0

package luks2_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/crypt/luks/luks2"
	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

func TestRecoveryOrder(t *testing.T) {
	text := sampleJSON(t)
	for name, tc := range map[string]struct {
		seqPrimary, seqSecondary uint64
		spoil                    func(img []byte)
		use                      string // label; "" for an error
		want                     string // in a warning or the error
	}{
		"both good":            {3, 3, nil, "primary", ""},
		"primary newer":        {4, 3, nil, "primary", "secondary LUKS2 header"},
		"secondary newer":      {3, 4, nil, "secondary", "primary LUKS2 header"},
		"primary checksum":     {9, 3, func(b []byte) { b[5000] = 1 }, "secondary", "checksum differs"},
		"secondary checksum":   {3, 9, func(b []byte) { b[headerBytes+5000] = 1 }, "primary", "checksum differs"},
		"primary offset":       {3, 3, func(b []byte) { b[263] = 1 }, "secondary", "says that it belongs at"},
		"primary size":         {3, 3, func(b []byte) { b[8] = 1 }, "secondary", "header of"},
		"primary gone":         {3, 3, func(b []byte) { clear(b[:headerBytes]) }, "secondary", "no LUKS header"},
		"secondary gone":       {3, 3, func(b []byte) { clear(b[headerBytes : 2*headerBytes]) }, "primary", "no LUKS header"},
		"both gone":            {3, 3, func(b []byte) { clear(b) }, "", "no LUKS header"},
		"both checksums":       {3, 3, func(b []byte) { b[5000] = 1; b[headerBytes+5000] = 1 }, "", "neither copy"},
		"version 3":            {3, 3, func(b []byte) { b[7] = 3; clear(b[headerBytes:]) }, "", "LUKS version 3"},
		"version 3, secondary": {3, 3, func(b []byte) { b[7] = 3 }, "secondary", "LUKS version 3"},
		"other at the start":   {3, 3, func(b []byte) { clear(b[:headerBytes]); copy(b[512:], "EFI PART") }, "", "GPT"},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := binaries(tc.seqPrimary, tc.seqSecondary)
			img := disk(t, p, s, text)
			if tc.spoil != nil {
				tc.spoil(img)
			}
			d, err := read(img)
			if tc.use == "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v, expected %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d.Used().Binary.Label != tc.use || d.Used().State != luks2.OK || d.Other() == d.Used() {
				t.Errorf("used %q", d.Used().Binary.Label)
			}
			all := strings.Join(d.Warnings, "\n")
			if tc.want == "" && all != "" || !strings.Contains(all, tc.want) {
				t.Errorf("warnings %q", d.Warnings)
			}
		})
	}
}

// TestInvalidMetadataFallsBack has good checksums over bad JSON.
func TestInvalidMetadataFallsBack(t *testing.T) {
	p, s := binaries(9, 3)
	img := disk(t, p, s, sampleJSON(t))
	bad, err := p.Encode([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	copy(img, bad)
	d, err := read(img)
	if err != nil {
		t.Fatal(err)
	}
	if d.Used().Binary.Label != "secondary" || d.Primary.State != luks2.Obsolete {
		t.Errorf("used %q, primary %v", d.Used().Binary.Label, d.Primary.State)
	}
}

// TestEveryPlaceOfTheSecondary finds a lone secondary copy of every size there is.
func TestEveryPlaceOfTheSecondary(t *testing.T) {
	for size := uint64(luks2.MinHeaderBytes); size <= luks2.MaxHeaderBytes; size *= 2 {
		m, err := luks2.NewMetadata(luks2.Layout{HeaderBytes: size, KeyslotsBytes: 4096, SectorBytes: 512, Encryption: "aes-xts-plain64"},
			luks2.Digest{Hash: "sha256", Iterations: 1, Salt: make([]byte, 32), Digest: make([]byte, 32)})
		if err != nil {
			t.Fatal(err)
		}
		text, err := m.JSON()
		if err != nil {
			t.Fatal(err)
		}
		bin := luks2.Binary{Secondary: true, HeaderBytes: size, ChecksumAlg: "sha512"}
		b, err := bin.Encode(text)
		if err != nil {
			t.Fatal(err)
		}
		img := make([]byte, 2*size+4096)
		copy(img[size:], b)
		if d, err := read(img); err != nil || d.Used().Binary.HeaderBytes != size {
			t.Errorf("%d: %v", size, err)
		}
		if _, err := read(img[:len(img)-1]); !errors.Is(err, lukserr.Damaged) {
			t.Errorf("%d, image too small: %v", size, err)
		}
	}
}

// TestReadErrors tells a failing image from one that is not LUKS.
func TestReadErrors(t *testing.T) {
	boom := errors.New("boom")
	p, s := binaries(3, 3)
	img := disk(t, p, s, sampleJSON(t))
	for name, tc := range map[string]struct {
		failFrom, failTo int64
		want             error
		use              string
	}{
		"all":       {0, 1 << 30, boom, ""},
		"primary":   {0, headerBytes, nil, "secondary"},
		"secondary": {headerBytes, 2 * headerBytes, nil, "primary"},
	} {
		d, err := luks2.Read(failing{bytes.NewReader(img), tc.failFrom, tc.failTo, boom}, int64(len(img)))
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && d.Used().Binary.Label != tc.use {
			t.Errorf("%s: used %q", name, d.Used().Binary.Label)
		}
	}
	plain := make([]byte, 1<<20)
	if _, err := luks2.Read(failing{bytes.NewReader(plain), 0, 4096, boom}, 1<<20); !errors.Is(err, boom) {
		t.Errorf("plain image whose start cannot be read: %v", err)
	}
	if _, err := read(nil); !errors.Is(err, lukserr.NotLUKS) {
		t.Errorf("empty: %v", err)
	}
}

// failing fails reads that touch a range.
type failing struct {
	io.ReaderAt
	from, to int64
	err      error
}

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off < f.to && off+int64(len(b)) > f.from {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(b, off)
}

func TestEncodeRefusesWhatDoesNotFit(t *testing.T) {
	p, _ := binaries(1, 1)
	if _, err := p.Encode(make([]byte, headerBytes-luks2.BinaryBytes)); !errors.Is(err, lukserr.NoSpace) {
		t.Errorf("error %v", err)
	}
	p.ChecksumAlg = "crc32"
	if _, err := p.Encode(nil); !errors.Is(err, lukserr.Unsupported) {
		t.Errorf("error %v", err)
	}
}

// FuzzRead fuzzes the binary header in front of good metadata, with the checksum made right: what is accepted lies inside
// the image.
func FuzzRead(f *testing.F) {
	p, s := binaries(3, 3)
	text := sampleJSON(f)
	img := disk(f, p, s, text)
	f.Add(img[:512], true)
	f.Add(img[headerBytes:headerBytes+512], false)
	f.Fuzz(func(t *testing.T, fixed []byte, first bool) {
		img := disk(t, p, s, text)
		at := headerBytes
		if first {
			at = 0
		}
		copy(img[at:at+luks2.BinaryBytes], fixed)
		seal(img, at)
		d, err := read(img)
		if err != nil {
			return
		}
		used := d.Used()
		if used.Meta.EndBytes() > uint64(len(img)) || used.Meta.HeaderBytes() != used.Binary.HeaderBytes {
			t.Errorf("ends at %d of %d", used.Meta.EndBytes(), len(img))
		}
		text, err := used.Meta.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := used.Binary.Encode(text); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
	})
}

// seal makes the checksum of the copy at an offset right, if its length is one.
func seal(img []byte, at int) {
	size := binary.BigEndian.Uint64(img[at+8:])
	if size < luks2.MinHeaderBytes || size > uint64(len(img)-at) {
		return
	}
	whole := img[at : at+int(size)]
	copy(whole[72:104], "sha256\x00")
	clear(whole[448:512])
	plain := bytes.Clone(whole)
	copy(plain, luks2.MagicPrimary)
	if at != 0 {
		copy(plain, luks2.MagicSecondary)
	}
	sum := sha256.Sum256(plain)
	copy(whole[448:], sum[:])
}
