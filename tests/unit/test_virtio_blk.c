/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_blk.c - the virtio disk with its real queues on a real io thread and real images,
 * driven by a driver in this file. The transport is a stand-in; the operations on the image pass a
 * table that can fail, shorten, hold and record them, and die between two.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "virtio_blk.c" /* the private struct is wanted */

#include <fcntl.h>
#include <linux/falloc.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vq_driver.h"

#define RAM	  MiB(16)
#define IMAGE	  MiB(4)
#define SECTORS	  (IMAGE / BLK_SECTOR)
#define WAIT_S	  5
#define UNTOUCHED 0xee /* status byte before the device writes it */

/* --- a transport ----------------------------------------------------------------------------- */

static struct {
	sem_t irq, stopped, broken;
	int irqs;
	char why[128];
} host;

int virtio_pci_create(struct vdev *v, struct diag *d)
{
	(void)d;
	for (unsigned int q = 0; q < v->nqueues; q++)
		v->queues[q].size = v->queues[q].size_max;
	return 0;
}

void virtio_pci_destroy(struct vdev *v)
{
	(void)v;
}

void virtio_pci_state(struct vdev *v, struct state_ref *refs)
{
	(void)v;
	memset(refs, 0, VIRTIO_PCI_STATES * sizeof(*refs));
}

static int wait_for(sem_t *s)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_S;
	return sem_timedwait(s, &until);
}

int virtio_pci_quiesce(struct vdev *v)
{
	v->ops->stop(v);
	return wait_for(&host.stopped) ? -ETIMEDOUT : 0;
}

int virtio_pci_reset(struct vdev *v)
{
	int err = virtio_pci_quiesce(v);

	v->status = 0;
	for (unsigned int q = 0; !err && q < v->nqueues; q++)
		v->queues[q].index = 0;
	return err;
}

void virtio_pci_resume(struct vdev *v)
{
	assert_int_equal(v->ops->start(v), 0);
}

void vdev_needs_reset(struct vdev *v, const char *why)
{
	(void)v;
	snprintf(host.why, sizeof(host.why), "%s", why);
	sem_post(&host.broken);
}

void vdev_stopped(struct vdev *v)
{
	(void)v;
	sem_post(&host.stopped);
}

void vdev_interrupt(struct vdev *v, unsigned int q)
{
	(void)v;
	(void)q;
	__atomic_fetch_add(&host.irqs, 1, __ATOMIC_RELAXED);
	sem_post(&host.irq);
}

/* --- operations that misbehave --------------------------------------------------------------- */

enum op_kind { OP_READ, OP_WRITE, OP_SYNC, OP_ALLOC, OP_KINDS };

static struct {
	int fail[OP_KINDS];	 /* result of every operation of the kind, if not 0 */
	int fail_mode;		 /* of OP_ALLOC: only those with this flag */
	unsigned int max_bytes;	 /* of a read or write, if not 0 */
	bool hold_sync;		 /* syncs wait for release_sync() */
	bool die_after_sync;	 /* the process ends when a sync has ended, before anybody is told */
	struct loop_op *held;
	sem_t holding;
	char log[64];		 /* r w W(durable) s(started) S(ended) p(unch) z(ero range) */
} faults;

struct delayed {
	struct loop_work work; /* of an injected result */
	struct loop_op op;     /* around a real one */
	struct loop_op *orig;
	int res;
};

static void note(char c)
{
	size_t n = strlen(faults.log);

	if (n + 1 < sizeof(faults.log))
		faults.log[n] = c;
}

static void inject_work(struct loop_work *w)
{
	struct delayed *x = container_of(w, struct delayed, work);

	x->orig->done(x->orig, x->res, 0);
	free(x);
}

static bool inject(struct blk_backend *b, struct loop_op *op, enum op_kind kind)
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

static unsigned int shorten(const struct iovec *iov, unsigned int n, struct iovec *first)
{
	*first = iov[0];
	if (!faults.max_bytes)
		return n;
	if (first->iov_len > faults.max_bytes)
		first->iov_len = faults.max_bytes;
	return 1;
}

static int test_readv(struct blk_backend *b, struct loop_op *op, const struct iovec *iov,
		      unsigned int n, uint64_t offset)
{
	struct iovec first; /* of one buffer the queue takes a copy */
	unsigned int m = shorten(iov, n, &first);

	note('r');
	return inject(b, op, OP_READ) ? 0 :
	       blk_uring_ops.readv(b, op, m == 1 ? &first : iov, m, offset);
}

static int test_writev(struct blk_backend *b, struct loop_op *op, const struct iovec *iov,
		       unsigned int n, uint64_t offset, bool durable)
{
	struct iovec first; /* of one buffer the queue takes a copy */
	unsigned int m = shorten(iov, n, &first);

	note(durable ? 'W' : 'w');
	return inject(b, op, OP_WRITE) ? 0 :
	       blk_uring_ops.writev(b, op, m == 1 ? &first : iov, m, offset, durable);
}

