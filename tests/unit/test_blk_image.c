/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_blk_image.c - the virtio disk and its image: what is durable when, a host that fails, direct
 * I/O, and which images are refused.
 */
#include "blk_env.h"

#include <sys/wait.h>

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

/* The real operations, as they lie in a ring that is never run. */
static void kernel_is_asked_for_durability(void **state)
{
	struct blk_backend b = { .fd = 99 };
	struct iovec iov[2] = { { NULL, 512 }, { NULL, 1024 } };
	struct loop_op op;
	struct loop l;
	const struct io_uring_sqe *sqe;

	(void)state;
	assert_int_equal(loop_init(&l, 16, NULL), 0);
	b.loop = &l;
	sqe = l.ring.sq.sqes + l.ring.sq.sqe_tail;
	assert_int_equal(blk_uring_ops.writev(&b, &op, iov, 1, 4096, true), 0);
	assert_int_equal(blk_uring_ops.writev(&b, &op, iov, 2, 4096, true), 0);
	assert_int_equal(blk_uring_ops.writev(&b, &op, iov, 1, 4096, false), 0);
	assert_int_equal(blk_uring_ops.sync(&b, &op), 0);
	assert_int_equal(sqe[0].opcode, IORING_OP_WRITE);
	assert_int_equal(sqe[0].rw_flags, RWF_DSYNC);
	assert_int_equal(sqe[1].opcode, IORING_OP_WRITEV);
	assert_int_equal(sqe[1].rw_flags, RWF_DSYNC);
	assert_int_equal(sqe[2].rw_flags, 0);
	assert_int_equal(sqe[3].opcode, IORING_OP_FSYNC);
	assert_int_equal(sqe[3].fsync_flags, IORING_FSYNC_DATASYNC);
	assert_int_equal(sqe[3].fd, 99);
	loop_fini(&l);
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
	assert_int_equal(gmem_create(&e->vm.mem, RAM, GMEM_SHARED, NULL), 0);
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

static int open_locked(struct blk_backend *b, const char *path, bool readonly, struct diag *d)
{
	int err = blk_open(b, path, readonly, false, NULL, d);

	if (err)
		return err;
	err = blk_lock(b, d);
	if (err)
		blk_close(b);
	return err;
}

static void refused(const char *path, bool readonly, const char *says)
{
	struct diag d = { "" };
	struct blk_backend b;

	assert_int_not_equal(open_locked(&b, path, readonly, &d), 0);
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
	assert_int_equal(open_locked(&b, e.path, false, NULL), 0);
	refused(e.path, false, "in use by another process");
	refused(e.path, true, "in use by another process");
	/* It may be given up and taken again, while it is open. */
	assert_int_equal(blk_lock(&b, NULL), 0);
	assert_int_equal(blk_unlock(&b, NULL), 0);
	assert_int_equal(open_locked(&b2, e.path, false, NULL), 0);
	assert_int_equal(blk_lock(&b, NULL), -EBUSY);
	blk_close(&b2);
	assert_int_equal(blk_lock(&b, NULL), 0);
	blk_close(&b);
	assert_int_equal(open_locked(&b, e.path, true, NULL), 0);
	assert_int_equal(open_locked(&b2, e.path, true, NULL), 0);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flush_waits_for_sync),
		cmocka_unit_test(write_through_without_flush),
		cmocka_unit_test(kernel_is_asked_for_durability),
		cmocka_unit_test(killed_between_sync_and_completion),
		cmocka_unit_test(host_errors_become_io_errors),
		cmocka_unit_test(truncated_image),
		cmocka_unit_test(short_transfers_go_on),
		cmocka_unit_test(direct_bounces_misaligned_buffers),
		cmocka_unit_test(direct_with_large_blocks),
		cmocka_unit_test(unfit_images_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
