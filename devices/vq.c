/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vq.c - the device side of a split virtqueue: takes checked requests out of rings that the guest
 * may change at any moment, and gives them back. Runs on the thread that owns the queue.
 *
 * x86-64 only, so the little-endian fields are used as they are. Source: virtio 1.2, section 2.7.
 */
#include <unvmm/vq.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

/* A ring index: written by the other side, always by one aligned store. */
#define RING_LOAD(p)	 __atomic_load_n(p, __ATOMIC_RELAXED)
#define RING_STORE(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)

/*
 * "I store my index, then look at your wish; you store your wish, then look at my index": at least
 * one must see the other (sections 2.7.7.2 and 2.7.10.1). It takes a full barrier between the store
 * and the load, which two sequentially consistent accesses are (xchg, mov), as is the driver's
 * mb().
 */
#define RING_STORE_MB(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define RING_LOAD_MB(p)	    __atomic_load_n(p, __ATOMIC_SEQ_CST)

/* Where the two event fields lie, behind the rings (section 2.7.6, 2.7.8). */
static uint16_t *used_event(const struct vq *q)
{
	return &q->avail_ring->ring[q->layout.size];
}

static uint16_t *avail_event(const struct vq *q)
{
	return (uint16_t *)&q->used_ring->ring[q->layout.size];
}

static uint64_t avail_bytes(const struct vq *q)
{
	return sizeof(struct vring_avail) + q->layout.size * sizeof(uint16_t) +
	       (q->event_idx ? sizeof(uint16_t) : 0);
}

static uint64_t used_bytes(const struct vq *q)
{
	return sizeof(struct vring_used) + q->layout.size * sizeof(struct vring_used_elem) +
	       (q->event_idx ? sizeof(uint16_t) : 0);
}

int vq_start(struct vq *q, struct gmem *mem, const struct vq_layout *layout, uint64_t features,
	     uint16_t index)
{
	uint64_t n = layout->size;

	memset(q, 0, sizeof(*q));
	if (!is_power_of_2(n) || n > VQ_SIZE_MAX)
		return -EINVAL;
	if (layout->desc % VRING_DESC_ALIGN_SIZE || layout->avail % VRING_AVAIL_ALIGN_SIZE ||
	    layout->used % VRING_USED_ALIGN_SIZE)
		return -EINVAL;
	q->layout = *layout;
	q->event_idx = features & (1ull << VIRTIO_RING_F_EVENT_IDX);
	q->desc_ring = gmem_ptr_read(mem, layout->desc, n * sizeof(struct vring_desc));
	q->avail_ring = (struct vring_avail *)gmem_ptr_read(mem, layout->avail, avail_bytes(q));
	q->used_ring = gmem_ptr(mem, layout->used, used_bytes(q));
	if (!q->desc_ring || !q->avail_ring || !q->used_ring)
		return -EFAULT;
	q->mem = mem;
	q->indirect = features & (1ull << VIRTIO_RING_F_INDIRECT_DESC);
	q->next_avail = q->next_used = q->published = index;
	vq_begin(q);
	q->running = true;
	return 0;
}

void vq_stop(struct vq *q)
{
	q->running = false;
	q->desc_ring = NULL;
	q->avail_ring = NULL;
	q->used_ring = NULL;
}

static int broken(struct vq *q, const char *why)
{
	q->why = why;
	return -EPROTO;
}

/* The one load of a descriptor. The barrier keeps the compiler from loading a field again. */
static struct vring_desc load_desc(const void *table, unsigned int i)
{
	struct vring_desc d;

	memcpy(&d, (const uint8_t *)table + i * sizeof(d), sizeof(d));
	__asm__ volatile("" ::: "memory");
	return d;
}

static int chain_add(struct vq *q, struct vq_chain *c, const struct vring_desc *d)
{
	bool writable = d->flags & VRING_DESC_F_WRITE;
	unsigned int *part = writable ? &c->nin : &c->nout;
	unsigned int n = c->nout + c->nin;
	struct iovec *last;
	void *p;

	if (!d->len)
		return 0;
	if (!writable && c->nin)
		return broken(q, "device-readable buffer after a device-writable one");
#ifdef FUZZ_PLANT /* a bug for the fuzzer to find: only the first byte is checked */
	p = gmem_ptr(q->mem, d->addr, 1);
#else
	/* An iovec is not const, but nobody writes through one of the readable part. */
	p = writable ? gmem_ptr(q->mem, d->addr, d->len)
		     : (void *)gmem_ptr_read(q->mem, d->addr, d->len);
#endif
	if (!p)
		return broken(q, "buffer outside guest memory");
	if (c->out_len + c->in_len + d->len > UINT32_MAX)
		return broken(q, "chain of 4 GiB or more");
	*(writable ? &c->in_len : &c->out_len) += d->len;

	/* Guest-adjacent buffers are host-adjacent only in one region, so both are compared. */
	last = *part ? &c->iov[n - 1] : NULL;
	if (last && c->gpa[n - 1] + last->iov_len == d->addr &&
	    (uint8_t *)last->iov_base + last->iov_len == p) {
		last->iov_len += d->len;
		return 0;
	}
	if (n == c->cap)
		return broken(q, "more buffers than the device takes");
	c->iov[n] = (struct iovec){ .iov_base = p, .iov_len = d->len };
	c->gpa[n] = d->addr;
	++*part;
	return 0;
}

