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
	"syscall"
	"time"
	"unsafe"

	"github.com/ceph/go-ceph/rados"
)

// readObject reads from an object of io. iov has at most LG_MAX_IOV slices; it may lie in Go memory, which is pinned
// meanwhile. Its error is an errno.
func (q *queue) readObject(io *rados.IOContext, name []byte, iov [][]byte, offsetBytes int64) error {
	name = append(name, 0)
	s := <-q.free
	for i, b := range iov {
		p := unsafe.Pointer(unsafe.SliceData(b))
		s.pinner.Pin(p)
		s.c.iov[i] = C.struct_iovec{iov_base: p, iov_len: C.size_t(len(b))}
	}
	s.c.iov_count = C.int32_t(len(iov))
	s.since.Store(int64(time.Since(epoch)))
	r := C.lg_object_read(C.rados_ioctx_t(io.Pointer()), (*C.char)(unsafe.Pointer(&name[0])), s.c, C.uint64_t(offsetBytes))
	result := int64(r)
	if r == 0 {
		<-s.wake
		result = s.result
	}
	s.since.Store(0)
	s.pinner.Unpin()
	q.free <- s
	if result < 0 {
		return syscall.Errno(-result)
	}
	return nil
}