static void sync_ended(struct loop_op *op, int res, uint32_t flags)
{
	struct delayed *x = container_of(op, struct delayed, op);
	struct loop_op *orig = x->orig;

	note('S');
	if (faults.die_after_sync)
		_exit(res == 0 ? 42 : 43);
	free(x);
	orig->done(orig, res, flags);
}

static int test_sync(struct blk_backend *b, struct loop_op *op)
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

static int test_fallocate(struct blk_backend *b, struct loop_op *op, int mode, uint64_t offset,
			  uint64_t len)
{
	note(mode & FALLOC_FL_PUNCH_HOLE ? 'p' : 'z');
	if ((!faults.fail_mode || mode & faults.fail_mode) && inject(b, op, OP_ALLOC))
		return 0;
	return blk_uring_ops.fallocate(b, op, mode, offset, len);
}

static void release_fn(struct loop_work *w)
{
	struct loop_op *op = faults.held;

	(void)w;
	op->done(op, 0, 0);
}

/* Ends the sync that is held, as if it had succeeded now. */
static void release_sync(struct loop *l)
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

#define FLUSH (1ull << VIRTIO_BLK_F_FLUSH)

static void make_image(struct env *e, const char *dir)
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

static void start_driver(struct env *e, uint64_t features)
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

static void clear_host(void)
{
	memset(&host, 0, sizeof(host));
	memset(&faults, 0, sizeof(faults));
	sem_init(&host.irq, 0, 0);
	sem_init(&host.stopped, 0, 0);
	sem_init(&host.broken, 0, 0);
	sem_init(&faults.holding, 0, 0);
}

/* Guest memory may be there already (shared with a parent process). */
static void start_disk(struct env *e, uint64_t features)
{
	struct diag d = { "" };

	clear_host();
	if (!e->vm.mem.base)
		assert_int_equal(gmem_create(&e->vm.mem, RAM, false, NULL), 0);
	if (virtio_blk_class.create(&e->vm, &e->dev, &e->conf, &d))
		fail_msg("%s", d.text);
	e->blk = e->dev.priv;
	e->blk->backend.ops = &test_ops;
	start_driver(e, features);
}

static void set_up(struct env *e, uint64_t features)
{
	make_image(e, "/tmp");
	start_disk(e, features);
}

static void stop_disk(struct env *e)
{
	virtio_blk_class.destroy(&e->dev);
	io_thread_stop(&e->vm.io);
	e->vm.io_started = false;
	gmem_destroy(&e->vm.mem);
}

static void tear_down(struct env *e)
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

static struct posted post(struct env *e, unsigned int q, uint32_t type, uint64_t sector,
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

static void kick(struct env *e, unsigned int q)
{
	if (vqd_show(&e->d[q]))
		e->blk->vdev.ops->kick(&e->blk->vdev, q);
}

static struct vring_used_elem wait_used(struct env *e, unsigned int q)
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

static uint8_t status_of(struct env *e, unsigned int q, const struct posted *p)
{
	return *(uint8_t *)vqd_at(&e->d[q], p->status, 1);
}

/* One request from beginning to end: its status. */
static uint8_t request(struct env *e, uint32_t type, uint64_t sector, gpa_t data, uint32_t len,
		       bool to_guest)
{
	struct posted p = post(e, 0, type, sector, data, len, to_guest);

	kick(e, 0);
	wait_used(e, 0);
	return status_of(e, 0, &p);
}

static uint8_t range_request(struct env *e, uint32_t type, uint64_t sector, uint32_t sectors,
			     uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes seg = { sector, sectors, flags };
	gpa_t gpa = vqd_alloc(&e->d[0], sizeof(seg), 16);

	memcpy(vqd_at(&e->d[0], gpa, sizeof(seg)), &seg, sizeof(seg));
	return request(e, type, 0, gpa, sizeof(seg), false);
}

static uint8_t image_byte(struct env *e, off_t off)
{
	uint8_t b = 0;

	assert_int_equal(pread(e->fd, &b, 1, off), 1);
	return b;
}

static bool image_is(struct env *e, off_t off, size_t len, int value)
{
	uint8_t *buf = malloc(len);
	bool same = pread(e->fd, buf, len, off) == (ssize_t)len;

	for (size_t i = 0; same && i < len; i++)
		same = buf[i] == value;
	free(buf);
	return same;
}

/* --- tests: requests ------------------------------------------------------------------------- */

static void reads_and_writes(void **state)
{
	struct env e;
	gpa_t a, b;
	uint8_t *p;

	(void)state;
	set_up(&e, FLUSH);
	a = vqd_alloc(&e.d[0], 8192, 1); /* no alignment in memory is asked for */
	b = vqd_alloc(&e.d[0], 8192, 1);
	p = vqd_at(&e.d[0], b, 8192);
	memset(vqd_at(&e.d[0], a, 8192), 0xa5, 8192);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 9, a, 8192, false), VIRTIO_BLK_S_OK);
	assert_true(image_is(&e, 9 * 512, 8192, 0xa5));
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 8, b, 8192, true), VIRTIO_BLK_S_OK);
	assert_int_equal(p[0], 2);
	assert_int_equal(p[511], 2);
	assert_int_equal(p[512], 0xa5);
	assert_int_equal(p[8191], 0xa5);
	/* The last sector, and one too many. */
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, SECTORS - 1, b, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(p[0], (IMAGE / 4096 - 1) % 251 + 1);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, SECTORS - 1, b, 1024, true),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, SECTORS, a, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, UINT64_MAX - 1, b, 2048, true),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 1ull << 55, b, 512, true),
			 VIRTIO_BLK_S_IOERR); /* its byte offset wraps to 0 */
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 0, b, 700, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 0, 0, 0, true), VIRTIO_BLK_S_OK);
	tear_down(&e);
}