/*
 * Follows a chain from `head`, through at most one indirect table, which ends it (section 2.7.5.3).
 * All descriptors together are bounded by the queue's size, so a loop ends here.
 */
static int chain_walk(struct vq *q, struct vq_chain *c, uint16_t head)
{
	const void *table = q->desc_ring;
	uint32_t entries = q->layout.size;
	unsigned int budget = q->layout.size;
	uint32_t next = head;
	bool in_table = false;
	struct vring_desc d;
	int err;

	for (;;) {
		if (next >= entries)
			return broken(q, "descriptor index beyond the table");
		d = load_desc(table, next);
		next = d.next;
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (!q->indirect || in_table)
				return broken(q,
					      "indirect table that was not agreed on or is nested");
			if (d.flags & VRING_DESC_F_NEXT)
				return broken(q, "descriptor both indirect and chained");
			if (!d.len || d.len % sizeof(d))
				return broken(
					q, "indirect table of a length that is no multiple of 16");
			table = gmem_ptr_read(q->mem, d.addr, d.len);
			if (!table)
				return broken(q, "indirect table outside guest memory");
			entries = d.len / sizeof(d);
			in_table = true;
			next = 0;
			continue;
		}
		if (!budget--)
			return broken(q, "chain longer than the queue, or a loop");
		err = chain_add(q, c, &d);
		if (err || !(d.flags & VRING_DESC_F_NEXT))
			return err;
	}
}

void vq_begin(struct vq *q)
{
	q->budget = q->layout.size;
}

int vq_pop(struct vq *q, struct vq_chain *c)
{
	/* Acquire: the ring entry and the descriptors were written before the index. */
	uint16_t avail = __atomic_load_n(&q->avail_ring->idx, __ATOMIC_ACQUIRE);
	uint16_t waiting = avail - q->next_avail;
	uint16_t head;
	int err;

	if (!waiting || !q->budget)
		return 0;
	if (waiting > q->layout.size)
		return broken(q, "available index too far ahead");
	if (q->outstanding == q->layout.size)
		return broken(q, "more requests than descriptors");
	head = RING_LOAD(&q->avail_ring->ring[q->next_avail & (q->layout.size - 1)]);
	c->head = head;
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	err = chain_walk(q, c, head);
	if (err)
		return err;
	if (!c->nout && !c->nin)
		return broken(q, "empty chain");
	q->next_avail++;
	q->outstanding++;
	q->budget--;
	return 1;
}

void vq_unpop(struct vq *q, unsigned int n)
{
	q->next_avail = (uint16_t)(q->next_avail - n);
	q->outstanding -= n;
	q->budget += n;
}

static void mark_used(struct vq *q, uint64_t offset, uint64_t len)
{
	gmem_mark_dirty(q->mem, q->layout.used + offset, len);
}

void vq_push(struct vq *q, uint16_t head, uint32_t len)
{
	unsigned int slot = q->next_used & (q->layout.size - 1);
	struct vring_used_elem *e = &q->used_ring->ring[slot];

	RING_STORE(&e->id, head);
	RING_STORE(&e->len, len);
	mark_used(q, offsetof(struct vring_used, ring) + slot * sizeof(*e), sizeof(*e));
	q->next_used++;
	q->outstanding--;
}

