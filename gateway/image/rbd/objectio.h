// SPDX-License-Identifier: Apache-2.0

// Reading an image's objects without librbd, and word of what other clients announce about an image.
#ifndef LUKSGATE_OBJECTIO_H
#define LUKSGATE_OBJECTIO_H

#include "shim.h"

// lg_object_read starts to fill the slices of r->iov with what an object holds from offset on, and zeros behind its end.
// The result, through the queue like lg_submit's, is 0, or -ENOENT if there is no such object.
int lg_object_read(rados_ioctx_t io, const char *object, lg_request *r, uint64_t offset);

// A watch counts what librbd announces about an image to all that have it open: who asks for its lock, takes or gives it
// back, snapshots, sizes.
typedef struct lg_watch lg_watch;

// lg_watch_new watches a header object. NULL: *err is a negative errno. lg_watch_free ends it and waits for callbacks.
lg_watch *lg_watch_new(rados_ioctx_t io, const char *object, int *err);
void lg_watch_free(lg_watch *w);

// lg_watch_news is where announcements are counted; it is only read. The highest bit is set when some may be missing.
const uint64_t *lg_watch_news(lg_watch *w);
#define LG_WATCH_BROKEN (UINT64_C(1) << 63)

// lg_snapshots stores the numbers of at most max of the image's snapshots and returns how many it has, or a negative errno.
int lg_snapshots(rbd_image_t image, uint64_t *ids, int max);

// lg_effective copies the value that librbd uses for a setting, which the pool and the image may override, to value. 0, or a
// negative errno: -ENOENT for one that this librbd does not have.
int lg_effective(rbd_image_t image, const char *name, char *value, size_t bytes);

#endif
