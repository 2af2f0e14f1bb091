// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/luksgate/luksgate/crypt/workers"
)

// A Store holds the ciphertext.
//
// All methods may be called by many goroutines at once; the volume never has two calls under way that overlap where one
// of them changes bytes. The slices of an iov are borrowed for the call. Offsets and lengths are bytes of the store.
type Store interface {
	SizeBytes() int64
	// ReadAt fills the slices of iov one after the other. What was never written reads as zeros.
	ReadAt(iov [][]byte, offsetBytes int64) error
	// WriteAt writes the slices of iov one after the other, on stable storage before the return where fua is set.
	WriteAt(iov [][]byte, offsetBytes int64, fua bool) error
	Flush() error
	// Discard frees the range as far as the store can; what was freed reads as zeros, the rest as before.
	Discard(offsetBytes, lengthBytes int64) error
	// Extents appends what is known of the allocation from offsetBytes on, in order and without gaps, at most
	// cap(dst)-len(dst) entries and at least one.
	Extents(offsetBytes, lengthBytes int64, dst []Extent) ([]Extent, error)
}

// An Extent is a run of bytes that is a hole, which reads as zeros, or is not.
type Extent struct {
	LengthBytes int64
	Hole        bool
}

// A Cipher encrypts runs of sectors. iv is that of the first sector, in 512-byte units, and advances by the sector size.
// dst and src are the same slice or disjoint. It may be used by many goroutines at once.
type Cipher interface {
	Encrypt(dst, src []byte, iv uint64)
	Decrypt(dst, src []byte, iv uint64)
}

// A Runner splits work over idle processors; see the workers package.
type Runner interface {
	Run(task workers.Task, units, grainUnits int)
}

// Holes says what a sector whose ciphertext is all zero bytes reads as.
type Holes int

const (
	// HolesZero reads it as zeros, as librbd does for what was never written.
	HolesZero Holes = iota
	// HolesDecrypt decrypts it, as dm-crypt and qemu do.
	HolesDecrypt
)

// Options of a volume.
type Options struct {
	Geometry Geometry
	Holes    Holes
	ReadOnly bool
}

// Volume is the plaintext of a Store. Its methods may be called by many goroutines at once.
type Volume struct {
	opts   Options
	store  Store
	cipher Cipher
	runner Runner
	locks  rangeLock
	reqs   sync.Pool
	zeroes chan []byte // buffers of WriteZeroes, nil until first used
}

// New makes a volume of store. The volume borrows all three for as long as it is used.
func New(store Store, cipher Cipher, runner Runner, opts Options) (*Volume, error) {
	g := opts.Geometry
	switch g.SectorBytes {
	case 512, 1024, 2048, 4096:
	default:
		return nil, fmt.Errorf("volume: sector size %d, expected 512, 1024, 2048 or 4096", g.SectorBytes)
	}
	if g.DataOffsetBytes < 0 || g.SizeBytes < 0 || g.SizeBytes > store.SizeBytes()-g.DataOffsetBytes {
		return nil, fmt.Errorf("volume: %d bytes at %d do not fit in the image of %d bytes",
			g.SizeBytes, g.DataOffsetBytes, store.SizeBytes())
	}
	v := &Volume{opts: opts, store: store, cipher: cipher, runner: runner, zeroes: make(chan []byte, zeroBuffers)}
	for range zeroBuffers {
		v.zeroes <- nil
	}
	v.reqs.New = func() any { return newRequest(v) }
	return v, nil
}

// SizeBytes is the size of the plaintext.
func (v *Volume) SizeBytes() int64 { return v.opts.Geometry.SizeBytes }

// SectorBytes is the unit of encryption.
func (v *Volume) SectorBytes() int { return v.opts.Geometry.SectorBytes }

// ReadAt fills p with plaintext.
func (v *Volume) ReadAt(p []byte, offsetBytes int64) error {
	if err := v.opts.Geometry.check(offsetBytes, int64(len(p))); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	r := v.begin(offsetBytes, int64(len(p)), false)
	defer v.end(r)
	return r.read(p)
}

// WriteAt encrypts p in place and writes it: the content of p is undefined afterwards.
func (v *Volume) WriteAt(p []byte, offsetBytes int64, fua bool) error {
	if err := v.writable(offsetBytes, int64(len(p))); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	r := v.begin(offsetBytes, int64(len(p)), true)
	defer v.end(r)
	return r.write(p, fua)
}

