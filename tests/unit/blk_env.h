/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk_env.h - a machine with one virtio disk, for the unit tests of the disk: its real queues on a
 * real io thread, real images, and a driver. The transport is a stand-in; the operations on the
 * image pass a table that can fail, shorten, hold and record them, and die between two.
 * Included once by each test program: it includes the disk's files for their private structs.
 */
#ifndef UNVMM_TESTS_BLK_ENV_H
#define UNVMM_TESTS_BLK_ENV_H

#include "fake_transport.h"

#include "virtio_blk.c"
#include "virtio_blk_dev.c"

#include <fcntl.h>
#include <linux/falloc.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vq_driver.h"

#define RAM	  MiB(16)
#define IMAGE	  MiB(4)
#define SECTORS	  (IMAGE / BLK_SECTOR)
#define UNTOUCHED 0xee /* status byte before the device writes it */

/* --- operations that misbehave --------------------------------------------------------------- */

enum op_kind { OP_READ, OP_WRITE, OP_SYNC, OP_ALLOC, OP_KINDS };

static struct {
	int fail[OP_KINDS];	/* result of every operation of the kind, if not 0 */
	int fail_mode;		/* of OP_ALLOC: only those with this flag */
	unsigned int max_bytes; /* of a read or write, if not 0 */
	bool hold_sync;		/* syncs wait for release_sync() */
	bool die_after_sync;	/* the process ends when a sync has ended, before anybody is told */
	struct loop_op *held;
	sem_t holding;
	char log[64]; /* r w W(durable) s(started) S(ended) p(unch) z(ero range) */
} faults;

struct delayed {
	struct loop_work work; /* of an injected result */
	struct loop_op op;     /* around a real one */
	struct loop_op *orig;
	int res;
};

static inline void note(char c)
{
	size_t n = strlen(faults.log);

	if (n + 1 < sizeof(faults.log))
		faults.log[n] = c;
}

static inline void inject_work(struct loop_work *w)
{
	struct delayed *x = container_of(w, struct delayed, work);

	x->orig->done(x->orig, x->res, 0);
	free(x);
}

static inline bool inject(struct blk_backend *b, struct loop_op *op, enum op_kind kind)
{
	struct delayed *x;

	if (!faults.fail[kind])
		return false;
	x = calloc(1, sizeof(*x));
	x->work.fn = inject_work;
	x->orig = op;
	x->res = faults.fail[kind];
	loop_defer(b->loop, &x->work);
	return true;
}

static inline unsigned int shorten(const struct iovec *iov, unsigned int n, struct iovec *first)
{
	*first = iov[0];
	if (!faults.max_bytes)
		return n;
	if (first->iov_len > faults.max_bytes)
		first->iov_len = faults.max_bytes;
	return 1;
}

static inline int test_readv(struct blk_backend *b, struct loop_op *op, const struct iovec *iov,
			     unsigned int n, uint64_t offset)
{
	struct iovec first; /* of one buffer the queue takes a copy */
	unsigned int m = shorten(iov, n, &first);

	note('r');
	return inject(b, op, OP_READ)
		       ? 0
		       : blk_uring_ops.readv(b, op, m == 1 ? &first : iov, m, offset);
}

static inline int test_writev(struct blk_backend *b, struct loop_op *op, const struct iovec *iov,
			      unsigned int n, uint64_t offset, bool durable)
{
	struct iovec first; /* of one buffer the queue takes a copy */
	unsigned int m = shorten(iov, n, &first);

	note(durable ? 'W' : 'w');
	return inject(b, op, OP_WRITE)
		       ? 0
		       : blk_uring_ops.writev(b, op, m == 1 ? &first : iov, m, offset, durable);
}

static inline void sync_ended(struct loop_op *op, int res, uint32_t flags)
{
	struct delayed *x = container_of(op, struct delayed, op);
	struct loop_op *orig = x->orig;

	note('S');
	if (faults.die_after_sync)
		_exit(res == 0 ? 42 : 43);
	free(x);
	orig->done(orig, res, flags);
}

