/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_relay.c - the paths of an assigned function's queues: into the relay, through it, back to
 * bare metal, and what may come in between: failures at every call, hung requests, idle queues, a
 * guest that resets, a function that goes.
 */
#include "relay_env.h"

static bool in_window(uint64_t address)
{
	return address > GiB(1);
}

/* On the vf thread, as a backend calls it. */
static void ask_work(struct loop_work *w)
{
	(void)w;
	mock->vf.request(&mock->vf);
}

static void lose_work(struct loop_work *w)
{
	(void)w;
	vf_mock_lose(mock, "it was unplugged");
}

static void on_vf_thread(struct env *e, void (*fn)(struct loop_work *w))
{
	struct loop_work work = { .fn = fn };

	loop_call(e->vd->loop, &work);
	env_barrier(e);
}

/* A function whose queue 0 stands at `index`, in RELAY, with a migration just given up. */
static void comes_back(struct env *e, uint16_t id, bool ring_reset, uint16_t index)
{
	relay_begin(e, id, id == VIRTIO_ID_NET ? 3 : 1, ring_reset);
	drive(e, 0);
	guest_stands_at(e, 0, index);
	enter_relay(e);
	vf_class.track_end(&e->dev);
}

/* --- there and back --------------------------------------------------------------------------- */

static void there_and_back(uint16_t id, uint16_t nqueues, bool ring_reset, uint64_t without)
{
	struct env e;

	relay_begin(&e, id, nqueues, ring_reset);
	drive(&e, without);
	for (unsigned int round = 0; round < 3; round++) {
		uint16_t start = (uint16_t)(65530 + round);
		unsigned int left = 65536u - start;

		guest_stands_at(&e, 0, start);
		enter_relay(&e);
		assert_int_equal(path_of(&e, 0), VF_PATH_RELAY);
		assert_true(in_window(mock->queues[0].driver) && in_window(mock->queues[0].device));
		assert_int_equal(mock->queues[0].desc, e.d[0].layout.desc);
		assert_int_equal(vf_relay_left(e.vd, 0), RELAY_NO_LIMIT);
		guest_post(&e, 0, 2);
		fn_serve(0, 2);
		assert_int_equal(guest_collect(&e, 0, 2, NULL), 2);
		/* The migration was given up; what goes beyond the boundary comes directly. */
		vf_class.track_end(&e.dev);
		guest_post(&e, 0, 10);
		fn_serve(0, left - 2);
		wait_path(&e, 0, VF_PATH_DIRECT);
		assert_int_equal(mock->queues[0].driver, e.d[0].layout.avail);
		assert_int_equal(mock->queues[0].device, e.d[0].layout.used);
		assert_int_equal(mock->queues[0].vector, 1);
		fn_serve(0, 10 - (left - 2));
		assert_int_equal(guest_collect(&e, 0, 10, NULL), 10);
		assert_int_equal(e.d[0].used->flags, 0);
		assert_int_equal(mock->status, 0xf);
		/* Interrupts go past us again. */
		assert_int_equal(mock->irq[1], vdev_irq_fd(&e.vd->vdev, 0));
		guest_reset(&e);
		drive(&e, without);
	}
	env_end(&e);
}

static void test_disk(void **state)
{
	(void)state;
	there_and_back(VIRTIO_ID_BLOCK, 1, false, 0);
	there_and_back(VIRTIO_ID_BLOCK, 1, true, 0);
	there_and_back(VIRTIO_ID_BLOCK, 1, true,
		       VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX) |
			       VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC));
}

static void test_card(void **state)
{
	(void)state;
	there_and_back(VIRTIO_ID_NET, 3, true, 0);
	there_and_back(VIRTIO_ID_NET, 3, true, VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX));
}

/* Without a reset of single queues a card has no way back but the guest's own reset. */
static void test_no_way_back(void **state)
{
	struct env e;

	(void)state;
	comes_back(&e, VIRTIO_ID_NET, false, 65534);
	guest_post(&e, 0, 8);
	fn_serve(0, 8);
	assert_int_equal(guest_collect(&e, 0, 8, NULL), 8);
	assert_int_equal(path_of(&e, 0), VF_PATH_RELAY);
	guest_reset(&e);
	drive(&e, 0);
	assert_int_equal(path_of(&e, 0), VF_PATH_DIRECT);
	env_end(&e);
}

