/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_rng.c - entropy device (virtio 1.2, section 5.4): one queue of buffers that are filled
 * with random bytes. The smallest device there is, and the worked example of devices/README.md.
 * Set-up by main; the queue is served on the io thread.
 */
#include <unvmm/device.h>
#include <unvmm/offer.h>
#include <unvmm/softq.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define RNG_IOVECS	OFFER_RNG_QUEUE_SIZE /* a chain may be as long as the queue (2.7.13.3) */
#define RNG_MAX_REQUEST KiB(64) /* one buffer never keeps the io thread longer than this takes */

struct rng_conf {
	char *source;
};

struct rng {
	struct vdev vdev; /* first: the ops get it */
	struct softq sq;
	int fd;
	struct state_ref state[VIRTIO_PCI_STATES];
};

/* --- the queue: io thread -------------------------------------------------------------------- */

static uint32_t rng_fill(struct rng *r, const struct vq_chain *c)
{
	size_t done = 0;

	for (unsigned int i = 0; i < c->nin && done < RNG_MAX_REQUEST; i++) {
		const struct iovec *v = &c->iov[c->nout + i];
		size_t want =
			v->iov_len < RNG_MAX_REQUEST - done ? v->iov_len : RNG_MAX_REQUEST - done;
		ssize_t got = read(r->fd, v->iov_base, want);

		if (got > 0)
			done += (size_t)got;
		if (got != (ssize_t)want)
			break;
	}
	return (uint32_t)done;
}

static void rng_handle(struct softq *sq, unsigned int q)
{
	struct rng *r = container_of(sq, struct rng, sq);
	struct vq *vq = &sq->queues[q].vq;
	struct iovec iov[RNG_IOVECS];
	gpa_t gpa[RNG_IOVECS];
	struct vq_chain c = { .cap = RNG_IOVECS, .iov = iov, .gpa = gpa };
	int got;

	while ((got = vq_pop(vq, &c)) == 1) {
		uint32_t len;

		softq_begin(sq);
		len = rng_fill(r, &c);
		vq_mark_written(vq, &c, len);
		softq_complete(sq, q, c.head, len);
		/* A driver gets at least a byte (5.4.6.2), or it will ask again without an end. */
		if (!len) {
			softq_broken(sq, q, "its source gives no bytes, or the buffer has no room");
			return;
		}
	}
	if (got < 0)
		softq_broken(sq, q, "the driver broke the request queue");
}

/* --- the vdev: control lock ------------------------------------------------------------------ */

static int rng_start(struct vdev *v)
{
	return softq_start(&container_of(v, struct rng, vdev)->sq);
}

static void rng_stop(struct vdev *v)
{
	softq_stop(&container_of(v, struct rng, vdev)->sq);
}

static void rng_doorbell(struct vdev *v, unsigned int q, struct vdev_doorbell *db)
{
	softq_doorbell(&container_of(v, struct rng, vdev)->sq, q, db);
}

static void rng_kick(struct vdev *v, unsigned int q)
{
	softq_kick(&container_of(v, struct rng, vdev)->sq, q);
}

static const struct vdev_ops rng_ops = {
	.start = rng_start,
	.stop = rng_stop,
	.doorbell = rng_doorbell,
	.kick = rng_kick,
};

/* --- the device: main ------------------------------------------------------------------------ */

static int rng_reset(struct device *dev, struct diag *d)
{
	int err = virtio_pci_reset(dev->priv);

	return err ? diag_errno(d, err, "%s: cannot be reset", dev->id) : 0;
}

static int rng_quiesce(struct device *dev)
{
	return virtio_pci_quiesce(dev->priv);
}

static void rng_resume(struct device *dev)
{
	virtio_pci_resume(dev->priv);
}

static void rng_moved(struct device *dev)
{
	virtio_pci_moved(dev->priv);
}

static void rng_destroy(struct device *dev)
{
	struct rng *r = dev->priv;

	softq_fini(&r->sq);
	virtio_pci_destroy(&r->vdev);
	close(r->fd);
	free(r);
}

/*
 * Its descriptor. A pipe may have nothing for the io thread, which all disks would wait for then.
 */
static int open_source(const char *path, struct diag *d)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || fcntl(fd, F_SETFL, O_RDONLY) < 0) {
		int err = diag_errno(d, -errno, "rng: source \"%s\" cannot be opened", path);

		if (fd >= 0)
			close(fd);
		return err;
	}
	if (S_ISCHR(st.st_mode) || S_ISREG(st.st_mode))
		return fd;
	close(fd);
	return diag_set(d, -EINVAL,
			"rng: source \"%s\" is neither a device like /dev/hwrng nor a file", path);
}

static int rng_create(struct vm *vm, struct device *dev, const void *conf, struct diag *d)
{
	const struct rng_conf *rc = conf;
	struct loop *loop = vm_io_loop(vm, d);
	struct rng *r;
	int err;

	if (!loop)
		return -EIO;
	r = calloc(1, sizeof(*r));
	if (!r)
		return diag_set(d, -ENOMEM, "%s: out of memory", dev->id);
	r->vdev = (struct vdev){ .vm = vm,
				 .ops = &rng_ops,
				 .id = dev->id,
				 .device_id = VIRTIO_ID_RNG,
				 .class_code = 0xff0000, /* unclassified */
				 .nqueues = 1,
				 .offered = offer_features(VIRTIO_ID_RNG, 0) };
	r->vdev.queues[0].size_max = offer_queue_size(VIRTIO_ID_RNG);
	r->fd = open_source(rc->source ? rc->source : "/dev/urandom", d);
	if (r->fd < 0) {
		err = r->fd;
		goto fail_open;
	}
	err = softq_init(&r->sq, &r->vdev, loop, rng_handle, d);
	if (err)
		goto fail_softq;
	err = virtio_pci_create(&r->vdev, d);
	if (err)
		goto fail_transport;
	virtio_pci_state(&r->vdev, r->state);
	dev->priv = r;
	dev->state = r->state;
	dev->nstate = ARRAY_SIZE(r->state);
	return 0;

fail_transport:
	softq_fini(&r->sq);
fail_softq:
	close(r->fd);
fail_open:
	free(r);
	return err;
}

static const struct opt rng_opts[] = {
	{ .name = "source",
	  .type = OPT_PATH,
	  .offset = offsetof(struct rng_conf, source),
	  .help = "where random bytes come from (default /dev/urandom)" },
};

const struct device_class virtio_rng_class = {
	.name = "virtio-rng",
	.id = "rng",
	.key = "rng",
	.pci = true,
	.conf_size = sizeof(struct rng_conf),
	.opts = rng_opts,
	.nopts = ARRAY_SIZE(rng_opts),
	.create = rng_create,
	.reset = rng_reset,
	.quiesce = rng_quiesce,
	.resume = rng_resume,
	.moved = rng_moved,
	.info = virtio_pci_info,
	.stats = virtio_pci_stats,
	.destroy = rng_destroy,
};
