// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"github.com/luksgate/luksgate/gateway/image"
)

// takeLock does what the lock mode asks for at the open.
func (m *Image) takeLock() error {
	if m.opts.Lock == LockAlone {
		return m.takeLockAlone()
	}
	if !m.hasLock {
		if m.opts.Lock == LockExclusive || m.opts.Takeover {
			return fmt.Errorf("%s: it has no exclusive-lock feature: enable it (rbd feature enable), or use --lock none", m.ref)
		}
		m.opts.Logger.Warn("the image has no exclusive-lock feature: nothing keeps two clients from writing at the same time")
		return nil
	}
	if m.opts.Takeover {
		if err := m.breakLock(); err != nil {
			return err
		}
	}
	switch m.opts.Lock {
	case LockExclusive:
		return m.lockExclusive()
	case LockNone:
		m.opts.Logger.Warn("lock mode none: several clients may write, and librbd passes the exclusive lock between them " +
			"at every turn; disable the feature (rbd feature disable) where a cluster file system orders the writes")
	}
	return nil
}

func (m *Image) lockExclusive() error {
	r := C.rbd_lock_acquire(m.handle, C.RBD_LOCK_MODE_EXCLUSIVE)
	switch err := syscall.Errno(-r); {
	case r == 0:
		return nil
	case err == syscall.EBUSY || err == syscall.EROFS || err == syscall.EAGAIN:
		return fmt.Errorf("%s: %w: the exclusive lock is held by %s; end it, or break the lock of a dead one with --takeover",
			m.ref, image.ErrBusy, m.holder())
	default:
		return fmt.Errorf("%s: taking the exclusive lock: %w", m.ref, err)
	}
}

// breakLock takes the lock from its holder. The cluster blocks that client first, so that nothing that it has under way
// reaches the image afterwards (rbd_blocklist_on_break_lock).
func (m *Image) breakLock() error {
	owner, err := m.lockOwner()
	if owner == "" || err != nil {
		return err
	}
	if m.ownOpens(owner) {
		return fmt.Errorf("%s: %w: this process has it open already, and will not block itself", m.ref, image.ErrBusy)
	}
	m.opts.Logger.Warn("breaking the exclusive lock", "holder", m.holder())
	name := C.CString(owner)
	defer C.free(unsafe.Pointer(name))
	if r := C.rbd_lock_break(m.handle, C.RBD_LOCK_MODE_EXCLUSIVE, name); r < 0 && syscall.Errno(-r) != syscall.ENOENT {
		return fmt.Errorf("%s: breaking the lock of %s: %w", m.ref, owner, syscall.Errno(-r))
	}
	return nil
}

// lockOwner is the client that holds the lock, "" if nobody does.
func (m *Image) lockOwner() (string, error) {
	var mode C.rbd_lock_mode_t
	var owners [1]*C.char
	n := C.size_t(len(owners))
	r := C.rbd_lock_get_owners(m.handle, &mode, &owners[0], &n)
	if r < 0 {
		if syscall.Errno(-r) == syscall.ENOENT {
			return "", nil
		}
		return "", fmt.Errorf("%s: asking who holds the lock: %w", m.ref, syscall.Errno(-r))
	}
	if n == 0 {
		return "", nil
	}
	defer C.rbd_lock_get_owners_cleanup(&owners[0], n)
	return C.GoString(owners[0]), nil
}

// ownOpens tells whether owner, an address with a nonce, is this connection itself.
func (m *Image) ownOpens(owner string) bool {
	addrs, err := m.cluster.conn.GetAddrs()
	return err == nil && strings.Contains(addrs, strings.TrimPrefix(strings.TrimPrefix(owner, "v1:"), "v2:"))
}

// ownsLock tells whether this client holds the exclusive lock.
func (m *Image) ownsLock() (bool, error) {
	var owner C.int
	if r := C.rbd_is_exclusive_lock_owner(m.handle, &owner); r < 0 {
		return false, syscall.Errno(-r)
	}
	return owner != 0, nil
}

// forgetLock has librbd know that the exclusive lock is no longer ours. It knows where it has given the lock away, and this
// does nothing; where somebody removed the lock without blocking us, it would go on writing as its owner for good, and
// reading by an object map that no longer holds. In the cooperative mode the next write takes the lock again. It waits for
// requests in flight, so the collector must not call it.
func (m *Image) forgetLock() { C.rbd_lock_release(m.handle) }

// holder describes the clients that have the image open besides us, for a message: client id and address.
func (m *Image) holder() string {
	owner, err := m.lockOwner()
	if err != nil || owner == "" {
		owner = "another client"
	}
	seen, err := m.otherWatchers()
	if err != nil {
		return owner
	}
	if len(seen) == 0 {
		return owner
	}
	return fmt.Sprintf("%s (open by %s)", owner, strings.Join(seen, ", "))
}
