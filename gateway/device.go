// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/crypt/workers"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/layered"
	"github.com/luksgate/luksgate/nbdserver"
)

// pool is the process's crypto workers, shared by all volumes.
var pool = sync.OnceValue(func() *workers.Pool { return workers.New(runtime.GOMAXPROCS(0)) })

// Sizes that every export advertises. A minimum above 1 would make qemu 4.2 read, modify and write on its own, one
// request at a time; 4096 is the largest sector of a LUKS volume and a good unit for any image.
const (
	minBlockBytes       = 1
	preferredBlockBytes = 4096
	maxBlockBytes       = 32 << 20
)

func properties(readOnly, immediate bool) nbdserver.Properties {
	return nbdserver.Properties{
		ReadOnly: readOnly,
		Flush:    true, FUA: true, Trim: !readOnly, WriteZeroes: !readOnly, FastZero: !readOnly,
		// All connections share one image handle without a cache, and a flush is the image's.
		MultiConn: true,
		Immediate: immediate,
		Contexts:  []string{nbdserver.ContextAllocation},

		MinBlockBytes: minBlockBytes, PreferredBlockBytes: preferredBlockBytes, MaxBlockBytes: maxBlockBytes,
	}
}

// volumeDevice serves a volume's plaintext.
type volumeDevice struct {
	*volume.Volume
	// depths knows which image of a chain that is encrypted alike holds what. It is asked for extents only; nil where there is
	// no chain, or nothing can be known.
	depths *layered.Stack
	props  nbdserver.Properties
}

func newVolumeDevice(v *volume.Volume, depths *layered.Stack, readOnly bool) *volumeDevice {
	d := &volumeDevice{v, depths, properties(readOnly, false)}
	if depths != nil {
		d.props.Contexts = append(d.props.Contexts, nbdserver.ContextDepth)
	}
	return d
}

func (d *volumeDevice) Properties() nbdserver.Properties { return d.props }
func (d *volumeDevice) Cache(int64, int64) error         { return nil }
func (d *volumeDevice) Close() error                     { return nil }

func (d *volumeDevice) Trim(offsetBytes, lengthBytes int64, fua bool) error {
	if err := d.Volume.Trim(offsetBytes, lengthBytes); err != nil || !fua {
		return err
	}
	return d.Flush()
}

func (d *volumeDevice) WriteZeroes(offsetBytes, lengthBytes int64, flags nbdserver.ZeroFlags) error {
	return d.Volume.WriteZeroes(offsetBytes, lengthBytes, zeroOptions(flags))
}

func zeroOptions(flags nbdserver.ZeroFlags) volume.ZeroOptions {
	return volume.ZeroOptions{
		FUA: flags&nbdserver.ZeroFUA != 0, NoHole: flags&nbdserver.ZeroNoHole != 0, Fast: flags&nbdserver.ZeroFast != 0,
	}
}

func (d *volumeDevice) Extents(metaContext string, offsetBytes, lengthBytes int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	if metaContext == nbdserver.ContextDepth {
		if err := d.Check(offsetBytes, lengthBytes); err != nil {
			return dst, err
		}
		return layeredExtents(d.depths, metaContext, offsetBytes, lengthBytes, dst)
	}
	return extents(d.Volume, offsetBytes, lengthBytes, dst)
}

// plainDevice serves a store's bytes as they are: plaintext, or what another engine decrypted.
type plainDevice struct {
	volume.Store
	async  volume.AsyncStore // Store, if it is one
	memory memory            // Store, if it is one
	props  nbdserver.Properties
	// foreign: another engine encrypts, and writes zeros as data.
	foreign bool
	iovs    sync.Pool // of *[1][]byte
}

func newPlainDevice(s volume.Store, readOnly, immediate bool) *plainDevice {
	d := &plainDevice{Store: s, props: properties(readOnly, immediate), iovs: sync.Pool{New: func() any { return new([1][]byte) }}}
	d.async, _ = s.(volume.AsyncStore)
	d.memory, _ = s.(memory)
	return d
}

// memory is a store whose bytes can be sent from where they are, and which makes payloads part of itself.
type memory interface {
	Lend(offsetBytes, lengthBytes int64) []byte
	TakeBack(offsetBytes int64)
	Spare(offsetBytes, lengthBytes int64, dst [][]byte) [][]byte
	Adopt(offsetBytes int64, pieces [][]byte)
	GiveUp(pieces [][]byte)
}

// Lend implements nbdserver.Lender where the store can.
func (d *plainDevice) Lend(offsetBytes, lengthBytes int64) []byte {
	if d.memory == nil {
		return nil
	}
	return d.memory.Lend(offsetBytes, lengthBytes)
}

// TakeBack implements nbdserver.Lender.
func (d *plainDevice) TakeBack(offsetBytes int64) { d.memory.TakeBack(offsetBytes) }

