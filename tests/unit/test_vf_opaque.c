/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_opaque.c - functions that say what they know of themselves, and go on from there: the
 * states they are taken through, and how they fall down the ladder at whatever step fails. The
 * test's thread is the guest.
 */
#include "vf_hosts_env.h"

/* --- it moves --------------------------------------------------------------------------------- */

static void moves(uint16_t id, uint16_t nqueues, uint64_t flags, const char *states)
{
	struct host a, b;

	host_begin(&a, id, nqueues, flags, true);
	host_open(&a);
	source(&a, 777);
	/* It logs what it writes: nothing has been stopped for that. */
	assert_int_equal(path_of(&a.e, 0), VF_PATH_DIRECT);
	if (id == VIRTIO_ID_NET)
		assert_int_equal(command(&a.e, 2, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD,
					 &(uint16_t){ 100 }, 2),
				 VIRTIO_NET_OK);
	assert_int_equal(vf_class.track_sync(&a.e.dev, &diag), 0);
	assert_int_equal(quiesce(&a), 0);
	assert_int_equal(a.m->state, VFIO_DEVICE_STATE_STOP);
	assert_int_equal(a.m->status, 0xf); /* it was not reset */
	assert_int_equal(a.e.vd->vdev.queues[0].index, 777);
	expect_states(&a, states);

	host_begin(&b, id, nqueues, flags, true);
	host_open(&b);
	move(&a, &b, NULL);
	assert_int_equal(b.m->state, VFIO_DEVICE_STATE_STOP);
	go_on(&b, VF_PATH_DIRECT);
	expect_states(&b, "412");
	assert_string_equal(rung(&b), "vfio");
	assert_int_equal(b.m->queues[0].driver, b.e.d[0].layout.avail);
	if (id == VIRTIO_ID_NET)
		assert_int_equal(command(&b.e, 2, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL,
					 &(uint16_t){ 100 }, 2),
				 VIRTIO_NET_OK);
	guest_reset(&b.e);
	drive(&b.e, 0);
	assert_int_equal(path_of(&b.e, 0), VF_PATH_DIRECT);
	host_end(&b);
	/* The source lets go without a look at the guest's rings. */
	host_end(&a);
}

static void test_disk_moves(void **state)
{
	(void)state;
	moves(VIRTIO_ID_BLOCK, 1, VFIO_MIGRATION_STOP_COPY, "31");
	moves(VIRTIO_ID_BLOCK, 1, BOTH, "531");
}

static void test_card_moves(void **state)
{
	(void)state;
	moves(VIRTIO_ID_NET, 3, BOTH, "531");
}

/* What can be read ahead is, and the rest follows in the same stream. */
static void test_pre_copy(void **state)
{
	(void)state;
	moves(VIRTIO_ID_NET, 3, VFIO_MIGRATION_STOP_COPY | VF_MIGRATION_PRE_COPY, "631");
	moves(VIRTIO_ID_BLOCK, 1, BOTH | VF_MIGRATION_PRE_COPY, "6731");
}

/* A reset of the whole function ends its copying: what was read before is not put before the rest.
 */
static void test_reset_in_pre_copy(void **state)
{
	struct host a, b;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 1, VFIO_MIGRATION_STOP_COPY | VF_MIGRATION_PRE_COPY, true);
	host_open(&a);
	source(&a, 9);
	assert_int_equal(vf_class.track_sync(&a.e.dev, &diag), 0);
	assert_true(a.e.vd->opaque.len > VF_OPAQUE_HEAD);
	MOCK_SET(state, VFIO_DEVICE_STATE_RUNNING);
	assert_int_equal(quiesce(&a), 0);
	host_begin(&b, VIRTIO_ID_BLOCK, 1, VFIO_MIGRATION_STOP_COPY, true);
	host_open(&b);
	move(&a, &b, NULL);
	assert_int_equal(b.m->stream_len, a.m->stream_len);
	go_on(&b, VF_PATH_DIRECT);
	host_end(&b);
	host_end(&a);
}

/* --- it stays --------------------------------------------------------------------------------- */