/* --- the boundary ----------------------------------------------------------------------------- */

static void test_idle_receive_queue(void **state)
{
	struct env e;
	unsigned int empty;

	(void)state;
	comes_back(&e, VIRTIO_ID_NET, true, 65530);
	guest_post(&e, 0, 10);
	fn_serve(0, 2);
	wait_path(&e, 0, VF_PATH_DIRECT);
	assert_int_equal(guest_collect(&e, 0, 6, &empty), 6);
	assert_int_equal(empty, 4);
	fn_serve(0, 4);
	assert_int_equal(guest_collect(&e, 0, 4, &empty), 4);
	assert_int_equal(empty, 0);
	/* The other queue of the pair has its own boundary. */
	assert_int_equal(path_of(&e, 1), VF_PATH_DIRECT);
	env_end(&e);
}

/* The function has a frame that needs `n` buffers, and writes none of it before it has so many. */
static bool fn_merged(uint16_t q, uint16_t n)
{
	const struct vf_mock_queue *mq = &mock->queues[q];
	const struct vring_avail *avail;
	bool room;

	pthread_mutex_lock(&mock->lock);
	avail = mq->enable ? vf_mock_dma(mock, mq->driver, 4) : NULL;
	room = avail && (uint16_t)(__atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) - mq->next) >= n;
	pthread_mutex_unlock(&mock->lock);
	return room && fn_run(q, n) == n;
}

/* A merged frame that fits what is left in neither the queue nor one buffer: it comes whole after.
 */
static void test_merged_at_boundary(void **state)
{
	struct env e;
	unsigned int empty;

	(void)state;
	comes_back(&e, VIRTIO_ID_NET, true, 65533);
	guest_post(&e, 0, 8);
	env_barrier(&e);
	assert_false(fn_merged(0, 5));
	wait_path(&e, 0, VF_PATH_DIRECT);
	/* The three below the boundary are returned, with nothing written. */
	assert_int_equal(guest_collect(&e, 0, 3, &empty), 3);
	assert_int_equal(empty, 3);
	assert_true(fn_merged(0, 5));
	assert_int_equal(guest_collect(&e, 0, 5, &empty), 5);
	assert_int_equal(empty, 0);
	env_end(&e);
}

static void test_hung_at_boundary(void **state)
{
	struct env e;

	(void)state;
	comes_back(&e, VIRTIO_ID_BLOCK, true, 65530);
	guest_post(&e, 0, 10);
	fn_serve(0, 5);
	assert_int_equal(guest_collect(&e, 0, 5, NULL), 5);
	/* One is not finished: no reset, and after a while the rest goes on. */
	fn_serve(0, 5);
	assert_int_equal(guest_collect(&e, 0, 5, NULL), 5);
	env_end(&e);
}

static void test_slow_at_boundary(void **state)
{
	struct env e;
	char *log;

	(void)state;
	comes_back(&e, VIRTIO_ID_BLOCK, true, 65530);
	guest_post(&e, 0, 10);
	env_barrier(&e);
	free(vf_mock_take_log(mock));
	usleep(3 * VF_BOUNDARY_MS * 1000);
	env_barrier(&e);
	log = vf_mock_take_log(mock);
	assert_null(strstr(log, "queue_reset"));
	free(log);
	assert_int_equal(path_of(&e, 0), VF_PATH_RELAY);
	fn_serve(0, 10);
	assert_int_equal(guest_collect(&e, 0, 10, NULL), 10);
	env_end(&e);
}

static void at_the_boundary(struct env *e, bool ring_reset)
{
	comes_back(e, VIRTIO_ID_BLOCK, ring_reset, 65535);
	env_barrier(e);
}

static bool direct_or_failed(struct env *e)
{
	return needs_reset(e) || path_of(e, 0) == VF_PATH_DIRECT;
}

