// SPDX-License-Identifier: Apache-2.0

package xts

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Block j of a data unit depends on the blocks before it in nothing. So vectors
// for units shorter than a sector are checked as the start of one.

func TestIEEEVectors(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		var before []byte
		for i, v := range ieeeVectors {
			plain := make([]byte, v.plainBytes)
			for j := range plain {
				switch v.plain {
				case -1:
					plain[j] = byte(j)
				case -2:
					plain[j] = before[j]
				default:
					plain[j] = byte(v.plain)
				}
			}
			c := mustCipher(t, kernel, mustHex(t, v.key), 512)
			cipher := checkUnit(t, fmt.Sprintf("vector %d", i), c, v.iv, plain, nil)
			if got := hex.EncodeToString(cipher[:16]); got != v.head {
				t.Errorf("vector %d starts with %s, want %s", i, got, v.head)
			}
			if got := fmt.Sprintf("%x", sha256.Sum256(cipher)); got != v.sha256 {
				t.Errorf("vector %d has SHA-256 %s, want %s", i, got, v.sha256)
			}
			before = cipher
		}
	})
}

// checkUnit encrypts plain as the start of a 512-byte sector, compares with
// want if that is not nil, decrypts again and returns the ciphertext.
func checkUnit(t *testing.T, name string, c *Cipher, iv uint64, plain, want []byte) []byte {
	t.Helper()
	sector := make([]byte, 512)
	copy(sector, plain)
	c.Encrypt(sector, sector, iv)
	cipher := bytes.Clone(sector[:len(plain)])
	if want != nil && !bytes.Equal(cipher, want) {
		t.Errorf("%s: encrypted to %x, want %x", name, cipher, want)
	}
	clear(sector[len(plain):])
	c.Decrypt(sector, sector, iv)
	if !bytes.Equal(sector[:len(plain)], plain) {
		t.Errorf("%s: decrypted to %x, want %x", name, sector[:len(plain)], plain)
	}
	return cipher
}

func TestOpenSSLVectors(t *testing.T) {
	forEachKernel(t, func(t *testing.T, kernel string) {
		for i, v := range opensslVectors {
			key := make([]byte, v.keyBytes)
			for j := range key {
				key[j] = byte(11*j + 3)
			}
			plain := make([]byte, v.sectors*v.sectorBytes)
			for j := range plain {
				plain[j] = byte(7*j + j/251)
			}
			c := mustCipher(t, kernel, key, v.sectorBytes)
			cipher := make([]byte, len(plain))
			c.Encrypt(cipher, plain, v.iv)
			if got := hex.EncodeToString(cipher[:16]); got != v.head {
				t.Errorf("vector %d starts with %s, want %s", i, got, v.head)
			}
			if got := fmt.Sprintf("%x", sha256.Sum256(cipher)); got != v.sha256 {
				t.Errorf("vector %d has SHA-256 %s, want %s", i, got, v.sha256)
			}
			c.Decrypt(cipher, cipher, v.iv)
			if !bytes.Equal(cipher, plain) {
				t.Errorf("vector %d does not decrypt to its plaintext", i)
			}
		}
	})
}

// nistRecord is one record of a CAVP response file.
type nistRecord map[string]string

func (r nistRecord) bytes(tb testing.TB, field string) []byte { return mustHex(tb, r[field]) }

// TestNISTVectors runs the XTS response files of NIST's validation program.
// They are not part of this repository: LUKSGATE_VECTORS names the folder with
// them, by default ../shared/vectors beside the repository. Records whose data
// unit is no multiple of a block are left out: disk sectors have none.
func TestNISTVectors(t *testing.T) {
	for _, bits := range []int{128, 256} {
		for _, tweak := range []string{"tweak128hex", "dataunitseq"} {
			name := fmt.Sprintf("nist_%s_XTSGenAES%d.rsp", tweak, bits)
			t.Run(name, func(t *testing.T) {
				records := readNIST(t, name)
				if tweak == "tweak128hex" {
					checkNISTTweaks(t, records)
					return
				}
				forEachKernel(t, func(t *testing.T, kernel string) { checkNISTSequence(t, kernel, records) })
			})
		}
	}
}

// checkNISTSequence checks records with a data unit number, which is plain64.
func checkNISTSequence(t *testing.T, kernel string, records []nistRecord) {
	for _, r := range records {
		iv, err := strconv.ParseUint(r["DataUnitSeqNumber"], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewWithKernel(kernel, r.bytes(t, "Key"), 512)
		if err != nil {
			t.Fatal(err)
		}
		checkUnit(t, "record "+r["COUNT"], c, iv, r.bytes(t, "PT"), r.bytes(t, "CT"))
		c.Release()
	}
}

// checkNISTTweaks checks records with a 128-bit IV. Only the portable kernel
// takes one; TestKernelsAgree ties the others to it.
func checkNISTTweaks(t *testing.T, records []nistRecord) {
	for _, r := range records {
		c := mustCipher(t, "portable", r.bytes(t, "Key"), 512)
		ivLow, ivHigh := load(r.bytes(t, "i"))
		plain, want := r.bytes(t, "PT"), r.bytes(t, "CT")
		got := make([]byte, len(plain))
		c.sectorPortable(got, plain, ivLow, ivHigh, c.dataBlock.Encrypt)
		if !bytes.Equal(got, want) {
			t.Errorf("record %s: encrypted to %x, want %x", r["COUNT"], got, want)
		}
		c.sectorPortable(got, got, ivLow, ivHigh, c.dataBlock.Decrypt)
		if !bytes.Equal(got, plain) {
			t.Errorf("record %s: decrypted to %x, want %x", r["COUNT"], got, plain)
		}
	}
}

// readNIST returns the records with whole blocks.
func readNIST(t *testing.T, name string) (records []nistRecord) {
	t.Helper()
	dir, said := os.LookupEnv("LUKSGATE_VECTORS")
	if !said {
		dir = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	file, err := os.Open(filepath.Join(dir, "xts", name))
	if err != nil && said {
		t.Fatal(err)
	}
	if err != nil {
		t.Skipf("no NIST vectors: %v", err)
	}
	defer file.Close()
	var r nistRecord
	for lines := bufio.NewScanner(file); lines.Scan(); {
		field, value, ok := strings.Cut(lines.Text(), " = ")
		if !ok {
			continue
		}
		if field == "COUNT" {
			r = nistRecord{}
		}
		r[field] = value
		if r["PT"] != "" && r["CT"] != "" { // one of them ends the record
			if bits, err := strconv.Atoi(r["DataUnitLen"]); err == nil && bits%(8*blockBytes) == 0 {
				records = append(records, r)
			}
			r = nistRecord{}
		}
	}
	if len(records) < 400 {
		t.Fatalf("%s has %d records of whole blocks, want at least 400", name, len(records))
	}
	return records
}
