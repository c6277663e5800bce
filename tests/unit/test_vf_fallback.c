/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_fallback.c - the software device behind an assigned function: when it takes its place,
 * and that no request is lost or served from elsewhere on the way. The image's sectors tell
 * themselves.
 */
#include "relay_env.h"

#include <endian.h>
#include <fcntl.h>

#include <unvmm/machine_state.h>

#define SECTORS	   64u
#define PAGE_OF(i) (MiB(12) + (i) * (gpa_t)PAGE_SIZE_4K)
#define HEAD_AT	   1024
#define STATUS_AT  2048

struct test {
	struct env e;
	uint64_t bar;
	char path[32];
};

static void make_image(struct test *t, unsigned int sectors)
{
	uint64_t sector[512 / 8];
	int fd;

	strcpy(t->path, "/tmp/unvmm-test-XXXXXX");
	fd = mkstemp(t->path);
	assert_true(fd >= 0);
	for (uint64_t i = 0; i < sectors; i++) {
		for (unsigned int w = 0; w < ARRAY_SIZE(sector); w++)
			sector[w] = i;
		assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
	}
	close(fd);
}

static void begin(struct test *t, unsigned int sectors)
{
	const uint64_t capacity = htole64(SECTORS);

	memset(t, 0, sizeof(*t));
	make_image(t, sectors);
	env_begin(&t->e, VIRTIO_ID_BLOCK, 1);
	mock->features |= RING_RESET;
	memcpy(mock->config, &capacity, sizeof(capacity));
	conf_text(&t->e, "disk", t->path);
	t->e.f->vm.transfer = machine_state_move;
	t->e.dev.next = t->e.f->vm.devices;
	t->e.f->vm.devices = &t->e.dev;
}

static void end(struct test *t)
{
	struct env *e = &t->e;

	e->f->vm.devices = e->dev.next;
	if (e->vd && e->dev.priv != e->vd) {
		e->dev.cls->destroy(&e->dev);
		e->vd = NULL;
	}
	env_end(e);
	unlink(t->path);
}

/* A guest that has come so far. */
static void drives(struct test *t, uint16_t index)
{
	struct diag d = { "" };

	if (env_create(&t->e, &d))
		fail_msg("%s", d.text);
	drive(&t->e, 0);
	t->bar = guest_bar(&t->e, VP_BAR);
	guest_stands_at(&t->e, 0, index);
}

static void run(struct test *t, uint16_t index)
{
	begin(t, SECTORS);
	drives(t, index);
}

/* Its function is in RELAY, and no migration is under way. */
static void run_relayed(struct test *t)
{
	run(t, 100);
	enter_relay(&t->e);
	vf_class.track_end(&t->e.dev);
	assert_int_equal(path_of(&t->e, 0), VF_PATH_RELAY);
}

/* Reads of sectors [from, from + n), each into a page of its own. */
static void post_reads(struct test *t, unsigned int from, unsigned int n)
{
	struct vq_driver *d = &t->e.d[0];

	for (unsigned int i = from; i < from + n; i++) {
		struct vqd_buf bufs[] = { { PAGE_OF(i) + HEAD_AT, 16, false },
					  { PAGE_OF(i), 512, true },
					  { PAGE_OF(i) + STATUS_AT, 1, true } };
		struct virtio_blk_outhdr *h = vqd_at(d, bufs[0].gpa, sizeof(*h));

		memset(vqd_at(d, PAGE_OF(i), PAGE_SIZE_4K), 0xee, PAGE_SIZE_4K);
		*h = (struct virtio_blk_outhdr){ .type = htole32(VIRTIO_BLK_T_IN),
						 .sector = htole64(i) };
		(void)vqd_post(d, bufs, ARRAY_SIZE(bufs));
	}
	(void)vqd_show(d);
	vm_lock(&t->e.f->vm);
	bus_write(&t->e.f->vm.mmio, t->bar + VP_DOORBELLS, 2, 0);
	vm_unlock(&t->e.f->vm);
}

