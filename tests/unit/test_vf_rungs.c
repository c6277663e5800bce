/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_rungs.c - the other rungs: functions that only log their own DMA, and those that say
 * where their queues stand; and the FLUSH of a disk before its guest goes. The test's thread is the
 * guest.
 */
#include "vf_hosts_env.h"

/* --- only a log ------------------------------------------------------------------------------- */

static bool page_dirty(struct env *e, gpa_t gpa)
{
	uint64_t bits[MiB(16) / PAGE_SIZE_4K / 64] = { 0 };

	gmem_log_fetch(&e->f->vm.mem, bits);
	return bits[gpa / PAGE_SIZE_4K / 64] >> (gpa / PAGE_SIZE_4K % 64) & 1;
}

static void test_log_alone(void **state)
{
	struct host a, b;

	(void)state;
	host_begin(&a, VIRTIO_ID_NET, 3, 0, true);
	host_open(&a);
	source(&a, 900);
	assert_int_equal(gmem_log_start(&a.e.f->vm.mem), 0);
	(void)page_dirty(&a.e, 0);
	vf_mock_writes(a.m, MiB(7));
	assert_false(page_dirty(&a.e, MiB(7)));
	assert_int_equal(vf_class.track_sync(&a.e.dev, &diag), 0);
	assert_true(page_dirty(&a.e, MiB(7)));
	gmem_log_stop(&a.e.f->vm.mem);
	/* A driver that begins anew while it is tracked is logged as well. */
	guest_reset(&a.e);
	drive(&a.e, 0);
	assert_int_equal(path_of(&a.e, 0), VF_PATH_DIRECT);
	guest_stands_at(&a.e, 0, 33);
	assert_int_equal(quiesce(&a), 0);
	assert_int_equal(a.m->status, 0);
	host_begin(&b, VIRTIO_ID_NET, 3, 0, true);
	host_open(&b);
	move(&a, &b, NULL);
	go_on(&b, VF_PATH_RELAY);
	host_end(&b);
	host_end(&a);
}

static void test_log_does_not_start(void **state)
{
	struct host a;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 1, 0, true);
	host_open(&a);
	drive(&a.e, 0);
	MOCK_SET(fail_at, mock->calls + 1);
	assert_true(vf_class.track_begin(&a.e.dev, &diag) < 0);
	assert_non_null(
		strstr(diag.text, "vf0: function 0000:03:00.2: its DMA log does not start"));
	host_end(&a);
}

/* --- ring indexes in registers ---------------------------------------------------------------- */

static void indexed(bool from, bool to, enum vf_path path)
{
	struct host a, b;

	host_begin(&a, VIRTIO_ID_BLOCK, 1, 0, from);
	if (from)
		vf_mock_ring_index(a.m);
	host_open(&a);
	source(&a, 900);
	assert_int_equal(quiesce(&a), 0);
	assert_int_equal(a.e.vd->vdev.queues[0].index, 900);
	host_begin(&b, VIRTIO_ID_BLOCK, 1, 0, false);
	if (to)
		vf_mock_ring_index(b.m);
	host_open(&b);
	move(&a, &b, NULL);
	go_on(&b, path);
	assert_string_equal(rung(&b), path == VF_PATH_DIRECT ? "registers" : "relay");
	host_end(&b);
	host_end(&a);
}

static void test_ring_index(void **state)
{
	(void)state;
	indexed(true, true, VF_PATH_DIRECT);
	indexed(false, true, VF_PATH_DIRECT);
	indexed(true, false, VF_PATH_RELAY);
}

/* What the function says counts, not what lies in memory that it no longer needs to be right. */
static void test_function_says_where(void **state)
{
	struct host a;

	(void)state;
	host_begin(&a, VIRTIO_ID_NET, 3, 0, true);
	vf_mock_ring_index(a.m);
	host_open(&a);
	source(&a, 10);
	a.m->queues[0].next = 12;
	assert_int_equal(quiesce(&a), 0);
	assert_int_equal(a.e.vd->vdev.queues[0].index, 12);
	/* The other queue, too, which has not moved. */
	assert_int_equal(a.e.vd->vdev.queues[1].index, 0);
	host_end(&a);
}

