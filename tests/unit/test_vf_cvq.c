/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_cvq.c - the control queue of an assigned card: what is forwarded, journaled, answered and
 * replayed, and what a guest or a function can do wrong.
 */
#include "vf_env.h"

#include <errno.h>
#include <unistd.h>

#define RX    VIRTIO_NET_CTRL_RX
#define MAC   VIRTIO_NET_CTRL_MAC
#define VLAN  VIRTIO_NET_CTRL_VLAN
#define PAIRS VIRTIO_NET_CTRL_MQ
#define NONE  0xee

/* Two pairs on both sides, and MQ: the control queue is 4. */
#define CTRLQ 4

static void begin(struct env *e)
{
	struct diag d = { "" };

	env_begin(e, VIRTIO_ID_NET, 5);
	conf_number(e, "queues", 2);
	if (env_create(e, &d))
		fail_msg("%s", d.text);
	guest_drive(e, e->vd->vdev.offered, 5);
	assert_true(wait_until(e, is_up));
}

static uint8_t flag(struct env *e, uint8_t cmd, uint8_t on)
{
	return command(e, CTRLQ, RX, cmd, &on, 1);
}

static void test_forwarded_and_journaled(void **state)
{
	struct env e;

	(void)state;
	begin(&e);
	assert_true(e.vd->cvq.ctrl.promisc);
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_PROMISC, 0), VIRTIO_NET_OK);
	assert_int_equal(mock->commands, 1);
	assert_int_equal(mock->command_len, 3);
	assert_memory_equal(mock->command, "\0\0\0", 3);
	assert_false(e.vd->cvq.ctrl.promisc);
	assert_int_equal(command(&e, CTRLQ, VLAN, VIRTIO_NET_CTRL_VLAN_ADD, "\x07\x00", 2),
			 VIRTIO_NET_OK);
	assert_int_equal(e.vd->cvq.ctrl.vlans[0], 0x80);
	assert_int_equal(command(&e, CTRLQ, PAIRS, 0, "\x02\x00", 2), VIRTIO_NET_OK);
	assert_int_equal(e.vd->cvq.ctrl.pairs, 2);
	assert_int_equal(mock->commands, 3);
	env_end(&e);
}

/* The guest's new address is what it reads from then on, and forgotten with a reset. */
static void test_mac(void **state)
{
	struct env e;

	(void)state;
	begin(&e);
	assert_int_equal(command(&e, CTRLQ, MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, "\2\1\1\1\1\1", 6),
			 VIRTIO_NET_OK);
	assert_int_equal(guest_read(&e, VP_DEVICE, 4), 0x01010102);
	guest_reset(&e);
	assert_int_equal(guest_read(&e, VP_DEVICE, 4), 0x00005452);
	env_end(&e);
}

static void test_refused_by_the_function(void **state)
{
	struct env e;

	(void)state;
	begin(&e);
	MOCK_SET(answer, VM_ANSWER_ERR);
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_PROMISC, 0), VIRTIO_NET_ERR);
	assert_int_equal(mock->commands, 1);
	assert_true(e.vd->cvq.ctrl.promisc);
	MOCK_SET(answer, VM_ANSWER_OK);
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_PROMISC, 0), VIRTIO_NET_OK);
	env_end(&e);
}

/* What makes no sense does not reach the function. */
static void test_malformed(void **state)
{
	static const uint8_t many[9000];
	struct env e;

	(void)state;
	begin(&e);
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_PROMISC, 2), VIRTIO_NET_ERR);
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_NOBCAST, 1), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, CTRLQ, 77, 0, "", 0), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, CTRLQ, VLAN, 0, "\0\x10", 2), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, CTRLQ, PAIRS, 0, "\x03\x00", 2), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, CTRLQ, MAC, 0, "\xff\xff\xff\xff", 4), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, CTRLQ, MAC, 0, many, sizeof(many)), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, CTRLQ, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, "\0\0\0\0\0\0\0\x80",
				 8),
			 VIRTIO_NET_ERR);
	assert_int_equal(mock->commands, 0);
	assert_false(needs_reset(&e));
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_ALLMULTI, 1), VIRTIO_NET_OK);
	env_end(&e);
}

