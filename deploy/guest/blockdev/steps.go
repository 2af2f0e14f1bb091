// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// use has the daemon make the export, attaches the device with several connections and does to it what file systems do.
func use() error {
	server, err := serve()
	if err != nil {
		return err
	}
	attached, err := start("attach", "--device", device, "--admin", admin, "--image", "file:/luks.img", "--key-file", "/key",
		"--name", "disk", "--socket-dir", "/run")
	if err != nil {
		return err
	}
	if !strings.Contains(attached.line, "connections: 4, read-only: false") {
		return fmt.Errorf("attach says %q", attached.line)
	}
	if err := model.work(); err != nil {
		return err
	}
	if err := expect(exitBusy, "has attached it", "attach", "--device", device, "--uri", uri); err != nil {
		return err
	}
	claim, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	if err := expect(exitBusy, "mounted", "detach", "--device", device); err != nil {
		return err
	}
	// What is in the page cache only must not be lost by detaching.
	if err := model.writeBuffered(claim); err != nil {
		return err
	}
	_ = attached.Process.Signal(unix.SIGTERM)
	if err := claim.Close(); err != nil {
		return err
	}
	if err := attached.end(0); err != nil {
		return err
	}
	if err := expect(0, "nothing was to be done", "detach", "--device", device); err != nil {
		return err
	}
	if err := expect(0, "[]", "ls", "--json", "--admin", admin); err != nil {
		return fmt.Errorf("the export stayed: %w", err)
	}
	if err := server.stop(); err != nil {
		return err
	}
	for _, counter := range []string{"totals.flush=", "totals.trim="} {
		if !strings.Contains(server.stderr.String(), counter) {
			return fmt.Errorf("the gateway counted no %s but %q", counter, totals.FindAllString(server.stderr.String(), -1))
		}
	}
	return nil
}

// totals is what the gateway says about each connection at its end.
var totals = regexp.MustCompile(`totals\S+`)

// one attaches with one connection, by another process's detach.
func one() error {
	server, err := start("export", "file:/luks.img", "--key-file", "/key", "--socket", socket, "--name", "disk")
	if err != nil {
		return err
	}
	attached, err := start("attach", "--device", device, "--uri", uri, "--connections", "1", "--block-size", "4096")
	if err != nil {
		return err
	}
	if err := model.verify(4096); err != nil {
		return err
	}
	if err := expect(0, "is detached", "detach", "--device", device); err != nil {
		return err
	}
	return errors.Join(attached.end(0), server.stop())
}

// lost kills the server.
func lost() error {
	server, err := start("export", "file:/luks.img", "--key-file", "/key", "--socket", socket, "--name", "disk")
	if err != nil {
		return err
	}
	attached, err := start("attach", "--device", device, "--uri", uri)
	if err != nil {
		return err
	}
	if err := model.verify(512); err != nil {
		return err
	}
	_ = server.Process.Kill()
	_ = server.Wait()
	return attached.end(exitLost)
}

// readOnly has an export that must not be written.
func readOnly() error {
	server, err := start("export", "file:/luks.img", "--read-only", "--key-file", "/key", "--socket", socket, "--name", "disk")
	if err != nil {
		return err
	}
	attached, err := start("attach", "--device", device, "--uri", uri)
	if err != nil {
		return err
	}
	if f, err := os.OpenFile(device, os.O_WRONLY, 0); err == nil {
		_, err = f.WriteAt(make([]byte, 512), 0)
		_ = f.Close()
		if err == nil {
			return errors.New("a read-only export was written")
		}
	}
	if err := model.verify(512); err != nil {
		return err
	}
	return errors.Join(attached.stop(), server.stop())
}

// copyImage gives the image to the host.
func copyImage() error {
	from, err := os.Open("/luks.img")
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile("/dev/vda", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return errors.Join(to.Sync(), to.Close())
}

// A disk is what every byte of the device must be.
type disk struct{ bytes []byte }

var model disk

const workers = 4

func (d *disk) digest() string { return fmt.Sprintf("%x", sha256.Sum256(d.bytes)) }

// work fills the device, in parallel and past the page cache, and trims and zeroes parts of it.
func (d *disk) work() error {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	d.bytes = make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(d.bytes)
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() { errs[w] = d.write(f, w) })
	}
	wg.Wait()
	if err := errors.Join(append(errs, f.Sync())...); err != nil {
		return err
	}
	for request, part := range map[uintptr][2]uint64{unix.BLKDISCARD: {1 << 20, 1 << 20}, unix.BLKZEROOUT: {3<<20 + 512, 65536}} {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&part))); errno != 0 {
			return fmt.Errorf("ioctl %#x: %w", request, errno)
		}
		clear(d.bytes[part[0]:][:part[1]])
	}
	return d.verify(512)
}

// write writes every workers-th piece, of any length that the kernel allows.
func (d *disk) write(f *os.File, worker int) error {
	const piece = 64 << 10
	buf, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	for at := worker * piece; at < len(d.bytes); at += workers * piece {
		n := copy(buf, d.bytes[at:])
		for _, part := range [][2]int{{0, 512}, {512, n}} {
			if _, err := f.WriteAt(buf[part[0]:part[1]], int64(at+part[0])); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *disk) writeBuffered(f *os.File) error {
	const at, text = 2<<20 + 777, "only in the page cache"
	copy(d.bytes[at:], text)
	_, err := f.WriteAt([]byte(text), at)
	return err
}

// verify reads the whole device past the page cache, and its logical block size.
func (d *disk) verify(blockBytes int) error {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if got, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err != nil || got != blockBytes {
		return fmt.Errorf("logical block size %d (%w), want %d", got, err, blockBytes)
	}
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(buf) }()
	for at := 0; at < len(d.bytes); at += len(buf) {
		n, err := f.ReadAt(buf, int64(at))
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if want := d.bytes[at:min(len(d.bytes), at+len(buf))]; !bytes.Equal(buf[:n], want) {
			return fmt.Errorf("the device has other bytes than were written, after byte %d", at)
		}
	}
	return nil
}
