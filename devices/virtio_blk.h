/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_blk.h - what the files of the virtio disk share: requests (virtio_blk.c, the io thread)
 * and the device around them (virtio_blk_dev.c, main). Private to devices/.
 */
#ifndef UNVMM_DEVICES_VIRTIO_BLK_H
#define UNVMM_DEVICES_VIRTIO_BLK_H

#include <linux/virtio_blk.h>

#include <unvmm/softq.h>

#include "blk_backend.h"

#define BLK_QUEUES_MAX	16
#define BLK_SEG_MAX	254u		   /* data segments of a request */
#define BLK_CHAIN_MAX	(BLK_SEG_MAX + 18) /* and a header in pieces as small as a byte, status */
#define BLK_CHUNK	16u /* requests are allocated by so many, when first needed */
#define BLK_DISCARD_MAX (GiB(1) / BLK_SECTOR)
#define BLK_ZEROES_MAX	(MiB(128) / BLK_SECTOR)

struct blk_req;

/* Requests of one queue: as many as its size, in chunks, the most recently used one first. */
struct blk_pool {
	struct blk_req *free;
	struct blk_req *chunks[VQ_SIZE_MAX / BLK_CHUNK];
	unsigned int nchunks;
};

struct virtio_blk {
	struct vdev vdev;
	struct softq sq;
	struct blk_backend backend;
	struct virtio_blk_config config; /* as the guest sees it: little endian */
	char serial[VIRTIO_BLK_ID_BYTES];
	bool readonly; /* of the state table */
	bool shared;   /* its image is not locked */
	struct blk_pool pools[BLK_QUEUES_MAX];
	/* The chain that is being taken: its vectors are copied to the request, which is smaller.
	 */
	struct iovec iov[BLK_CHAIN_MAX];
	gpa_t gpa[BLK_CHAIN_MAX];
	struct state_ref state[VIRTIO_PCI_STATES + 1];
};

/* The softq's handler. */
void blk_handle(struct softq *sq, unsigned int q);
/* Frees the requests' memory; none is under way. */
void blk_free_pools(struct virtio_blk *blk);

#endif
