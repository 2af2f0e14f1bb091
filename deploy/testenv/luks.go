// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// LUKSOptions say which LUKS file [NewLUKSFile] makes. The zero value is LUKS2, aes-256, 4096-byte sectors, no payload.
type LUKSOptions struct {
	// Version is 1 or 2; 0 means 2.
	Version int
	// KeyBits is 256 (aes-128) or 512 (aes-256), the two halves of the XTS key together; 0 means 512.
	KeyBits int
	// SectorBytes is 512, 1024, 2048 or 4096; 0 means 4096 for LUKS2, and 512 for LUKS1, which has no other.
	SectorBytes int
	// Passphrase as bytes; nil means "correct horse".
	Passphrase []byte
	// Plaintext is the payload, whole sectors of it. The file ends where it ends.
	Plaintext []byte
}

// A LUKSFile is a LUKS image in a file whose payload others have encrypted: cryptsetup for LUKS2, qemu-img for LUKS1.
type LUKSFile struct {
	// Path is the image, PassphrasePath its passphrase without a newline, PlaintextPath what it must read as.
	Path, PassphrasePath, PlaintextPath string
	// DataOffsetBytes is where the payload begins.
	DataOffsetBytes int64
}

// Where cryptsetup has the payload begin, with a key of up to 512 bits.
const (
	luks1DataBytes = 2 << 20
	luks2DataBytes = 16 << 20
)

// NewLUKSFile makes a LUKS image with a cheap KDF (pbkdf2, few iterations) in a temporary folder. It needs neither root
// nor device-mapper and takes a fraction of a second for a few MiB of payload.
func NewLUKSFile(tb testing.TB, opts LUKSOptions) *LUKSFile {
	tb.Helper()
	if opts.Passphrase == nil {
		opts.Passphrase = []byte("correct horse")
	}
	if opts.KeyBits == 0 {
		opts.KeyBits = 512
	}
	if opts.SectorBytes == 0 && opts.Version != 1 {
		opts.SectorBytes = 4096
	}
	dir := tb.TempDir()
	file := &LUKSFile{
		Path:           filepath.Join(dir, "luks.img"),
		PassphrasePath: WriteFile(tb, filepath.Join(dir, "passphrase"), opts.Passphrase),
		PlaintextPath:  WriteFile(tb, filepath.Join(dir, "plain.img"), opts.Plaintext),
	}
	if opts.Version == 1 {
		file.encryptLUKS1(tb, opts)
	} else {
		file.encryptLUKS2(tb, opts)
	}
	return file
}

// encryptLUKS2 has cryptsetup encrypt a copy in place: it moves the payload up by half of what the device is "reduced"
// by and puts the header before it; the other half stays behind the payload and is cut off.
func (f *LUKSFile) encryptLUKS2(tb testing.TB, opts LUKSOptions) {
	tb.Helper()
	f.DataOffsetBytes = luks2DataBytes
	WriteFile(tb, f.Path, opts.Plaintext)
	if err := os.Truncate(f.Path, int64(len(opts.Plaintext))+2*luks2DataBytes); err != nil {
		tb.Fatal(err)
	}
	Run(tb, "cryptsetup", "reencrypt", "--encrypt", "--batch-mode", "--type", "luks2",
		"--reduce-device-size", "32M", "--resilience", "none",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", f.PassphrasePath,
		"--cipher", "aes-xts-plain64", "--key-size", strconv.Itoa(opts.KeyBits),
		"--sector-size", strconv.Itoa(opts.SectorBytes), f.Path)
	if err := os.Truncate(f.Path, int64(len(opts.Plaintext))+luks2DataBytes); err != nil {
		tb.Fatal(err)
	}
}

func (f *LUKSFile) encryptLUKS1(tb testing.TB, opts LUKSOptions) {
	tb.Helper()
	if opts.SectorBytes != 0 && opts.SectorBytes != 512 {
		tb.Fatalf("LUKS1 has 512-byte sectors, not %d", opts.SectorBytes)
	}
	// Not "qemu-img create": its KDF benchmark fails now and then on a machine that counts CPU time in ticks.
	f.DataOffsetBytes = luks1DataBytes
	WriteFile(tb, f.Path, nil)
	if err := os.Truncate(f.Path, int64(len(opts.Plaintext))+luks1DataBytes); err != nil {
		tb.Fatal(err)
	}
	Run(tb, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks1",
		"--pbkdf-force-iterations", "1000", "--key-file", f.PassphrasePath, "--offset", strconv.Itoa(luks1DataBytes/512),
		"--cipher", "aes-xts-plain64", "--key-size", strconv.Itoa(opts.KeyBits), f.Path)
	Run(tb, "qemu-img", "convert", "-n", "-f", "raw", "--object", "secret,id=s0,file="+f.PassphrasePath,
		"--target-image-opts", f.PlaintextPath, "driver=luks,file.filename="+f.Path+",key-secret=s0")
}