static bool is_read(struct test *t, unsigned int i)
{
	uint64_t *data = vqd_at(&t->e.d[0], PAGE_OF(i), 512);

	for (unsigned int w = 0; w < 512 / 8; w++)
		if (data[w] != i)
			return false;
	return *(uint8_t *)vqd_at(&t->e.d[0], PAGE_OF(i) + STATUS_AT, 1) == VIRTIO_BLK_S_OK;
}

/* The function takes all that is there and gives back the `which`th of it: what it read is junk. */
static void fn_gives_back(unsigned int which)
{
	struct vf_mock_queue *mq = &mock->queues[0];
	struct vring_avail *avail;
	struct vring_used *used;

	pthread_mutex_lock(&mock->lock);
	avail = vf_mock_dma(mock, mq->driver, 4 + mq->size * 2u);
	used = vf_mock_dma(mock, mq->device, 4 + mq->size * 8u);
	used->ring[used->idx & (mq->size - 1)] =
		(struct vring_used_elem){ .id = avail->ring[(mq->next + which) & (mq->size - 1)],
					  .len = 1 };
	__atomic_store_n(&used->idx, used->idx + 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&mock->lock);
	vf_mock_interrupt(mock, 1);
}

static void lose_work(struct loop_work *w)
{
	(void)w;
	vf_mock_lose(mock, "it was unplugged");
}

static void lose(struct test *t)
{
	struct loop_work work = { .fn = lose_work };

	loop_call(t->e.vd->loop, &work);
	env_barrier(&t->e);
	MOCK_SET(vf.gone, false); /* for env_end() to see that everything was unmapped */
}

static void ask_work(struct loop_work *w)
{
	(void)w;
	mock->vf.request(&mock->vf);
}

static bool replaced(struct test *t)
{
	return t->e.dev.priv != t->e.vd;
}

static void turn(struct test *t)
{
	assert_true(loop_turn(&t->e.f->vm.main_loop, 1000000) >= 0);
}

static void wait_replaced(struct test *t)
{
	for (unsigned int i = 0; i < WAIT_MS && !replaced(t); i++)
		turn(t);
	assert_true(replaced(t));
	assert_string_equal(t->e.dev.cls->name, "vf");
}

static void test_relayed(void **state)
{
	struct test t;

	(void)state;
	run_relayed(&t);
	post_reads(&t, 0, 6);
	env_barrier(&t.e);
	/* In another order than they came; the guest's ring is to say what is left. */
	fn_gives_back(4);
	fn_gives_back(1);
	assert_int_equal(guest_collect(&t.e, 0, 2, NULL), 2);
	lose(&t);
	wait_replaced(&t);
	assert_int_equal(guest_collect(&t.e, 0, 4, NULL), 4);
	for (unsigned int i = 0; i < 6; i++)
		assert_int_equal(is_read(&t, i), i != 1 && i != 4);
	post_reads(&t, 10, 3);
	assert_int_equal(guest_collect(&t.e, 0, 3, NULL), 3);
	assert_true(is_read(&t, 10) && is_read(&t, 11) && is_read(&t, 12));
	end(&t);
}

static void test_direct_and_idle(void **state)
{
	struct test t;

	(void)state;
	run(&t, 0);
	post_reads(&t, 0, 3);
	fn_serve(0, 3);
	assert_int_equal(guest_collect(&t.e, 0, 3, NULL), 3);
	lose(&t);
	wait_replaced(&t);
	post_reads(&t, 3, 3);
	assert_int_equal(guest_collect(&t.e, 0, 3, NULL), 3);
	assert_true(is_read(&t, 3) && is_read(&t, 4) && is_read(&t, 5));
	end(&t);
}

/* What has come back of a disk's direct queue nobody knows: its driver begins anew. */
static void asks_for_reset(struct test *t)
{
	lose(t);
	assert_true(wait_until(&t->e, needs_reset));
	turn(t);
	assert_false(replaced(t));
}

