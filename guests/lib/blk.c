/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk.c - a polled virtio-blk driver (virtio 1.2, 5.2.6).
 */
#include "guest.h"

#include "blk.h"
#include "io.h"

#define STATUS_NONE 0xff /* what no device writes */

static const struct {
	const char *name;
	unsigned int bit;
} known[] = {
	{ "indirect", VIRTIO_RING_F_INDIRECT_DESC },
	{ "event_idx", VIRTIO_RING_F_EVENT_IDX },
	{ "mq", VIRTIO_BLK_F_MQ },
	{ "discard", VIRTIO_BLK_F_DISCARD },
	{ "write_zeroes", VIRTIO_BLK_F_WRITE_ZEROES },
	{ "flush", VIRTIO_BLK_F_FLUSH },
	{ "seg_max", VIRTIO_BLK_F_SEG_MAX },
	{ "size_max", VIRTIO_BLK_F_SIZE_MAX },
	{ "blk_size", VIRTIO_BLK_F_BLK_SIZE },
	{ "topology", VIRTIO_BLK_F_TOPOLOGY },
	{ "ro", VIRTIO_BLK_F_RO },
};

uint64_t blk_wanted(void)
{
	bool all = !opt_has("features", "none") && !opt_string("features", (char[2]){ 0 }, 2);
	/* What restricts us is taken whenever it is offered. */
	uint64_t bits = VIO_BIT(VIRTIO_BLK_F_RO) | VIO_BIT(VIRTIO_BLK_F_SIZE_MAX) |
			VIO_BIT(VIRTIO_BLK_F_SEG_MAX);

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (all || opt_has("features", known[i].name))
			bits |= VIO_BIT(known[i].bit);
	}
	return bits;
}

bool blk_feature(const struct blk *b, unsigned int bit)
{
	return b->vio.features & VIO_BIT(bit);
}

uint32_t blk_config32(const struct blk *b, size_t offset)
{
	if (!test_check(offset + 4 <= b->vio.device.length, "device configuration has %u bytes",
			b->vio.device.length))
		return 0;
	return mmio_read32(b->vio.device.addr + offset);
}

/* 2.5.1: a 64-bit field is read twice around its generation. */
static uint64_t read_capacity(const struct blk *b)
{
	uint64_t low, high;
	uint8_t generation;

	do {
		generation = vio_get8(&b->vio, VIRTIO_PCI_COMMON_CFGGENERATION);
		low = blk_config32(b, 0);
		high = blk_config32(b, 4);
	} while (generation != vio_get8(&b->vio, VIRTIO_PCI_COMMON_CFGGENERATION));
	return high << 32 | low;
}

static bool start_queue(struct blk *b, unsigned int qi, uint16_t qsize)
{
	struct blk_queue *q = &b->q[qi];

	if (!vq_setup(&q->vq, &b->vio, (uint16_t)qi, qsize))
		return false;
	if (!q->req) {
		q->req = mem_alloc(sizeof(*q->req) * BLK_REQS_MAX, 16);
		q->by_head = mem_alloc(sizeof(*q->by_head) * 32768, 8);
	}
	for (unsigned int i = 0; i < BLK_REQS_MAX; i++)
		q->req[i].busy = false;
	q->inflight = 0;
	return true;
}

bool blk_start(struct blk *b, uint64_t features, unsigned int queues, uint16_t qsize)
{
	if (!vio_negotiate(&b->vio, features))
		return false;
	b->nqueues = 1;
	if (blk_feature(b, VIRTIO_BLK_F_MQ))
		b->nqueues =
			blk_config32(b, offsetof(struct virtio_blk_config, num_queues) & ~3u) >>
				8 * (offsetof(struct virtio_blk_config, num_queues) & 3) &
			0xffff;
	if (!test_check(b->nqueues && b->nqueues <= b->vio.nqueues,
			"%u queues in device config, "
			"%u in common config",
			b->nqueues, b->vio.nqueues))
		return false;
	if (b->nqueues > queues)
		b->nqueues = queues;
	if (b->nqueues > BLK_QUEUES_MAX)
		b->nqueues = BLK_QUEUES_MAX;
	for (unsigned int i = 0; i < b->nqueues; i++) {
		if (!start_queue(b, i, qsize))
			return false;
	}
	b->capacity = read_capacity(b);
	if (!b->depth)
		b->depth = 1;
	vio_driver_ok(&b->vio);
	return true;
}

struct blk_req *blk_get(struct blk *b, unsigned int qi)
{
	struct blk_queue *q = &b->q[qi];

