// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include "objectio.h"

#cgo noescape lg_object_read
#cgo nocallback lg_object_read
*/
import "C"

import (
	"time"
	"unsafe"

	"github.com/ceph/go-ceph/rados"
)

// readObject reads from an object of io. iov has at most LG_MAX_IOV slices. Its error is an errno.
func (q *queue) readObject(io *rados.IOContext, name []byte, iov [][]byte, offsetBytes int64) error {
	name = append(name, 0)
	s := q.take()
	s.fill(iov)
	s.since.Store(int64(time.Since(epoch)))
	_, err := q.await(s, C.lg_object_read(C.rados_ioctx_t(io.Pointer()), (*C.char)(unsafe.Pointer(&name[0])), s.c, C.uint64_t(offsetBytes)))
	return err
}