static inline int test_sync(struct blk_backend *b, struct loop_op *op)
{
	struct delayed *x;

	note('s');
	if (inject(b, op, OP_SYNC))
		return 0;
	if (faults.hold_sync) {
		faults.held = op;
		sem_post(&faults.holding);
		return 0;
	}
	x = calloc(1, sizeof(*x));
	x->op.done = sync_ended;
	x->orig = op;
	return blk_uring_ops.sync(b, &x->op);
}

static inline int test_fallocate(struct blk_backend *b, struct loop_op *op, int mode,
				 uint64_t offset, uint64_t len)
{
	note(mode & FALLOC_FL_PUNCH_HOLE ? 'p' : 'z');
	if ((!faults.fail_mode || mode & faults.fail_mode) && inject(b, op, OP_ALLOC))
		return 0;
	return blk_uring_ops.fallocate(b, op, mode, offset, len);
}

static inline void release_fn(struct loop_work *w)
{
	struct loop_op *op = faults.held;

	(void)w;
	op->done(op, 0, 0);
}

/* Ends the sync that is held, as if it had succeeded now. */
static inline void release_sync(struct loop *l)
{
	static struct loop_work w = { .fn = release_fn };

	faults.hold_sync = false;
	loop_call(l, &w);
}

static const struct blk_ops test_ops = {
	.readv = test_readv,
	.writev = test_writev,
	.sync = test_sync,
	.fallocate = test_fallocate,
};

/* --- a machine with one disk ----------------------------------------------------------------- */

struct env {
	struct vm vm;
	struct device dev;
	struct blk_conf conf;
	struct virtio_blk *blk;
	struct vq_driver d[2];
	char path[64];
	int fd; /* of the image, for the test's own eyes */
};

#define FLUSH  VIRTIO_BIT(VIRTIO_BLK_F_FLUSH)
#define RANGES (FLUSH | VIRTIO_BIT(VIRTIO_BLK_F_DISCARD) | VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES))

static inline void make_image(struct env *e, const char *dir)
{
	uint8_t block[4096];

	memset(e, 0, sizeof(*e));
	snprintf(e->path, sizeof(e->path), "%s/unvmm-blk-XXXXXX", dir);
	e->fd = mkstemp(e->path);
	assert_true(e->fd >= 0);
	for (unsigned int i = 0; i < IMAGE / sizeof(block); i++) {
		memset(block, (int)(i % 251) + 1, sizeof(block));
		assert_int_equal(pwrite(e->fd, block, sizeof(block), i * (off_t)sizeof(block)),
				 sizeof(block));
	}
	blk_init_conf(&e->conf);
	e->conf.path = e->path;
	snprintf(e->dev.id, sizeof(e->dev.id), "blk0");
}

static inline void start_driver(struct env *e, uint64_t features)
{
	struct vdev *v = &e->blk->vdev;

	v->negotiated = SOFTQ_FEATURES | features;
	for (unsigned int q = 0; q < v->nqueues; q++) {
		struct vq_driver *d = &e->d[q];

		vqd_init(d, &e->vm.mem, MiB(1) + q * MiB(6), MiB(5), v->queues[q].size,
			 v->negotiated);
		v->queues[q].desc = d->layout.desc;
		v->queues[q].driver = d->layout.avail;
		v->queues[q].device = d->layout.used;
		v->queues[q].index = 0;
		v->queues[q].enabled = true;
	}
	v->status = VIRTIO_CONFIG_S_DRIVER_OK;
	assert_int_equal(v->ops->start(v), 0);
}

static inline void clear_host(void)
{
	clear_transport();
	memset(&faults, 0, sizeof(faults));
	sem_init(&faults.holding, 0, 0);
}