// Flush puts every write that returned before the call on stable storage.
func (v *Volume) Flush() error { return v.store.Flush() }

// Trim gives the whole sectors of the range back to the store. They read as zeros afterwards (or as noise with
// HolesDecrypt) where the store could free them, and as before where not.
func (v *Volume) Trim(offsetBytes, lengthBytes int64) error {
	if err := v.writable(offsetBytes, lengthBytes); err != nil {
		return err
	}
	start, end := v.opts.Geometry.inner(offsetBytes, lengthBytes)
	if start >= end {
		return nil
	}
	r := v.begin(start, end-start, true)
	defer v.end(r)
	return v.store.Discard(v.opts.Geometry.storeOffset(start), end-start)
}

// WriteZeroes encrypts and writes zeroChunkBytes at a time, in at most zeroBuffers chunks at once over all callers.
const (
	zeroChunkBytes = 1 << 20
	zeroBuffers    = 4
)

// WriteZeroes makes the range read as zeros for every reader of the format, by writing encrypted zeros.
func (v *Volume) WriteZeroes(offsetBytes, lengthBytes int64, fua bool) error {
	if err := v.writable(offsetBytes, lengthBytes); err != nil {
		return err
	}
	buf := <-v.zeroes
	defer func() { v.zeroes <- buf }()
	if buf == nil {
		buf = make([]byte, zeroChunkBytes)
	}
	for lengthBytes > 0 {
		// Chunks end on chunk boundaries, so that at most the first and the last are ragged.
		n := min(lengthBytes, zeroChunkBytes-offsetBytes%zeroChunkBytes)
		clear(buf[:n])
		if err := v.WriteAt(buf[:n], offsetBytes, fua); err != nil {
			return err
		}
		offsetBytes, lengthBytes = offsetBytes+n, lengthBytes-n
	}
	return nil
}

// Extents appends the allocation of the plaintext from offsetBytes on; holes are told only where they read as zeros.
func (v *Volume) Extents(offsetBytes, lengthBytes int64, dst []Extent) ([]Extent, error) {
	g := v.opts.Geometry
	if err := g.check(offsetBytes, lengthBytes); err != nil {
		return dst, err
	}
	if v.opts.Holes != HolesZero {
		return append(dst, Extent{LengthBytes: lengthBytes}), nil
	}
	s := g.span(offsetBytes, lengthBytes)
	known := len(dst)
	dst, err := v.store.Extents(g.storeOffset(s.startBytes), s.endBytes-s.startBytes, dst)
	if err != nil {
		return dst, err
	}
	found := g.wholeSectors(dst[known:], s, offsetBytes, lengthBytes)
	return append(dst[:known], found[:min(len(found), cap(dst)-known)]...), nil
}

// wholeSectors turns the store's extents of a span into those of the byte range in it: a sector that is only partly a
// hole counts as data, since it decrypts to something.
func (g Geometry) wholeSectors(ext []Extent, s span, offsetBytes, lengthBytes int64) []Extent {
	sector := int64(g.SectorBytes)
	out := make([]Extent, 0, len(ext))
	pos, done, limit := s.startBytes, offsetBytes, offsetBytes+lengthBytes
	emit := func(end int64, hole bool) {
		end = min(end, limit)
		if end <= done {
			return
		}
		if n := len(out); n > 0 && out[n-1].Hole == hole {
			out[n-1].LengthBytes += end - done
		} else {
			out = append(out, Extent{LengthBytes: end - done, Hole: hole})
		}
		done = end
	}
	for _, e := range ext {
		end := pos + e.LengthBytes
		if e.Hole {
			start := (pos + sector - 1) / sector * sector
			whole := end - end%sector
			if whole > start {
				emit(start, false)
				emit(whole, true)
			}
		} else {
			emit((end+sector-1)/sector*sector, false)
		}
		pos = end
	}
	if done == offsetBytes { // the store's answer ended inside the first sector
		emit(s.startBytes+sector, false)
	}
	return out
}

var errReadOnly = errors.New("volume: opened read-only")

func (v *Volume) writable(offsetBytes, lengthBytes int64) error {
	if v.opts.ReadOnly {
		return fmt.Errorf("%w: %w", errReadOnly, syscall.EPERM)
	}
	return v.opts.Geometry.check(offsetBytes, lengthBytes)
}
