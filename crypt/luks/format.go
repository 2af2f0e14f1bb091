// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/luksgate/luksgate/crypt/luks/kdf"
	"github.com/luksgate/luksgate/crypt/luks/luks1"
	"github.com/luksgate/luksgate/crypt/luks/luks2"
	"github.com/luksgate/luksgate/crypt/luks/signature"
	"github.com/luksgate/luksgate/crypt/secret"
)

// Geometry of new headers; cryptsetup's defaults.
const (
	luks2HeaderBytes     = 16 << 10
	luks2DataBytes       = 16 << 20
	luks2MaxKeyslotBytes = 128 << 20
	luks1AlignBytes      = 1 << 20
)

// FormatOptions describe a new header. The zero value with a Passphrase is LUKS2, AES-256, sectors of 4096 bytes, argon2id.
type FormatOptions struct {
	Version     int // 1 or 2; 0 is 2
	KeyBytes    int // 32 (AES-128) or 64 (AES-256); 0 is 64
	SectorBytes int // LUKS2: 512, 1024, 2048 or 4096; 0 is 4096. LUKS1: 512 or 0.
	KDF         KDFOptions
	Label       string // LUKS2, up to 47 bytes
	Subsystem   string // LUKS2, up to 47 bytes
	UUID        string // lower-case with hyphens; "" makes a random one

	// DataAlignmentBytes is what the data offset is rounded up to: for librbd, the stripe period (object size times stripe
	// count), without which it refuses the image. 0 is 1 MiB.
	DataAlignmentBytes int64
	// DataOffsetBytes is where the data begins, whatever the alignment; 0 leaves it to the alignment. A LUKS2 offset below
	// 16 MiB makes room for fewer keyslots.
	DataOffsetBytes int64
	// Detached makes a header whose data is another image, from its first byte.
	Detached bool
	// CloneMagic writes librbd's magics for clones whose parent has another key.
	CloneMagic bool

	// Passphrase of the first keyslot. It is only read.
	Passphrase *secret.Bytes
	// VolumeKey is the key of the data, copied; nil makes a random one, which is what everybody wants.
	VolumeKey *secret.Bytes
	// Force overwrites whatever is there.
	Force bool
}

// Format writes a new header with one keyslot and returns it with the volume key, which the caller releases. sizeBytes is
// the length of the image. The data is not touched: what was there before decrypts to noise.
//
// Without Force, an image that begins with a LUKS header, with anything else that is known, or with any byte but zero where
// the header would be, is refused with ErrInUse. An image too small for the header gives ErrNoSpace; one with room for the
// header and no data is formatted.
//
// The primary header is written last, so that an interrupted format leaves no header (or, with Force, none of the old one).
func Format(ctx context.Context, dev Device, sizeBytes int64, opts FormatOptions) (*Header, *VolumeKey, error) {
	h, key, err := format(ctx, dev, sizeBytes, opts)
	return h, key, wrap(err)
}

