/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vq.c - split rings, driver side (virtio 1.2, 2.7). The three areas get the smallest alignment
 * that the specification allows, because other drivers never do.
 */
#include "virtio.h"

#include "guest.h"
#include "io.h"

#define WAIT_SECONDS 10

/* 2.7.10.1: an event index that is never reached while we poll. */
#define EVENT_NEVER(idx) ((uint16_t)((idx)-1))

/* 2.7: descriptors on 16 bytes, avail on 2, used on 4; all three off any larger boundary. */
static void alloc_areas(struct vq *q)
{
	char *p = mem_alloc(16 + 16u * q->size, 32);

	q->desc = (void *)(p + 16);
	p = mem_alloc(2 + 6 + 2u * q->size, 16);
	q->avail = (void *)(p + 2);
	p = mem_alloc(4 + 6 + 8u * q->size, 16);
	q->used = (void *)(p + 4);
	q->used_event = &q->avail->ring[q->size];
	q->avail_event = (volatile uint16_t *)&q->used->ring[q->size];
	q->tables = mem_alloc(sizeof(*q->tables) * VQ_SEGS_MAX * q->size, 16);
	q->next = mem_alloc(sizeof(*q->next) * q->size, 8);
	q->count = mem_alloc(sizeof(*q->count) * q->size, 8);
}

static void set_address(const struct vio *v, unsigned int offset, volatile void *p)
{
	vio_set32(v, offset, (uint32_t)(uintptr_t)p);
	vio_set32(v, offset + 4, (uint32_t)((uintptr_t)p >> 32));
}

static void clear_areas(struct vq *q)
{
	memset((void *)(uintptr_t)q->avail, 0, 6 + 2u * q->size);
	memset((void *)(uintptr_t)q->used, 0, 6 + 8u * q->size);
	for (uint16_t i = 0; i < q->size; i++)
		q->next[i] = (uint16_t)(i + 1);
	q->free = 0;
	q->nfree = q->size;
	q->avail_idx = q->used_idx = q->kicked_idx = 0;
	if (q->event_idx)
		*q->used_event = EVENT_NEVER(0);
	else
		q->avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
}

bool vq_setup(struct vq *q, struct vio *v, uint16_t index, uint16_t size)
{
	uint16_t max, off;

	q->vio = v;
	q->index = index;
	q->event_idx = v->features & VIO_BIT(VIRTIO_RING_F_EVENT_IDX);
	q->indirect = v->features & VIO_BIT(VIRTIO_RING_F_INDIRECT_DESC);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_SELECT, index);
	max = vio_get16(v, VIRTIO_PCI_COMMON_Q_SIZE);
	if (!test_check(max && !(max & (max - 1)), "queue %u: size %u", index, max))
		return false;
	if (!size || size > max)
		size = max;
	if (q->size != size) {
		q->size = size;
		alloc_areas(q);
	}
	clear_areas(q);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_SIZE, size);
	test_check(vio_get16(v, VIRTIO_PCI_COMMON_Q_SIZE) == size, "queue %u: size %u not taken",
		   index, size);
	set_address(v, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc);
	set_address(v, VIRTIO_PCI_COMMON_Q_AVAILLO, q->avail);
	set_address(v, VIRTIO_PCI_COMMON_Q_USEDLO, q->used);
	vio_set16(v, VIRTIO_PCI_COMMON_Q_MSIX, VIRTIO_MSI_NO_VECTOR);
	off = vio_get16(v, VIRTIO_PCI_COMMON_Q_NOFF);
	if (!test_check((uint64_t)off * v->notify_multiplier + 2 <= v->notify.length,
			"queue %u: doorbell %u * %u lies outside the notify structure", index, off,
			v->notify_multiplier))
		return false;
	q->doorbell = v->notify.addr + (uintptr_t)off * v->notify_multiplier;
	vio_set16(v, VIRTIO_PCI_COMMON_Q_ENABLE, 1);
	return test_check(vio_get16(v, VIRTIO_PCI_COMMON_Q_ENABLE) == 1, "queue %u: not enabled",
			  index);
}

