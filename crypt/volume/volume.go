// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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
	// Zero makes the range zero bytes, and frees what it can.
	Zero(offsetBytes, lengthBytes int64) error
	// ObjectBytes is the unit in which, counted from 0, Discard certainly frees everything, so that it reads as zeros
	// for every engine that knows holes; 0 if there is none. The last object may be shorter.
	ObjectBytes() int64
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
	// HolesZero reads it as zeros, as librbd does for what was never written, and so every all-zero 512 bytes of it.
	HolesZero Holes = iota
	// HolesDecrypt decrypts it, as dm-crypt and qemu do.
	HolesDecrypt
)

// A Swapper is a Store that others may write at the same time without a lock: there the ragged ends of unaligned writes
// are replaced only if they are still what was read.
type Swapper interface {
	// CompareAndWrite replaces old by next, both 512 bytes, at a multiple of 512 bytes. It returns false if the store
	// holds something else.
	CompareAndWrite(old, next []byte, offsetBytes int64) (bool, error)
}

// Zeroes says how WriteZeroes makes zeros.
type Zeroes int

const (
	// ZeroesObject frees whole objects, which librbd's engine reads as zeros too, and encrypts zeros elsewhere.
	ZeroesObject Zeroes = iota
	// ZeroesEncrypt writes encrypted zeros everywhere: for images that dm-crypt or qemu will read.
	ZeroesEncrypt
	// ZeroesPunch writes zero bytes as ciphertext: for images that only readers with HolesZero will read.
	ZeroesPunch
)

// Options of a volume.
type Options struct {
	Geometry Geometry
	Holes    Holes
	Zeroes   Zeroes
	ReadOnly bool
	// Shared: others may write the store at the same time; it must be a Swapper.
	Shared bool
}

// Volume is the plaintext of a Store. Its methods may be called by many goroutines at once.
type Volume struct {
	opts   Options
	store  Store
	async  AsyncStore // store, if it is one
	cipher Cipher
	runner Runner
	locks  rangeLock
	reqs   sync.Pool
	swap   Swapper
	zeroes chan []byte // buffers of WriteZeroes, nil until first used
	size   atomic.Int64
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
	if opts.Holes == HolesDecrypt {
		opts.Zeroes = ZeroesEncrypt // nothing else reads as zeros
	}
	v := &Volume{opts: opts, store: store, cipher: cipher, runner: runner, zeroes: make(chan []byte, zeroBuffers)}
	for range zeroBuffers {
		v.zeroes <- nil
	}
	v.async, _ = store.(AsyncStore)
	if opts.Shared {
		swap, ok := store.(Swapper)
		if !ok {
			return nil, errors.New("volume: the store is shared and cannot compare and write")
		}
		v.swap = swap
	}
	v.size.Store(g.SizeBytes)
	v.reqs.New = func() any { return newRequest(v) }
	return v, nil
}

// SizeBytes is the size of the plaintext now.
func (v *Volume) SizeBytes() int64 { return v.size.Load() }

// Resize makes a volume that goes up to the end of its store follow the store's size.
func (v *Volume) Resize() error {
	g := v.opts.Geometry
	now, err := NewGeometry(v.store.SizeBytes(), g.DataOffsetBytes, 0, g.SectorBytes, g.IVOffset)
	if err != nil {
		return err
	}
	v.size.Store(now.SizeBytes)
	return nil
}

// SectorBytes is the unit of encryption.
func (v *Volume) SectorBytes() int { return v.opts.Geometry.SectorBytes }

// ReadAt fills p with plaintext.
func (v *Volume) ReadAt(p []byte, offsetBytes int64) error {
	if err := v.check(offsetBytes, int64(len(p))); err != nil {
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

var errReadOnly = errors.New("volume: opened read-only")

func (v *Volume) writable(offsetBytes, lengthBytes int64) error {
	if v.opts.ReadOnly {
		return fmt.Errorf("%w: %w", errReadOnly, syscall.EPERM)
	}
	return v.check(offsetBytes, lengthBytes)
}

// Check tells whether a range lies inside the device, in an error that wraps EIO.
func (v *Volume) Check(offsetBytes, lengthBytes int64) error {
	return v.check(offsetBytes, lengthBytes)
}

func (v *Volume) check(offsetBytes, lengthBytes int64) error {
	size := v.size.Load()
	if offsetBytes < 0 || lengthBytes < 0 || offsetBytes > size || lengthBytes > size-offsetBytes {
		return fmt.Errorf("volume: range %d+%d is outside the device of %d bytes: %w", offsetBytes, lengthBytes, size, syscall.EIO)
	}
	return nil
}