/* Guest memory may be there already (shared with a parent process). */
static inline void start_disk(struct env *e, uint64_t features)
{
	struct diag d = { "" };

	clear_host();
	if (!e->vm.mem.base)
		assert_int_equal(gmem_create(&e->vm.mem, RAM, GMEM_SHARED, NULL), 0);
	if (virtio_blk_class.create(&e->vm, &e->dev, &e->conf, &d))
		fail_msg("%s", d.text);
	e->blk = e->dev.priv;
	e->blk->backend.ops = &test_ops;
	start_driver(e, features);
}

static inline void set_up(struct env *e, uint64_t features)
{
	make_image(e, "/tmp");
	start_disk(e, features);
}

static inline void stop_disk(struct env *e)
{
	virtio_blk_class.destroy(&e->dev);
	io_thread_stop(&e->vm.io);
	e->vm.io_started = false;
	gmem_destroy(&e->vm.mem);
}

static inline void tear_down(struct env *e)
{
	stop_disk(e);
	close(e->fd);
	unlink(e->path);
}

/* --- requests -------------------------------------------------------------------------------- */

struct posted {
	gpa_t hdr, status;
	uint16_t head;
};

static inline struct posted post(struct env *e, unsigned int q, uint32_t type, uint64_t sector,
				 gpa_t data, uint32_t len, bool to_guest)
{
	struct vq_driver *d = &e->d[q];
	struct virtio_blk_outhdr hdr = { .type = type, .sector = sector };
	struct posted p = { .hdr = vqd_alloc(d, sizeof(hdr), 16), .status = vqd_alloc(d, 32, 16) };
	const struct vqd_buf bufs[] = { { p.hdr, sizeof(hdr), false },
					{ data, len, to_guest },
					{ p.status, 1, true } };

	memcpy(vqd_at(d, p.hdr, sizeof(hdr)), &hdr, sizeof(hdr));
	*(uint8_t *)vqd_at(d, p.status, 1) = UNTOUCHED;
	if (len) {
		p.head = vqd_post(d, bufs, 3);
	} else {
		const struct vqd_buf two[] = { bufs[0], bufs[2] };

		p.head = vqd_post(d, two, 2);
	}
	return p;
}

static inline void kick(struct env *e, unsigned int q)
{
	if (vqd_show(&e->d[q]))
		e->blk->vdev.ops->kick(&e->blk->vdev, q);
}

static inline struct vring_used_elem wait_used(struct env *e, unsigned int q)
{
	struct vring_used_elem used = { 0 };

	for (;;) {
		vqd_want_interrupt(&e->d[q], true);
		if (vqd_take(&e->d[q], &used))
			return used;
		if (wait_for(&host.irq))
			fail_msg("the disk does not answer");
	}
}

static inline uint8_t status_of(struct env *e, unsigned int q, const struct posted *p)
{
	return *(uint8_t *)vqd_at(&e->d[q], p->status, 1);
}

/* One request from beginning to end: its status. */
static inline uint8_t request(struct env *e, uint32_t type, uint64_t sector, gpa_t data,
			      uint32_t len, bool to_guest)
{
	struct posted p = post(e, 0, type, sector, data, len, to_guest);

	kick(e, 0);
	wait_used(e, 0);
	return status_of(e, 0, &p);
}

static inline uint8_t range_request(struct env *e, uint32_t type, uint64_t sector, uint32_t sectors,
				    uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes seg = { sector, sectors, flags };
	gpa_t gpa = vqd_alloc(&e->d[0], sizeof(seg), 16);

	memcpy(vqd_at(&e->d[0], gpa, sizeof(seg)), &seg, sizeof(seg));
	return request(e, type, 0, gpa, sizeof(seg), false);
}

static inline uint8_t image_byte(struct env *e, off_t off)
{
	uint8_t b = 0;

	assert_int_equal(pread(e->fd, &b, 1, off), 1);
	return b;
}

static inline bool image_is(struct env *e, off_t off, size_t len, int value)
{
	uint8_t *buf = malloc(len);
	bool same = pread(e->fd, buf, len, off) == (ssize_t)len;

	for (size_t i = 0; same && i < len; i++)
		same = buf[i] == value;
	free(buf);
	return same;
}

#endif
