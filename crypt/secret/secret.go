// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// redacted is what every formatter prints.
const redacted = "[secret]"

// ErrTooLong is matched by the error of ReadAll when the reader holds more than the limit.
var ErrTooLong = errors.New("secret: more bytes than the limit")

// lockFailure is the first failure to lock memory in this process.
var lockFailure atomic.Pointer[error]

// Bytes is a secret of fixed length. It has one owner, who calls Release. Reading it from several goroutines is safe;
// Release must not run while another goroutine still uses the slice that Bytes returned, because the memory is unmapped.
// Copies of a Bytes value share the same memory and are released together.
type Bytes struct {
	m *mapping
}

// mapping is the memory behind a Bytes. The mutex guards the fields, not the content.
type mapping struct {
	mu     sync.Mutex
	pages  []byte // whole mapping, nil once released
	data   []byte // the first n bytes of pages
	locked bool
}

// New returns n zero bytes. It fails for a negative n and when the kernel has no memory left; a failure to lock is not
// an error, see LockError.
func New(n int) (*Bytes, error) {
	if n < 0 {
		return nil, fmt.Errorf("secret: length %d is negative", n)
	}
	page := os.Getpagesize()
	size := (n + page - 1) / page * page
	if size < n {
		return nil, fmt.Errorf("secret: length %d is too large", n)
	}
	if size == 0 {
		size = page
	}
	pages, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("secret: map %d bytes: %w", size, err)
	}
	if err := unix.Madvise(pages, unix.MADV_DONTDUMP); err != nil {
		_ = unix.Munmap(pages)
		return nil, fmt.Errorf("secret: keep %d bytes out of core dumps: %w", size, err)
	}
	// Kernels before 4.14 have no WIPEONFORK. This process never forks without exec, so nothing is lost there.
	_ = unix.Madvise(pages, unix.MADV_WIPEONFORK)
	m := &mapping{pages: pages, data: pages[:n:n], locked: true}
	if err := unix.Mlock(pages); err != nil {
		m.locked = false
		noteLockFailure(err, size)
	}
	return &Bytes{m: m}, nil
}

// noteLockFailure keeps the first failure for LockError.
func noteLockFailure(cause error, sizeBytes int) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		limit.Cur = 0
	}
	err := fmt.Errorf("secret: cannot lock %d bytes, keys may reach swap: raise RLIMIT_MEMLOCK, now %d bytes "+
		"(ulimit -l, LimitMEMLOCK= in the systemd unit): %w", sizeBytes, limit.Cur, cause)
	lockFailure.CompareAndSwap(nil, &err)
}

// LockError returns the first failure to lock secret memory since the process started, nil if there was none. The text
// names the limit to raise.
func LockError() error {
	if p := lockFailure.Load(); p != nil {
		return *p
	}
	return nil
}

// Copy returns a secret with the content of b. The caller still owns b and should Wipe it.
func Copy(b []byte) (*Bytes, error) {
	s, err := New(len(b))
	if err != nil {
		return nil, err
	}
	copy(s.m.data, b)
	return s, nil
}

// ReadAll reads r to its end, straight into locked memory. More than limitBytes is an error that matches ErrTooLong.
// What was read is wiped on any error.
func ReadAll(r io.Reader, limitBytes int) (*Bytes, error) {
	if limitBytes < 0 {
		return nil, fmt.Errorf("secret: limit of %d bytes is negative", limitBytes)
	}
	// One byte more than the limit tells "exactly the limit" from "too long".
	buf, err := New(min(limitBytes+1, os.Getpagesize()))
	if err != nil {
		return nil, err
	}
	n := 0
	for idle := 0; ; {
		if n == buf.Len() {
			if buf, err = grow(buf, min(2*n, limitBytes+1)); err != nil {
				return nil, err
			}
		}
		got, err := r.Read(buf.m.data[n:])
		n += got
		if n > limitBytes {
			buf.Release()
			return nil, fmt.Errorf("%w of %d", ErrTooLong, limitBytes)
		}
		if err == io.EOF {
			return cut(buf, n)
		}
		if idle++; got > 0 {
			idle = 0
		}
		if err == nil && idle > 100 {
			err = io.ErrNoProgress
		}
		if err != nil {
			buf.Release()
			return nil, fmt.Errorf("secret: read: %w", err)
		}
	}
}

// grow moves the content into a larger secret and releases the smaller one, also on error.
func grow(old *Bytes, n int) (*Bytes, error) {
	defer old.Release()
	s, err := New(n)
	if err != nil {
		return nil, err
	}
	copy(s.m.data, old.m.data)
	return s, nil
}

// cut shortens s to its first n bytes in place.
func cut(s *Bytes, n int) (*Bytes, error) {
	Wipe(s.m.data[n:])
	s.m.data = s.m.data[:n:n]
	return s, nil
}

// Bytes returns the content, not a copy: the slice is valid until Release. After Release it is nil.
func (b Bytes) Bytes() []byte {
	if b.m == nil {
		return nil
	}
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	return b.m.data
}

// Len returns the length in bytes, 0 after Release.
func (b Bytes) Len() int { return len(b.Bytes()) }

// Locked tells whether the memory is locked, so that it cannot reach swap.
func (b Bytes) Locked() bool {
	if b.m == nil {
		return false
	}
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	return b.m.locked && b.m.pages != nil
}

// Equal compares two secrets in a time that depends on their lengths only. Two released secrets are equal.
func (b Bytes) Equal(other *Bytes) bool {
	if other == nil {
		return false
	}
	return subtle.ConstantTimeCompare(b.Bytes(), other.Bytes()) == 1
}

// Release overwrites the content and gives the memory back. It may be called again, and on a nil Bytes.
func (b *Bytes) Release() {
	if b == nil || b.m == nil {
		return
	}
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	if b.m.pages == nil {
		return
	}
	Wipe(b.m.pages)
	if b.m.locked {
		_ = unix.Munlock(b.m.pages)
	}
	// A failed unmap leaves zeros behind: nothing to do about it, and nothing leaks but the pages.
	_ = unix.Munmap(b.m.pages)
	b.m.pages, b.m.data, b.m.locked = nil, nil, false
}

// Wipe overwrites b with zeros. The compiler may not remove it.
//
//go:noinline
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
}

// String returns "[secret]".
func (Bytes) String() string { return redacted }

// GoString returns "[secret]".
func (Bytes) GoString() string { return redacted }

// Format prints "[secret]" for every verb.
func (Bytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalJSON encodes "[secret]".
func (Bytes) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText encodes "[secret]".
func (Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue logs "[secret]".
func (Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }
