// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	blockBytes  = 4096
	runBlocks   = 64 // the longest request
	workerCount = 4  // requests in flight
	patience    = 90 * time.Second
)

// A request is what a worker waits for; the zero value is none.
type request struct {
	what   string
	block  int
	blocks int
	since  time.Time
}

// A disk and what it must hold. Blocks belong to workers in runs of runBlocks, one after the other.
type disk struct {
	f         *os.File
	sizeBytes int64
	versions  []uint32 // how often each block was written
	ops       atomic.Int64
	pending   [workerCount]atomic.Pointer[request]
}

func openDisk() (*disk, error) {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	return &disk{f: f, sizeBytes: size, versions: make([]uint32, size/blockBytes)}, nil
}

// alignedBuffer is memory that O_DIRECT takes.
func alignedBuffer(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(err)
	}
	return b
}

// fill makes the content of a block: it is another one for each block and version.
func fill(p []byte, block int, version uint32) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], uint64(block)<<32|uint64(version))
		binary.LittleEndian.PutUint64(p[i+8:], uint64(i)*0x9e3779b97f4a7c15^uint64(version))
	}
}

// fillAll writes every block once: what was never written is not the same to everybody (librbd decrypts holes in objects).
func (d *disk) fillAll() error {
	buf := alignedBuffer(runBlocks * blockBytes)
	for block := 0; block < len(d.versions); block += runBlocks {
		if err := d.write(buf, block, min(runBlocks, len(d.versions)-block)); err != nil {
			return err
		}
	}
	return nil
}

// work writes and reads runs of blocks that are this worker's.
func (d *disk) work(worker int, stop chan struct{}) {
	rng := rand.New(rand.NewPCG(uint64(worker), uint64(time.Now().UnixNano())))
	buf, want := alignedBuffer(runBlocks*blockBytes), make([]byte, runBlocks*blockBytes)
	stripes := len(d.versions) / runBlocks / workerCount
	for {
		select {
		case <-stop:
			return
		default:
		}
		first := (rng.IntN(stripes)*workerCount + worker) * runBlocks
		offset := rng.IntN(runBlocks)
		count := 1 + rng.IntN(runBlocks-offset)
		r := &request{block: first + offset, blocks: count, since: time.Now()}
		var do func() error
		switch rng.IntN(8) {
		case 0:
			r.what, do = "flush", d.f.Sync
		case 1, 2, 3:
			r.what, do = "read", func() error { return d.check(buf, want, r.block, r.blocks) }
		default:
			r.what, do = "write", func() error { return d.write(buf, r.block, r.blocks) }
		}
		d.pending[worker].Store(r)
		err := do()
		d.pending[worker].Store(nil)
		if err != nil {
			fmt.Println("ERROR", err)
			return
		}
		d.ops.Add(1)
	}
}

func (d *disk) write(buf []byte, block, count int) error {
	for i := range count {
		fill(buf[i*blockBytes:][:blockBytes], block+i, d.versions[block+i]+1)
	}
	if _, err := d.f.WriteAt(buf[:count*blockBytes], int64(block)*blockBytes); err != nil {
		return err
	}
	for i := range count {
		d.versions[block+i]++
	}
	return nil
}

func (d *disk) check(buf, want []byte, block, count int) error {
	if _, err := d.f.ReadAt(buf[:count*blockBytes], int64(block)*blockBytes); err != nil {
		return err
	}
	for i := range count {
		fill(want[:blockBytes], block+i, d.versions[block+i])
		if got := buf[i*blockBytes:][:blockBytes]; !bytes.Equal(got, want[:blockBytes]) {
			return d.explain(got, want[:blockBytes], block+i)
		}
	}
	return nil
}

// explain says where a block differs from what it must be, what is there, and whether it is still so at another read: that
// tells a write that was lost from a read that went wrong, and both from a guest whose memory is not what it was.
func (d *disk) explain(got, want []byte, block int) error {
	at := 0
	for got[at] == want[at] {
		at++
	}
	at &^= 15
	end := at
	for end < len(got) && !bytes.Equal(got[end:end+16], want[end:end+16]) {
		end += 16
	}
	err := fmt.Errorf("block %d is not version %d of it in bytes %d to %d: there is %x, want %x", block, d.versions[block], at, end,
		got[at:at+16], want[at:at+16])
	again := alignedBuffer(blockBytes)
	if _, readErr := d.f.ReadAt(again, int64(block)*blockBytes); readErr != nil {
		return fmt.Errorf("%w; it cannot be read again: %w", err, readErr)
	}
	switch {
	case bytes.Equal(again, want):
		return fmt.Errorf("%w; read again it is right", err)
	case bytes.Equal(again, got):
		return fmt.Errorf("%w; read again it is the same", err)
	}
	return fmt.Errorf("%w; read again there is %x", err, again[at:at+16])
}

// watch tells of requests that nobody answers: the other workers would go on without a word.
func (d *disk) watch() {
	for {
		time.Sleep(time.Second)
		for worker := range d.pending {
			if r := d.pending[worker].Load(); r != nil && time.Since(r.since) > patience {
				fmt.Printf("ERROR no answer to %s of %d blocks at block %d since %v\n", r.what, r.blocks, r.block, time.Since(r.since))
				return
			}
		}
	}
}

// report tells now and then how far the work is.
func (d *disk) report(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(100 * time.Millisecond):
			fmt.Println("OPS", d.ops.Load())
		}
	}
}

// finish reads everything once more and says what it must be.
func (d *disk) finish() error {
	if err := d.f.Sync(); err != nil {
		return err
	}
	buf, want := alignedBuffer(blockBytes), make([]byte, blockBytes)
	sum := sha256.New()
	for block := range d.versions {
		if err := d.check(buf, want, block, 1); err != nil {
			return err
		}
		sum.Write(want)
	}
	fmt.Printf("DIGEST %x ops=%d\n", sum.Sum(nil), d.ops.Load())
	return nil
}
