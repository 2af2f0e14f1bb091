// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/ceph/go-ceph/rados"
	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/luksgate/luksgate/gateway/image"
)

// defaults are the settings that a data path without a cache wants; Config.Options go over them.
//
//   - rbd_cache: the guest has a cache of its own, and what is acknowledged must be in the cluster; a cache would also
//     be stale after another client wrote.
//   - rbd_non_blocking_aio: false submits in the calling thread instead of handing over to another one.
//   - rbd_disable_zero_copy_writes: stays true, Ceph's default. With false librbd 16.2 never completes a write that fails
//     (TestSnapshotAndClone writes to a snapshot and would hang), so it costs a copy per write.
//   - rbd_skip_partial_discard stays at Ceph's default.
//   - librados_thread_count: 1 thread for completions does as much as 2 that take turns, with fewer wakes. librbd's own
//     engine, which decrypts there, wants more.
//   - client_mount_timeout: seconds until an unreachable cluster is an error; Ceph's 300 are too long for a person.
var defaults = map[string]string{
	"rbd_cache":                    "false",
	"rbd_non_blocking_aio":         "false",
	"rbd_disable_zero_copy_writes": "true",
	"librados_thread_count":        "1",
	"client_mount_timeout":         "30",
}

// A Cluster is a connection. Its methods may be called by many goroutines at once; Close only when all images are closed.
type Cluster struct {
	conn    *rados.Conn
	queue   *queue
	blocked atomic.Bool // by the cluster, as far as we have noticed
}

// Version is the version of the librbd that runs, such as "1.16.0".
func Version() string {
	major, minor, extra := librbd.Version()
	return fmt.Sprintf("%d.%d.%d", major, minor, extra)
}

// optional are functions of librbd that are looked up at run time, and what is lost without them.
var optional = []struct{ function, feature string }{
	{"rbd_aio_write_zeroes", "freeing zeros (written as data instead)"},
	{"rbd_encryption_load", MissingEngine},
	{"rbd_encryption_load2", "the librbd engine for clones with keys of their own"},
}

// Missing are the features that the librbd that runs does not have.
func Missing() []string {
	var missing []string
	for _, o := range optional {
		name := C.CString(o.function)
		if C.lg_has(name) == 0 {
			missing = append(missing, o.feature)
		}
		C.free(unsafe.Pointer(name))
	}
	return missing
}

// Connect connects. Its error wraps image.ErrUnreachable and names what was missing.
func Connect(cfg Config) (*Cluster, error) {
	user := strings.TrimPrefix(cfg.User, "client.")
	if user == "" {
		user = "admin"
	}
	conn, err := rados.NewConnWithUser(user)
	if err != nil {
		return nil, fmt.Errorf("ceph: client.%s: %w: %w", user, image.ErrUnreachable, err)
	}
	if err := configure(conn, cfg); err != nil {
		conn.Shutdown()
		return nil, err
	}
	if err := conn.Connect(); err != nil {
		conn.Shutdown()
		return nil, connectError(user, err)
	}
	q, err := newQueue()
	if err != nil {
		conn.Shutdown()
		return nil, err
	}
	return &Cluster{conn: conn, queue: q}, nil
}

func configure(conn *rados.Conn, cfg Config) error {
	var err error
	if cfg.ConfFile == "" {
		err = conn.ReadDefaultConfigFile()
	} else if _, err = os.Stat(cfg.ConfFile); err == nil {
		err = conn.ReadConfigFile(cfg.ConfFile)
	}
	if err != nil {
		name := cfg.ConfFile
		if name == "" {
			name = "ceph.conf ($CEPH_CONF, /etc/ceph/ceph.conf)"
		}
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return fmt.Errorf("ceph: %w: reading %s: %w; name one with --ceph-conf", image.ErrUnreachable, name, err)
	}
	if err := conn.ParseDefaultConfigEnv(); err != nil {
		return fmt.Errorf("ceph: %w: reading $CEPH_ARGS: %w", image.ErrUnreachable, err)
	}
	for i, options := range []map[string]string{defaults, cfg.Options} {
		for name, value := range options {
			err := conn.SetConfigOption(name, value)
			if i == 0 && errors.Is(err, rados.ErrNotFound) {
				continue // Ceph 14 does not know all of them
			}
			if err != nil {
				if name == "key" {
					value = "a secret"
				}
				return fmt.Errorf("ceph: %w: setting %s to %q: %w", image.ErrUnreachable, name, value, err)
			}
		}
	}
	return nil
}

func connectError(user string, err error) error {
	hint := ""
	switch errno(err) {
	case syscall.ETIMEDOUT:
		hint = "; no monitor answered: check mon_host in ceph.conf and the network"
	case syscall.EACCES, syscall.EPERM:
		hint = "; the cluster refused the key of client." + user
	case syscall.ENOENT:
		hint = "; no keyring for client." + user + " was found: check the keyring setting, or name another user with --ceph-user"
	}
	return fmt.Errorf("ceph: connecting as client.%s: %w: %w%s", user, image.ErrUnreachable, err, hint)
}

// errno is the error number of a go-ceph error, 0 if it has none.
func errno(err error) syscall.Errno {
	var coded interface{ ErrorCode() int }
	if errors.As(err, &coded) {
		return syscall.Errno(max(coded.ErrorCode(), -coded.ErrorCode()))
	}
	return 0
}

// ioctx opens the pool and namespace of ref.
func (c *Cluster) ioctx(ref image.Ref) (*rados.IOContext, error) {
	io, err := c.conn.OpenIOContext(ref.Pool)
	if err != nil {
		if errno(err) == syscall.ENOENT {
			return nil, fmt.Errorf("%s: %w: there is no pool %q (or the user may not see it)", ref, image.ErrUnreachable, ref.Pool)
		}
		return nil, fmt.Errorf("%s: %w: opening pool %q: %w", ref, image.ErrUnreachable, ref.Pool, err)
	}
	io.SetNamespace(ref.Namespace)
	return io, nil
}

// Close ends the connection.
func (c *Cluster) Close() {
	c.queue.close()
	c.conn.Shutdown()
}