static void set_desc(volatile struct vring_desc *d, const struct vq_seg *s, bool more,
		     uint16_t next)
{
	d->addr = s->addr;
	d->len = s->len;
	d->flags = (uint16_t)((s->write ? VRING_DESC_F_WRITE : 0) | (more ? VRING_DESC_F_NEXT : 0));
	d->next = next;
}

static void add_direct(struct vq *q, uint16_t head, const struct vq_seg *segs, unsigned int n)
{
	uint16_t at = head;

	for (unsigned int i = 0; i < n; i++) {
		set_desc(&q->desc[at], &segs[i], i + 1 < n, q->next[at]);
		q->free = q->next[at];
		at = q->free;
	}
}

static void add_indirect(struct vq *q, uint16_t head, const struct vq_seg *segs, unsigned int n)
{
	struct vring_desc *table = q->tables + (size_t)head * VQ_SEGS_MAX;

	for (unsigned int i = 0; i < n; i++)
		set_desc(&table[i], &segs[i], i + 1 < n, (uint16_t)(i + 1));
	q->desc[head].addr = (uintptr_t)table;
	q->desc[head].len = (uint32_t)(n * sizeof(*table));
	q->desc[head].flags = VRING_DESC_F_INDIRECT;
	q->free = q->next[head];
}

int vq_stage(struct vq *q, const struct vq_seg *segs, unsigned int n)
{
	uint16_t head = q->free, need = (uint16_t)(q->indirect ? 1 : n);

	if (n > VQ_SEGS_MAX || n > q->size || need > q->nfree)
		return -1;
	q->count[head] = need;
	q->nfree = (uint16_t)(q->nfree - need);
	if (q->indirect)
		add_indirect(q, head, segs, n);
	else
		add_direct(q, head, segs, n);
	q->avail->ring[q->avail_idx++ % q->size] = head;
	return head;
}

void vq_publish(struct vq *q)
{
	io_barrier(); /* descriptors and ring before the index */
	q->avail->idx = q->avail_idx;
}

int vq_add(struct vq *q, const struct vq_seg *segs, unsigned int n)
{
	int head = vq_stage(q, segs, n);

	if (head >= 0)
		vq_publish(q);
	return head;
}

void vq_ring(const struct vq *q)
{
	mmio_write16(q->doorbell, q->index);
}

void vq_kick(struct vq *q)
{
	uint16_t old = q->kicked_idx;
	bool wanted;

	io_fence(); /* avail->idx is out before the device's wish is read (2.7.21) */
	if (q->event_idx)
		wanted = vring_need_event(*q->avail_event, q->avail_idx, old);
	else
		wanted = !(q->used->flags & VRING_USED_F_NO_NOTIFY);
	q->kicked_idx = q->avail_idx;
	if (wanted) {
		q->kicks++;
		vq_ring(q);
	} else {
		q->kicks_saved++;
	}
}

int vq_poll(struct vq *q, uint32_t *len)
{
	volatile struct vring_used_elem *e;
	uint16_t head, last;

	if (q->used->idx == q->used_idx)
		return -1;
	io_barrier();
	e = &q->used->ring[q->used_idx % q->size];
	head = (uint16_t)e->id;
	*len = e->len;
	if (e->id >= q->size || !q->count[head])
		test_abort("queue %u: used element names descriptor %u, which is not in flight",
			   q->index, e->id);
	/* Back to the free list, the chain as it was linked. */
	last = head;
	for (uint16_t i = 1; i < q->count[head]; i++)
		last = q->next[last];
	q->next[last] = q->free;
	q->free = head;
	q->nfree = (uint16_t)(q->nfree + q->count[head]);
	q->count[head] = 0;
	q->used_idx++;
	if (q->event_idx)
		*q->used_event = EVENT_NEVER(q->used_idx);
	return head;
}

int vq_wait(struct vq *q, uint32_t *len)
{
	uint64_t start = 0;
	int head;

	while ((head = vq_poll(q, len)) < 0) {
		if (!vio_within(&start, WAIT_SECONDS))
			return -1;
	}
	return head;
}
