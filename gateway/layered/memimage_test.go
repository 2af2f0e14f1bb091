// SPDX-License-Identifier: Apache-2.0

package layered

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/crypt/workers"
)

// A memImage is an image in memory as RADOS and librbd keep it: objects with revisions for snapshots, a raw overlap with a
// parent, and an exclusive lock that goes from client to client. It does to a client that does not know better what librbd
// does: a raw write to an object that is not there copies up the parent's raw bytes.
type memImage struct {
	mu      sync.Mutex
	size    int64
	object  int64
	overlap int64
	parent  func(p []byte, offsetBytes int64) // raw bytes of the parent, up to the overlap
	objects map[int64]*memObject
	snaps   []uint64
	seq     uint64 // of the newest snapshot

	epoch uint64
	owner *memClient
	rawUp int // how often raw bytes were copied up
}

// A memObject is an object with what snapshots keep of it.
type memObject struct {
	exists bool
	data   []byte
	seq    uint64 // the newest snapshot when it was last written
	clones []memClone
}

type memClone struct {
	snaps []uint64
	data  []byte
}

func newMemImage(size, object, overlap int64, parent func([]byte, int64)) *memImage {
	return &memImage{size: size, object: object, overlap: overlap, parent: parent, objects: map[int64]*memObject{}, epoch: 1}
}

// at is the object as it is in a snapshot, or now for 0.
func (m *memImage) at(number int64, snap uint64) ([]byte, bool) {
	o := m.objects[number]
	switch {
	case o == nil:
		return nil, false
	case snap == 0 || snap > o.seq:
		return o.data, o.exists
	}
	for _, c := range o.clones {
		if slices.Contains(c.snaps, snap) {
			return c.data, true
		}
	}
	return nil, false
}

// change is a write operation on an object with the snapshots' context, or without it.
func (m *memImage) change(number int64, context bool, f func(o *memObject)) {
	o := m.objects[number]
	if o == nil {
		o = &memObject{}
		m.objects[number] = o
	}
	if context && m.seq > o.seq {
		if o.exists {
			var kept []uint64
			for _, s := range m.snaps {
				if s > o.seq {
					kept = append(kept, s)
				}
			}
			if len(kept) > 0 {
				o.clones = append(o.clones, memClone{kept, slices.Clone(o.data)})
			}
		}
		o.seq = m.seq
	}
	f(o)
}

// create is cls_rbd's sparse_copyup.
func (m *memImage) create(number int64, data []byte, at int64) {
	m.change(number, false, func(o *memObject) {
		if !o.exists {
			o.exists, o.data = true, make([]byte, 0, m.object)
			if len(data) > 0 {
				o.data = append(make([]byte, at, m.object), data...)
			}
		}
	})
}

// copyUpRaw is what librbd does before it writes to a part of an object that is not there.
func (m *memImage) copyUpRaw(number int64) {
	if o := m.objects[number]; o != nil && o.exists || number*m.object >= m.overlap {
		return
	}
	raw := make([]byte, min(m.object, m.overlap-number*m.object))
	m.parent(raw, number*m.object)
	m.rawUp++
	m.create(number, raw, 0)
}

func (m *memImage) write(p []byte, offset int64) {
	for len(p) > 0 {
		number, at := offset/m.object, offset%m.object
		n := min(int64(len(p)), m.object-at)
		m.copyUpRaw(number)
		m.change(number, true, func(o *memObject) {
			o.exists = true
			if end := at + n; int64(len(o.data)) < end {
				o.data = append(o.data, make([]byte, end-int64(len(o.data)))...)
			}
			copy(o.data[at:], p[:n])
		})
		p, offset = p[n:], offset+n
	}
}

// free is a discard: an object that hid the parent goes on to, one that did not goes away.
func (m *memImage) free(offset, length int64) {
	for end := offset + length; offset < end; {
		number, at := offset/m.object, offset%m.object
		n := min(end-offset, m.object-at)
		whole := at == 0 && (n == m.object || offset+n == m.size)
		shows := number*m.object < m.overlap
		if shows && (!whole || m.seq > 0) {
			m.copyUpRaw(number)
		}
		m.change(number, true, func(o *memObject) {
			switch {
			case whole && shows:
				o.exists, o.data = true, nil
			case whole:
				o.exists, o.data = false, nil
			case o.exists:
				clear(o.data[min(at, int64(len(o.data))):min(at+n, int64(len(o.data)))])
			}
		})
		offset += n
	}
}

func (m *memImage) snapshot() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	m.snaps = append(m.snaps, m.seq)
	m.epoch++
	return m.seq
}

var errDead = errors.New("this client is dead")

// A memClient is one client's handle of an image, or of a snapshot of it. It is an Owner and a volume.Store.
type memClient struct {
	m    *memImage
	snap uint64
	// before, if set, is called before each operation on the cluster: other clients can do something there, and an error
	// is the client's end. hook has it be one at a time.
	before func(op string) error
	hook   sync.Mutex
	stats  int // calls of Stat
	reads  int
}

