// SPDX-License-Identifier: Apache-2.0
//go:build !noceph

#include "operate.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

struct lg_progress {
	_Atomic uint64_t done, total;
	_Atomic int cancelled;
};

lg_progress *lg_progress_new(void) { return calloc(1, sizeof(lg_progress)); }
void lg_progress_free(lg_progress *p) { free(p); }

void lg_progress_get(lg_progress *p, uint64_t *done, uint64_t *total)
{
	*done = atomic_load(&p->done);
	*total = atomic_load(&p->total);
}

void lg_progress_cancel(lg_progress *p) { atomic_store(&p->cancelled, 1); }

// librbd gives up what is left when this returns a negative number.
static int progressed(uint64_t done, uint64_t total, void *arg)
{
	lg_progress *p = arg;
	atomic_store(&p->done, done);
	atomic_store(&p->total, total);
	return atomic_load(&p->cancelled) ? -ECANCELED : 0;
}

int lg_operate(rbd_image_t image, int operation, uint64_t size, lg_progress *p)
{
	switch (operation) {
	case LG_RESIZE:
	case LG_SHRINK:
		return rbd_resize2(image, size, operation == LG_SHRINK, progressed, p);
	case LG_FLATTEN:
		return rbd_flatten_with_progress(image, progressed, p);
	case LG_REBUILD_OBJECT_MAP:
		return rbd_rebuild_object_map(image, progressed, p);
	}
	return -EINVAL;
}

static int found(uint64_t offset, size_t length, int exists, void *arg)
{
	(void)offset, (void)length, (void)arg;
	return exists ? -EEXIST : 0; // which ends the search
}

int lg_owns_data(rbd_image_t image)
{
	uint64_t size;
	int err = rbd_get_size(image, &size);
	if (err < 0 || size == 0)
		return err;
	err = rbd_diff_iterate2(image, NULL, 0, size, 0, 1, found, NULL);
	return err == -EEXIST ? 1 : err;
}