/* Each call of the six steps fails once: the guest is asked for a reset, and that mends it. */
static void fails_everywhere(bool ring_reset)
{
	for (unsigned int at = 1;; at++) {
		struct env e;
		bool failed;

		at_the_boundary(&e, ring_reset);
		guest_post(&e, 0, 1);
		env_barrier(&e);
		MOCK_SET(fail_at, mock->calls + at);
		fn_serve(0, 1);
		assert_true(wait_until(&e, direct_or_failed));
		env_barrier(&e);
		failed = needs_reset(&e);
		assert_int_equal(guest_collect(&e, 0, 1, NULL), 1);
		MOCK_SET(fail_at, 0);
		guest_reset(&e);
		drive(&e, 0);
		assert_int_equal(path_of(&e, 0), VF_PATH_DIRECT);
		guest_post(&e, 0, 3);
		fn_serve(0, 3);
		assert_int_equal(guest_collect(&e, 0, 3, NULL), 3);
		env_end(&e);
		if (!failed) {
			assert_true(at > 10);
			return;
		}
	}
}

static void test_failures_at_boundary(void **state)
{
	(void)state;
	fails_everywhere(true);
}

static void test_queue_reset_hangs(void **state)
{
	struct env e;

	(void)state;
	at_the_boundary(&e, true);
	MOCK_SET(queue_never_resets, true);
	guest_post(&e, 0, 1);
	fn_serve(0, 1);
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(mock->status, 0);
	env_end(&e);
}

/* --- entry ------------------------------------------------------------------------------------ */

static void test_hung_at_entry(void **state)
{
	struct env e;
	struct diag d = { "" };

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, true);
	drive(&e, 0);
	guest_post(&e, 0, 1);
	assert_int_equal(vf_class.track_begin(&e.dev, &d), 1);
	assert_int_equal(vf_class.quiesce(&e.dev), -ETIMEDOUT);
	/* Never a reset with a request in flight: it goes on as it was. */
	assert_int_equal(path_of(&e, 0), VF_PATH_DIRECT);
	assert_int_equal(mock->status, 0xf);
	assert_non_null(fake_kvm_slot_at(guest_bar(&e, VP_BAR) + VP_DOORBELLS));
	vf_class.track_end(&e.dev);
	fn_serve(0, 1);
	assert_int_equal(guest_collect(&e, 0, 1, NULL), 1);
	env_end(&e);
}

static void test_entry_refused(void **state)
{
	struct env e;
	struct diag d = { "" };

	(void)state;
	relay_begin(&e, VIRTIO_ID_NET, 3, true); /* a disk has the window from its beginning */
	drive(&e, 0);
	MOCK_SET(fail_at, mock->calls + 1); /* the window */
	assert_true(vf_class.track_begin(&e.dev, &d) < 0);
	assert_non_null(strstr(d.text, "vf0: function 0000:03:00.2"));
	MOCK_SET(fail_at, 0);
	assert_int_equal(path_of(&e, 0), VF_PATH_DIRECT);
	env_end(&e);
}

/* Before there is a driver; and one that comes while it is tracked. */
static void test_driver_comes_later(void **state)
{
	struct env e;

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, true);
	enter_relay(&e);
	drive(&e, 0);
	assert_int_equal(path_of(&e, 0), VF_PATH_RELAY);
	guest_post(&e, 0, 3);
	fn_serve(0, 3);
	assert_int_equal(guest_collect(&e, 0, 3, NULL), 3);
	guest_reset(&e);
	assert_int_equal(path_of(&e, 0), VF_PATH_OFF);
	drive(&e, 0);
	assert_int_equal(path_of(&e, 0), VF_PATH_RELAY);
	/* It stands at 0: that is a boundary. */
	vf_class.track_end(&e.dev);
	wait_path(&e, 0, VF_PATH_DIRECT);
	env_end(&e);
}

/*
 * Whoever served the queue last (a relay, the software device of another host) may have been at
 * work when it was stopped, and the driver need not ring then. The function does not write that
 * word.
 */
static void test_silenced_driver(void **state)
{
	struct env e;

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, false);
	drive(&e, VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX));
	e.d[0].used->flags = VRING_USED_F_NO_NOTIFY;
	guest_command(&e, PCI_COMMAND_MEMORY);
	guest_command(&e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(wait_until(&e, is_up));
	env_barrier(&e);
	assert_int_equal(path_of(&e, 0), VF_PATH_DIRECT);
	assert_int_equal(e.d[0].used->flags, 0);
	env_end(&e);
}