/* Header and status in any pieces, joined with data or not (section 2.7.4). */
static void any_framing(void **state)
{
	struct virtio_blk_outhdr hdr = { .type = VIRTIO_BLK_T_OUT, .sector = 3 };
	struct vring_used_elem used;
	struct vqd_buf bufs[24];
	struct env e;
	struct vq_driver *d = &e.d[0];
	gpa_t joined, in;
	unsigned int n = 0;

	(void)state;
	set_up(&e, FLUSH);
	/* One readable buffer with header and data, one writable with data and status. */
	joined = vqd_alloc(d, 16 + 512, 1);
	in = vqd_alloc(d, 513, 1);
	memcpy(vqd_at(d, joined, 16), &hdr, 16);
	memset(vqd_at(d, joined + 16, 512), 0x77, 512);
	bufs[0] = (struct vqd_buf){ joined, 528, false };
	bufs[1] = (struct vqd_buf){ in, 1, true };
	vqd_post(d, bufs, 2);
	kick(&e, 0);
	wait_used(&e, 0);
	assert_int_equal(*(uint8_t *)vqd_at(d, in, 1), VIRTIO_BLK_S_OK);
	assert_true(image_is(&e, 3 * 512, 512, 0x77));

	/* A header of 16 one-byte buffers that are not adjacent, data in three, indirect. */
	hdr.type = VIRTIO_BLK_T_IN;
	memset(vqd_at(d, in, 513), UNTOUCHED, 513);
	for (n = 0; n < 16; n++) {
		gpa_t at = vqd_alloc(d, 2, 1);

		*(uint8_t *)vqd_at(d, at, 1) = ((uint8_t *)&hdr)[n];
		bufs[n] = (struct vqd_buf){ at, 1, false };
	}
	bufs[n++] = (struct vqd_buf){ in + 200, 312, true };
	bufs[n++] = (struct vqd_buf){ in, 150, true };
	bufs[n++] = (struct vqd_buf){ in + 150, 50, true };
	bufs[n++] = (struct vqd_buf){ in + 512, 1, true };
	vqd_post_indirect(d, bufs, n);
	kick(&e, 0);
	used = wait_used(&e, 0);
	assert_int_equal(used.len, 513);
	assert_int_equal(*(uint8_t *)vqd_at(d, in + 512, 1), VIRTIO_BLK_S_OK);
	for (unsigned int i = 0; i < 512; i++)
		assert_int_equal(((uint8_t *)vqd_at(d, in, 512))[i], 0x77);
	tear_down(&e);
}

static void identity_and_unknown_requests(void **state)
{
	struct env e;
	gpa_t id;

	(void)state;
	make_image(&e, "/tmp");
	e.conf.serial = (char[]){ "exactly-20-bytes-aaa" };
	start_disk(&e, FLUSH);
	id = vqd_alloc(&e.d[0], 32, 1);
	memset(vqd_at(&e.d[0], id, 32), 1, 32);
	assert_int_equal(request(&e, VIRTIO_BLK_T_GET_ID, 0, id, 20, true), VIRTIO_BLK_S_OK);
	assert_memory_equal(vqd_at(&e.d[0], id, 20), "exactly-20-bytes-aaa", 20);
	assert_int_equal(request(&e, 77, 0, id, 20, true), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(&e, 77, 0, 0, 0, true), VIRTIO_BLK_S_UNSUPP);
	/* Not negotiated here. */
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0),
			 VIRTIO_BLK_S_UNSUPP);
	tear_down(&e);
}

static void read_only(void **state)
{
	struct env e;
	gpa_t a;

	(void)state;
	make_image(&e, "/tmp");
	e.conf.readonly = true;
	start_disk(&e, FLUSH | VIRTIO_BIT(VIRTIO_BLK_F_DISCARD));
	assert_true(e.blk->vdev.offered & VIRTIO_BIT(VIRTIO_BLK_F_RO));
	assert_false(e.blk->vdev.offered & VIRTIO_BIT(VIRTIO_BLK_F_DISCARD));
	a = vqd_alloc(&e.d[0], 512, 1);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 0, a, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 0, a, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_FLUSH, 0, 0, 0, true), VIRTIO_BLK_S_OK);
	assert_string_equal(faults.log, "r");
	tear_down(&e);
}

