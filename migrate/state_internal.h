/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_internal.h - what state.c and state_blob.c share: names, limits, and the path of what is
 * being looked at. Thread: that of the caller.
 */
#ifndef UNVMM_STATE_INTERNAL_H
#define UNVMM_STATE_INTERNAL_H

#include <stdio.h>
#include <string.h>

#include <unvmm/diag.h>

#define STATE_DEVICE_PROP  "device"
#define STATE_VERSION_PROP "state-version"
#define STATE_NAME_MAX	   64
#define STATE_DEPTH_MAX	   16 /* of nodes in a blob */

/* "serial0/serial/rx_head". A longer path is cut: it is for messages only. */
struct state_path {
	char text[256];
	size_t start[STATE_DEPTH_MAX + 4]; /* length before each part */
	unsigned int depth;
};

static inline void path_push(struct state_path *p, const char *name)
{
	size_t len = strlen(p->text);

	p->start[p->depth++] = len;
	snprintf(p->text + len, sizeof(p->text) - len, "%s%s", len ? "/" : "", name);
}

static inline void path_pop(struct state_path *p)
{
	p->text[p->start[--p->depth]] = '\0';
}

/*
 * True devicetree of the one version that we write, in exactly `len` bytes, not too deep: after
 * this libfdt's read functions are safe on it. -EINVAL with a sentence.
 */
int state_blob_check(const void *blob, size_t len, struct diag *d) must_check;

#endif