static void test_announce_is_ours(void **state)
{
	struct env e;

	(void)state;
	begin(&e);
	vm_lock(&e.f->vm);
	e.vd->cvq.ctrl.announce = true;
	vm_unlock(&e.f->vm);
	assert_int_equal(guest_read(&e, VP_DEVICE + 6, 2),
			 VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(command(&e, CTRLQ, VIRTIO_NET_CTRL_ANNOUNCE, 0, "", 0), VIRTIO_NET_OK);
	assert_int_equal(guest_read(&e, VP_DEVICE + 6, 2), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(mock->commands, 0);
	env_end(&e);
}

static void test_no_room_for_the_answer(void **state)
{
	struct env e;
	struct vqd_buf b;

	(void)state;
	begin(&e);
	b = (struct vqd_buf){ vqd_alloc(&e.d[CTRLQ], 3, 1), 3, false };
	vqd_post(&e.d[CTRLQ], &b, 1);
	(void)vqd_show(&e.d[CTRLQ]);
	guest_kick(&e, CTRLQ);
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(mock->commands, 0);
	env_end(&e);
}

/* --- a function that does not play along ------------------------------------------------------ */

static void test_garbage(void **state)
{
	struct env e;

	(void)state;
	begin(&e);
	MOCK_SET(answer, VM_ANSWER_GARBAGE);
	command_post(&e, CTRLQ, RX, 0, "\1", 1, &(gpa_t){ 0 });
	assert_true(wait_until(&e, needs_reset));
	/* The next driver begins from the start. */
	MOCK_SET(answer, VM_ANSWER_OK);
	guest_reset(&e);
	guest_drive(&e, e.vd->vdev.offered, 5);
	assert_true(wait_until(&e, is_up));
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_PROMISC, 0), VIRTIO_NET_OK);
	env_end(&e);
}

/* The used ring says more than was ever given: without being asked, too. */
static void test_used_runs_ahead(void **state)
{
	struct env e;

	(void)state;
	begin(&e);
	__atomic_store_n(&e.vd->cvq.ring.used->idx, 5, __ATOMIC_RELEASE);
	vf_mock_interrupt(mock, 5);
	assert_true(wait_until(&e, needs_reset));
	env_end(&e);
}

static void test_silence(void **state)
{
	struct env e;
	gpa_t ack;

	(void)state;
	begin(&e);
	MOCK_SET(answer, VM_ANSWER_NONE);
	command_post(&e, CTRLQ, RX, 0, "\1", 1, &ack);
	usleep(VF_CVQ_MS * 500);
	assert_false(needs_reset(&e));
	assert_true(wait_until(&e, needs_reset));
	assert_int_equal(*(uint8_t *)vqd_at(&e.d[CTRLQ], ack, 1), NONE);
	env_barrier(&e);
	assert_int_equal(e.vd->cvq.vq.next_avail, 0); /* for a device that takes its place */
	guest_reset(&e);
	env_end(&e);
}

/* --- stop and replay -------------------------------------------------------------------------- */

/* A command that was under way at a stop is carried out after the next start. */
static void test_stop_in_between(void **state)
{
	struct env e;
	struct vring_used_elem used;
	gpa_t ack;

	(void)state;
	begin(&e);
	MOCK_SET(answer, VM_ANSWER_NONE);
	command_post(&e, CTRLQ, RX, 0, "\0", 1, &ack);
	env_barrier(&e);
	guest_command(&e, PCI_COMMAND_MEMORY);
	env_barrier(&e);
	assert_int_equal(e.vd->vdev.queues[CTRLQ].index, 0);
	MOCK_SET(answer, VM_ANSWER_OK);
	guest_command(&e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(wait_until(&e, is_up));
	for (unsigned int i = 0; i < WAIT_MS && !vqd_take(&e.d[CTRLQ], &used); i++)
		usleep(1000);
	assert_int_equal(*(uint8_t *)vqd_at(&e.d[CTRLQ], ack, 1), VIRTIO_NET_OK);
	assert_false(e.vd->cvq.ctrl.promisc);
	env_end(&e);
}

static void restart(struct env *e)
{
	guest_command(e, PCI_COMMAND_MEMORY);
	env_barrier(e);
	free(vf_mock_take_log(mock));
	mock->commands = 0;
	guest_command(e, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(wait_until(e, up_or_failed));
	env_barrier(e);
}

static void test_replay(void **state)
{
	/* One unicast and two multicast addresses. */
	static const uint8_t tables[] = { 1, 0, 0, 0,	 2, 0, 0, 0, 0, 9,    2, 0, 0,
					  0, 1, 0, 0x5e, 0, 0, 1, 1, 0, 0x5e, 0, 0, 2 };
	struct env e;
	char *log;

	(void)state;
	begin(&e);
	/* Nothing was said: nothing is replayed. */
	restart(&e);
	assert_int_equal(mock->commands, 0);
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_PROMISC, 0), VIRTIO_NET_OK);
	assert_int_equal(command(&e, CTRLQ, MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, tables,
				 sizeof(tables)),
			 VIRTIO_NET_OK);
	assert_int_equal(command(&e, CTRLQ, PAIRS, 0, "\x02\x00", 2), VIRTIO_NET_OK);
	assert_int_equal(command(&e, CTRLQ, VLAN, 0, "\x05\x00", 2), VIRTIO_NET_OK);
	assert_int_equal(command(&e, CTRLQ, VLAN, 0, "\xff\x0f", 2), VIRTIO_NET_OK);
	restart(&e);
	assert_true(is_up(&e));
	/* promiscuous, allmulti, tables, pairs, two VLANs */
	assert_int_equal(mock->commands, 6);
	assert_memory_equal(mock->command, "\2\0\xff\x0f", 4);
	/* All of it before the first data queue is kicked. */
	log = vf_mock_take_log(mock);
	assert_non_null(strstr(log, "kick 4 "));
	assert_null(strstr(strstr(log, "kick 0 "), "kick 4 "));
	free(log);
	/* And the queue goes on where it was. */
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_ALLMULTI, 1), VIRTIO_NET_OK);
	env_end(&e);
}

