// SPDX-License-Identifier: Apache-2.0
//go:build !noceph

#include "objectio.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// An object read lives from submission to completion.
typedef struct {
	lg_request *request;
	rados_read_op_t op;
	size_t got[LG_MAX_IOV];
	int error[LG_MAX_IOV];
} object_read;

static void read_done(rados_completion_t c, void *arg)
{
	object_read *o = arg;
	lg_request *r = o->request;
	int64_t result = rados_aio_get_return_value(c);
	for (int i = 0; result >= 0 && i < r->iov_count; i++) {
		if (o->error[i] < 0)
			result = o->error[i];
		else if (o->got[i] < r->iov[i].iov_len)
			memset((char *)r->iov[i].iov_base + o->got[i], 0, r->iov[i].iov_len - o->got[i]);
	}
	rados_release_read_op(o->op);
	rados_aio_release(c);
	free(o);
	lg_complete(r, result < 0 ? result : 0);
}

int lg_object_read(rados_ioctx_t io, const char *object, lg_request *r, uint64_t offset)
{
	rados_completion_t c;
	object_read *o = calloc(1, sizeof *o);
	if (!o)
		return -ENOMEM;
	o->request = r;
	o->op = rados_create_read_op();
	for (int i = 0; i < r->iov_count; i++) {
		rados_read_op_read(o->op, offset, r->iov[i].iov_len, r->iov[i].iov_base, &o->got[i], &o->error[i]);
		offset += r->iov[i].iov_len;
	}
	int err = rados_aio_create_completion(o, read_done, NULL, &c);
	if (err == 0) {
		err = rados_aio_read_op_operate(o->op, io, c, object, LIBRADOS_OPERATION_NOFLAG);
		if (err < 0)
			rados_aio_release(c);
	}
	if (err < 0) {
		rados_release_read_op(o->op);
		free(o);
		return err;
	}
	return 0;
}

struct lg_watch {
	_Atomic uint64_t news;
	rados_ioctx_t io;
	uint64_t handle;
	char object[];
};

// Both run on the thread that also tells librbd: before librbd can give the lock away, or at most one call after it has
// begun to.
static void announced(void *arg, uint64_t id, uint64_t handle, uint64_t notifier, void *data, size_t bytes)
{
	lg_watch *w = arg;
	(void)notifier, (void)data, (void)bytes;
	atomic_fetch_add(&w->news, 1);
	rados_notify_ack(w->io, w->object, id, handle, NULL, 0);
}

static void failed(void *arg, uint64_t handle, int err)
{
	lg_watch *w = arg;
	(void)handle, (void)err;
	atomic_fetch_or(&w->news, LG_WATCH_BROKEN);
}

lg_watch *lg_watch_new(rados_ioctx_t io, const char *object, int *err)
{
	lg_watch *w = calloc(1, sizeof *w + strlen(object) + 1);
	if (!w) {
		*err = -ENOMEM;
		return NULL;
	}
	w->io = io;
	strcpy(w->object, object);
	*err = rados_watch3(io, object, &w->handle, announced, failed, 0, w);
	if (*err < 0) {
		free(w);
		return NULL;
	}
	return w;
}

void lg_watch_free(lg_watch *w)
{
	rados_unwatch2(w->io, w->handle);
	rados_watch_flush(rados_ioctx_get_cluster(w->io));
	free(w);
}

const uint64_t *lg_watch_news(lg_watch *w) { return (const uint64_t *)&w->news; }

int lg_snapshots(rbd_image_t image, uint64_t *ids, int max)
{
	int room = 16, n;
	rbd_snap_info_t *snaps;
	for (;;) {
		snaps = calloc(room, sizeof *snaps);
		if (!snaps)
			return -ENOMEM;
		n = rbd_snap_list(image, snaps, &room);
		if (n != -ERANGE)
			break;
		free(snaps); // room is now how much is needed
	}
	for (int i = 0; i < n && i < max; i++)
		ids[i] = snaps[i].id;
	if (n >= 0)
		rbd_snap_list_end(snaps);
	free(snaps);
	return n;
}

int lg_effective(rbd_image_t image, const char *name, char *value, size_t bytes)
{
	int room = 0, err = -ENOENT;
	int r = rbd_config_image_list(image, NULL, &room);
	if (r < 0 && r != -ERANGE)
		return r;
	rbd_config_option_t *all = calloc(room, sizeof *all);
	if (!all)
		return -ENOMEM;
	r = rbd_config_image_list(image, all, &room);
	if (r < 0) {
		free(all);
		return r;
	}
	for (int i = 0; i < room; i++) {
		if (strcmp(all[i].name, name) == 0) {
			err = strlen(all[i].value) < bytes ? 0 : -ERANGE;
			if (err == 0)
				strcpy(value, all[i].value);
		}
	}
	rbd_config_image_list_cleanup(all, room);
	free(all);
	return err;
}