#define RANGES (FLUSH | VIRTIO_BIT(VIRTIO_BLK_F_DISCARD) | VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES))

static void discard_and_zeroes(void **state)
{
	struct stat before, after;
	struct env e;

	(void)state;
	set_up(&e, RANGES);
	assert_int_equal(fsync(e.fd), 0);
	assert_int_equal(fstat(e.fd, &before), 0);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, 2048, 2048, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(fstat(e.fd, &after), 0);
	assert_true(after.st_blocks <= before.st_blocks - 2000);
	assert_true(image_is(&e, 2048 * 512, 2048 * 512, 0));
	assert_int_equal(image_byte(&e, 2048 * 512 - 1), 1024 * 1024 / 4096 - 1 - 251 + 1);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 1, 9, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(image_byte(&e, 511), 1);
	assert_true(image_is(&e, 512, 9 * 512, 0));
	assert_int_equal(image_byte(&e, 10 * 512), 2);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 64, 64, 1), VIRTIO_BLK_S_OK);
	assert_true(image_is(&e, 64 * 512, 64 * 512, 0));
	/* tmpfs cannot zero a range: written then. */
	if (strcmp(faults.log, "pzwp") != 0)
		assert_string_equal(faults.log, "pzp");
	memset(faults.log, 0, sizeof(faults.log));
	/* Out of range, unknown flags, more than offered, not one segment. */
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, SECTORS - 1, 2, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, 0, 2, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 0, 2, 2),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT32_MAX, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_DISCARD, 0, vqd_alloc(&e.d[0], 32, 1), 32, false),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_string_equal(faults.log, "");
	tear_down(&e);
}

/* Where the file system can neither punch nor zero: hints succeed, zeroes are written. */
static void zeroes_without_help(void **state)
{
	struct env e;

	(void)state;
	set_up(&e, RANGES);
	faults.fail[OP_ALLOC] = -EOPNOTSUPP;
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 1, 4095, 1), VIRTIO_BLK_S_OK);
	assert_string_equal(faults.log, "pzww"); /* 2 MiB less a sector, in pieces of 1 MiB */
	assert_int_equal(image_byte(&e, 511), 1);
	assert_true(image_is(&e, 512, 4095 * 512, 0));
	assert_int_equal(image_byte(&e, 4096 * 512), 512 - 2 * 251 + 1);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, 4096, 8, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 4096, 8, 1), VIRTIO_BLK_S_OK);
	assert_string_equal(faults.log, "pzwww"); /* learnt: not tried again */
	assert_true(image_is(&e, 4096 * 512, 4096, 0));
	tear_down(&e);
}

/* --- tests: durability ----------------------------------------------------------------------- */

static void flush_waits_for_sync(void **state)
{
	struct env e;
	struct posted p;
	struct vring_used_elem used;

	(void)state;
	set_up(&e, FLUSH);
	faults.hold_sync = true;
	p = post(&e, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0, true);
	kick(&e, 0);
	assert_int_equal(wait_for(&faults.holding), 0);
	usleep(20000);
	assert_false(vqd_take(&e.d[0], &used)); /* the guest is not told before */
	assert_int_equal(status_of(&e, 0, &p), UNTOUCHED);
	release_sync(&e.vm.io.loop);
	wait_used(&e, 0);
	assert_int_equal(status_of(&e, 0, &p), VIRTIO_BLK_S_OK);
	tear_down(&e);
}

static void write_through_without_flush(void **state)
{
	struct env e;
	gpa_t a;

	(void)state;
	set_up(&e, RANGES & ~FLUSH);
	a = vqd_alloc(&e.d[0], 512, 1);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 0, a, 512, false), VIRTIO_BLK_S_OK);
	assert_string_equal(faults.log, "W");
	/* Freed space is made durable by a sync of its own; written zeroes are, as other writes. */
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_OK);
	assert_string_equal(faults.log, "WpsS");
	faults.fail[OP_ALLOC] = -EOPNOTSUPP;
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_OK);
	assert_string_equal(faults.log, "WpsSzW");
	tear_down(&e);
	set_up(&e, FLUSH);
	a = vqd_alloc(&e.d[0], 512, 1);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 0, a, 512, false), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&e, VIRTIO_BLK_T_FLUSH, 0, 0, 0, true), VIRTIO_BLK_S_OK);
	assert_string_equal(faults.log, "wsS");
	tear_down(&e);
}

/* In a process of its own: a write, then a flush, in which the process may die. */
static void write_and_flush(struct env *e, bool die)
{
	gpa_t a;

	start_disk(e, FLUSH);
	faults.die_after_sync = die;
	a = vqd_alloc(&e->d[0], 512, 512);
	memset(vqd_at(&e->d[0], a, 512), 0x5a, 512);
	request(e, VIRTIO_BLK_T_OUT, 5, a, 512, false);
	request(e, VIRTIO_BLK_T_FLUSH, 0, 0, 0, true);
	_exit(0);
}

