// SPDX-License-Identifier: Apache-2.0

// The asynchronous RBD data path that go-ceph does not have: submit on an image, collect what is done in batches.
//
// A request is C memory that Go fills in and hands to lg_submit; from then on it belongs to librbd until lg_take hands
// its slot back. librbd's completion callback pushes it on a lock-free list; if the collector sleeps, it writes to an
// eventfd, which Go's poller watches. No Go code runs on a librbd thread, and no call from Go sleeps in C for a completion.
#ifndef LUKSGATE_SHIM_H
#define LUKSGATE_SHIM_H

#include <rados/librados.h>
#include <rbd/librbd.h>
#include <stdint.h>
#include <sys/uio.h>

enum { LG_MAX_IOV = 4 };
enum lg_op { LG_READ, LG_WRITE, LG_FLUSH, LG_DISCARD, LG_ZERO, LG_SWAP };

typedef struct lg_queue lg_queue;

typedef struct lg_request {
	struct lg_request *next;
	lg_queue *queue;
	int64_t result; // librbd's: bytes or 0, or a negative errno
	uint64_t mismatch; // LG_SWAP: librbd writes where the bytes differed
	uint32_t slot;  // the caller's number for this request
	int32_t iov_count;
	struct iovec iov[LG_MAX_IOV];
} lg_request;

// lg_queue_new returns a queue for any number of images, or NULL without memory. event is an eventfd, which is written and
// never read: the poller's edge is all that is wanted of it.
lg_queue *lg_queue_new(int event);
void lg_queue_free(lg_queue *q);

// lg_requests_new returns n requests for q, numbered from 0, or NULL without memory; free() gives them back.
lg_request *lg_requests_new(lg_queue *q, uint32_t n);

// lg_submit starts an operation. LG_READ and LG_WRITE use iov, LG_SWAP writes iov[1] if the image holds iov[0], the others
// use length. 0: the request comes back through lg_take. Negative: it does not.
int lg_submit(rbd_image_t image, lg_request *r, int op, uint64_t offset, uint64_t length);

// lg_complete says that a request is done: any thread, once. What submits by other means than lg_submit calls it.
void lg_complete(lg_request *r, int64_t result);

// lg_take returns up to max slots of what is done with their results, 0 when nothing is: then the event says when to call it
// again, and is not written before. One thread at a time.
int lg_take(lg_queue *q, uint32_t *slots, int64_t *results, int max);

// lg_full_is_error makes writes to a full pool, of images opened with io from now on, fail with -ENOSPC or -EDQUOT instead
// of waiting for room.
void lg_full_is_error(rados_ioctx_t io);

// The number of the snapshot with a name, or an error.
int lg_snap_id(rbd_image_t image, const char *name, uint64_t *id);

// lg_has tells whether this librbd has a function.
int lg_has(const char *function);

// lg_encryption_load is rbd_encryption_load (Ceph 16), looked up at run time: -ENOSYS where this librbd has none.
// luks_version is 1 or 2.
int lg_encryption_load(rbd_image_t image, int luks_version, const char *passphrase, size_t passphrase_bytes);

// lg_encryption_load2 is rbd_encryption_load2 (Ceph 18), looked up at run time: -ENOSYS where this librbd has none. The
// passphrases are the image's, its parent's and so on; each opens LUKS1 and LUKS2.
int lg_encryption_load2(rbd_image_t image, const char *const *passphrases, const size_t *bytes, size_t count);

// An allocated run of bytes.
typedef struct lg_extent {
	uint64_t offset;
	uint64_t length;
} lg_extent;

// lg_extents fills ext with at most max allocated runs of the range, in order, and returns how many there are (or a
// negative errno); *covered is how far from offset they tell the truth.
int lg_extents(rbd_image_t image, uint64_t offset, uint64_t length, lg_extent *ext, int max, uint64_t *covered);

#endif
