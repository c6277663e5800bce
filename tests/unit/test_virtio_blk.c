/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_blk.c - the virtio disk as its driver meets it: requests in any framing, broken ones,
 * queues, configuration, stops.
 */
#include "blk_env.h"
#include "state_check.h"

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
	assert_string_equal(faults.log, "wrr"); /* nothing else came as far as the image */
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

static struct {
	struct env *e;
	gpa_t data;
	int posts;
} late;

/* The driver posts just when the device has found the ring empty, and does not kick: it was told
 * not to. */
static void handle_then_post(struct softq *sq, unsigned int q)
{
	blk_handle(sq, q);
	if (late.posts-- > 0) {
		post(late.e, 0, VIRTIO_BLK_T_IN, 0, late.data, 512, true);
		vqd_show(&late.e->d[0]);
	}
}

static void no_doorbell_is_lost(void **state)
{
	struct env e;

	(void)state;
	set_up(&e, FLUSH);
	late.e = &e;
	late.data = vqd_alloc(&e.d[0], 512, 1);
	late.posts = 0;
	assert_int_equal(virtio_blk_class.quiesce(&e.dev), 0);
	e.blk->sq.handle = handle_then_post;
	late.posts = 3;
	virtio_blk_class.resume(&e.dev);
	for (int i = 0; i < 3; i++)
		wait_used(&e, 0);
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

/* Section 3.1.1: a driver may fill the ring before DRIVER_OK, and no doorbell tells of it. */
static void finds_what_was_there_before_the_start(void **state)
{
	struct env e;
	uint64_t count;
	gpa_t a;

	(void)state;
	set_up(&e, FLUSH);
	a = vqd_alloc(&e.d[0], 512, 1);
	assert_int_equal(request(&e, VIRTIO_BLK_T_IN, 0, a, 512, true), VIRTIO_BLK_S_OK);
	assert_int_equal(virtio_blk_class.quiesce(&e.dev), 0);
	assert_int_equal(read(e.blk->sq.queues[0].kick_fd, &count, sizeof(count)), sizeof(count));
	post(&e, 0, VIRTIO_BLK_T_IN, 0, a, 512, true);
	vqd_show(&e.d[0]);
	virtio_blk_class.resume(&e.dev);
	wait_used(&e, 0);
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

/* Everything of a disk must be the same on the other side; each field is looked at. */
static void state_is_checked(void **state)
{
	const struct state_ref *ref;
	struct env e;

	(void)state;
	set_up(&e, FLUSH);
	assert_int_equal(virtio_blk_class.quiesce(&e.dev), 0); /* nothing else writes to it now */
	ref = &e.dev.state[VIRTIO_PCI_STATES];
	assert_int_equal(e.dev.nstate, VIRTIO_PCI_STATES + 1);
	state_check_roundtrip("blk0", ref, 1);
	state_check_refuses("blk0", ref, 1, "/virtio-blk", "vdev.nqueues", 2, "vdev.nqueues");
	state_check_refuses("blk0", ref, 1, "/virtio-blk", "readonly", 1, "readonly");
	state_check_refuses("blk0", ref, 1, "/virtio-blk", "config.seg_max", 100, "config.seg_max");
	state_check_refuses("blk0", ref, 1, "/virtio-blk", "config.blk_size", 4096,
			    "config.blk_size");
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
		cmocka_unit_test(broken_rings_need_a_reset),
		cmocka_unit_test(a_full_queue_at_once),
		cmocka_unit_test(no_doorbell_is_lost),
		cmocka_unit_test(more_segments_than_inline),
		cmocka_unit_test(two_queues),
		cmocka_unit_test(stop_drains),
		cmocka_unit_test(quiesce_and_resume_keep_the_place),
		cmocka_unit_test(finds_what_was_there_before_the_start),
		cmocka_unit_test(rings_outside_ram_do_not_start),
		cmocka_unit_test(configuration_is_checked),
		cmocka_unit_test(guest_sees_the_configuration),
		cmocka_unit_test(memory_is_taken_when_needed),
		cmocka_unit_test(state_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
