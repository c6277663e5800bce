/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_blk.c - the requests of the virtio disk (virtio 1.2, section 5.2): from the rings to
 * transfers of blk_backend.c, and their results to the guest's status bytes. Runs on the io thread.
 *
 *   blk_handle -> blk_take -> parse_* -> blk_submit ... transfer_done -> blk_end -> softq_complete
 */
#include "virtio_blk.h"

#include <stdlib.h>
#include <string.h>

#include <unvmm/vm.h>

#define BLK_KEEP_IOV   64u /* longer vectors are freed after use */
#define BLK_INLINE_IOV 6u

struct blk_req {
	struct blk_io io;
	struct virtio_blk *blk;
	struct blk_req *next; /* in the free list */
	uint16_t queue, head;
	uint64_t data_in; /* device-writable bytes before the status byte */
	uint8_t *status;  /* where the status byte goes */
	gpa_t status_gpa;
	unsigned int cap; /* room in iov and gpa */
	struct iovec *iov;
	gpa_t *gpa;
	struct iovec inline_iov[BLK_INLINE_IOV];
	gpa_t inline_gpa[BLK_INLINE_IOV];
};

/* --- requests: memory ------------------------------------------------------------------------ */

static bool pool_grow(struct virtio_blk *blk, struct blk_pool *pool)
{
	struct blk_req *chunk;

	if (pool->nchunks == ARRAY_SIZE(pool->chunks))
		return false;
	chunk = calloc(BLK_CHUNK, sizeof(*chunk));
	if (!chunk)
		return false;
	for (unsigned int i = BLK_CHUNK; i-- > 0;) {
		chunk[i].blk = blk;
		chunk[i].iov = chunk[i].inline_iov;
		chunk[i].gpa = chunk[i].inline_gpa;
		chunk[i].cap = BLK_INLINE_IOV;
		chunk[i].next = pool->free;
		pool->free = &chunk[i];
	}
	pool->chunks[pool->nchunks++] = chunk;
	return true;
}

static void req_drop_iov(struct blk_req *r)
{
	if (r->iov != r->inline_iov)
		free(r->iov);
	r->iov = r->inline_iov;
	r->gpa = r->inline_gpa;
	r->cap = BLK_INLINE_IOV;
}

static bool req_room(struct blk_req *r, unsigned int n)
{
	struct iovec *iov;

	if (n <= r->cap)
		return true;
	iov = malloc(n * (sizeof(*r->iov) + sizeof(*r->gpa)));
	if (!iov)
		return false;
	req_drop_iov(r);
	r->iov = iov;
	r->gpa = (gpa_t *)(iov + n);
	r->cap = n;
	return true;
}

/* A request that holds the chain's vectors, or NULL if the host has no memory. */
static struct blk_req *req_get(struct virtio_blk *blk, unsigned int q, struct vq_chain *c)
{
	struct blk_pool *pool = &blk->pools[q];
	unsigned int n = c->nout + c->nin;
	struct blk_req *r;

	if (!pool->free && !pool_grow(blk, pool))
		return NULL;
	r = pool->free;
	if (!req_room(r, n))
		return NULL;
	pool->free = r->next;
	memcpy(r->iov, c->iov, n * sizeof(*r->iov));
	memcpy(r->gpa, c->gpa, n * sizeof(*r->gpa));
	c->iov = r->iov;
	c->gpa = r->gpa;
	r->queue = (uint16_t)q;
	r->head = c->head;
	memset(&r->io, 0, sizeof(r->io));
	return r;
}

static void req_put(struct blk_req *r)
{
	struct blk_pool *pool = &r->blk->pools[r->queue];

	if (r->cap > BLK_KEEP_IOV)
		req_drop_iov(r);
	r->next = pool->free;
	pool->free = r;
}

void blk_free_pools(struct virtio_blk *blk)
{
	for (unsigned int q = 0; q < BLK_QUEUES_MAX; q++) {
		struct blk_pool *pool = &blk->pools[q];

		for (unsigned int c = 0; c < pool->nchunks; c++) {
			for (unsigned int i = 0; i < BLK_CHUNK; i++)
				req_drop_iov(&pool->chunks[c][i]);
			free(pool->chunks[c]);
		}
	}
}

/* --- requests: from the ring to the image ---------------------------------------------------- */

/* `written`: bytes that the guest may rely on, from the start of the device-writable part. */
static void blk_end(struct blk_req *r, uint8_t status, uint64_t written)
{
	struct virtio_blk *blk = r->blk;

	*r->status = status;
	gmem_mark_dirty(&blk->vdev.vm->mem, r->status_gpa, 1);
	if (written == r->data_in)
		written++;
	req_put(r); /* before the ring entry is free: at most as many requests as entries */
	softq_complete(&blk->sq, r->queue, r->head, (uint32_t)written);
}

static void transfer_done(struct blk_io *io, int err)
{
	struct blk_req *r = container_of(io, struct blk_req, io);
	uint64_t left = io->kind == BLK_READ ? io->data.len : r->data_in;

	blk_end(r, err ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK, r->data_in - left);
}

/* Without the FLUSH feature a write is complete only when it is durable (section 5.2.6.2). */
static bool write_through(const struct virtio_blk *blk)
{
	return !vdev_has(&blk->vdev, VIRTIO_BLK_F_FLUSH);
}

/* True if [sector, sector + bytes) lies on the disk; gives its place in bytes. */
static bool on_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes, uint64_t *offset)
{
	uint64_t sectors = blk->backend.size / BLK_SECTOR;

	*offset = sector * BLK_SECTOR; /* cannot overflow once the next line has been true */
	return bytes % BLK_SECTOR == 0 && range_within(sector, bytes / BLK_SECTOR, 0, sectors);
}

