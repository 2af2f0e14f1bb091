// SPDX-License-Identifier: Apache-2.0

package volume

// Requests whose caller does not wait: the same steps as in request.go, the second half of them in Done. They are for whole
// sectors that nobody else has locked; anything else is left to ReadAt and WriteAt.

// An AsyncStore can also be asked without waiting for the answer.
type AsyncStore interface {
	Store

	// StartRead begins what ReadAt does and returns true; done.Done is called when it has ended, once, from any goroutine,
	// perhaps before StartRead returns. The slices in iov are borrowed until then, iov itself for the call. False means
	// that nothing was begun.
	StartRead(iov [][]byte, offsetBytes int64, done Completion) bool

	// StartWrite is the same for WriteAt without fua.
	StartWrite(iov [][]byte, offsetBytes int64, done Completion) bool
}

// A Completion is told how a request ended. Done does not wait. When the store has no more to tell at the moment, it calls
// Send once for each Sender that it got.
type Completion = interface{ Done(err error) Sender }

// A Sender sends answers that have been gathered.
type Sender = interface{ Send() }

// StartRead begins to fill p with plaintext and returns true, or returns false, and has done nothing, where ReadAt must do
// it. p is borrowed until done.Done is called.
func (v *Volume) StartRead(p []byte, offsetBytes int64, done Completion) bool {
	if v.check(offsetBytes, int64(len(p))) != nil {
		return false
	}
	r := v.tryBegin(p, offsetBytes, false, done)
	if r == nil {
		return false
	}
	if v.async.StartRead(r.one[:], v.opts.Geometry.storeOffset(offsetBytes), r) {
		return true
	}
	v.end(r)
	return false
}

// StartWrite begins to encrypt and write p and returns true, or returns false, and has done nothing to the store or to p,
// where WriteAt must do it. p is borrowed until done.Done is called, and its content undefined then.
func (v *Volume) StartWrite(p []byte, offsetBytes int64, done Completion) bool {
	if v.writable(offsetBytes, int64(len(p))) != nil {
		return false
	}
	r := v.tryBegin(p, offsetBytes, true, done)
	if r == nil {
		return false
	}
	r.crypt(p, offsetBytes, true)
	if v.async.StartWrite(r.one[:], v.opts.Geometry.storeOffset(offsetBytes), r) {
		return true
	}
	r.crypt(p, offsetBytes, false)
	v.end(r)
	return false
}

// tryBegin locks the sectors of p, or returns nil where the store, the range or a lock forbids to do without waiting.
func (v *Volume) tryBegin(p []byte, offsetBytes int64, exclusive bool, done Completion) *request {
	s := v.opts.Geometry.span(offsetBytes, int64(len(p)))
	if v.async == nil || len(p) == 0 || !s.aligned() {
		return nil
	}
	r := v.reqs.Get().(*request)
	if !v.locks.tryLock(&r.hold, s.startBytes, s.endBytes, exclusive) {
		v.reqs.Put(r)
		return nil
	}
	r.span, r.one[0], r.done = s, p, done
	return r
}

// Done implements Completion for the store: it decrypts what was read and passes the outcome on.
func (r *request) Done(err error) Sender {
	done := r.done
	if err == nil && !r.hold.exclusive {
		r.crypt(r.one[0], r.span.startBytes, false)
	}
	r.v.end(r)
	return done.Done(err)
}