static void test_cancelled_at_the_switch(void **state)
{
	struct host a;

	(void)state;
	for (unsigned int card = 0; card < 2; card++) {
		host_begin(&a, card ? VIRTIO_ID_NET : VIRTIO_ID_BLOCK, card ? 3 : 1, BOTH, true);
		host_open(&a);
		source(&a, 1234);
		assert_int_equal(quiesce(&a), 0);
		free(vf_mock_take_log(a.m));
		go_on(&a, VF_PATH_DIRECT);
		vf_class.track_end(&a.e.dev);
		expect_states(&a, "2");
		assert_int_equal(a.m->status, 0xf);
		if (card)
			assert_int_equal(command(&a.e, 2, VIRTIO_NET_CTRL_VLAN,
						 VIRTIO_NET_CTRL_VLAN_ADD, &(uint16_t){ 5 }, 2),
					 VIRTIO_NET_OK);
		/* And again, all of it. */
		enter_relay(&a.e);
		assert_int_equal(quiesce(&a), 0);
		go_on(&a, VF_PATH_DIRECT);
		host_end(&a);
	}
}

static void test_cancelled_before(void **state)
{
	struct host a;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 1, BOTH | VF_MIGRATION_PRE_COPY, true);
	host_open(&a);
	source(&a, 5);
	assert_int_equal(vf_class.track_sync(&a.e.dev, &diag), 0);
	vf_class.track_end(&a.e.dev);
	expect_states(&a, "62");
	assert_null(a.e.vd->opaque.data);
	assert_false(a.m->logging);
	host_end(&a);
}

/* A hung request: nothing was stopped, and the function comes back from P2P. */
static void test_hung_at_the_switch(void **state)
{
	struct host a;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 1, BOTH, true);
	host_open(&a);
	source(&a, 5);
	guest_post(&a.e, 0, 1);
	assert_int_equal(quiesce(&a), -ETIMEDOUT);
	expect_states(&a, "5");
	fn_serve(0, 1);
	assert_int_equal(guest_collect(&a.e, 0, 1, NULL), 1);
	vf_class.track_end(&a.e.dev);
	expect_states(&a, "2");
	host_end(&a);
}

/* The driver that comes after a reset finds nothing of the one before. */
static void test_reset_while_it_stands(void **state)
{
	struct host a;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 1, BOTH, true);
	host_open(&a);
	source(&a, 5);
	assert_int_equal(quiesce(&a), 0);
	guest_set_status(&a.e, 0);
	vf_class.track_end(&a.e.dev);
	vf_class.resume(&a.e.dev);
	assert_true(wait_until(&a.e, is_reset));
	drive(&a.e, 0);
	assert_int_equal(a.m->state, VFIO_DEVICE_STATE_RUNNING);
	assert_int_equal(path_of(&a.e, 0), VF_PATH_DIRECT);
	guest_post(&a.e, 0, 2);
	fn_serve(0, 2);
	assert_int_equal(guest_collect(&a.e, 0, 2, NULL), 2);
	assert_string_equal(rung(&a), "none");
	host_end(&a);
}

/* --- down the ladder -------------------------------------------------------------------------- */

static unsigned int spoilt_at;

static void flip(uint8_t *bytes, size_t *len)
{
	(void)len;
	bytes[spoilt_at] ^= 0x40;
}

static void cut(uint8_t *bytes, size_t *len)
{
	(void)bytes;
	*len = spoilt_at;
}

static void lose(uint8_t *bytes, size_t *len)
{
	(void)bytes;
	*len = 0;
}

static void falls(void (*spoil)(uint8_t *bytes, size_t *len), unsigned int where)
{
	struct host a, b;

	host_begin(&a, VIRTIO_ID_BLOCK, 1, BOTH, true);
	host_open(&a);
	source(&a, 60000);
	assert_int_equal(quiesce(&a), 0);
	host_begin(&b, VIRTIO_ID_BLOCK, 1, BOTH, true);
	host_open(&b);
	spoilt_at = where;
	move(&a, &b, spoil);
	assert_int_equal(b.m->state, VFIO_DEVICE_STATE_RUNNING);
	go_on(&b, VF_PATH_RELAY);
	assert_string_equal(rung(&b), "relay");
	host_end(&b);
	host_end(&a);
}

