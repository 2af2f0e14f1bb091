// SPDX-License-Identifier: Apache-2.0

//go:build unix

package xts

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoAccessBeyondBuffers puts source and destination between pages that can
// not be touched: reading or writing beyond them ends the process.
func TestNoAccessBeyondBuffers(t *testing.T) {
	const room = 3 * maxCallBytes / 2
	page := os.Getpagesize()
	between := func() []byte {
		pages, err := unix.Mmap(-1, 0, room+2*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(pages) })
		middle := pages[page : page+room]
		if err := unix.Mprotect(middle, unix.PROT_READ|unix.PROT_WRITE); err != nil {
			t.Fatal(err)
		}
		return middle
	}
	src, dst := between(), between()
	forEachKernel(t, func(t *testing.T, kernel string) {
		for _, keyBytes := range []int{32, 64} {
			for _, sectorBytes := range sectorSizes {
				c := mustCipher(t, kernel, make([]byte, keyBytes), sectorBytes)
				for _, sectors := range []int{1, 2, 3, 5, 9, 17, room / sectorBytes} {
					n := sectors * sectorBytes
					c.Encrypt(dst[:n], src[:n], 1)
					c.Decrypt(dst[:n], src[:n], 1)
					c.Encrypt(dst[room-n:], src[room-n:], 1)
					c.Decrypt(dst[room-n:], src[room-n:], 1)
				}
			}
		}
	})
}