	if (q->inflight >= b->depth)
		return NULL;
	for (unsigned int i = 0; i < BLK_REQS_MAX; i++) {
		struct blk_req *r = &q->req[i];

		if (r->busy)
			continue;
		if (!r->data)
			r->data = mem_alloc(BLK_REQ_BYTES, 4096);
		r->busy = true;
		q->inflight++;
		return r;
	}
	return NULL;
}

void blk_put(struct blk *b, unsigned int qi, struct blk_req *r)
{
	r->busy = false;
	b->q[qi].inflight--;
}

static bool device_writes(uint32_t type)
{
	return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
}

/*
 * Cuts len bytes at sector boundaries into one to four segments: with header and status never more
 * than the queue has descriptors, which bounds an indirect chain too (2.7.5.3.1).
 */
static unsigned int cut(struct blk *b, unsigned int qsize, struct vq_seg *segs, uint8_t *data,
			uint32_t len, bool write)
{
	unsigned int n = 0, max = qsize < BLK_SEGS_MAX ? qsize - 2 : BLK_SEGS_MAX - 2;

	while (len && n + 1 < max && b->rnd && len > BLK_SECTOR) {
		uint32_t part = BLK_SECTOR * (uint32_t)(1 + rnd_below(b->rnd, len / BLK_SECTOR));

		segs[n++] = (struct vq_seg){ (uintptr_t)data, part, write };
		data += part;
		len -= part;
	}
	if (len)
		segs[n++] = (struct vq_seg){ (uintptr_t)data, len, write };
	return n;
}

bool blk_send(struct blk *b, unsigned int qi, struct blk_req *r, uint32_t type, uint64_t sector,
	      uint32_t len)
{
	struct blk_queue *q = &b->q[qi];
	struct vq_seg segs[VQ_SEGS_MAX];
	unsigned int n = 1;
	int head;

	r->hdr = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	r->status = STATUS_NONE;
	r->len = len;
	segs[0] = (struct vq_seg){ (uintptr_t)&r->hdr, sizeof(r->hdr), false };
	n += cut(b, q->vq.size, segs + 1, r->data, len, device_writes(type));
	segs[n++] = (struct vq_seg){ (uintptr_t)&r->status, 1, true };
	head = vq_add(&q->vq, segs, n);
	if (head < 0)
		return false;
	q->by_head[head] = r;
	return true;
}

void blk_kick(struct blk *b, unsigned int qi)
{
	vq_kick(&b->q[qi].vq);
}

struct blk_req *blk_reap(struct blk *b, unsigned int qi)
{
	struct blk_queue *q = &b->q[qi];
	struct blk_req *r;
	uint32_t len, want;
	int head = vq_poll(&q->vq, &len);

	if (head < 0)
		return NULL;
	r = q->by_head[head];
	/* 2.7.8.2: so many bytes from the first on; a failed read has written the status alone. */
	want = device_writes(r->hdr.type) ? r->len + 1 : 1;
	if (r->status == VIRTIO_BLK_S_OK && r->hdr.type != VIRTIO_BLK_T_GET_ID)
		test_check(len == want, "type %u: used length %u of %u", r->hdr.type, len, want);
	else
		test_check(len <= want, "type %u: used length %u of %u", r->hdr.type, len, want);
	test_check(*(volatile uint8_t *)&r->status != STATUS_NONE, "completed without a status");
	return r;
}

uint8_t blk_do(struct blk *b, uint32_t type, uint64_t sector, void *data, uint32_t len)
{
	struct blk_req *r = blk_get(b, 0), *done;
	uint64_t start = 0;
	uint8_t status;

	if (!r || len > BLK_REQ_BYTES)
		test_abort("request of %u bytes with %u in flight", len, b->q[0].inflight);
	if (data)
		memcpy(r->data, data, len);
	if (!blk_send(b, 0, r, type, sector, len))
		test_abort("no descriptors for a request");
	blk_kick(b, 0);
	while (!(done = blk_reap(b, 0))) {
		if (!vio_within(&start, 30))
			test_abort("request of type %u does not complete", type);
	}
	test_check(done == r, "another request completed");
	if (data && device_writes(type))
		memcpy(data, r->data, len);
	status = r->status;
	blk_put(b, 0, r);
	return status;
}

bool blk_raw(struct blk *b, const struct vq_seg *segs, unsigned int n, uint32_t *used_len)
{
	struct vq *q = &b->q[0].vq;
	int head = vq_add(q, segs, n);

	if (head < 0)
		return false;
	vq_kick(q);
	return vq_wait(q, used_len) == head;
}