/* Every word of the head but where the control queue stands, and bytes of the function's. */
static void test_other_function(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 46; i += 2)
		falls(flip, i);
	falls(flip, 48);
	falls(flip, VF_OPAQUE_HEAD);
	falls(cut, VF_OPAQUE_HEAD);
	falls(cut, VF_OPAQUE_HEAD - 1);
	falls(cut, VF_OPAQUE_HEAD + 40);
	falls(lose, 0);
}

static void test_plain_destination(void **state)
{
	struct host a, b;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 1, BOTH, true);
	host_open(&a);
	source(&a, 60000);
	assert_int_equal(quiesce(&a), 0);
	host_begin(&b, VIRTIO_ID_BLOCK, 1, 0, false);
	host_open(&b);
	move(&a, &b, NULL);
	go_on(&b, VF_PATH_RELAY);
	host_end(&b);
	host_end(&a);
}

/* The n-th call of a switch that is then given up fails; true: it was not made. */
static bool source_fails_at(unsigned int n, uint64_t flags)
{
	struct host a;
	unsigned int start;
	bool done;
	int err;

	host_begin(&a, VIRTIO_ID_BLOCK, 1, flags, true);
	host_open(&a);
	source(&a, 31);
	start = a.m->calls;
	MOCK_SET(fail_at, start + n);
	err = quiesce(&a);
	vf_class.resume(&a.e.dev);
	assert_true(wait_until(&a.e, up_or_failed));
	env_barrier(&a.e);
	done = a.m->calls < start + n;
	MOCK_SET(fail_at, 0);
	if (done)
		assert_int_equal(err, 0);
	if (!needs_reset(&a.e)) {
		guest_post(&a.e, 0, 3);
		fn_serve(0, 3);
		assert_int_equal(guest_collect(&a.e, 0, 3, NULL), 3);
	}
	vf_class.track_end(&a.e.dev);
	guest_reset(&a.e);
	drive(&a.e, 0);
	assert_int_equal(path_of(&a.e, 0), VF_PATH_DIRECT);
	host_end(&a);
	return done;
}

static void test_source_fails_at_every_call(void **state)
{
	unsigned int n;

	(void)state;
	for (n = 1; !source_fails_at(n, BOTH); n++)
		assert_true(n < 200);
	assert_true(n > 8);
	for (n = 1; !source_fails_at(n, BOTH | VF_MIGRATION_PRE_COPY); n++)
		assert_true(n < 200);
}

static bool target_fails_at(unsigned int n)
{
	struct host a, b;
	unsigned int start;
	bool done;

	host_begin(&a, VIRTIO_ID_NET, 3, BOTH, true);
	host_open(&a);
	source(&a, 31);
	assert_int_equal(quiesce(&a), 0);
	host_begin(&b, VIRTIO_ID_NET, 3, BOTH, true);
	host_open(&b);
	start = b.m->calls;
	MOCK_SET(fail_at, start + n);
	move(&a, &b, NULL);
	vf_class.resume(&b.e.dev);
	assert_true(wait_until(&b.e, up_or_failed));
	env_barrier(&b.e);
	done = b.m->calls < start + n;
	MOCK_SET(fail_at, 0);
	if (!needs_reset(&b.e)) {
		guest_post(&b.e, 0, 3);
		fn_serve(0, 3);
		assert_int_equal(guest_collect(&b.e, 0, 3, NULL), 3);
	} else {
		guest_reset(&b.e);
		drive(&b.e, 0);
		assert_int_equal(path_of(&b.e, 0), VF_PATH_DIRECT);
	}
	host_end(&b);
	host_end(&a);
	return done;
}

static void test_target_fails_at_every_call(void **state)
{
	unsigned int n;

	(void)state;
	for (n = 1; !target_fails_at(n); n++)
		assert_true(n < 200);
	assert_true(n > 8);
}

