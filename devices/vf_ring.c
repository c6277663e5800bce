/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_ring.c - the driver's side of a split virtqueue (virtio 1.2, 2.7), one request at a time, for
 * the control queue of an assigned network card. The vf thread.
 */
#include "vf_dev.h"

#include <errno.h>
#include <string.h>

/* In one page: up to 1 KiB of descriptors, then the two rings. */
#define AVAIL_AT 1024
#define USED_AT	 2048

void vf_ring_init(struct vf_ring *r, void *mem, uint64_t iova, uint16_t size)
{
	uint8_t *p = mem;

	memset(mem, 0, VF_RING_BYTES);
	*r = (struct vf_ring){ .size = size,
			       .desc = (struct vring_desc *)p,
			       .avail = (struct vring_avail *)(p + AVAIL_AT),
			       .used = (struct vring_used *)(p + USED_AT),
			       .iova = iova,
			       .avail_iova = iova + AVAIL_AT,
			       .used_iova = iova + USED_AT };
}

void vf_ring_stands_at(struct vf_ring *r, uint16_t index)
{
	r->next = r->taken = r->avail->idx = r->used->idx = index;
}

void vf_ring_post(struct vf_ring *r, uint64_t out, uint32_t out_len, uint64_t in, uint32_t in_len)
{
	r->desc[0] = (struct vring_desc){
		.addr = out, .len = out_len, .flags = VRING_DESC_F_NEXT, .next = 1
	};
	r->desc[1] = (struct vring_desc){ .addr = in, .len = in_len, .flags = VRING_DESC_F_WRITE };
	r->avail->ring[r->next & (r->size - 1)] = 0;
	/* Whatever was negotiated, an interrupt is wanted for this one (2.7.7). */
	r->avail->ring[r->size] = r->taken;
	r->next++;
	__atomic_store_n(&r->avail->idx, r->next, __ATOMIC_SEQ_CST);
}

int vf_ring_take(struct vf_ring *r)
{
	uint16_t used = __atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE);
	uint32_t id;

	if (used == r->taken)
		return 0;
	if (r->taken == r->next || used != (uint16_t)(r->taken + 1))
		return -EPROTO;
	id = __atomic_load_n(&r->used->ring[r->taken & (r->size - 1)].id, __ATOMIC_RELAXED);
	if (id)
		return -EPROTO;
	r->taken++;
	return 1;
}