static void test_replay_refused(void **state)
{
	struct env e;

	(void)state;
	begin(&e);
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_PROMISC, 0), VIRTIO_NET_OK);
	MOCK_SET(answer, VM_ANSWER_ERR);
	restart(&e);
	assert_true(needs_reset(&e));
	assert_false(is_up(&e));
	assert_int_equal(mock->queues[0].kicks, 1); /* of the first life */
	env_end(&e);
}

/* More addresses than the journal holds: replayed as all of the kind. */
static void test_long_tables(void **state)
{
	uint8_t tables[4 + 65 * 6 + 4] = { 65 };
	struct env e;

	(void)state;
	begin(&e);
	assert_int_equal(command(&e, CTRLQ, MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, tables,
				 sizeof(tables)),
			 VIRTIO_NET_OK);
	assert_int_equal(mock->command_len, 2 + sizeof(tables)); /* the function has all */
	assert_true(e.vd->cvq.ctrl.uni.overflow);
	assert_int_equal(flag(&e, VIRTIO_NET_CTRL_RX_PROMISC, 0), VIRTIO_NET_OK);
	restart(&e);
	assert_int_equal(mock->commands, 3);
	assert_true(is_up(&e));
	env_end(&e);
}

/* --- the window ------------------------------------------------------------------------------- */

static uint64_t window_of(const struct env *e)
{
	return e->vd->cvq.iova;
}

static void test_window(void **state)
{
	struct env e;
	struct diag d = { "" };

	(void)state;
	begin(&e);
	assert_int_equal(window_of(&e), (1ull << 39) - VF_WINDOW_BYTES);
	env_end(&e);
	/* Behind guest memory, where there is no more. */
	env_begin(&e, VIRTIO_ID_NET, 3);
	mock->vf.info.niova = 1;
	mock->vf.info.iova[0] = (struct vf_iova){ 0, 0x1ffffff };
	assert_int_equal(env_create(&e, &d), 0);
	assert_int_equal(window_of(&e), 0x2000000 - VF_WINDOW_BYTES);
	env_end(&e);
	/* Nothing but guest memory. */
	env_begin(&e, VIRTIO_ID_NET, 3);
	mock->vf.info.niova = 1;
	mock->vf.info.iova[0] = (struct vf_iova){ 0, 0xffffff };
	assert_true(env_create(&e, &d) < 0);
	assert_non_null(strstr(d.text, "no room"));
	env_end(&e);
	/* Another function of the guest has its window at the top. */
	env_begin(&e, VIRTIO_ID_NET, 3);
	d.text[0] = 0;
	mock->maps[mock->nmaps++] = (struct vf_mock_map){ (1ull << 39) - KiB(64), KiB(64), NULL };
	assert_int_equal(env_create(&e, &d), 0);
	assert_int_equal(window_of(&e), (1ull << 39) - KiB(64) - VF_WINDOW_BYTES);
	mock->maps[0] = mock->maps[--mock->nmaps];
	env_end(&e);
}

/* A vfio-user server is handed the windows: cut short, they would be a SIGBUS here. */
static void test_windows_cannot_shrink(void **state)
{
	struct env e;

	(void)state;
	begin(&e);
	assert_int_equal(ftruncate(e.vd->cvq.window_fd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(e.vd->relays.window_fd, 0), -1);
	env_end(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forwarded_and_journaled),
		cmocka_unit_test(test_mac),
		cmocka_unit_test(test_refused_by_the_function),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_announce_is_ours),
		cmocka_unit_test(test_no_room_for_the_answer),
		cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_used_runs_ahead),
		cmocka_unit_test(test_silence),
		cmocka_unit_test(test_stop_in_between),
		cmocka_unit_test(test_replay),
		cmocka_unit_test(test_replay_refused),
		cmocka_unit_test(test_long_tables),
		cmocka_unit_test(test_window),
		cmocka_unit_test(test_windows_cannot_shrink),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
