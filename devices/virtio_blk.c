/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_blk.c - the virtio disk (virtio 1.2, section 5.2) on a raw image: requests from the rings
 * become transfers of blk_backend.c, and their results the guest's status bytes.
 * Created by main; requests run on the io thread.
 *
 *   blk_handle -> blk_take -> parse_* -> blk_submit ... transfer_done -> blk_end -> softq_complete
 */
#include "blk_backend.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/device.h>
#include <unvmm/offer.h>
#include <unvmm/softq.h>
#include <unvmm/vm.h>

#define BLK_QUEUES_MAX	16
#define BLK_SEG_MAX	254u		   /* data segments of a request */
#define BLK_CHAIN_MAX	(BLK_SEG_MAX + 18) /* and a header in pieces as small as a byte, status */
#define BLK_CHUNK	16u /* requests are allocated by so many, when first needed */
#define BLK_KEEP_IOV	64u /* longer vectors are freed after use */
#define BLK_INLINE_IOV	6u
#define BLK_DISCARD_MAX (GiB(1) / BLK_SECTOR)
#define BLK_ZEROES_MAX	(MiB(128) / BLK_SECTOR)

struct blk_conf {
	char *path;
	char *serial;
	bool readonly, direct, discard, shared;
	int64_t queues, queue_size;
};

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

static void pools_free(struct virtio_blk *blk)
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

static void blk_handle(struct softq *sq, unsigned int q)
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

/* --- the vdev -------------------------------------------------------------------------------- */

static struct virtio_blk *of_vdev(struct vdev *v)
{
	return container_of(v, struct virtio_blk, vdev);
}

static int blk_start(struct vdev *v)
{
	return softq_start(&of_vdev(v)->sq);
}

static void blk_stop(struct vdev *v)
{
	softq_stop(&of_vdev(v)->sq);
}

static void blk_doorbell(struct vdev *v, unsigned int q, struct vdev_doorbell *db)
{
	softq_doorbell(&of_vdev(v)->sq, q, db);
}

static void blk_kick(struct vdev *v, unsigned int q)
{
	softq_kick(&of_vdev(v)->sq, q);
}

static void blk_config_read(struct vdev *v, unsigned int off, void *buf, unsigned int len)
{
	memcpy(buf, (const uint8_t *)&of_vdev(v)->config + off, len);
}

static const struct vdev_ops blk_vdev_ops = {
	.start = blk_start,
	.stop = blk_stop,
	.doorbell = blk_doorbell,
	.kick = blk_kick,
	.config_read = blk_config_read,
};

/*
 * What is offered depends on the configuration only, not on what this host's file system can do, so
 * that a guest finds the same disk on any host: a discard that is not supported succeeds, zeroes
 * are written.
 */
static void fill_vdev(struct virtio_blk *blk, const struct blk_conf *conf)
{
	struct virtio_blk_config *c = &blk->config;
	struct vdev *v = &blk->vdev;
	uint32_t segs = (uint32_t)conf->queue_size - 2;
	uint64_t wanted = 0;

	v->ops = &blk_vdev_ops;
	v->device_id = VIRTIO_ID_BLOCK;
	v->class_code = 0x018000; /* mass storage, other */
	v->nqueues = (uint16_t)conf->queues;
	v->config_size = offsetof(struct virtio_blk_config, unused1);
	for (unsigned int q = 0; q < v->nqueues; q++)
		v->queues[q].size_max = (uint16_t)conf->queue_size;

	c->capacity = blk->backend.size / BLK_SECTOR;
	c->seg_max = segs < BLK_SEG_MAX ? segs : BLK_SEG_MAX;
	c->blk_size = blk->backend.block_size;
	/* Physical blocks of 4 KiB: what a file system below an image works in. */
	for (uint32_t size = c->blk_size; size < PAGE_SIZE_4K; size *= 2)
		c->physical_block_exp++;
	if (v->nqueues > 1) {
		wanted |= VIRTIO_BIT(VIRTIO_BLK_F_MQ);
		c->num_queues = v->nqueues;
	}
	if (conf->readonly) {
		wanted |= VIRTIO_BIT(VIRTIO_BLK_F_RO);
	} else {
		wanted |= VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
		c->max_write_zeroes_sectors = BLK_ZEROES_MAX;
		c->max_write_zeroes_seg = 1;
		c->write_zeroes_may_unmap = conf->discard;
	}
	if (conf->discard && !conf->readonly) {
		wanted |= VIRTIO_BIT(VIRTIO_BLK_F_DISCARD);
		c->max_discard_sectors = BLK_DISCARD_MAX;
		c->max_discard_seg = 1;
		c->discard_sector_alignment = PAGE_SIZE_4K / BLK_SECTOR;
	}
	v->offered = offer_features(VIRTIO_ID_BLOCK, wanted);
}

