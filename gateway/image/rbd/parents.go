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
	"log/slog"
	"math"
	"sync"
	"syscall"
	"unsafe"

	"github.com/luksgate/luksgate/gateway/image"
)

// OpenDescribed opens an image or snapshot that Describe found, for reading. It goes by its numbers: an image or a snapshot
// that has clones can be removed, and is in the trash, under another name or none, until the last of them is gone. Its
// errors are those of Open.
func (c *Cluster) OpenDescribed(info *Info, log *slog.Logger) (*Image, error) {
	ref, err := image.ParseRef(info.Name)
	if err != nil {
		return nil, err
	}
	return c.start(&Image{ref: ref, id: info.ID, snapshotID: info.SnapshotID, opts: OpenOptions{ReadOnly: true, Logger: log}})
}

// openByID opens an image by its numbers.
func (m *Image) openByID(io C.rados_ioctx_t) C.int {
	id := C.CString(m.id)
	defer C.free(unsafe.Pointer(id))
	r := C.rbd_open_by_id_read_only(io, id, &m.handle, nil)
	if r != 0 || m.snapshotID == 0 {
		return r
	}
	if r = C.rbd_snap_set_by_id(m.handle, C.uint64_t(m.snapshotID)); r != 0 {
		C.rbd_close(m.handle)
	}
	return r
}

// parents are the snapshots that ShareParent has given out.
var parents sharing[sharedParent]

type sharedParent struct {
	image      *Image
	disconnect func()
}

// ShareParent opens a snapshot as OpenDescribed does, but once for all who want it at the same time, with the same
// configuration of the cluster: a snapshot does not change, and nothing that is learnt of it depends on who reads it. The
// last one to release it closes it. It has a connection with nothing but parents on it, since a connection that has the
// lock of an image may be blocked by the cluster for that image's sake.
func ShareParent(cfg Config, info *Info, log *slog.Logger) (m *Image, release func() error, err error) {
	if info.ID == "" || info.SnapshotID == 0 {
		return nil, nil, fmt.Errorf("%s: %w: only a snapshot can be shared", info.Name, syscall.EINVAL)
	}
	ref, err := image.ParseRef(info.Name)
	if err != nil {
		return nil, nil, err
	}
	name := fmt.Sprintf("%s %q %q %q %d", cfg.identity(), ref.Pool, ref.Namespace, info.ID, info.SnapshotID)
	s, err := parents.get(name, func(int) int { return math.MaxInt }, func(p sharedParent) bool { return p.image.usable() }, func() (sharedParent, error) {
		return openShared(cfg, info, log)
	})
	if err != nil {
		return nil, nil, err
	}
	return s.value.image, sync.OnceValue(func() error {
		if !parents.put(s) {
			return nil
		}
		defer s.value.disconnect()
		return s.value.image.Close()
	}), nil
}

func openShared(cfg Config, info *Info, log *slog.Logger) (p sharedParent, err error) {
	c, disconnect, err := acquire(cfg, cfg.identity()+" for parents")
	if err != nil {
		return p, err
	}
	m, err := c.OpenDescribed(info, log)
	if err != nil {
		disconnect()
		return p, err
	}
	return sharedParent{m, disconnect}, nil
}

// usable tells whether nothing is known that speaks against an image.
func (m *Image) usable() bool { return m.cluster.usable() && !errors.Is(m.Err(), ErrBlocked) }