bool vq_publish(struct vq *q)
{
	uint16_t old = q->published;
	bool first = !q->interrupted;

	if (q->next_used == old)
		return false;
	/* It is a release too: payload and elements are visible before the index. */
	RING_STORE_MB(&q->used_ring->idx, q->next_used);
	mark_used(q, offsetof(struct vring_used, idx), sizeof(uint16_t));
	q->published = q->next_used;
	if (!q->event_idx)
		return !(RING_LOAD_MB(&q->avail_ring->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	/* After a start we do not know what the last owner signalled: one interrupt too many is
	 * safe. */
	q->interrupted = true;
	return first || vring_need_event(RING_LOAD_MB(used_event(q)), q->next_used, old);
}

void vq_disable_kicks(struct vq *q)
{
	/* With event indexes the old avail_event, which lies behind, suppresses by itself. */
	if (q->event_idx)
		return;
	RING_STORE(&q->used_ring->flags, VRING_USED_F_NO_NOTIFY);
	mark_used(q, offsetof(struct vring_used, flags), sizeof(uint16_t));
}

bool vq_enable_kicks(struct vq *q)
{
	if (q->event_idx) {
		RING_STORE_MB(avail_event(q), q->next_avail);
		mark_used(q,
			  offsetof(struct vring_used, ring) +
				  q->layout.size * sizeof(struct vring_used_elem),
			  sizeof(uint16_t));
	} else {
		RING_STORE_MB(&q->used_ring->flags, 0);
		mark_used(q, offsetof(struct vring_used, flags), sizeof(uint16_t));
	}
	return RING_LOAD_MB(&q->avail_ring->idx) == q->next_avail;
}

bool vq_look(struct vq *q)
{
	uint16_t idx = __atomic_load_n(&q->avail_ring->idx, __ATOMIC_ACQUIRE), waiting;

	if (q->event_idx) {
		RING_STORE_MB(avail_event(q), idx);
		mark_used(q,
			  offsetof(struct vring_used, ring) +
				  q->layout.size * sizeof(struct vring_used_elem),
			  sizeof(uint16_t));
	}
	waiting = idx - q->next_avail;
	/* More than there can be is for vq_pop() to complain about. */
	q->budget = waiting < q->layout.size ? waiting : q->layout.size;
	return RING_LOAD_MB(&q->avail_ring->idx) != idx;
}

bool vq_rings_stand(const struct vq *q)
{
	const struct vq_layout *l = &q->layout;

	return gmem_ptr_read(q->mem, l->desc, l->size * sizeof(struct vring_desc)) ==
		       (const void *)q->desc_ring &&
	       gmem_ptr_read(q->mem, l->avail, avail_bytes(q)) == (const void *)q->avail_ring &&
	       gmem_ptr(q->mem, l->used, used_bytes(q)) == (void *)q->used_ring;
}

struct vq_bytes vq_out(const struct vq_chain *c)
{
	return (struct vq_bytes){ .iov = c->iov, .gpa = c->gpa, .n = c->nout, .len = c->out_len };
}

struct vq_bytes vq_in(const struct vq_chain *c)
{
	return (struct vq_bytes){
		.iov = c->iov + c->nout, .gpa = c->gpa + c->nout, .n = c->nin, .len = c->in_len
	};
}

void vq_skip(struct vq_bytes *b, uint64_t len)
{
	while (len && b->n) {
		uint64_t part = len < b->iov->iov_len ? len : b->iov->iov_len;

		b->iov->iov_base = (uint8_t *)b->iov->iov_base + part;
		b->iov->iov_len -= part;
		*b->gpa += part;
		b->len -= part;
		len -= part;
		if (!b->iov->iov_len) {
			b->iov++;
			b->gpa++;
			b->n--;
		}
	}
}

void vq_trim(struct vq_bytes *b, uint64_t len)
{
	while (len && b->n) {
		struct iovec *last = &b->iov[b->n - 1];
		uint64_t part = len < last->iov_len ? len : last->iov_len;

		last->iov_len -= part;
		b->len -= part;
		len -= part;
		if (!last->iov_len)
			b->n--;
	}
}

bool vq_read(struct vq_bytes *b, void *buf, size_t len)
{
	uint8_t *to = buf;

	if (b->len < len)
		return false;
	while (len) {
		size_t part = len < b->iov->iov_len ? len : b->iov->iov_len;

		memcpy(to, b->iov->iov_base, part);
		vq_skip(b, part);
		to += part;
		len -= part;
	}
	return true;
}

bool vq_write(struct vq *q, struct vq_bytes *b, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	if (b->len < len)
		return false;
	while (len) {
		size_t part = len < b->iov->iov_len ? len : b->iov->iov_len;

		memcpy(b->iov->iov_base, from, part);
		gmem_mark_dirty(q->mem, *b->gpa, part);
		vq_skip(b, part);
		from += part;
		len -= part;
	}
	return true;
}

void vq_mark(struct vq *q, const struct vq_bytes *b, uint64_t len)
{
	for (unsigned int i = 0; i < b->n && len; i++) {
		uint64_t part = len < b->iov[i].iov_len ? len : b->iov[i].iov_len;

		gmem_mark_dirty(q->mem, b->gpa[i], part);
		len -= part;
	}
}

void vq_mark_written(struct vq *q, const struct vq_chain *c, uint64_t len)
{
	struct vq_bytes in = vq_in(c);

	vq_mark(q, &in, len);
}
