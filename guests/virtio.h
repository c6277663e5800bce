/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio.h - what the two halves of the virtio guest share: a device to torment and a way to see
 * that it still works.
 */
#ifndef GUESTS_VIRTIO_GUEST_H
#define GUESTS_VIRTIO_GUEST_H

#include "lib/virtio.h"

struct subject {
	const char *name;
	uint16_t type; /* VIRTIO_ID_x */
	struct vio vio;
	struct vq vq; /* queue 0 */
};

/* Reset to DRIVER_OK with queue 0 ready. */
bool subject_start(struct subject *s, uint64_t features);
/*
 * The segments of a harmless request (blk: GET_ID; rng: some bytes), in memory of their own.
 * Returns how many; the status byte, if any, is behind the last one.
 */
unsigned int subject_request(const struct subject *s, struct vq_seg *segs);
/* The memory on both sides of that request must be as it was. */
void subject_guards(const char *what);
/* From reset on: one request must be served. what says after which torment. */
void subject_works(struct subject *s, const char *what);

/* virtio_rings.c: everything a broken driver can do to rings and queues. */
void rings_check(struct subject *s, bool strict);

#endif