static uint16_t flush_in_child(struct env *e, bool die, int exit_status)
{
	struct vq_driver look;
	int status = -1;
	pid_t pid;

	make_image(e, "/tmp");
	assert_int_equal(gmem_create(&e->vm.mem, RAM, false, NULL), 0);
	pid = fork();
	if (pid == 0)
		write_and_flush(e, die);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), exit_status);
	/* Guest memory is shared, so what the guest saw last can be seen after the death. */
	look.mem = &e->vm.mem;
	return ((struct vring_used *)vqd_at(&look, MiB(1) + 256 * 16 + 6 + 256 * 2 + 2, 4))->idx;
}

/*
 * Killed between the end of fdatasync and the guest's completion: the data is there and the guest
 * has not been told. So a guest that was told has its data on the disk.
 */
static void killed_between_sync_and_completion(void **state)
{
	struct env e;

	(void)state;
	assert_int_equal(flush_in_child(&e, true, 42), 1);
	assert_true(image_is(&e, 5 * 512, 512, 0x5a));
	gmem_destroy(&e.vm.mem);
	close(e.fd);
	unlink(e.path);
	/* The same without dying: the place where the index is looked for is right. */
	assert_int_equal(flush_in_child(&e, false, 0), 2);
	gmem_destroy(&e.vm.mem);
	close(e.fd);
	unlink(e.path);
}

/* --- tests: the host fails ------------------------------------------------------------------- */

static void host_errors_become_io_errors(void **state)
{
	struct env e;
	gpa_t a;

	(void)state;
	set_up(&e, RANGES);
	a = vqd_alloc(&e.d[0], 4096, 1);
	faults.fail[OP_READ] = -EIO;
	faults.fail[OP_WRITE] = -ENOSPC;
	faults.fail[OP_SYNC] = -EIO;
	faults.fail[OP_ALLOC] = -EIO;
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 0, a, 512, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 0, a, 512, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_FLUSH, 0, 0, 0, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	memset(faults.fail, 0, sizeof(faults.fail));
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 0, a, 512, true), VIRTIO_BLK_S_OK);
	tear_down(&e);
}

static void truncated_image(void **state)
{
	struct env e;
	gpa_t a;

	(void)state;
	set_up(&e, FLUSH);
	a = vqd_alloc(&e.d[0], 4096, 1);
	assert_int_equal(ftruncate(e.fd, 8192 + 100), 0);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 8, a, 4096, true), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 16, a, 512, true), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 1024, a, 4096, true), VIRTIO_BLK_S_IOERR);
	tear_down(&e);
}

static void short_transfers_go_on(void **state)
{
	struct env e;
	gpa_t a, b;

	(void)state;
	set_up(&e, RANGES);
	a = vqd_alloc(&e.d[0], 4096, 1);
	b = vqd_alloc(&e.d[0], 4096, 1);
	faults.max_bytes = 1000;
	memset(vqd_at(&e.d[0], a, 4096), 0x42, 4096);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 7, a, 4096, false), VIRTIO_BLK_S_OK);
	assert_true(image_is(&e, 7 * 512, 4096, 0x42));
	assert_int_equal(image_byte(&e, 7 * 512 + 4096), 2);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 7, b, 4096, true), VIRTIO_BLK_S_OK);
	assert_memory_equal(vqd_at(&e.d[0], a, 4096), vqd_at(&e.d[0], b, 4096), 4096);
	assert_string_equal(faults.log, "wwwwwrrrrr");
	faults.fail[OP_ALLOC] = -EOPNOTSUPP;
	assert_int_equal(range_request(&e, VIRTIO_BLK_T_WRITE_ZEROES, 16, 5, 0), VIRTIO_BLK_S_OK);
	assert_true(image_is(&e, 16 * 512, 5 * 512, 0));
	tear_down(&e);
}

/* --- tests: a driver that breaks the rules ---------------------------------------------------- */

