/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vq_driver.c - the driver's side of a split virtqueue, as virtio 1.2, section 2.7 describes it.
 * For tests and fuzzers; the thread of the test.
 */
#include "vq_driver.h"

#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define END 0xffff /* of the free list */

void *vqd_at(const struct vq_driver *d, gpa_t gpa, uint64_t len)
{
	void *p = gmem_ptr(d->mem, gpa, len);

	if (!p)
		abort(); /* the test itself is wrong */
	return p;
}

gpa_t vqd_alloc(struct vq_driver *d, uint64_t len, uint64_t align)
{
	gpa_t gpa = align_up(d->heap, align);

	if (gpa + len > d->heap_end)
		abort();
	d->heap = gpa + len;
	return gpa;
}

void vqd_init(struct vq_driver *d, struct gmem *mem, gpa_t base, uint64_t heap, uint16_t size,
	      uint64_t features)
{
	uint64_t ring = size * sizeof(struct vring_desc) + 6 + size * 2u + 6 + size * 8u + 64;

	memset(d, 0, sizeof(*d));
	d->mem = mem;
	d->event_idx = features & (1ull << VIRTIO_RING_F_EVENT_IDX);
	d->heap = base;
	d->heap_end = base + ring + heap;
	d->layout.size = size;
	d->layout.desc = vqd_alloc(d, size * sizeof(struct vring_desc), 16);
	d->layout.avail = vqd_alloc(d, 6 + size * 2u, 2);
	d->layout.used = vqd_alloc(d, 6 + size * 8u, 4);
	d->desc = vqd_at(d, d->layout.desc, size * sizeof(struct vring_desc));
	d->avail = vqd_at(d, d->layout.avail, 6 + size * 2u);
	d->used = vqd_at(d, d->layout.used, 6 + size * 8u);
	memset(d->desc, 0, size * sizeof(struct vring_desc));
	memset(d->avail, 0, 6 + size * 2u);
	memset(d->used, 0, 6 + size * 8u);
	for (uint16_t i = 0; i < size; i++)
		d->desc[i].next = (uint16_t)(i + 1 == size ? END : i + 1);
	d->nfree = size;
}

static uint16_t desc_get(struct vq_driver *d)
{
	uint16_t i = d->free_head;

	if (!d->nfree)
		abort();
	d->nfree--;
	d->free_head = d->desc[i].next;
	return i;
}

static uint16_t buf_flags(const struct vqd_buf *b, bool last)
{
	return (uint16_t)((b->writable ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT));
}

void vqd_post_head(struct vq_driver *d, uint16_t head)
{
	d->avail->ring[d->avail_idx++ & (d->layout.size - 1)] = head;
}

uint16_t vqd_post(struct vq_driver *d, const struct vqd_buf *bufs, unsigned int n)
{
	uint16_t head = END, prev = END;

	for (unsigned int i = 0; i < n; i++) {
		uint16_t at = desc_get(d);

		d->desc[at] = (struct vring_desc){ .addr = bufs[i].gpa,
						   .len = bufs[i].len,
						   .flags = buf_flags(&bufs[i], i + 1 == n) };
		if (prev == END)
			head = at;
		else
			d->desc[prev].next = at;
		prev = at;
	}
	vqd_post_head(d, head);
	return head;
}

uint16_t vqd_post_indirect(struct vq_driver *d, const struct vqd_buf *bufs, unsigned int n)
{
	gpa_t gpa = vqd_alloc(d, n * sizeof(struct vring_desc), 16);
	struct vring_desc *table = vqd_at(d, gpa, n * sizeof(*table));
	uint16_t head = desc_get(d);

	for (unsigned int i = 0; i < n; i++)
		table[i] = (struct vring_desc){ .addr = bufs[i].gpa,
						.len = bufs[i].len,
						.flags = buf_flags(&bufs[i], i + 1 == n),
						.next = (uint16_t)(i + 1) };
	d->desc[head] = (struct vring_desc){ .addr = gpa,
					     .len = n * (uint32_t)sizeof(*table),
					     .flags = VRING_DESC_F_INDIRECT };
	vqd_post_head(d, head);
	return head;
}

bool vqd_show(struct vq_driver *d)
{
	uint16_t old = d->avail->idx;

	__atomic_store_n(&d->avail->idx, d->avail_idx, __ATOMIC_SEQ_CST);
	if (d->event_idx) {
		const uint16_t *event = (const uint16_t *)&d->used->ring[d->layout.size];

		return vring_need_event(__atomic_load_n(event, __ATOMIC_SEQ_CST), d->avail_idx,
					old);
	}
	return !(__atomic_load_n(&d->used->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY);
}

static void free_chain(struct vq_driver *d, uint16_t head)
{
	uint16_t at = head;

	d->nfree++;
	while (d->desc[at].flags & VRING_DESC_F_NEXT) {
		at = d->desc[at].next;
		d->nfree++;
	}
	d->desc[at].next = d->free_head;
	d->free_head = head;
}

bool vqd_take(struct vq_driver *d, struct vring_used_elem *e)
{
	if (__atomic_load_n(&d->used->idx, __ATOMIC_SEQ_CST) == d->last_used)
		return false;
	*e = d->used->ring[d->last_used++ & (d->layout.size - 1)];
	if (e->id >= d->layout.size)
		abort();
	free_chain(d, (uint16_t)e->id);
	return true;
}

void vqd_want_interrupt(struct vq_driver *d, bool want)
{
	uint16_t *event = &d->avail->ring[d->layout.size];

	if (d->event_idx)
		__atomic_store_n(event, want ? d->last_used : (uint16_t)(d->last_used - 1),
				 __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&d->avail->flags, want ? 0 : VRING_AVAIL_F_NO_INTERRUPT,
				 __ATOMIC_SEQ_CST);
}