/* Where the backend says that the doorbell's page stays, it is rung as the guest would. */
static void test_rings_by_store(void **state)
{
	const unsigned int q = 1;
	struct env e;
	uint16_t *cell;
	unsigned int kicks;

	(void)state;
	for (unsigned int lasts = 0; lasts < 2; lasts++) {
		relay_begin(&e, VIRTIO_ID_NET, 3, true);
		mock->vf.info.regions[0].lasts = lasts;
		drive(&e, 0);
		enter_relay(&e);
		cell = (uint16_t *)(mock->bar + VM_NOTIFY + q * PAGE_SIZE_4K);
		*cell = 0xffff;
		kicks = vf_mock_kicks(mock, q);
		guest_post(&e, q, 1);
		env_barrier(&e);
		assert_int_equal(__atomic_load_n(cell, __ATOMIC_ACQUIRE), lasts ? q : 0xffff);
		assert_int_equal(vf_mock_kicks(mock, q), kicks + !lasts);
		fn_serve(q, 1);
		assert_int_equal(guest_collect(&e, q, 1, NULL), 1);
		env_end(&e);
	}
}

/* --- the switch ------------------------------------------------------------------------------- */

static bool page_dirty(struct env *e, gpa_t gpa)
{
	uint64_t bits[MiB(16) / PAGE_SIZE_4K / 64] = { 0 };

	gmem_log_fetch(&e->f->vm.mem, bits);
	return bits[gpa / PAGE_SIZE_4K / 64] >> (gpa / PAGE_SIZE_4K % 64) & 1;
}

static void test_switch(void **state)
{
	struct env e;

	(void)state;
	relay_begin(&e, VIRTIO_ID_NET, 3, true);
	drive(&e, 0);
	guest_stands_at(&e, 0, 777);
	enter_relay(&e);
	assert_int_equal(gmem_log_start(&e.f->vm.mem), 0);
	guest_post(&e, 0, 5);
	fn_serve(0, 2);
	assert_int_equal(guest_collect(&e, 0, 2, NULL), 2);
	(void)page_dirty(&e, 0);
	assert_int_equal(vf_class.quiesce(&e.dev), 0);
	assert_int_equal(mock->status, 0);
	assert_int_equal(e.vd->vdev.queues[0].index, 779);
	assert_int_equal(path_of(&e, 0), VF_PATH_OFF);
	/* Buffers that the function may have begun to fill. */
	assert_true(page_dirty(&e, MiB(12) + 4 * PAGE_SIZE_4K));
	gmem_log_stop(&e.f->vm.mem);
	/* The migration fails after all. */
	vf_class.resume(&e.dev);
	wait_path(&e, 0, VF_PATH_RELAY);
	fn_serve(0, 3);
	assert_int_equal(guest_collect(&e, 0, 3, NULL), 3);
	vf_class.track_end(&e.dev);
	env_end(&e);
}

/* Not drained, and not stopped: the switch does not take place. */
static void test_hung_at_switch(void **state)
{
	struct env e;

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, true);
	drive(&e, 0);
	enter_relay(&e);
	guest_post(&e, 0, 2);
	assert_int_equal(vf_class.quiesce(&e.dev), -ETIMEDOUT);
	assert_int_equal(mock->status, 0xf);
	fn_serve(0, 2);
	assert_int_equal(guest_collect(&e, 0, 2, NULL), 2);
	guest_post(&e, 0, 2);
	fn_serve(0, 2);
	assert_int_equal(guest_collect(&e, 0, 2, NULL), 2);
	env_end(&e);
}

/* An operator's pause, while nothing moves, leaves a function alone. */
static void test_plain_pause(void **state)
{
	struct env e;

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, true);
	drive(&e, 0);
	guest_stands_at(&e, 0, 5);
	assert_int_equal(vf_class.quiesce(&e.dev), 0);
	assert_int_equal(mock->status, 0xf);
	vf_class.resume(&e.dev);
	assert_int_equal(path_of(&e, 0), VF_PATH_DIRECT);
	/* The guest takes bus mastering away and gives it back: it goes on in the relay. */
	guest_command(&e, PCI_COMMAND_MEMORY);
	env_barrier(&e);
	guest_command(&e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	wait_path(&e, 0, VF_PATH_RELAY);
	guest_post(&e, 0, 2);
	fn_serve(0, 2);
	assert_int_equal(guest_collect(&e, 0, 2, NULL), 2);
	assert_int_equal(vf_relay_left(e.vd, 0), 65536 - 7);
	env_end(&e);
}

