// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/gateway/image"
)

// qemu's image locking (block/file-posix.c): an open-file-description read lock on byte permBase+n says "I use
// permission n", on sharedBase+n "I do not share permission n". Whoever comes next looks for the opposite.
const (
	permBase   = 100
	sharedBase = 200

	permConsistentRead = 0
	permWrite          = 1
	permResize         = 3
)

var permNames = map[int64]string{permConsistentRead: "read", permWrite: "write", permResize: "resize"}

// lock takes the locks that qemu-nbd takes for the same use. A file system without locks is used without them.
func (m *Image) lock(readOnly bool) error {
	uses := []int64{permConsistentRead}
	if !readOnly {
		uses = append(uses, permWrite)
	}
	unshared := []int64{permWrite, permResize}
	for _, p := range uses {
		if err := m.setLock(permBase + p); err != nil {
			return m.lockUnsupported(err)
		}
	}
	for _, p := range unshared {
		if err := m.setLock(sharedBase + p); err != nil {
			return m.lockUnsupported(err)
		}
	}
	for _, p := range uses {
		if err := m.checkLock(sharedBase+p, p); err != nil {
			return err
		}
	}
	for _, p := range unshared {
		if err := m.checkLock(permBase+p, p); err != nil {
			return err
		}
	}
	return nil
}

func (m *Image) lockUnsupported(err error) error {
	if errors.Is(err, syscall.ENOLCK) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return fmt.Errorf("%s: %w: locking: %w", m.name, image.ErrUnreachable, err)
}

func (m *Image) setLock(at int64) error {
	l := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: at, Len: 1}
	return unix.FcntlFlock(uintptr(m.fd), unix.F_OFD_SETLK, &l)
}

func (m *Image) checkLock(at, perm int64) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
	if err := unix.FcntlFlock(uintptr(m.fd), unix.F_OFD_GETLK, &l); err != nil {
		return m.lockUnsupported(err)
	}
	if l.Type != unix.F_UNLCK {
		return fmt.Errorf("%s: %w: another process (luksgate or qemu) holds the image's %q lock; end it first",
			m.name, image.ErrBusy, permNames[perm])
	}
	return nil
}