/* Where sources disagree about the registers they are not touched. */
static void test_too_many_queues_for_registers(void **state)
{
	struct host a;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 2, 0, true);
	vf_mock_ring_index(a.m);
	conf_number(&a.e, "queues", 2);
	host_open(&a);
	assert_false(vf_vendor_usable(a.e.vd));
	drive(&a.e, 0);
	enter_relay(&a.e);
	assert_int_equal(quiesce(&a), 0);
	{
		char *log = vf_mock_take_log(a.m);

		assert_null(strstr(log, "ring word"));
		assert_null(strstr(log, "queue_enable 0x0"));
		free(log);
	}
	host_end(&a);
}

/* --- FLUSH ------------------------------------------------------------------------------------ */

struct server {
	uint8_t status;
	unsigned int flushes, others;
};

/* The function's part of a FLUSH: once there is one. */
static void *serve(void *arg)
{
	struct server *s = arg;
	struct vf_mock_queue *q = &mock->queues[0];

	for (unsigned int i = 0; i < WAIT_MS && !s->flushes && !s->others; i++) {
		struct vring_avail *avail;
		struct vring_desc *desc;
		struct vring_used *used;

		usleep(1000);
		pthread_mutex_lock(&mock->lock);
		avail = q->enable ? vf_mock_dma(mock, q->driver, 4) : NULL;
		if (avail && (mock->status & VIRTIO_CONFIG_S_DRIVER_OK) && avail->idx != q->next) {
			uint32_t *type;

			desc = vf_mock_dma(mock, q->desc, 32);
			used = vf_mock_dma(mock, q->device, 12);
			type = vf_mock_dma(mock, desc[0].addr, 16);
			if (*type == VIRTIO_BLK_T_FLUSH)
				s->flushes++;
			else
				s->others++;
			*(uint8_t *)vf_mock_dma(mock, desc[1].addr, 1) = s->status;
			used->ring[0].id = 0;
			q->next++;
			__atomic_store_n(&used->idx, used->idx + 1, __ATOMIC_RELEASE);
		}
		pthread_mutex_unlock(&mock->lock);
	}
	return NULL;
}

static int flushed(struct host *a, struct server *s)
{
	pthread_t t;
	int err;

	assert_int_equal(pthread_create(&t, NULL, serve, s), 0);
	err = vf_class.sync(&a->e.dev);
	pthread_join(t, NULL);
	return err;
}

static void expect_order(struct host *h, const char *first, const char *then)
{
	char *log = vf_mock_take_log(h->m), *a = strstr(log, first), *b = strstr(log, then);

	assert_true(a && b && a < b);
	free(log);
}

static void test_flush(void **state)
{
	struct host a;

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		struct server s = { .status = i == 3 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK };

		host_begin(&a, VIRTIO_ID_BLOCK, 1, i == 1 ? BOTH : 0, i != 0);
		host_open(&a);
		source(&a, i == 2 ? 0 : 44);
		/* While the guest runs, its own driver flushes. */
		assert_int_equal(vf_class.sync(&a.e.dev), 0);
		assert_int_equal(quiesce(&a), 0);
		free(vf_mock_take_log(a.m));
		assert_int_equal(flushed(&a, &s), i == 3 ? -EIO : 0);
		/* It is let run only when it cannot reach memory: the guest's rings are still its.
		 */
		if (i == 1)
			expect_order(&a, "write command 0x2\n", "state 2\n");
		assert_int_equal(s.flushes, 1);
		assert_int_equal(a.m->status, 0);
		/* Given up after all, a function that had its state in hand is given it back. */
		vf_class.track_end(&a.e.dev);
		go_on(&a, i == 1 || i == 2 ? VF_PATH_DIRECT : VF_PATH_RELAY);
		host_end(&a);
	}
}

static void test_no_flush(void **state)
{
	struct host a;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 1, 0, true);
	host_open(&a);
	guest_drive(&a.e, a.e.vd->vdev.offered & ~VIRTIO_BIT(VIRTIO_BLK_F_FLUSH), 1);
	assert_true(wait_until(&a.e, is_up));
	enter_relay(&a.e);
	assert_int_equal(quiesce(&a), 0);
	free(vf_mock_take_log(a.m));
	assert_int_equal(vf_class.sync(&a.e.dev), 0);
	{
		char *log = vf_mock_take_log(a.m);

		assert_string_equal(log, "");
		free(log);
	}
	host_end(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_log_alone),
		cmocka_unit_test(test_log_does_not_start),
		cmocka_unit_test(test_ring_index),
		cmocka_unit_test(test_function_says_where),
		cmocka_unit_test(test_too_many_queues_for_registers),
		cmocka_unit_test(test_flush),
		cmocka_unit_test(test_no_flush),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