// do runs an operation on the cluster. One that changes something needs the lock, which librbd takes by itself.
func (c *memClient) do(op string, lock bool, f func(m *memImage)) error {
	c.hook.Lock()
	before := c.before
	if before != nil {
		if err := before(op); err != nil {
			c.hook.Unlock()
			return err
		}
	}
	c.hook.Unlock()
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if lock && c.m.owner != c {
		c.m.owner = c
		c.m.epoch++
	}
	f(c.m)
	return nil
}

func (c *memClient) SizeBytes() int64   { return c.m.size }
func (c *memClient) ObjectBytes() int64 { return c.m.object }

func (c *memClient) ReadAt(iov [][]byte, offset int64) error {
	absent := false
	err := c.do("read", false, func(m *memImage) {
		c.reads++
		data, exists := m.at(offset/m.object, c.snap)
		absent = !exists && offset/m.object*m.object < m.overlap
		at := offset % m.object
		for _, b := range iov {
			clear(b[copy(b, data[min(at, int64(len(data))):]):])
			at += int64(len(b))
		}
		if at > m.object {
			panic("a read of more than one object")
		}
	})
	if err == nil && absent {
		err = fmt.Errorf("object %d: %w", offset/c.m.object, ErrAbsent)
	}
	return err
}

func (c *memClient) WriteAt(iov [][]byte, offset int64, _ bool) error {
	return c.do("write", true, func(m *memImage) {
		for _, b := range iov {
			m.write(b, offset)
			offset += int64(len(b))
		}
	})
}

func (c *memClient) Discard(offset, length int64) error {
	return c.do("discard", true, func(m *memImage) { m.free(offset, length) })
}
func (c *memClient) Zero(offset, length int64) error { return c.Discard(offset, length) }
func (c *memClient) Flush() error                    { return c.do("flush", false, func(*memImage) {}) }

func (c *memClient) Extents(_, length int64, dst []volume.Extent) ([]volume.Extent, error) {
	return append(dst, volume.Extent{LengthBytes: length}), nil
}

func (c *memClient) Stat(number int64) (exists bool, size int64, err error) {
	err = c.do("stat", false, func(m *memImage) {
		c.stats++
		var data []byte
		data, exists = m.at(number, c.snap)
		size = int64(len(data))
	})
	return exists, size, err
}

func (c *memClient) OverlapBytes() (int64, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.m.overlap, nil
}

func (c *memClient) Epoch() (uint64, bool) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.snap != 0 {
		return 0, true
	}
	return c.m.epoch, c.m.owner == c
}

func (c *memClient) Lock() (epoch uint64, err error) {
	err = c.do("lock", true, func(m *memImage) { epoch = m.epoch })
	return epoch, err
}

func (c *memClient) HasSnapshots() (bool, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return len(c.m.snaps) > 0, nil
}

func (c *memClient) Create(number int64, data []byte, at int64) error {
	return c.do("create", false, func(m *memImage) { m.create(number, data, at) })
}

// A toyCipher is a cipher that no other key and no other place decrypts.
type toyCipher struct{ key byte }

func (t toyCipher) Encrypt(dst, src []byte, iv uint64) {
	for i := range src {
		dst[i] = src[i] ^ t.key ^ byte((iv*512+uint64(i))*2654435761>>13)
	}
}
func (t toyCipher) Decrypt(dst, src []byte, iv uint64) { t.Encrypt(dst, src, iv) }

type inline struct{}

func (inline) Run(task workers.Task, units, _ int) { task.Do(0, units) }

// memTarget is a Target on a client's handle.
type memTarget struct{ *volume.Volume }

func (t memTarget) WriteZeroes(offset, length int64, opts ZeroOptions) error {
	return t.Volume.WriteZeroes(offset, length, volume.ZeroOptions(opts))
}

// layerOf is a level of a chain on a client's handle.
func layerOf(c *memClient, dataOffset int64, sector int, key byte) *Layer {
	geo, err := volume.NewGeometry(c.m.size, dataOffset, 0, sector, 0)
	if err != nil {
		panic(err)
	}
	v, err := volume.New(c, toyCipher{key}, inline{}, volume.Options{Geometry: geo})
	if err != nil {
		panic(err)
	}
	return &Layer{Source: memTarget{v}, Objects: c, DataOffsetBytes: dataOffset, SectorBytes: int64(sector)}
}

// plain is a base in memory.
type plain []byte

func (p plain) SizeBytes() int64 { return int64(len(p)) }

func (p plain) ReadAt(b []byte, offset int64) error {
	if offset < 0 || offset+int64(len(b)) > int64(len(p)) {
		return fmt.Errorf("read of %d at %d is outside %d bytes", len(b), offset, len(p))
	}
	copy(b, p[offset:])
	return nil
}

// Holes implements Mapper: runs of 512 zero bytes.
func (p plain) Holes(offset, length int64, dst []Extent) ([]Extent, error) {
	for end := offset + length; offset < end && len(dst) < cap(dst); {
		n := min(512-offset%512, end-offset)
		depth := 0
		if withoutTail(p[offset:offset+n], 1) > 0 {
			depth = 1
		}
		dst = append(dst, Extent{LengthBytes: n, Depth: depth})
		offset += n
	}
	return dst, nil
}