// Spare implements nbdserver.Lender where the store can.
func (d *plainDevice) Spare(offsetBytes, lengthBytes int64, dst [][]byte) [][]byte {
	if d.memory == nil {
		return dst
	}
	return d.memory.Spare(offsetBytes, lengthBytes, dst)
}

// Adopt implements nbdserver.Lender. Memory is as stable as it gets.
func (d *plainDevice) Adopt(offsetBytes int64, pieces [][]byte, _ bool) error {
	d.memory.Adopt(offsetBytes, pieces)
	return nil
}

// GiveUp implements nbdserver.Lender.
func (d *plainDevice) GiveUp(pieces [][]byte) { d.memory.GiveUp(pieces) }

// lend makes a list of p, for the time of a call.
func (d *plainDevice) lend(p []byte) *[1][]byte {
	iov := d.iovs.Get().(*[1][]byte)
	iov[0] = p
	return iov
}

func (d *plainDevice) giveBack(iov *[1][]byte) {
	iov[0] = nil
	d.iovs.Put(iov)
}

func (d *plainDevice) Properties() nbdserver.Properties { return d.props }
func (d *plainDevice) Cache(int64, int64) error         { return nil }
func (d *plainDevice) Close() error                     { return nil }

func (d *plainDevice) ReadAt(p []byte, offsetBytes int64) error {
	iov := d.lend(p)
	defer d.giveBack(iov)
	return d.Store.ReadAt(iov[:], offsetBytes)
}

func (d *plainDevice) WriteAt(p []byte, offsetBytes int64, fua bool) error {
	iov := d.lend(p)
	defer d.giveBack(iov)
	return d.Store.WriteAt(iov[:], offsetBytes, fua)
}

// StartRead implements nbdserver.AsyncDevice where the store can.
func (d *plainDevice) StartRead(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	if d.async == nil {
		return false
	}
	iov := d.lend(p)
	defer d.giveBack(iov)
	return d.async.StartRead(iov[:], offsetBytes, done)
}

// StartWrite implements nbdserver.AsyncDevice where the store can.
func (d *plainDevice) StartWrite(p []byte, offsetBytes int64, done nbdserver.Completion) bool {
	if d.async == nil {
		return false
	}
	iov := d.lend(p)
	defer d.giveBack(iov)
	return d.async.StartWrite(iov[:], offsetBytes, done)
}

func (d *plainDevice) Trim(offsetBytes, lengthBytes int64, fua bool) error {
	if err := d.Discard(offsetBytes, lengthBytes); err != nil || !fua {
		return err
	}
	return d.Flush()
}

// plainZeroes is written in pieces where a range is to be zeroed: it never changes.
var plainZeroes = make([]byte, 1<<20)

func (d *plainDevice) WriteZeroes(offsetBytes, lengthBytes int64, flags nbdserver.ZeroFlags) error {
	noHole := flags&nbdserver.ZeroNoHole != 0
	if flags&nbdserver.ZeroFast != 0 && (noHole || d.foreign) {
		return fmt.Errorf("zeros are written no faster than data: %w", syscall.ENOTSUP)
	}
	if !noHole {
		if err := d.Zero(offsetBytes, lengthBytes); err != nil || flags&nbdserver.ZeroFUA == 0 {
			return err
		}
		return d.Flush()
	}
	for lengthBytes > 0 {
		n := min(lengthBytes, int64(len(plainZeroes)))
		if err := d.WriteAt(plainZeroes[:n], offsetBytes, false); err != nil {
			return err
		}
		offsetBytes, lengthBytes = offsetBytes+n, lengthBytes-n
	}
	if flags&nbdserver.ZeroFUA != 0 {
		return d.Flush()
	}
	return nil
}

func (d *plainDevice) Extents(_ string, offsetBytes, lengthBytes int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	if d.foreign && !rbd.HasLayeredEncryption() {
		// librbd 16 answers for the image with its header: what it calls a hole lies elsewhere.
		return append(dst, nbdserver.Extent{LengthBytes: lengthBytes}), nil
	}
	return extents(d.Store, offsetBytes, lengthBytes, dst)
}

// mapper is what volumes and stores have in common here.
type mapper interface {
	Extents(offsetBytes, lengthBytes int64, dst []volume.Extent) ([]volume.Extent, error)
}

func extents(m mapper, offsetBytes, lengthBytes int64, dst []nbdserver.Extent) ([]nbdserver.Extent, error) {
	found, err := m.Extents(offsetBytes, lengthBytes, make([]volume.Extent, 0, cap(dst)-len(dst)))
	if err != nil {
		return dst, err
	}
	for _, e := range found {
		flags := uint64(0)
		if e.Hole {
			flags = nbdserver.StateHole | nbdserver.StateZero
		}
		dst = append(dst, nbdserver.Extent{LengthBytes: e.LengthBytes, Flags: flags})
	}
	return dst, nil
}