static void expect_broken(struct env *e, const char *why)
{
	gpa_t a = vqd_alloc(&e->d[0], 512, 1);

	kick(e, 0);
	assert_int_equal(wait_for(&host.broken), 0);
	assert_string_equal(host.why, why);
	/* The queue is dead until the reset, and only this device is. */
	post(e, 0, VIRTIO_BLK_T_IN, 0, a, 512, true);
	vqd_show(&e->d[0]);
	e->blk->vdev.ops->kick(&e->blk->vdev, 0);
	usleep(5000);
	assert_int_equal(e->d[0].used->idx, 0);
	assert_int_equal(virtio_pci_reset(&e->blk->vdev), 0);
	start_driver(e, FLUSH);
	a = vqd_alloc(&e->d[0], 512, 1);
	assert_int_equal(request(e, VIRTIO_BLK_T_IN, 0, a, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(virtio_pci_reset(&e->blk->vdev), 0);
	start_driver(e, FLUSH);
}

static void broken_rings_need_a_reset(void **state)
{
	const struct vqd_buf no_status = { 0x4000, 16, false }, no_header = { 0x4000, 16, true };
	const struct vqd_buf short_header[] = { { 0x4000, 15, false }, { 0x5000, 1, true } };
	struct env e;

	(void)state;
	set_up(&e, FLUSH);
	vqd_post(&e.d[0], &no_status, 1);
	expect_broken(&e, "request without a status byte");
	vqd_post(&e.d[0], &no_header, 1);
	expect_broken(&e, "request without a whole header");
	vqd_post(&e.d[0], short_header, 2);
	expect_broken(&e, "request without a whole header");
	vqd_post_head(&e.d[0], 9999);
	expect_broken(&e, "descriptor index beyond the table");
	tear_down(&e);
}

/* --- tests: queues --------------------------------------------------------------------------- */

static void a_full_queue_at_once(void **state)
{
	struct env e;
	gpa_t a[64];

	(void)state;
	set_up(&e, FLUSH);
	for (unsigned int i = 0; i < 64; i++) {
		a[i] = vqd_alloc(&e.d[0], 4096, 1);
		post(&e, 0, VIRTIO_BLK_T_IN, i * 8, a[i], 4096, true);
	}
	kick(&e, 0);
	for (unsigned int i = 0; i < 64; i++)
		wait_used(&e, 0);
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(*(uint8_t *)vqd_at(&e.d[0], a[i], 4096), i + 1);
	assert_true(host.irqs <= 8); /* completions of a turn share an interrupt */
	tear_down(&e);
}

static void more_segments_than_inline(void **state)
{
	struct virtio_blk_outhdr hdr = { .type = VIRTIO_BLK_T_IN };
	struct vqd_buf bufs[256];
	struct env e;
	struct vq_driver *d = &e.d[0];
	unsigned int n = 0;

	(void)state;
	set_up(&e, FLUSH);
	bufs[n++] = (struct vqd_buf){ vqd_alloc(d, 16, 16), 16, false };
	memcpy(vqd_at(d, bufs[0].gpa, 16), &hdr, 16);
	for (; n < 255; n++)
		bufs[n] = (struct vqd_buf){ vqd_alloc(d, 1024, 1), 512, true };
	bufs[n++] = (struct vqd_buf){ vqd_alloc(d, 1, 1), 1, true };
	for (int i = 0; i < 3; i++) {
		vqd_post_indirect(d, bufs, n);
		kick(&e, 0);
		wait_used(&e, 0);
		assert_int_equal(*(uint8_t *)vqd_at(d, bufs[255].gpa, 1), VIRTIO_BLK_S_OK);
	}
	assert_int_equal(*(uint8_t *)vqd_at(d, bufs[254].gpa, 1), 253 / 8 + 1);
	tear_down(&e);
}

static void two_queues(void **state)
{
	struct env e;
	struct posted p;
	gpa_t a;

	(void)state;
	make_image(&e, "/tmp");
	e.conf.queues = 2;
	e.conf.queue_size = 16;
	start_disk(&e, FLUSH);
	assert_true(e.blk->vdev.offered & VIRTIO_BIT(VIRTIO_BLK_F_MQ));
	assert_int_equal(e.blk->config.num_queues, 2);
	assert_int_equal(e.blk->config.seg_max, 14);
	for (unsigned int q = 0; q < 2; q++) {
		a = vqd_alloc(&e.d[q], 512, 1);
		p = post(&e, q, VIRTIO_BLK_T_IN, 8 * q, a, 512, true);
		kick(&e, q);
		wait_used(&e, q);
		assert_int_equal(status_of(&e, q, &p), VIRTIO_BLK_S_OK);
		assert_int_equal(*(uint8_t *)vqd_at(&e.d[q], a, 1), q + 1);
	}
	tear_down(&e);
}

/* A stop with a request under way is acknowledged when the request has come back. */
static void stop_drains(void **state)
{
	struct vdev *v;
	struct env e;
	struct posted p;

	(void)state;
	set_up(&e, FLUSH);
	v = &e.blk->vdev;
	faults.hold_sync = true;
	p = post(&e, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0, true);
	kick(&e, 0);
	assert_int_equal(wait_for(&faults.holding), 0);
	v->ops->stop(v);
	usleep(20000);
	assert_int_equal(sem_trywait(&host.stopped), -1);
	/* Not popped any more. */
	post(&e, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0, true);
	vqd_show(&e.d[0]);
	v->ops->kick(v, 0);
	usleep(20000);
	release_sync(&e.vm.io.loop);
	assert_int_equal(wait_for(&host.stopped), 0);
	assert_int_equal(status_of(&e, 0, &p), VIRTIO_BLK_S_OK);
	assert_int_equal(v->queues[0].index, 1);
	assert_int_equal(e.d[0].used->idx, 1);
	/* Started again at its place, it finds the second one. */
	virtio_pci_resume(v);
	wait_used(&e, 0);
	wait_used(&e, 0);
	assert_int_equal(e.d[0].used->idx, 2);
	tear_down(&e);
}

static void quiesce_and_resume_keep_the_place(void **state)
{
	struct env e;
	gpa_t a;

	(void)state;
	set_up(&e, FLUSH);
	a = vqd_alloc(&e.d[0], 512, 1);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 0, a, 512, true), VIRTIO_BLK_S_OK);
		assert_int_equal(virtio_blk_class.quiesce(&e.dev), 0);
		assert_int_equal(e.blk->vdev.queues[0].index, i + 1);
		virtio_blk_class.resume(&e.dev);
	}
	tear_down(&e);
}

