/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opaque.c - bytes that a device has beside its tables and that only another of its model
 * understands: OPAQUE sections, in pieces on the stream and whole on both sides. Nothing depends on
 * them: a machine whose device has no use for them goes on by the tables. The migration thread;
 * opaque_hand_out() is main's.
 */
#include "engine.h"

#include <unvmm/device.h>
#include <unvmm/log.h>
#include <unvmm/state_io.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int send_pieces(struct migration *m, const struct device *dev, const uint8_t *data,
		       size_t len, struct diag *d)
{
	uint8_t *payload = stream_payload(&m->stream);
	struct proto_state_part part = { 0 };
	int err = 0;

	snprintf(part.id, sizeof(part.id), "%s", dev->id);
	for (size_t at = 0; at < len && !err; at += part.len) {
		size_t size;

		part.blob = data + at;
		part.len = len - at < STATE_BLOB_MAX ? len - at : STATE_BLOB_MAX;
		err = proto_put_state(payload, &part, &size);
		if (!err)
			err = engine_send(m, MSG_OPAQUE, NULL, size, d);
	}
	return err;
}

int opaque_send(struct migration *m, struct diag *d)
{
	int err = 0;

	for (struct device *dev = m->vm->devices; dev && !err; dev = dev->next) {
		const void *data = NULL;
		size_t len = 0;

		if (dev->cls->opaque_get)
			dev->cls->opaque_get(dev, &data, &len);
		err = send_pieces(m, dev, data, len, d);
	}
	return err;
}

/* A device's pieces follow each other. */
static int append(struct parts *p, const struct proto_state_part *piece, struct diag *d)
{
	struct proto_state_part *last = p->n ? &p->part[p->n - 1].head : NULL;
	uint8_t *whole;

	for (unsigned int i = 0; i + 1 < p->n; i++)
		if (!strcmp(p->part[i].head.id, piece->id))
			return diag_set(d, -EPROTO, "%s: its own state comes twice", piece->id);
	if (!last || strcmp(last->id, piece->id) != 0)
		return parts_add(p, piece->id, piece->blob, piece->len, d);
	if (p->bytes + piece->len > PARTS_BYTES_MAX)
		return diag_set(d, -E2BIG, "%s: its own state is too large", piece->id);
	whole = realloc((void *)(uintptr_t)last->blob, last->len + piece->len);
	if (!whole)
		return diag_set(d, -ENOMEM, "out of memory for the state of %s", piece->id);
	memcpy(whole + last->len, piece->blob, piece->len);
	last->blob = whole;
	last->len += piece->len;
	p->bytes += piece->len;
	return 0;
}

int opaque_keep(struct migration *m, struct diag *d)
{
	struct proto_state_part piece;
	int err = proto_get_state(&m->section, &piece, d);

	return err ? err : append(&m->opaque, &piece, d);
}

void opaque_hand_out(struct migration *m)
{
	for (unsigned int i = 0; i < m->opaque.n; i++) {
		const struct proto_state_part *p = &m->opaque.part[i].head;
		struct device *dev = m->vm->devices;

		while (dev && strcmp(dev->id, p->id) != 0)
			dev = dev->next;
		if (dev && dev->cls->opaque_put)
			dev->cls->opaque_put(dev, p->blob, p->len);
		else
			log_info("%s: the state that its like would understand is of no use here",
				 p->id);
	}
	parts_free(&m->opaque);
}
