// SPDX-License-Identifier: Apache-2.0

// Operations of librbd that take long: they tell how far they are, and can be given up in between.
#ifndef LUKSGATE_OPERATE_H
#define LUKSGATE_OPERATE_H

#include <rbd/librbd.h>
#include <stdint.h>

enum lg_operation { LG_RESIZE, LG_SHRINK, LG_FLATTEN, LG_REBUILD_OBJECT_MAP };

// How far an operation is.  Any thread may look at it and give up the operation.
typedef struct lg_progress lg_progress;

// lg_progress_new returns NULL without memory; lg_progress_free is for when the operation has returned.
lg_progress *lg_progress_new(void);
void lg_progress_free(lg_progress *p);
void lg_progress_get(lg_progress *p, uint64_t *done, uint64_t *total);

// lg_progress_cancel has the operation end with -ECANCELED once what is under way is done: at an object's end.
void lg_progress_cancel(lg_progress *p);

// lg_operate runs an operation to its end and returns 0 or a negative errno.  size is for LG_RESIZE, which only grows, and
// for LG_SHRINK.
int lg_operate(rbd_image_t image, int operation, uint64_t size, lg_progress *p);

// lg_owns_data tells whether the image has data of its own besides what it shows of its parent: 1, 0 or a negative errno.
int lg_owns_data(rbd_image_t image);

#endif