/* The parsers return the request's status, or -1 when a transfer was started. */
static int parse_rw(struct blk_req *r, uint64_t sector, struct vq_bytes data, enum blk_kind kind)
{
	struct virtio_blk *blk = r->blk;

	if (kind == BLK_WRITE && blk->readonly)
		return VIRTIO_BLK_S_IOERR;
	if (!on_disk(blk, sector, data.len, &r->io.offset))
		return VIRTIO_BLK_S_IOERR;
	if (!data.len)
		return VIRTIO_BLK_S_OK;
	r->io.kind = kind;
	r->io.data = data;
	r->io.durable = write_through(blk);
	return -1;
}

static int parse_flush(struct blk_req *r)
{
	if (r->blk->readonly)
		return VIRTIO_BLK_S_OK;
	r->io.kind = BLK_SYNC;
	return -1;
}

/* One segment: max_discard_seg and max_write_zeroes_seg are 1. */
static int parse_range(struct blk_req *r, struct vq_bytes data, enum blk_kind kind)
{
	struct virtio_blk *blk = r->blk;
	bool discard = kind == BLK_DISCARD;
	struct virtio_blk_discard_write_zeroes seg;
	uint32_t known = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

	if (!vdev_has(&blk->vdev, discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES))
		return VIRTIO_BLK_S_UNSUPP;
	if (blk->readonly || data.len != sizeof(seg) || !vq_read(&data, &seg, sizeof(seg)))
		return VIRTIO_BLK_S_IOERR;
	if (seg.flags & ~known)
		return VIRTIO_BLK_S_UNSUPP;
	if (seg.num_sectors > (discard ? BLK_DISCARD_MAX : BLK_ZEROES_MAX))
		return VIRTIO_BLK_S_IOERR;
	r->io.len = (uint64_t)seg.num_sectors * BLK_SECTOR;
	if (!on_disk(blk, seg.sector, r->io.len, &r->io.offset))
		return VIRTIO_BLK_S_IOERR;
	if (!r->io.len)
		return VIRTIO_BLK_S_OK;
	r->io.kind = kind;
	r->io.unmap = seg.flags && blk->config.write_zeroes_may_unmap;
	r->io.durable = write_through(blk);
	return -1;
}

/* Serial number: 20 bytes, filled with NULs. */
static void get_id(struct blk_req *r, struct vq_bytes *in)
{
	struct virtio_blk *blk = r->blk;
	size_t n = in->len < sizeof(blk->serial) ? in->len : sizeof(blk->serial);
	bool ok = vq_write(&blk->sq.queues[r->queue].vq, in, blk->serial, n);

	blk_end(r, ok ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR, n);
}

static void blk_run(struct blk_req *r, const struct virtio_blk_outhdr *hdr, struct vq_bytes out,
		    struct vq_bytes in)
{
	int status;

	switch (hdr->type) {
	case VIRTIO_BLK_T_IN:
		status = parse_rw(r, hdr->sector, in, BLK_READ);
		break;
	case VIRTIO_BLK_T_OUT:
		status = parse_rw(r, hdr->sector, out, BLK_WRITE);
		break;
	case VIRTIO_BLK_T_FLUSH:
		status = parse_flush(r);
		break;
	case VIRTIO_BLK_T_DISCARD:
		status = parse_range(r, out, BLK_DISCARD);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		status = parse_range(r, out, BLK_ZERO);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(r, &in);
		return;
	default:
		status = VIRTIO_BLK_S_UNSUPP;
		break;
	}
	if (status >= 0) {
		blk_end(r, (uint8_t)status, 0);
		return;
	}
	r->io.vq = &r->blk->sq.queues[r->queue].vq;
	r->io.done = transfer_done;
	blk_submit(&r->blk->backend, &r->io);
}

/* The request in a chain that was popped. NULL: it was dealt with. Else why the ring is broken. */
static const char *blk_take(struct virtio_blk *blk, unsigned int q, struct vq_chain *c)
{
	struct virtio_blk_outhdr hdr;
	struct vq_bytes out, in;
	struct blk_req *r;
	uint64_t last;

	if (c->out_len < sizeof(hdr))
		return "request without a whole header";
	if (!c->in_len)
		return "request without a status byte";
	r = req_get(blk, q, c);
	if (!r)
		return "the host has no memory for a request";
	softq_begin(&blk->sq);

	out = vq_out(c);
	in = vq_in(c);
	last = in.iov[in.n - 1].iov_len - 1;
	r->status = (uint8_t *)in.iov[in.n - 1].iov_base + last;
	r->status_gpa = in.gpa[in.n - 1] + last;
	vq_trim(&in, 1);
	r->data_in = in.len;
	if (vq_read(&out, &hdr, sizeof(hdr)))
		blk_run(r, &hdr, out, in);
	else
		blk_end(r, VIRTIO_BLK_S_IOERR, 0);
	return NULL;
}

void blk_handle(struct softq *sq, unsigned int q)
{
	struct virtio_blk *blk = container_of(sq, struct virtio_blk, sq);
	struct vq *vq = &sq->queues[q].vq;
	const char *why = NULL;
	int ret = 0;

	while (!why) {
		struct vq_chain c = { .cap = BLK_CHAIN_MAX, .iov = blk->iov, .gpa = blk->gpa };

		ret = vq_pop(vq, &c);
		if (ret <= 0)
			break;
		why = blk_take(blk, q, &c);
	}
	if (ret < 0)
		why = vq->why;
	if (why)
		softq_broken(sq, q, why);
}