static void rings_outside_ram_do_not_start(void **state)
{
	struct env e;
	struct vdev *v;

	(void)state;
	set_up(&e, FLUSH);
	v = &e.blk->vdev;
	assert_int_equal(virtio_pci_reset(v), 0);
	v->queues[0].device = RAM;
	assert_int_equal(v->ops->start(v), -EFAULT);
	v->ops->stop(v); /* answered at once */
	assert_int_equal(sem_trywait(&host.stopped), 0);
	tear_down(&e);
}

/* --- tests: O_DIRECT ------------------------------------------------------------------------- */

/* tmpfs, which /tmp may be, has no O_DIRECT on some kernels. */
static bool make_direct_image(struct env *e)
{
	static const char *const dirs[] = { "/tmp", "/var/tmp", "." };
	struct blk_backend probe;
	struct diag d;

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		d.text[0] = 0;
		make_image(e, dirs[i]);
		e->conf.direct = true;
		if (!blk_open(&probe, e->path, false, true, NULL, &d)) {
			blk_close(&probe);
			return true;
		}
		assert_non_null(strstr(d.text, "no direct I/O"));
		close(e->fd);
		unlink(e->path);
	}
	return false;
}

static void direct_bounces_misaligned_buffers(void **state)
{
	struct virtio_blk_outhdr hdr = { .type = VIRTIO_BLK_T_IN, .sector = 8 };
	struct vqd_buf bufs[4];
	struct env e;
	struct vq_driver *d = &e.d[0];
	gpa_t odd, back;

	(void)state;
	if (!make_direct_image(&e))
		skip();
	start_disk(&e, FLUSH);
	odd = vqd_alloc(d, MiB(1), 4096) + 1;
	back = vqd_alloc(d, MiB(1), 4096) + 3;
	for (unsigned int i = 0; i < 600 * 1024; i++)
		*(uint8_t *)vqd_at(d, odd + i, 1) = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 8, odd, 600 * 1024, false), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 8, back, 600 * 1024, true), VIRTIO_BLK_S_OK);
	assert_memory_equal(vqd_at(d, odd, 600 * 1024), vqd_at(d, back, 600 * 1024), 600 * 1024);
	/* Short transfers inside the bounce buffer (whole blocks, as devices do). */
	faults.max_bytes = 8192;
	memset(vqd_at(d, back, 65536), 0, 65536);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 8, odd, 65536, false), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 8, back, 65536, true), VIRTIO_BLK_S_OK);
	assert_memory_equal(vqd_at(d, odd, 65536), vqd_at(d, back, 65536), 65536);
	faults.max_bytes = 0;
	/* An aligned address, but pieces that are no whole blocks. */
	bufs[0] = (struct vqd_buf){ vqd_alloc(d, 16, 16), 16, false };
	memcpy(vqd_at(d, bufs[0].gpa, 16), &hdr, 16);
	bufs[1] = (struct vqd_buf){ vqd_alloc(d, 4096, 4096), 100, true };
	bufs[2] = (struct vqd_buf){ vqd_alloc(d, 4096, 4096), 412, true };
	bufs[3] = (struct vqd_buf){ vqd_alloc(d, 1, 16), 1, true };
	vqd_post(d, bufs, 4);
	kick(&e, 0);
	wait_used(&e, 0);
	assert_int_equal(*(uint8_t *)vqd_at(d, bufs[3].gpa, 1), VIRTIO_BLK_S_OK);
	assert_memory_equal(vqd_at(d, bufs[1].gpa, 100), vqd_at(d, odd, 100), 100);
	assert_memory_equal(vqd_at(d, bufs[2].gpa, 412), vqd_at(d, odd + 100, 412), 412);
	tear_down(&e);
}

/* Blocks of 4 KiB: reads of sectors work, writes of a part of a block are refused. */
static void direct_with_large_blocks(void **state)
{
	struct env e;
	gpa_t a;

	(void)state;
	make_image(&e, "/tmp");
	start_disk(&e, FLUSH);
	e.blk->backend.direct = true; /* the file itself does not mind */
	e.blk->backend.block_size = 4096;
	e.blk->backend.memory_align = 512;
	a = vqd_alloc(&e.d[0], 8192, 4096);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 15, a, 1024, true), VIRTIO_BLK_S_OK);
	assert_int_equal(*(uint8_t *)vqd_at(&e.d[0], a + 511, 1), 2);
	assert_int_equal(*(uint8_t *)vqd_at(&e.d[0], a + 512, 1), 3);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 15, a, 1024, false), VIRTIO_BLK_S_IOERR);
	assert_int_equal(image_byte(&e, 15 * 512), 2);
	assert_int_equal(request(&e, VIRTIO_BLK_T_OUT, 16, a, 8192, false), VIRTIO_BLK_S_OK);
	tear_down(&e);
}

