// SPDX-License-Identifier: Apache-2.0
//go:build !noceph

#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

struct lg_queue {
	_Atomic(lg_request *) done; // last done first; any thread pushes, the collector takes all
	int event;                  // eventfd, written when the collector sleeps
	atomic_bool asleep;         // the collector has found nothing and waits for the event
	bool slept;                 // it had found nothing the last time; its own
	lg_request *taken;          // first done first; the collector's own
};

lg_queue *lg_queue_new(int event)
{
	lg_queue *q = calloc(1, sizeof(lg_queue));
	if (q)
		q->event = event;
	return q;
}
void lg_queue_free(lg_queue *q) { free(q); }

lg_request *lg_requests_new(lg_queue *q, uint32_t n)
{
	lg_request *r = calloc(n, sizeof *r);
	for (uint32_t i = 0; r && i < n; i++) {
		r[i].queue = q;
		r[i].slot = i;
	}
	return r;
}

static void wake(lg_queue *q)
{
	uint64_t one = 1;
	while (write(q->event, &one, sizeof one) < 0 && errno == EINTR)
		;
}

void lg_complete(lg_request *r, int64_t result)
{
	lg_queue *q = r->queue;
	r->result = result;
	lg_request *head = atomic_load(&q->done);
	do {
		r->next = head;
	} while (!atomic_compare_exchange_weak(&q->done, &head, r));
	if (!head && atomic_exchange(&q->asleep, false))
		wake(q);
}

static void completed(rbd_completion_t c, void *arg)
{
	int64_t result = rbd_aio_get_return_value(c);
	rbd_aio_release(c);
	lg_complete(arg, result);
}

void lg_full_is_error(rados_ioctx_t io)
{
	void (*set)(rados_ioctx_t) = dlsym(RTLD_DEFAULT, "rados_set_pool_full_try");
	if (!set) // its name before Ceph 16
		set = dlsym(RTLD_DEFAULT, "rados_set_osdmap_full_try");
	if (set)
		set(io);
}

int lg_snap_id(rbd_image_t image, const char *name, uint64_t *id)
{
	// rbd_snap_get_id is newer than Ceph 14.
	int room = 0, n = rbd_snap_list(image, NULL, &room);
	rbd_snap_info_t *list = NULL;
	while (n == -ERANGE) { // somebody may add one in between
		free(list);
		list = calloc(room, sizeof *list);
		if (!list)
			return -ENOMEM;
		n = rbd_snap_list(image, list, &room);
	}
	int r = n < 0 ? n : -ENOENT;
	for (int i = 0; i < n; i++) {
		if (strcmp(list[i].name, name) == 0) {
			*id = list[i].id;
			r = 0;
		}
	}
	if (n > 0)
		rbd_snap_list_end(list);
	free(list);
	return r;
}

int lg_has(const char *function) { return dlsym(RTLD_DEFAULT, function) != NULL; }

// zero frees and zeroes. Where librbd cannot (before 15.2.17), it writes the same zero sector again and again.
static int zero(rbd_image_t image, uint64_t offset, uint64_t length, rbd_completion_t c)
{
	static const char zeroes[512];
	int (*write_zeroes)(rbd_image_t, uint64_t, size_t, rbd_completion_t, int, int) =
		dlsym(RTLD_DEFAULT, "rbd_aio_write_zeroes");
	if (write_zeroes)
		return write_zeroes(image, offset, length, c, 0, 0);
	return rbd_aio_writesame(image, offset, length, zeroes, sizeof zeroes, c, 0);
}

int lg_submit(rbd_image_t image, lg_request *r, int op, uint64_t offset, uint64_t length)
{
	rbd_completion_t c;
	int err = rbd_aio_create_completion(r, completed, &c);
	if (err < 0)
		return err;
	switch (op) {
	case LG_READ:
		err = rbd_aio_readv(image, r->iov, r->iov_count, offset, c);
		break;
	case LG_WRITE:
		err = rbd_aio_writev(image, r->iov, r->iov_count, offset, c);
		break;
	case LG_FLUSH:
		err = rbd_aio_flush(image, c);
		break;
	case LG_DISCARD:
		err = rbd_aio_discard(image, offset, length, c);
		break;
	case LG_ZERO:
		err = zero(image, offset, length, c);
		break;
	case LG_SWAP:
		err = rbd_aio_compare_and_write(image, offset, length, r->iov[0].iov_base, r->iov[1].iov_base, c, &r->mismatch, 0);
		break;
	default:
		err = -EINVAL;
	}
	if (err < 0) {
		rbd_aio_release(c);
		return err;
	}
	return 0;
}

