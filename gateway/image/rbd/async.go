// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/crypt/volume"
)

// An operation that nobody waits for keeps in its slot what the collector needs to end it.
type async struct {
	image       *Image
	op          C.int
	offsetBytes int64
	wantBytes   int64
	done        volume.Completion // nil: somebody waits
}

// StartRead implements volume.AsyncStore.
func (m *Image) StartRead(iov [][]byte, offsetBytes int64, done volume.Completion) bool {
	return m.monitor != nil && m.monitor.usable(false) == nil && m.start(C.LG_READ, iov, offsetBytes, done)
}

// StartWrite implements volume.AsyncStore.
func (m *Image) StartWrite(iov [][]byte, offsetBytes int64, done volume.Completion) bool {
	return m.monitor != nil && m.monitor.usable(true) == nil && m.monitor.writesOn() && m.start(C.LG_WRITE, iov, offsetBytes, done)
}

func (m *Image) start(op C.int, iov [][]byte, offsetBytes int64, done volume.Completion) bool {
	if len(iov) > C.LG_MAX_IOV {
		return false
	}
	q := m.cluster.queue
	s := q.take()
	want := s.fill(iov)
	s.async = async{m, op, offsetBytes, want, done}
	if s.submit(m.handle, op, offsetBytes, 0) != 0 {
		q.put(s)
		return false
	}
	return true
}

// end frees the slot and tells the owner of an operation that it is over.
func (q *queue) end(s *slot, result int64) volume.Sender {
	a := s.async
	q.put(s)
	return a.done.Done(a.outcome(result))
}

// outcome is what transfer makes of librbd's result.
func (a *async) outcome(result int64) error {
	m := a.image
	var err error
	switch {
	case result < 0:
		err = m.failed(a.op, syscall.Errno(-result))
	case a.op != C.LG_READ:
		m.monitor.afterWrite()
	case result != a.wantBytes:
		err = fmt.Errorf("%d of %d bytes: %w", result, a.wantBytes, syscall.EIO)
	}
	if err == nil {
		return nil
	}
	verb := "read"
	if a.op != C.LG_READ {
		verb = "write"
	}
	return fmt.Errorf("%s: %s at %d: %w", m.ref, verb, a.offsetBytes, err)
}

// writesOn tells whether a write may begin without the look at the lock of beforeWrite, which waits for the cluster.
func (w *monitor) writesOn() bool {
	if !w.m.hasLock || w.m.opts.ReadOnly {
		return true
	}
	now := int64(time.Since(epoch))
	last := w.lastWrite.Load()
	return now-last <= int64(lockCheckPause) && w.lastWrite.CompareAndSwap(last, max(now, last))
}

// senders are the different ones of a batch.
type senders struct {
	list [batch]volume.Sender
	n    int
}

func (l *senders) add(s volume.Sender) {
	if s == nil {
		return
	}
	for i := l.n - 1; i >= 0; i-- {
		if l.list[i] == s {
			return
		}
	}
	l.list[l.n] = s
	l.n++
}

// send lets all of them send, and forgets them.
func (l *senders) send() {
	for i := range l.n {
		l.list[i].Send()
		l.list[i] = nil
	}
	l.n = 0
}
