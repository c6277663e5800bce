/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_arm.c - a function that is started for a guest before the guest is there (device.h, arm):
 * all that can fail has been done, nothing of the guest's is shown to it, and it can be undone.
 */
#include "relay_env.h"

/* As a guest that came from elsewhere: its queues stand somewhere, and nothing runs. */
static void arrives(struct env *e, uint16_t id, uint16_t nqueues, uint16_t index)
{
	struct diag d = { "" };

	relay_begin(e, id, nqueues, true);
	drive(e, 0);
	if (index)
		guest_stands_at(e, 0, index);
	enter_relay(e);
	assert_int_equal(vf_class.quiesce(&e->dev), 0);
	vf_class.track_end(&e->dev);
	assert_int_equal(e->vd->vdev.queues[0].index, index);
	assert_int_equal(mock->status, 0);
	assert_int_equal(vf_class.prepare(&e->dev, &d), 0);
}

static void arm(struct env *e)
{
	struct diag d = { "" };

	if (vf_class.arm(&e->dev, &d))
		fail_msg("%s", d.text);
	assert_int_equal(mock->status, 0xf);
}

static unsigned int shown(uint16_t q)
{
	const struct vring_avail *avail = vf_mock_dma(mock, mock->queues[q].driver, 4);

	return avail->idx;
}

static void test_goes_on(void **state)
{
	static const uint16_t ids[] = { VIRTIO_ID_BLOCK, VIRTIO_ID_NET };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(ids); i++) {
		struct env e;

		arrives(&e, ids[i], ids[i] == VIRTIO_ID_NET ? 3 : 1, 777);
		guest_post(&e, 0, 3);
		arm(&e);
		env_barrier(&e);
		assert_int_equal(e.vd->phase, VF_ARMED);
		assert_false(is_up(&e));
		assert_int_equal(shown(0), 0);
		assert_int_equal(fn_run(0, 3), 0);
		vf_class.resume(&e.dev);
		assert_true(is_up(&e)); /* the vcpus have waited for that */
		fn_serve(0, 3);
		assert_int_equal(guest_collect(&e, 0, 3, NULL), 3);
		assert_int_equal(vf_relay_left(e.vd, 0), 65536 - 780);
		env_end(&e);
	}
}

/* At index 0 the function could have the guest's own ring; not while something is in it. */
static void test_from_the_beginning(void **state)
{
	struct env e;

	(void)state;
	arrives(&e, VIRTIO_ID_NET, 3, 0);
	guest_post(&e, 1, 2);
	arm(&e);
	assert_int_equal(path_of(&e, 0), VF_PATH_DIRECT);
	assert_int_equal(path_of(&e, 1), VF_PATH_RELAY);
	assert_int_equal(shown(1), 0);
	vf_class.resume(&e.dev);
	wait_path(&e, 1, VF_PATH_DIRECT);
	fn_serve(1, 2);
	assert_int_equal(guest_collect(&e, 1, 2, NULL), 2);
	env_end(&e);
}

/* The guest stays where it was. */
static void test_undone(void **state)
{
	struct env e;
	struct diag d = { "" };

	(void)state;
	arrives(&e, VIRTIO_ID_BLOCK, 1, 5);
	arm(&e);
	assert_int_equal(vf_class.reset(&e.dev, &d), 0);
	assert_int_equal(mock->status, 0);
	env_end(&e);

	arrives(&e, VIRTIO_ID_BLOCK, 1, 5);
	arm(&e);
	env_end(&e);
}

/* It moves on before it has run here: it is started anew there, seen or not. */
static void test_moves_on(void **state)
{
	struct env e;

	(void)state;
	arrives(&e, VIRTIO_ID_BLOCK, 1, 0);
	arm(&e);
	assert_int_equal(path_of(&e, 0), VF_PATH_DIRECT);
	enter_relay(&e);
	vf_class.resume(&e.dev);
	wait_path(&e, 0, VF_PATH_RELAY);
	env_end(&e);
}

static void test_failures(void **state)
{
	unsigned int at = 1;
	int err;

	(void)state;
	do {
		struct diag d = { "" };
		struct env e;

		arrives(&e, VIRTIO_ID_NET, 3, 9);
		MOCK_SET(fail_at, mock->calls + at++);
		err = vf_class.arm(&e.dev, &d);
		MOCK_SET(fail_at, 0);
		env_barrier(&e);
		if (err) {
			assert_true(strstr(d.text, "vf0: function "));
			assert_int_equal(e.vd->phase, VF_DOWN);
		}
		env_end(&e);
	} while (err || at < 10);
	assert_true(at > 30);
}

static void test_nothing_to_start(void **state)
{
	struct diag d = { "" };
	struct env e;

	(void)state;
	relay_begin(&e, VIRTIO_ID_BLOCK, 1, true);
	assert_int_equal(vf_class.quiesce(&e.dev), 0);
	assert_int_equal(vf_class.arm(&e.dev, &d), 0);
	assert_int_equal(mock->status, 0);
	vf_class.resume(&e.dev);
	drive(&e, 0);
	env_end(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_goes_on),	 cmocka_unit_test(test_from_the_beginning),
		cmocka_unit_test(test_undone),	 cmocka_unit_test(test_moves_on),
		cmocka_unit_test(test_failures), cmocka_unit_test(test_nothing_to_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
