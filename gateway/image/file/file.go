// SPDX-License-Identifier: Apache-2.0

// Package file is an image in a regular file or on a block device.
package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway/image"
)

// Image is a volume.Store on a file descriptor. The size is what it was at the open.
type Image struct {
	f         *os.File
	fd        int
	name      string
	sizeBytes int64
}

// Open opens path and locks it against other writers, qemu's tools among them. Its errors wrap image.ErrUnreachable or
// image.ErrBusy.
func Open(path string, readOnly bool) (*Image, error) { return open(path, readOnly, false) }

func open(path string, readOnly, standby bool) (*Image, error) {
	name := "file:" + path
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(name, err, readOnly)
	}
	m, err := prepare(f, name)
	if err == nil && !standby {
		err = m.lock(readOnly)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return m, nil
}

// OpenStandby is Open without the locks. Nothing may be written until Hold has taken them.
func OpenStandby(path string, readOnly bool) (*Image, error) { return open(path, readOnly, true) }

// Hold locks a file that was opened with OpenStandby. Its errors are those of Open.
func (m *Image) Hold(readOnly bool) error { return m.lock(readOnly) }

func openError(name string, err error, readOnly bool) error {
	cause := err
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		cause = pathErr.Err
	}
	hint := ""
	if !readOnly && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)) {
		hint = " for writing; --read-only may do"
	}
	return fmt.Errorf("%s: %w: %w%s", name, image.ErrUnreachable, cause, hint)
}

func prepare(f *os.File, name string) (*Image, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, image.ErrUnreachable, err)
	}
	if mode := st.Mode(); !mode.IsRegular() && mode&fs.ModeDevice == 0 || mode&fs.ModeCharDevice != 0 {
		return nil, fmt.Errorf("%s: %w: expected a regular file or a block device, it is %s",
			name, image.ErrUnreachable, mode.Type())
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, image.ErrUnreachable, err)
	}
	return &Image{f: f, fd: int(f.Fd()), name: name, sizeBytes: size}, nil
}

// SizeBytes implements volume.Store.
func (m *Image) SizeBytes() int64 { return m.sizeBytes }

// ReadAt implements volume.Store.
func (m *Image) ReadAt(iov [][]byte, offsetBytes int64) error {
	for len(iov) > 0 {
		n, err := retry(func() (int, error) {
			if len(iov) == 1 {
				return unix.Pread(m.fd, iov[0], offsetBytes)
			}
			return unix.Preadv(m.fd, iov, offsetBytes)
		})
		if err == nil && n == 0 {
			err = fmt.Errorf("the file ends at %d, it was %d bytes when it was opened: %w", offsetBytes, m.sizeBytes, syscall.EIO)
		}
		if err != nil {
			return fmt.Errorf("%s: read at %d: %w", m.name, offsetBytes, err)
		}
		offsetBytes += int64(n)
		iov = advance(iov, n)
	}
	return nil
}

// WriteAt implements volume.Store.
func (m *Image) WriteAt(iov [][]byte, offsetBytes int64, fua bool) error {
	flags := 0
	if fua {
		flags = unix.RWF_DSYNC
	}
	for len(iov) > 0 {
		n, err := retry(func() (int, error) {
			if len(iov) == 1 && !fua {
				return unix.Pwrite(m.fd, iov[0], offsetBytes)
			}
			return unix.Pwritev2(m.fd, iov, offsetBytes, flags)
		})
		if err == nil && n == 0 {
			err = syscall.ENOSPC
		}
		if err != nil {
			return fmt.Errorf("%s: write at %d: %w", m.name, offsetBytes, err)
		}
		offsetBytes += int64(n)
		iov = advance(iov, n)
	}
	return nil
}

// advance drops the first n bytes of iov. It changes iov only where a call fell short.
func advance(iov [][]byte, n int) [][]byte {
	for len(iov) > 0 && n >= len(iov[0]) {
		n -= len(iov[0])
		iov = iov[1:]
	}
	if n > 0 {
		rest := make([][]byte, len(iov))
		copy(rest, iov)
		rest[0] = rest[0][n:]
		iov = rest
	}
	return iov
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// Flush implements volume.Store.
func (m *Image) Flush() error {
	_, err := retry(func() (int, error) { return 0, unix.Fdatasync(m.fd) })
	if err != nil {
		return fmt.Errorf("%s: flush: %w", m.name, err)
	}
	return nil
}

// Discard implements volume.Store; a file system that cannot punch holes keeps the bytes.
func (m *Image) Discard(offsetBytes, lengthBytes int64) error {
	_, err := retry(func() (int, error) {
		return 0, unix.Fallocate(m.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offsetBytes, lengthBytes)
	})
	if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.ENOSYS) {
		return fmt.Errorf("%s: discard %d bytes at %d: %w", m.name, lengthBytes, offsetBytes, err)
	}
	return nil
}

// zeroes is written where the file system can make none.
var zeroes [64 << 10]byte

// Zero implements volume.Store.
func (m *Image) Zero(offsetBytes, lengthBytes int64) error {
	_, err := retry(func() (int, error) {
		return 0, unix.Fallocate(m.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offsetBytes, lengthBytes)
	})
	for err != nil && lengthBytes > 0 {
		n := min(lengthBytes, int64(len(zeroes)))
		if writeErr := m.WriteAt([][]byte{zeroes[:n]}, offsetBytes, false); writeErr != nil {
			return writeErr
		}
		offsetBytes, lengthBytes = offsetBytes+n, lengthBytes-n
	}
	return nil
}

// ObjectBytes implements volume.Store: the other readers of files, dm-crypt and qemu, know no holes.
func (m *Image) ObjectBytes() int64 { return 0 }

// Extents implements volume.Store.
func (m *Image) Extents(offsetBytes, lengthBytes int64, dst []volume.Extent) ([]volume.Extent, error) {
	end := offsetBytes + lengthBytes
	for offsetBytes < end && len(dst) < cap(dst) {
		next, hole, err := m.nextChange(offsetBytes, end)
		if err != nil {
			return dst, fmt.Errorf("%s: extents at %d: %w", m.name, offsetBytes, err)
		}
		dst = append(dst, volume.Extent{LengthBytes: next - offsetBytes, Hole: hole})
		offsetBytes = next
	}
	return dst, nil
}

// nextChange tells whether there is a hole at off and where that ends, end at the latest. A file system without holes
// answers that everything is data; so does a block device.
func (m *Image) nextChange(off, end int64) (next int64, hole bool, err error) {
	data, err := unix.Seek(m.fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return end, true, nil
	case errors.Is(err, syscall.EINVAL):
		return end, false, nil
	case err != nil:
		return 0, false, err
	case data > off:
		return min(data, end), true, nil
	}
	next, err = unix.Seek(m.fd, off, unix.SEEK_HOLE)
	if err != nil {
		return 0, false, err
	}
	return min(max(next, off+1), end), false, nil
}

// Close releases the locks and the file. No other method may be under way or follow.
func (m *Image) Close() error { return m.f.Close() }