/* --- the other side --------------------------------------------------------------------------- */

static void test_hostile_function(void **state)
{
	struct env e;
	struct vring_used *used;

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, true);
	drive(&e, 0);
	enter_relay(&e);
	guest_post(&e, 0, 1);
	env_barrier(&e);
	pthread_mutex_lock(&mock->lock);
	used = vf_mock_dma(mock, mock->queues[0].device, 4);
	__atomic_store_n(&used->idx, 9, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&mock->lock);
	vf_mock_interrupt(mock, 1);
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(mock->status, 0);
	assert_int_equal(e.d[0].used->idx, 0);
	env_end(&e);
}

static void test_goes_while_relayed(void **state)
{
	struct env e;

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, true);
	drive(&e, 0);
	enter_relay(&e);
	guest_post(&e, 0, 1);
	on_vf_thread(&e, lose_work);
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(path_of(&e, 0), VF_PATH_OFF);
	vf_class.track_end(&e.dev);
	MOCK_SET(vf.gone, false); /* for env_end() to see that everything was unmapped */
	env_end(&e);
}

/* Its host asks to have it back. */
static void test_unbound_while_relayed(void **state)
{
	struct env e;
	struct diag d = { "" };

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, true);
	drive(&e, 0);
	enter_relay(&e);
	guest_post(&e, 0, 1);
	on_vf_thread(&e, ask_work);
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(mock->nmaps, 1); /* guest memory goes when main closes it */
	vf_class.track_end(&e.dev);
	assert_int_equal(vf_class.track_begin(&e.dev, &d), -ENODEV);
	assert_non_null(strstr(d.text, "it is gone"));
	env_end(&e);
}

/* A command that has not been answered when the queues become relayed comes again. */
static void test_command_at_entry(void **state)
{
	const uint8_t on = 1;
	struct env e;
	struct vring_used_elem used;
	gpa_t ack;

	(void)state;
	relay_begin(&e, VIRTIO_ID_NET, 3, true);
	drive(&e, 0);
	assert_int_equal(command(&e, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1),
			 VIRTIO_NET_OK);
	MOCK_SET(answer, VM_ANSWER_NONE);
	command_post(&e, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1, &ack);
	env_barrier(&e);
	MOCK_SET(answer, VM_ANSWER_OK);
	enter_relay(&e);
	for (unsigned int i = 0; i < WAIT_MS && !vqd_take(&e.d[2], &used); i++)
		usleep(1000);
	assert_int_equal(*(uint8_t *)vqd_at(&e.d[2], ack, 1), VIRTIO_NET_OK);
	/* And while they are. */
	assert_int_equal(command(&e, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1),
			 VIRTIO_NET_OK);
	assert_int_equal(path_of(&e, 0), VF_PATH_RELAY);
	assert_int_equal(path_of(&e, 1), VF_PATH_RELAY);
	vf_class.track_end(&e.dev);
	env_end(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk),
		cmocka_unit_test(test_card),
		cmocka_unit_test(test_no_way_back),
		cmocka_unit_test(test_idle_receive_queue),
		cmocka_unit_test(test_merged_at_boundary),
		cmocka_unit_test(test_hung_at_boundary),
		cmocka_unit_test(test_slow_at_boundary),
		cmocka_unit_test(test_failures_at_boundary),
		cmocka_unit_test(test_silenced_driver),
		cmocka_unit_test(test_rings_by_store),
		cmocka_unit_test(test_queue_reset_hangs),
		cmocka_unit_test(test_hung_at_entry),
		cmocka_unit_test(test_entry_refused),
		cmocka_unit_test(test_driver_comes_later),
		cmocka_unit_test(test_switch),
		cmocka_unit_test(test_hung_at_switch),
		cmocka_unit_test(test_plain_pause),
		cmocka_unit_test(test_hostile_function),
		cmocka_unit_test(test_goes_while_relayed),
		cmocka_unit_test(test_unbound_while_relayed),
		cmocka_unit_test(test_command_at_entry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