/* --- the device ------------------------------------------------------------------------------ */

#define BLK_CHECK(kind, member) STATE_SCALAR_CHECK(kind, struct virtio_blk, member)

/* Nothing of a disk changes while it runs; the destination's must look the same to the guest. */
static const struct state_field blk_fields[] = {
	STATE_FIELD_(STATE_BYTES, struct virtio_blk, serial, 1, VIRTIO_BLK_ID_BYTES, STATE_CHECK),
	BLK_CHECK(STATE_BOOL, readonly),
	BLK_CHECK(STATE_U16, vdev.nqueues),
	BLK_CHECK(STATE_U64, config.capacity),
	BLK_CHECK(STATE_U32, config.seg_max),
	BLK_CHECK(STATE_U32, config.blk_size),
	BLK_CHECK(STATE_U8, config.physical_block_exp),
	BLK_CHECK(STATE_U32, config.max_discard_sectors),
	BLK_CHECK(STATE_U32, config.max_discard_seg),
	BLK_CHECK(STATE_U32, config.discard_sector_alignment),
	BLK_CHECK(STATE_U32, config.max_write_zeroes_sectors),
	BLK_CHECK(STATE_U32, config.max_write_zeroes_seg),
	BLK_CHECK(STATE_U8, config.write_zeroes_may_unmap),
};

static const struct state_desc blk_state = {
	.name = "virtio-blk",
	.version = 1,
	.obj_size = sizeof(struct virtio_blk),
	.fields = blk_fields,
	.nfields = ARRAY_SIZE(blk_fields),
};

static int check_queue_size(const void *opaque, struct diag *d)
{
	const struct blk_conf *conf = opaque;

	if (is_power_of_2((uint64_t)conf->queue_size))
		return 0;
	return diag_set(d, -EINVAL, "is %" PRId64 "; it must be a power of two from 16 to %d",
			conf->queue_size, VQ_SIZE_MAX);
}

static int blk_create(struct vm *vm, struct device *dev, const void *opaque, struct diag *d)
{
	const struct blk_conf *conf = opaque;
	struct virtio_blk *blk;
	struct loop *loop;
	int err;

	blk = calloc(1, sizeof(*blk));
	if (!blk)
		return diag_errno(d, -ENOMEM, "disk %s", conf->path);
	err = blk_open(&blk->backend, conf->path, conf->readonly, conf->direct, NULL, d);
	if (err)
		goto out_free;
	/* Else the source has the lock, until it gives it up. unvf has no configuration. */
	if (!conf->shared && (!vm->config || !vm->config->incoming)) {
		err = blk_lock(&blk->backend, d);
		if (err)
			goto out_close;
	}
	loop = vm_io_loop(vm, d);
	if (!loop) {
		err = -EIO;
		goto out_close;
	}
	blk->backend.loop = loop;
	blk->readonly = conf->readonly;
	blk->shared = conf->shared;
	memcpy(blk->serial, conf->serial ? conf->serial : dev->id,
	       strnlen(conf->serial ? conf->serial : dev->id, sizeof(blk->serial)));
	blk->vdev.vm = vm;
	blk->vdev.id = dev->id;
	fill_vdev(blk, conf);
	err = softq_init(&blk->sq, &blk->vdev, loop, blk_handle, d);
	if (err)
		goto out_close;
	err = virtio_pci_create(&blk->vdev, d);
	if (err)
		goto out_softq;

	virtio_pci_state(&blk->vdev, blk->state);
	blk->state[VIRTIO_PCI_STATES] = (struct state_ref){ .desc = &blk_state, .obj = blk };
	dev->priv = blk;
	dev->state = blk->state;
	dev->nstate = ARRAY_SIZE(blk->state);
	return 0;

out_softq:
	softq_fini(&blk->sq);
out_close:
	blk_close(&blk->backend);
out_free:
	free(blk);
	return err;
}

