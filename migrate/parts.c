/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parts.c - the parts of a machine's state on their way, in memory. The migration thread; main's
 * while that handles a call.
 */
#include "engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int parts_add(struct parts *p, const char *id, const void *blob, size_t len, struct diag *d)
{
	struct part *part;
	void *copy;

	if (p->n >= PARTS_MAX || p->bytes + len > PARTS_BYTES_MAX || strlen(id) >= PROTO_ID_MAX)
		return diag_set(d, -E2BIG, "%.40s: the machine's state has too many parts", id);
	copy = malloc(len ? len : 1);
	part = copy ? realloc(p->part, (p->n + 1) * sizeof(*part)) : NULL;
	if (!part) {
		free(copy);
		return diag_set(d, -ENOMEM, "out of memory for the machine's state");
	}
	memcpy(copy, blob, len);
	p->part = part;
	p->part[p->n].head = (struct proto_state_part){ .blob = copy, .len = len };
	snprintf(p->part[p->n].head.id, PROTO_ID_MAX, "%s", id);
	p->n++;
	p->bytes += len;
	return 0;
}

void parts_free(struct parts *p)
{
	for (unsigned int i = 0; i < p->n; i++)
		free((void *)(uintptr_t)p->part[i].head.blob);
	free(p->part);
	*p = (struct parts){ 0 };
}