/* Into ERROR at each state: it is reset, and goes by the journal. */
static void test_error_state(void **state)
{
	static const uint32_t sources[] = { VFIO_DEVICE_STATE_RUNNING_P2P,
					    VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_STOP };
	static const uint32_t targets[] = { VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_STOP,
					    VFIO_DEVICE_STATE_RUNNING };
	struct host a, b;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(sources); i++) {
		host_begin(&a, VIRTIO_ID_BLOCK, 1, BOTH, true);
		host_open(&a);
		source(&a, 50);
		MOCK_SET(breaks_at, sources[i]);
		assert_int_equal(quiesce(&a), 0);
		MOCK_SET(breaks_at, 0);
		vf_class.track_end(&a.e.dev);
		go_on(&a, VF_PATH_RELAY);
		host_end(&a);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(targets); i++) {
		host_begin(&a, VIRTIO_ID_BLOCK, 1, BOTH, true);
		host_open(&a);
		source(&a, 50);
		assert_int_equal(quiesce(&a), 0);
		host_begin(&b, VIRTIO_ID_BLOCK, 1, BOTH, true);
		host_open(&b);
		MOCK_SET(breaks_at, targets[i]);
		move(&a, &b, NULL);
		go_on(&b, VF_PATH_RELAY);
		assert_int_equal(b.m->state, VFIO_DEVICE_STATE_RUNNING);
		host_end(&b);
		host_end(&a);
	}
}

/* A command without an answer cannot travel in a ring that is said to be empty. */
static void test_command_under_way(void **state)
{
	struct host a;
	gpa_t ack;

	(void)state;
	host_begin(&a, VIRTIO_ID_NET, 3, BOTH, true);
	host_open(&a);
	source(&a, 8);
	MOCK_SET(answer, VM_ANSWER_NONE);
	command_post(&a.e, 2, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &(uint16_t){ 7 }, 2,
		     &ack);
	env_barrier(&a.e);
	assert_int_equal(quiesce(&a), 0);
	assert_false(vf_opaque_usable(a.e.vd));
	MOCK_SET(answer, VM_ANSWER_OK);
	vf_class.track_end(&a.e.dev);
	go_on(&a, VF_PATH_RELAY);
	/* It comes again. */
	for (unsigned int i = 0; i < WAIT_MS && *(uint8_t *)vqd_at(&a.e.d[2], ack, 1); i++)
		usleep(1000);
	assert_int_equal(*(uint8_t *)vqd_at(&a.e.d[2], ack, 1), VIRTIO_NET_OK);
	host_end(&a);
}

/* --- several ---------------------------------------------------------------------------------- */

/* None stops before all have ceased to reach for each other. */
static void test_all_to_p2p_first(void **state)
{
	struct host a, b;
	struct env one;

	(void)state;
	host_begin(&a, VIRTIO_ID_BLOCK, 1, BOTH, true);
	host_open(&a);
	source(&a, 3);
	one = a.e;
	/* The second one in the same machine. */
	b.m = mock = vf_mock_new(VIRTIO_ID_BLOCK, 1);
	mock->mig_flags = BOTH;
	mock->mig_log = true;
	b.e = one;
	snprintf(b.e.dev.id, sizeof(b.e.dev.id), "vf1");
	if (env_create(&b.e, &diag))
		fail_msg("%s", diag.text);
	b.e.dev.next = a.e.dev.next;
	a.e.dev.next = &b.e.dev;
	drive(&b.e, 0);
	enter_relay(&b.e);
	assert_int_equal(quiesce(&a), 0);
	assert_int_equal(a.m->state, VFIO_DEVICE_STATE_STOP);
	assert_int_equal(b.m->state, VFIO_DEVICE_STATE_RUNNING_P2P);
	assert_int_equal(quiesce(&b), 0);
	expect_states(&b, "531");
	at(&b);
	vf_class.destroy(&b.e.dev);
	vf_mock_free(b.m);
	a.e.dev.next = b.e.dev.next;
	host_end(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk_moves),
		cmocka_unit_test(test_card_moves),
		cmocka_unit_test(test_pre_copy),
		cmocka_unit_test(test_reset_in_pre_copy),
		cmocka_unit_test(test_cancelled_at_the_switch),
		cmocka_unit_test(test_cancelled_before),
		cmocka_unit_test(test_hung_at_the_switch),
		cmocka_unit_test(test_reset_while_it_stands),
		cmocka_unit_test(test_other_function),
		cmocka_unit_test(test_plain_destination),
		cmocka_unit_test(test_source_fails_at_every_call),
		cmocka_unit_test(test_target_fails_at_every_call),
		cmocka_unit_test(test_error_state),
		cmocka_unit_test(test_command_under_way),
		cmocka_unit_test(test_all_to_p2p_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