/* --- tests: opening -------------------------------------------------------------------------- */

static void refused(const char *path, bool readonly, const char *says)
{
	struct diag d = { "" };
	struct blk_backend b;

	assert_int_not_equal(blk_open(&b, path, readonly, false, NULL, &d), 0);
	if (!strstr(d.text, says))
		fail_msg("\"%s\" does not say \"%s\"", d.text, says);
}

static void unfit_images_are_refused(void **state)
{
	struct blk_backend b, b2;
	struct env e;

	(void)state;
	make_image(&e, "/tmp");
	refused("/tmp/there/is/no/such.img", false, "No such file");
	refused("/tmp", true, "neither a regular file nor a block device");
	refused("/dev/null", false, "neither a regular file nor a block device");
	/* One writer, or many readers. */
	assert_int_equal(blk_open(&b, e.path, false, false, NULL, NULL), 0);
	refused(e.path, false, "in use by another process");
	refused(e.path, true, "in use by another process");
	blk_close(&b);
	assert_int_equal(blk_open(&b, e.path, true, false, NULL, NULL), 0);
	assert_int_equal(blk_open(&b2, e.path, true, false, NULL, NULL), 0);
	refused(e.path, false, "in use by another process");
	blk_close(&b);
	blk_close(&b2);
	assert_int_equal(ftruncate(e.fd, 1000), 0);
	refused(e.path, false, "not a multiple of 512");
	assert_int_equal(ftruncate(e.fd, 0), 0);
	refused(e.path, false, "is empty");
	unlink(e.path);
	assert_int_equal(mkfifo(e.path, 0600), 0);
	refused(e.path, true, "neither a regular file nor a block device");
	unlink(e.path);
	close(e.fd);
}

static void configuration_is_checked(void **state)
{
	struct blk_conf conf = { .queue_size = 100 };
	struct diag d = { "" };

	(void)state;
	assert_int_equal(check_queue_size(&conf, &d), -EINVAL);
	assert_non_null(strstr(d.text, "power of two"));
	conf.queue_size = 1024;
	assert_int_equal(check_queue_size(&conf, &d), 0);
}

static void guest_sees_the_configuration(void **state)
{
	struct virtio_blk_config c;
	struct env e;

	(void)state;
	set_up(&e, FLUSH);
	memset(&c, 0xff, sizeof(c));
	for (unsigned int i = 0; i < e.blk->vdev.config_size; i++)
		e.blk->vdev.ops->config_read(&e.blk->vdev, i, (uint8_t *)&c + i, 1);
	assert_int_equal(c.capacity, SECTORS);
	assert_int_equal(c.seg_max, 254);
	assert_int_equal(c.blk_size, 512);
	assert_int_equal(c.physical_block_exp, 3);
	assert_int_equal(c.max_discard_seg, 1);
	assert_int_equal(c.max_write_zeroes_seg, 1);
	assert_int_equal(c.write_zeroes_may_unmap, 1);
	assert_int_equal(c.wce, 0);
	tear_down(&e);
}

/* Requests and vectors are not there before they are used. */
static void memory_is_taken_when_needed(void **state)
{
	struct env e;
	gpa_t a;

	(void)state;
	set_up(&e, FLUSH);
	assert_int_equal(e.blk->pools[0].nchunks, 0);
	a = vqd_alloc(&e.d[0], 512, 1);
	for (int i = 0; i < 100; i++)
		request(&e, VIRTIO_BLK_T_IN, 0, a, 512, true);
	assert_int_equal(e.blk->pools[0].nchunks, 1);
	tear_down(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(any_framing),
		cmocka_unit_test(identity_and_unknown_requests),
		cmocka_unit_test(read_only),
		cmocka_unit_test(discard_and_zeroes),
		cmocka_unit_test(zeroes_without_help),
		cmocka_unit_test(flush_waits_for_sync),
		cmocka_unit_test(write_through_without_flush),
		cmocka_unit_test(killed_between_sync_and_completion),
		cmocka_unit_test(host_errors_become_io_errors),
		cmocka_unit_test(truncated_image),
		cmocka_unit_test(short_transfers_go_on),
		cmocka_unit_test(broken_rings_need_a_reset),
		cmocka_unit_test(a_full_queue_at_once),
		cmocka_unit_test(more_segments_than_inline),
		cmocka_unit_test(two_queues),
		cmocka_unit_test(stop_drains),
		cmocka_unit_test(quiesce_and_resume_keep_the_place),
		cmocka_unit_test(rings_outside_ram_do_not_start),
		cmocka_unit_test(direct_bounces_misaligned_buffers),
		cmocka_unit_test(direct_with_large_blocks),
		cmocka_unit_test(unfit_images_are_refused),
		cmocka_unit_test(configuration_is_checked),
		cmocka_unit_test(guest_sees_the_configuration),
		cmocka_unit_test(memory_is_taken_when_needed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
