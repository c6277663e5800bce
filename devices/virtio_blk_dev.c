/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_blk_dev.c - the virtio disk as a device: its options, what it offers the guest, its saved
 * state, its life, and whose image it is. Main thread; what the guest's registers call has the
 * control lock. Its requests are virtio_blk.c's.
 */
#include "virtio_blk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/device.h>
#include <unvmm/offer.h>
#include <unvmm/vm.h>

struct blk_conf {
	char *path;
	char *serial;
	bool readonly, direct, discard, shared;
	int64_t queues, queue_size;
};

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
	blk_free_pools(blk);
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