static int blk_reset(struct device *dev, struct diag *d)
{
	struct virtio_blk *blk = dev->priv;
	int err = virtio_pci_reset(&blk->vdev);

	if (!err)
		return 0;
	return diag_errno(d, err, "%s: requests hang in the host's storage, so it cannot be reset",
			  dev->id);
}

static int blk_quiesce(struct device *dev)
{
	struct virtio_blk *blk = dev->priv;

	return virtio_pci_quiesce(&blk->vdev);
}

static void blk_resume(struct device *dev)
{
	struct virtio_blk *blk = dev->priv;

	virtio_pci_resume(&blk->vdev);
}

static int blk_sync(struct device *dev)
{
	struct virtio_blk *blk = dev->priv;

	return blk->backend.readonly || fdatasync(blk->backend.fd) == 0 ? 0 : -errno;
}

static void blk_moved(struct device *dev)
{
	struct virtio_blk *blk = dev->priv;

	virtio_pci_moved(&blk->vdev);
}

static void blk_destroy(struct device *dev)
{
	struct virtio_blk *blk = dev->priv;

	/* While a request hangs, the kernel may write to our memory: that is left to the exit. */
	if (virtio_pci_reset(&blk->vdev)) {
		log_error("%s: requests hang in the host's storage; it is not closed", dev->id);
		return;
	}
	softq_fini(&blk->sq);
	virtio_pci_destroy(&blk->vdev);
	blk_close(&blk->backend);
	pools_free(blk);
	free(blk);
}

static void blk_init_conf(void *opaque)
{
	struct blk_conf *conf = opaque;

	conf->queues = 1;
	conf->queue_size = offer_queue_size(VIRTIO_ID_BLOCK);
	conf->discard = true;
}

static const struct opt blk_opts[] = {
	{ .name = "path",
	  .type = OPT_PATH,
	  .offset = offsetof(struct blk_conf, path),
	  .required = true,
	  .help = "raw image or block device" },
	{ .name = "readonly",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct blk_conf, readonly),
	  .help = "the guest cannot write" },
	{ .name = "serial",
	  .type = OPT_STRING,
	  .offset = offsetof(struct blk_conf, serial),
	  .max = VIRTIO_BLK_ID_BYTES,
	  .help = "serial number, at most 20 bytes (default: blk0...)" },
	{ .name = "queues",
	  .type = OPT_INT,
	  .offset = offsetof(struct blk_conf, queues),
	  .min = 1,
	  .max = BLK_QUEUES_MAX,
	  .help = "number of queues (default 1)" },
	{ .name = "queue_size",
	  .type = OPT_INT,
	  .offset = offsetof(struct blk_conf, queue_size),
	  .min = 16,
	  .max = VQ_SIZE_MAX,
	  .check = check_queue_size,
	  .help = "entries of a queue, a power of two (default 256)" },
	{ .name = "direct",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct blk_conf, direct),
	  .help = "bypass the host's page cache (O_DIRECT)" },
	{ .name = "shared",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct blk_conf, shared),
	  .help = "others have the image, too: it is not locked" },
	{ .name = "discard",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct blk_conf, discard),
	  .help = "let the guest free space of the image (default true)" },
};

static int blk_claim(struct device *dev, bool take, struct diag *d)
{
	struct virtio_blk *blk = dev->priv;

	if (blk->shared)
		return 0;
	return take ? blk_lock(&blk->backend, d) : blk_unlock(&blk->backend, d);
}

const struct device_class virtio_blk_class = {
	.name = "virtio-blk",
	.id = "blk",
	.key = "disks",
	.list = true,
	.pci = true,
	.conf_size = sizeof(struct blk_conf),
	.init_conf = blk_init_conf,
	.opts = blk_opts,
	.nopts = ARRAY_SIZE(blk_opts),
	.create = blk_create,
	.reset = blk_reset,
	.quiesce = blk_quiesce,
	.resume = blk_resume,
	.sync = blk_sync,
	.claim = blk_claim,
	.moved = blk_moved,
	.info = virtio_pci_info,
	.stats = virtio_pci_stats,
	.destroy = blk_destroy,
};