func format(ctx context.Context, dev Device, sizeBytes int64, opts FormatOptions) (*Header, *VolumeKey, error) {
	if err := opts.complete(); err != nil {
		return nil, nil, err
	}
	if opts.Passphrase == nil {
		return nil, nil, unsupportedf("no passphrase")
	}
	if err := opts.place(sizeBytes); err != nil {
		return nil, nil, err
	}
	// What is zeroed and, without Force, must have been zero.
	ownBytes := opts.DataOffsetBytes
	if opts.Detached {
		ownBytes = min(sizeBytes, luks2DataBytes)
	}
	if !opts.Force {
		if err := unused(dev, sizeBytes, ownBytes); err != nil {
			return nil, nil, err
		}
	}
	key, err := opts.volumeKey()
	if err != nil {
		return nil, nil, err
	}
	h, err := opts.write(ctx, dev, sizeBytes, ownBytes, key)
	if err != nil {
		key.Release()
		return nil, nil, err
	}
	return h, &VolumeKey{Key: key}, nil
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// complete fills in defaults and refuses what no header can say.
func (o *FormatOptions) complete() error {
	if o.Version == 0 {
		o.Version = 2
	}
	if o.KeyBytes == 0 {
		o.KeyBytes = 64
	}
	if o.VolumeKey != nil && o.VolumeKey.Len() != o.KeyBytes {
		return unsupportedf("volume key of %d bytes, expected %d", o.VolumeKey.Len(), o.KeyBytes)
	}
	if o.SectorBytes == 0 {
		o.SectorBytes = 4096
		if o.Version == 1 {
			o.SectorBytes = luks1.SectorBytes
		}
	}
	if o.UUID == "" {
		o.UUID = newUUID()
	}
	switch sectorOK := o.SectorBytes == 512 || o.SectorBytes == 1024 || o.SectorBytes == 2048 || o.SectorBytes == 4096; {
	case o.Version != 1 && o.Version != 2:
		return unsupportedf("LUKS version %d, expected 1 or 2", o.Version)
	case o.KeyBytes != 32 && o.KeyBytes != 64:
		return unsupportedf("key of %d bytes, expected 32 or 64", o.KeyBytes)
	case !sectorOK:
		return unsupportedf("sectors of %d bytes, expected 512, 1024, 2048 or 4096", o.SectorBytes)
	case o.Version == 1 && o.SectorBytes != luks1.SectorBytes:
		return unsupportedf("LUKS1 has sectors of 512 bytes only")
	case o.Version == 1 && (o.Label != "" || o.Subsystem != ""):
		return unsupportedf("LUKS1 has no label and no subsystem")
	case len(o.Label) >= luks2.LabelBytes || len(o.Subsystem) >= luks2.LabelBytes:
		return unsupportedf("label or subsystem longer than %d bytes", luks2.LabelBytes-1)
	case !uuidForm.MatchString(o.UUID):
		return unsupportedf("UUID %q, expected the form 01234567-89ab-cdef-0123-456789abcdef", o.UUID)
	}
	return nil
}

// Check tells whether Format could write such a header, whatever the image, without the Passphrase.
func (o FormatOptions) Check() error { return wrap(o.complete()) }

// DataBegin is the byte where the data of an image of sizeBytes would begin; ErrNoSpace where it is too small.
func (o FormatOptions) DataBegin(sizeBytes int64) (int64, error) {
	err := o.complete()
	if err == nil {
		err = o.place(sizeBytes)
	}
	return o.DataOffsetBytes, wrap(err)
}

// place computes the data offset and compares it with the image.
func (o *FormatOptions) place(sizeBytes int64) error {
	least := int64(2*luks2HeaderBytes + 4096*((4000*int64(o.KeyBytes)+4095)/4096))
	usual := int64(luks2DataBytes)
	if o.Version == 1 {
		least = luks1.MinPayloadBytes(o.KeyBytes)
		usual = least
	}
	align := o.DataAlignmentBytes
	if align == 0 {
		align = luks1AlignBytes
	}
	if align < 0 || align%luks1.SectorBytes != 0 || align > 1<<40 {
		return unsupportedf("data alignment of %d bytes", align)
	}
	switch {
	case o.Detached && o.DataOffsetBytes != 0:
		return unsupportedf("detached header with a data offset")
	case o.Detached:
		if sizeBytes < least {
			return fmt.Errorf("%w: the header needs %d bytes, the file has %d", ErrNoSpace, least, sizeBytes)
		}
		return nil
	case o.DataOffsetBytes == 0:
		o.DataOffsetBytes = (usual + align - 1) / align * align
	case o.DataOffsetBytes%4096 != 0 || o.DataOffsetBytes < least:
		return unsupportedf("data offset of %d bytes, expected a multiple of 4096 from %d", o.DataOffsetBytes, least)
	}
	if o.DataOffsetBytes > sizeBytes {
		return fmt.Errorf("%w: the data would begin at byte %d, the image ends at %d", ErrNoSpace, o.DataOffsetBytes, sizeBytes)
	}
	return nil
}

// unused tells whether nothing known and nothing but zeros is where the header would be.
func unused(dev Device, sizeBytes, ownBytes int64) error {
	if name := signature.Detect(dev, sizeBytes); name != "" {
		return fmt.Errorf("%w: the image begins with %s, force is needed to overwrite it", ErrInUse, name)
	}
	if _, err := read(dev, sizeBytes, ReadOptions{}); !errors.Is(err, ErrNotLUKS) {
		return fmt.Errorf("%w: the image has a secondary LUKS2 header, force is needed to overwrite it", ErrInUse)
	}
	buf := make([]byte, chunkBytes)
	for at := int64(0); at < ownBytes; at += chunkBytes {
		piece := buf[:min(chunkBytes, ownBytes-at)]
		if n, err := dev.ReadAt(piece, at); n < len(piece) {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %d bytes at %d: %w", len(piece), at, err)
		}
		for i, b := range piece {
			if b != 0 {
				return fmt.Errorf("%w: there is data at byte %d, where the header would be; force is needed to overwrite it",
					ErrInUse, at+int64(i))
			}
		}
	}
	return nil
}

// volumeKey returns the key of the data; the caller owns it.
func (o *FormatOptions) volumeKey() (*secret.Bytes, error) {
	if o.VolumeKey != nil {
		return secret.Copy(o.VolumeKey.Bytes())
	}
	key, err := secret.New(o.KeyBytes)
	if err != nil {
		return nil, err
	}
	// AES-XTS with equal halves is no XTS; random halves are equal once in 2^128.
	if _, err := rand.Read(key.Bytes()); err != nil {
		key.Release()
		return nil, err
	}
	return key, nil
}

// write writes it all: zeros, the keyslot area, the headers.
func (o *FormatOptions) write(ctx context.Context, dev Device, sizeBytes, ownBytes int64, key *secret.Bytes) (*Header, error) {
	d, err := o.digest(ctx, key)
	if err != nil {
		return nil, err
	}
	// Whole, so that on a librbd clone nothing of the parent is copied up under the header.
	if err := wipe(dev, 0, ownBytes, false); err != nil {
		return nil, err
	}
	if o.Version == 1 {
		err = o.write1(ctx, dev, d, key)
	} else {
		err = o.write2(ctx, dev, ownBytes, d, key)
	}
	if err != nil {
		return nil, err
	}
	h, err := read(dev, sizeBytes, ReadOptions{Detached: o.Detached})
	if err == nil && h.refused != nil {
		err = h.refused
	}
	if err != nil {
		return nil, fmt.Errorf("read the new header back: %w", err)
	}
	return h, nil
}

// digest computes how the volume key is to be verified.
func (o *FormatOptions) digest(ctx context.Context, key *secret.Bytes) (luks2.Digest, error) {
	want := kdf.Params{Type: kdf.PBKDF2, Hash: o.KDF.Hash, Salt: make([]byte, luks1.SaltBytes)}
	if o.KDF.fixed() {
		want.Iterations = kdf.MinIterations
	}
	if _, err := rand.Read(want.Salt); err != nil {
		return luks2.Digest{}, err
	}
	p, err := kdf.Choose(ctx, o.KDF.Gate, want, kdf.DigestTarget, o.KeyBytes)
	if err != nil {
		return luks2.Digest{}, err
	}
	newHash, err := kdf.Hash(p.Hash)
	if err != nil {
		return luks2.Digest{}, err
	}
	n := newHash().Size()
	if o.Version == 1 {
		n = luks1.DigestBytes
	}
	d := luks2.Digest{Hash: p.Hash, Iterations: p.Iterations, Salt: p.Salt, Digest: make([]byte, n)}
	return d, kdf.PBKDF2Key(ctx, d.Hash, key.Bytes(), d.Salt, d.Iterations, d.Digest)
}

func (o *FormatOptions) write1(ctx context.Context, dev Device, d luks2.Digest, key *secret.Bytes) error {
	v1, err := luks1.New(o.KeyBytes, o.DataOffsetBytes)
	if err != nil {
		return err
	}
	v1.CipherName, v1.CipherMode, v1.HashSpec, v1.UUID = "aes", "xts-plain64", d.Hash, o.UUID
	v1.CloneMagic = o.CloneMagic
	v1.Digest, v1.DigestSalt, v1.DigestIterations = [luks1.DigestBytes]byte(d.Digest), [luks1.SaltBytes]byte(d.Salt), d.Iterations
	h := &Header{v1: v1, Info: Info{Version: 1}}
	return h.fill1(ctx, dev, 0, key, o.Passphrase, KeyslotOptions{KDF: o.KDF})
}

func (o *FormatOptions) write2(ctx context.Context, dev Device, ownBytes int64, d luks2.Digest, key *secret.Bytes) error {
	keyslots := min(ownBytes, luks2DataBytes)
	if o.DataOffsetBytes != 0 && o.DataOffsetBytes < keyslots {
		keyslots = o.DataOffsetBytes
	}
	keyslots = min(keyslots-2*luks2HeaderBytes, luks2MaxKeyslotBytes) / 4096 * 4096
	meta, err := luks2.NewMetadata(luks2.Layout{
		HeaderBytes: luks2HeaderBytes, KeyslotsBytes: uint64(keyslots), DataOffsetBytes: uint64(o.DataOffsetBytes),
		SectorBytes: uint32(o.SectorBytes), Encryption: "aes-xts-plain64",
	}, d)
	if err != nil {
		return err
	}
	if meta, err = fill2(ctx, dev, meta, 0, 0, key, o.Passphrase, KeyslotOptions{KDF: o.KDF}); err != nil {
		return err
	}
	for _, secondary := range []bool{true, false} {
		err := writeCopy(dev, &luks2.Binary{
			Secondary: secondary, CloneMagic: o.CloneMagic, HeaderBytes: luks2HeaderBytes, SeqID: 1, ChecksumAlg: "sha256",
			Label: o.Label, Subsystem: o.Subsystem, UUID: o.UUID,
		}, meta)
		if err != nil {
			return err
		}
	}
	return nil
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // cannot fail since Go 1.24
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