static void test_direct_and_busy(void **state)
{
	struct test t;

	(void)state;
	run(&t, 0);
	post_reads(&t, 0, 3);
	env_barrier(&t.e);
	asks_for_reset(&t);
	guest_reset(&t.e);
	guest_drive(&t.e, t.e.vd->vdev.offered, 1);
	wait_replaced(&t);
	post_reads(&t, 6, 2);
	assert_int_equal(guest_collect(&t.e, 0, 2, NULL), 2);
	assert_true(is_read(&t, 6) && is_read(&t, 7));
	end(&t);
}

/* Its host asks to have it back: it is closed, and the guest goes on. */
static void test_given_back(void **state)
{
	struct loop_work work = { .fn = ask_work };
	struct test t;

	(void)state;
	run_relayed(&t);
	post_reads(&t, 0, 4);
	env_barrier(&t.e);
	loop_call(t.e.vd->loop, &work);
	wait_replaced(&t);
	assert_int_equal(guest_collect(&t.e, 0, 4, NULL), 4);
	assert_true(is_read(&t, 0) && is_read(&t, 3));
	assert_true(mock->closed);
	end(&t);
}

/* A server that gives no answer may write to memory yet. */
static void test_hangs(void **state)
{
	struct test t;

	(void)state;
	run_relayed(&t);
	mock->vf.hangs = true;
	asks_for_reset(&t);
	end(&t);
}

static void test_in_a_migration(void **state)
{
	struct test t;

	(void)state;
	run(&t, 100);
	enter_relay(&t.e);
	asks_for_reset(&t);
	vf_class.track_end(&t.e.dev);
	end(&t);
}

/* Does the function fail if that call of its start does? Whoever serves them, all requests come. */
static bool start_fails(bool ring_index, unsigned int at)
{
	struct test t;
	struct diag d = { "" };
	bool failed;

	begin(&t, SECTORS);
	if (ring_index)
		vf_mock_ring_index(mock);
	drives(&t, ring_index ? 0 : 777);
	enter_relay(&t.e);
	assert_int_equal(vf_class.quiesce(&t.e.dev), 0);
	vf_class.track_end(&t.e.dev);
	post_reads(&t, 0, 3);
	if (vf_class.prepare(&t.e.dev, &d) || vf_class.arm(&t.e.dev, &d))
		fail_msg("%s", d.text);
	MOCK_SET(fail_at, mock->calls + at);
	vf_class.resume(&t.e.dev);
	for (unsigned int i = 0; i < WAIT_MS && !replaced(&t) && !fn_run(0, 3); i++)
		turn(&t);
	failed = replaced(&t);
	assert_int_equal(guest_collect(&t.e, 0, 3, NULL), 3);
	if (failed)
		assert_true(is_read(&t, 0) && is_read(&t, 1) && is_read(&t, 2));
	MOCK_SET(fail_at, 0);
	end(&t);
	return failed;
}

/* After COMMIT. The one that is told where its queues stand is not started before. */
static void test_every_call_of_a_start(void **state)
{
	unsigned int at = 1;

	(void)state;
	assert_true(start_fails(false, 1)); /* the doorbell */
	assert_false(start_fails(false, 2));
	while (start_fails(true, at))
		at++;
	assert_true(at > 20);
}

static void test_unfit(void **state)
{
	struct test t;
	struct diag d = { "" };

	(void)state;
	begin(&t, SECTORS / 2);
	assert_true(env_create(&t.e, &d) < 0);
	assert_non_null(strstr(d.text, "the software device cannot take the place of function"));
	assert_non_null(strstr(d.text, "capacity"));
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_relayed),
		cmocka_unit_test(test_direct_and_idle),
		cmocka_unit_test(test_direct_and_busy),
		cmocka_unit_test(test_given_back),
		cmocka_unit_test(test_hangs),
		cmocka_unit_test(test_in_a_migration),
		cmocka_unit_test(test_every_call_of_a_start),
		cmocka_unit_test(test_unfit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
