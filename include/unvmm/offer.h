/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offer.h - what is offered to a guest. A guest cannot negotiate again when it moves, so the first
 * offer decides where it can go: "portable-1" is what every software device of ours and an accepted
 * virtual function implement. The list is versioned and never changes under its name.
 *
 * Thread: any; constant data. Source of the numbers: virtio 1.2.
 */
#ifndef UNVMM_OFFER_H
#define UNVMM_OFFER_H

#include <unvmm/compiler.h>

#define OFFER_NAME "portable-1"

/* Entries of a queue, for those who need a constant; offer_queue_size() says whose. */
#define OFFER_QUEUE_SIZE	 256
#define OFFER_RNG_QUEUE_SIZE	 64
#define OFFER_CONSOLE_QUEUE_SIZE 64

enum offer_when {
	OFFER_ALWAYS,	  /* a function that lacks it is not accepted */
	OFFER_CONFIGURED, /* if the guest's configuration asks for it (several queues, read-only) */
};

struct offer_feature {
	uint16_t device_id; /* VIRTIO_ID_*; 0: of the transport, every device has it */
	uint8_t bit;
	enum offer_when when;
	const char *name; /* as the specification calls it, without the prefix */
};

extern const struct offer_feature offer_table[];
extern const unsigned int offer_nfeatures;

/*
 * What a device offers: everything that is always offered, and of `configured` what the list
 * knows. A bit outside of the list is dropped, wherever it comes from.
 */
uint64_t offer_features(uint16_t device_id, uint64_t configured);

/*
 * Of what is always offered, what `has` lacks. For refusing a function by the name of a feature;
 * offer_name() gives NULL for a bit that is not in the list.
 */
uint64_t offer_lacks(uint16_t device_id, uint64_t has);
const char *offer_name(uint16_t device_id, unsigned int bit);

/* Entries of each queue of the device; 0 for a device that the list does not have. */
uint16_t offer_queue_size(uint16_t device_id);

#endif