// take moves everything done to q->taken in order of completion.
static void take(lg_queue *q)
{
	lg_request *r = atomic_exchange(&q->done, NULL), *ordered = NULL;
	while (r) {
		lg_request *next = r->next;
		r->next = ordered;
		ordered = r;
		r = next;
	}
	q->taken = ordered;
}

// take_or_sleep takes what is done, or leaves word that the collector sleeps. It comes back here first when it is woken,
// by the first request of several, as a rule: whoever completes the others goes on before they are taken.
static void take_or_sleep(lg_queue *q)
{
	if (q->slept)
		sched_yield();
	take(q);
	q->slept = !q->taken;
	if (!q->slept)
		return;
	atomic_store(&q->asleep, true);
	take(q); // what was done before that has woken nobody
	if (q->taken)
		q->slept = false;
}

int lg_take(lg_queue *q, uint32_t *slots, int64_t *results, int max)
{
	if (!q->taken)
		take_or_sleep(q);
	int n = 0;
	for (lg_request *r = q->taken; r && n < max; r = r->next, n++) {
		slots[n] = r->slot;
		results[n] = r->result;
		q->taken = r->next;
	}
	return n;
}

// As in librbd.h of Ceph 16 and later; spelled out so that older headers do.
struct encryption_options {
	int alg;
	const char *passphrase;
	size_t passphrase_size;
};

int lg_encryption_load(rbd_image_t image, int luks_version, const char *passphrase, size_t passphrase_bytes)
{
	int (*load)(rbd_image_t, int, void *, size_t) = dlsym(RTLD_DEFAULT, "rbd_encryption_load");
	if (!load)
		return -ENOSYS;
	struct encryption_options o = { .passphrase = passphrase, .passphrase_size = passphrase_bytes };
	return load(image, luks_version - 1, &o, sizeof o);
}

// As in librbd.h of Ceph 18 and later.
struct luks_any_options {
	const char *passphrase;
	size_t passphrase_size;
};
struct encryption_spec {
	int format;
	void *opts;
	size_t opts_size;
};
enum { FORMAT_LUKS_ANY = 2, MAX_SPECS = 64 };

int lg_encryption_load2(rbd_image_t image, const char *const *passphrases, const size_t *bytes, size_t count)
{
	int (*load)(rbd_image_t, const struct encryption_spec *, size_t) = dlsym(RTLD_DEFAULT, "rbd_encryption_load2");
	struct luks_any_options o[MAX_SPECS];
	struct encryption_spec specs[MAX_SPECS];
	if (!load)
		return -ENOSYS;
	if (count > MAX_SPECS)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		o[i] = (struct luks_any_options){ passphrases[i], bytes[i] };
		specs[i] = (struct encryption_spec){ FORMAT_LUKS_ANY, &o[i], sizeof o[i] };
	}
	return load(image, specs, count);
}

struct extent_list {
	lg_extent *ext;
	int count, max;
	uint64_t full_at; // offset of the first run that found no room
};

static int add_extent(uint64_t offset, size_t length, int exists, void *arg)
{
	struct extent_list *l = arg;
	if (!exists)
		return 0;
	if (l->count > 0 && l->ext[l->count - 1].offset + l->ext[l->count - 1].length == offset) {
		l->ext[l->count - 1].length += length;
		return 0;
	}
	if (l->count == l->max) {
		if (offset < l->full_at)
			l->full_at = offset;
		return 0;
	}
	l->ext[l->count++] = (lg_extent){ offset, length };
	return 0;
}

int lg_extents(rbd_image_t image, uint64_t offset, uint64_t length, lg_extent *ext, int max, uint64_t *covered)
{
	struct extent_list l = { ext, 0, max, UINT64_MAX };
	int err = rbd_diff_iterate2(image, NULL, offset, length, 1, 1, add_extent, &l);
	if (err < 0)
		return err;
	*covered = l.full_at == UINT64_MAX ? length : l.full_at - offset;
	return l.count;
}

// The Go runtime has a thread, sysmon, that polls with sleeps of 20 us while the process goes idle and wakes, as it does
// a thousand times a second here: 5 us of processor time per request, and as much again for what it stirs up. A timer
// slack of 1 ms, which all threads inherit from the one that runs this before main, lets those sleeps be longer. It
// makes no timer of ours late that matters, and wakes by I/O not at all (docs/tuning.md has figures).
__attribute__((constructor)) static void lazy_timers(void) { prctl(PR_SET_TIMERSLACK, 1000 * 1000UL, 0, 0, 0); }
