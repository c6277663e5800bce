/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_net.c - the virtio network card with a driver on one side and a backend of the test's
 * own on the other: every byte and header both ways, buffers that run out, hostile rings. Its
 * commands are in test_virtio_net_ctrl.c, taps and passt in test_net_backends.c.
 */
#include "net_env.h"

/* --- the guest sends -------------------------------------------------------------------------- */

static void send_one(struct env *e, const struct virtio_net_hdr_v1 *hdr, unsigned int len)
{
	send_cut(e, 0, hdr, len, NULL, false);
	kick(e, 1);
	assert_int_equal(wait_used(e, 1).len, 0);
}

static void frames_go_out(void **state)
{
	static const unsigned int cuts[][8] = {
		{ 0 }, { 12, 0 }, { 1, 1, 1, 1, 1, 1, 6 }, { 11, 2, 1, 0 }, { 5, 200, 0 },
	};
	const struct virtio_net_hdr_v1 hdr = {
		.hdr_len = 99, .csum_start = 7, .num_buffers = 3, .flags = 0xfe
	};
	const struct virtio_net_hdr_v1 want = { 0 };
	struct env e;

	(void)state;
	set_up(&e, 1, VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC));
	for (unsigned int i = 0; i < ARRAY_SIZE(cuts); i++) {
		send_cut(&e, 0, &hdr, 300 + i, cuts[i], i % 2);
		kick(&e, 1);
		assert_int_equal(wait_used(&e, 1).len, 0);
		assert_int_equal(mock.nout, i + 1);
		assert_int_equal(mock.out[i].len, NET_HDR + 300 + i);
		/* Nothing was agreed on that a header could say. */
		assert_memory_equal(mock.out[i].bytes, &want, NET_HDR);
		is_pattern(mock.out[i].bytes + NET_HDR, 300 + i, 300 + i);
	}
	assert_int_equal(e.net->count.tx_packets, ARRAY_SIZE(cuts));
	tear_down(&e);
}

static void headers_are_checked(void **state)
{
	enum {
		V4 = VIRTIO_NET_HDR_GSO_TCPV4,
		V6 = VIRTIO_NET_HDR_GSO_TCPV6,
		ECN = VIRTIO_NET_HDR_GSO_ECN,
		UDP = VIRTIO_NET_HDR_GSO_UDP
	};
	static const struct {
		struct virtio_net_hdr_v1 hdr;
		unsigned int len;
		uint64_t without; /* feature */
		bool ok;
	} cases[] = {
		{ { 0 }, 14, 0, true },
		{ { 0 }, 13, 0, false },
		{ { 0 }, NET_FRAME_MAX, 0, true },
		{ { 0 }, NET_FRAME_MAX + 1, 0, false },
		{ { .flags = 1, .csum_start = 34, .csum_offset = 16 }, 60, 0, true },
		{ { .flags = 1, .csum_start = 34, .csum_offset = 16 }, 52, 0, true },
		{ { .flags = 1, .csum_start = 34, .csum_offset = 16 }, 51, 0, false },
		{ { .flags = 1, .csum_start = 65535, .csum_offset = 65535 }, 60, 0, false },
		{ { .flags = 1, .csum_start = 34, .csum_offset = 16 }, 60, FEATURE(CSUM), false },
		{ { .flags = 1, .gso_type = V4, .gso_size = 1448 }, 9000, 0, true },
		{ { .flags = 1, .gso_type = V6, .gso_size = 1448 }, 9000, 0, true },
		{ { .flags = 1, .gso_type = V4 | ECN, .gso_size = 1448 }, 9000, 0, true },
		{ { .flags = 0, .gso_type = V4, .gso_size = 1448 }, 9000, 0, false },
		{ { .flags = 1, .gso_type = V4, .gso_size = 0 }, 9000, 0, false },
		{ { .flags = 1, .gso_type = ECN, .gso_size = 1448 }, 9000, 0, false },
		{ { .flags = 1, .gso_type = UDP, .gso_size = 1448 }, 9000, 0, false },
		{ { .flags = 1, .gso_type = 5, .gso_size = 1448 }, 9000, 0, false },
		{ { .flags = 1, .gso_type = 0x7f, .gso_size = 1448 }, 9000, 0, false },
		{ { .flags = 1, .gso_type = V4, .gso_size = 99 }, 999, FEATURE(HOST_TSO4), false },
		{ { .flags = 1, .gso_type = V6, .gso_size = 99 }, 999, FEATURE(HOST_TSO6), false },
		{ { .flags = 1, .gso_type = V4 | ECN, .gso_size = 9 },
		  99,
		  FEATURE(HOST_ECN),
		  false },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct env e;

		set_up(&e, 1, OFFLOADS & ~cases[i].without);
		send_one(&e, &cases[i].hdr, cases[i].len);
		if (mock.nout != cases[i].ok)
			fail_msg("case %u is %s", i, cases[i].ok ? "refused" : "sent");
		assert_int_equal(e.net->count.tx_dropped, !cases[i].ok);
		/* The card goes on. */
		send_one(&e, &cases[0].hdr, 100);
		assert_int_equal(mock.nout, cases[i].ok + 1);
		tear_down(&e);
	}
}

static void hint_is_inside_of_the_frame(void **state)
{
	struct virtio_net_hdr_v1 hdr = { .flags = 1,
					 .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
					 .gso_size = 500,
					 .hdr_len = 65535 },
				 got;
	struct env e;

	(void)state;
	set_up(&e, 1, OFFLOADS);
	send_one(&e, &hdr, 1000);
	memcpy(&got, mock.out[0].bytes, NET_HDR);
	assert_int_equal(got.hdr_len, 1000);
	assert_int_equal(got.gso_size, 500);
	tear_down(&e);
}

static void tell_room(void)
{
	mock.b.events->tx_ready(&mock.b);
}

static void backend_without_room_is_waited_for(void **state)
{
	const struct virtio_net_hdr_v1 hdr = { 0 };
	struct env e;
	unsigned int calls;

	(void)state;
	set_up(&e, 1, 0);
	mock.full = true;
	for (unsigned int i = 0; i < 5; i++)
		send_cut(&e, 0, &hdr, 100 + i, NULL, false);
	kick(&e, 1);
	assert_int_equal(wait_for(&mock.sent), 0);
	on_loop(nothing);
	assert_int_equal(e.d[1].used->idx, 0);
	calls = mock.tx_calls;
	usleep(20000);
	assert_int_equal(mock.tx_calls, calls); /* no busy loop */
	mock.full = false;
	on_loop(tell_room);
	for (unsigned int i = 0; i < 5; i++)
		wait_used(&e, 1);
	assert_int_equal(mock.nout, 5);
	for (unsigned int i = 0; i < 5; i++)
		is_pattern(mock.out[i].bytes + NET_HDR, 100 + i, 100 + i);
	tear_down(&e);
}

static void failing_backend_loses_frames(void **state)
{
	const struct virtio_net_hdr_v1 hdr = { 0 };
	struct env e;

	(void)state;
	set_up(&e, 1, 0);
	mock.tx_error = -EIO;
	send_one(&e, &hdr, 100);
	mock.tx_error = -ENETDOWN;
	send_one(&e, &hdr, 100);
	mock.tx_error = 0;
	send_one(&e, &hdr, 100);
	assert_int_equal(e.net->count.tx_dropped, 2);
	assert_int_equal(mock.nout, 1);
	tear_down(&e);
}

static void long_queue_of_frames(void **state)
{
	const struct virtio_net_hdr_v1 hdr = { 0 };
	struct env e;

	(void)state;
	set_up(&e, 1, 0);
	for (unsigned int i = 0; i < 256; i++)
		send_cut(&e, 0, &hdr, 60, NULL, false);
	kick(&e, 1);
	for (unsigned int i = 0; i < 256; i++)
		wait_used(&e, 1);
	assert_int_equal(e.net->count.tx_packets, 256);
	/* Of 256 completions the driver hears a few times at most. */
	assert_true(host.irqs < 20);
	tear_down(&e);
}

/* --- the guest receives ----------------------------------------------------------------------- */

static const struct virtio_net_hdr_v1 *header_at(struct env *e, gpa_t gpa)
{
	return vqd_at(&e->d[0], gpa, NET_HDR);
}

static void frame_in_one_buffer(void **state)
{
	const uint64_t features[] = { 0, MERGE, FEATURE(GUEST_CSUM) };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(features); i++) {
		struct env e;
		gpa_t gpa;

		set_up(&e, 1, features[i]);
		gpa = give(&e, 0, 2000);
		kick(&e, 0);
		arrive(0, 1400, 3);
		assert_int_equal(wait_used(&e, 0).len, NET_HDR + 1400);
		is_pattern(vqd_at(&e.d[0], gpa + NET_HDR, 1400), 1400, 3);
		assert_int_equal(header_at(&e, gpa)->num_buffers, 1);
		assert_int_equal(header_at(&e, gpa)->flags, features[i] & FEATURE(GUEST_CSUM)
								    ? VIRTIO_NET_HDR_F_DATA_VALID
								    : 0);
		assert_int_equal(*(uint8_t *)vqd_at(&e.d[0], gpa + NET_HDR + 1400, 1), 0xcc);
		tear_down(&e);
	}
}

static void header_in_pieces(void **state)
{
	struct vqd_buf bufs[3];
	struct env e;
	uint8_t got[12 + 60];

	(void)state;
	set_up(&e, 1, MERGE);
	for (unsigned int i = 0; i < 3; i++) {
		bufs[i] = (struct vqd_buf){ .gpa = vqd_alloc(&e.d[0], 120, 1) + 1,
					    .len = i == 0   ? 1
						   : i == 1 ? 10
							    : 100,
					    .writable = true };
	}
	vqd_post(&e.d[0], bufs, 3);
	kick(&e, 0);
	arrive(0, 60, 1);
	assert_int_equal(wait_used(&e, 0).len, 72);
	got[0] = *(uint8_t *)vqd_at(&e.d[0], bufs[0].gpa, 1);
	memcpy(got + 1, vqd_at(&e.d[0], bufs[1].gpa, 10), 10);
	memcpy(got + 11, vqd_at(&e.d[0], bufs[2].gpa, 61), 61);
	assert_int_equal(((struct virtio_net_hdr_v1 *)got)->num_buffers, 1);
	is_pattern(got + 12, 60, 1);
	tear_down(&e);
}

/* Takes a frame that came in buffers given one after the other at `at`, `size` bytes each. */
static unsigned int take_merged(struct env *e, gpa_t at, uint32_t size, unsigned int len,
				unsigned int seed)
{
	uint8_t *bytes = calloc(1, NET_HDR + len);
	unsigned int n = 0, got = 0;

	while (got < NET_HDR + len) {
		uint32_t part = wait_used(e, 0).len;

		assert_true(part && part <= size && got + part <= NET_HDR + len);
		memcpy(bytes + got, vqd_at(&e->d[0], at + n++ * size, part), part);
		got += part;
	}
	assert_int_equal(((struct virtio_net_hdr_v1 *)bytes)->num_buffers, n);
	is_pattern(bytes + NET_HDR, len, seed);
	free(bytes);
	return n;
}

static void frames_over_several_buffers(void **state)
{
	static const unsigned int lens[] = { 60, 1000, 5000, 1514, 65550, 30000, 300, 60, 9000 };
	struct env e;
	gpa_t at = 0;

	(void)state;
	set_up(&e, 1, MERGE | FEATURE(GUEST_CSUM) | FEATURE(GUEST_TSO4));
	for (unsigned int i = 0; i < 256; i++) {
		gpa_t gpa = give(&e, 0, 600);

		at = i ? at : gpa;
	}
	kick(&e, 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(lens); i++) {
		unsigned int n;

		arrive(0, lens[i], i);
		n = take_merged(&e, at, 600, lens[i], i);
		assert_int_equal(n, (NET_HDR + lens[i] + 599) / 600);
		at += n * 600;
	}
	assert_int_equal(e.net->count.rx_dropped, 0);
	tear_down(&e);
}

static void frame_waits_for_more_buffers(void **state)
{
	struct env e;
	gpa_t at;

	(void)state;
	set_up(&e, 1, MERGE);
	at = give(&e, 0, 1000);
	give(&e, 0, 1000);
	kick(&e, 0);
	arrive(0, 3500, 9);
	arrive(0, 60, 8);
	on_loop(nothing);
	assert_int_equal(e.d[0].used->idx, 0);
	assert_false(mock.want[0]); /* and is not woken for what cannot be taken */
	give(&e, 0, 1000);
	kick(&e, 0);
	on_loop(nothing);
	on_loop(nothing);
	assert_int_equal(e.d[0].used->idx, 0);
	give(&e, 0, 1000);
	give(&e, 0, 1000);
	kick(&e, 0);
	assert_int_equal(take_merged(&e, at, 1000, 3500, 9), 4);
	assert_int_equal(take_merged(&e, at + 4000, 1000, 60, 8), 1);
	tear_down(&e);
}

static void frame_without_hope_is_dropped(void **state)
{
	struct env e;
	gpa_t at = 0;

	(void)state;
	set_up(&e, 1, MERGE);
	for (unsigned int i = 0; i < 256; i++) {
		gpa_t gpa = give(&e, 0, 16);

		at = i ? at : gpa;
	}
	kick(&e, 0);
	arrive(0, 9000, 1); /* 4096 bytes are all that the ring can hold */
	arrive(0, 100, 2);
	assert_int_equal(take_merged(&e, at, 16, 100, 2), 7);
	assert_int_equal(e.net->count.rx_dropped, 1);
	tear_down(&e);

	set_up(&e, 1, 0); /* without merging one buffer is all there is */
	at = give(&e, 0, 100);
	kick(&e, 0);
	arrive(0, 89, 3);
	arrive(0, 88, 4);
	assert_int_equal(take_merged(&e, at, 100, 88, 4), 1);
	assert_int_equal(e.net->count.rx_dropped, 1);
	tear_down(&e);
}

static void runts_and_giants_are_dropped(void **state)
{
	struct env e;
	gpa_t at;

	(void)state;
	set_up(&e, 1, 0);
	at = give(&e, 0, 70000);
	kick(&e, 0);
	arrive(0, 13, 1);
	arrive(0, NET_FRAME_MAX + 1, 1);
	arrive(0, 14, 2);
	assert_int_equal(take_merged(&e, at, 70000, 14, 2), 1);
	assert_int_equal(e.net->count.rx_dropped, 2);
	tear_down(&e);
}

static void no_buffers_no_watching(void **state)
{
	struct env e;
	unsigned int calls;
	gpa_t at;

	(void)state;
	set_up(&e, 1, MERGE);
	assert_false(mock.want[0]);
	arrive(0, 100, 1);
	calls = mock.rx_calls;
	usleep(20000);
	assert_int_equal(mock.rx_calls, calls);
	at = give(&e, 0, 500);
	give(&e, 0, 500);
	assert_true(vqd_show(&e.d[0])); /* the doorbell is wanted */
	e.net->vdev.ops->kick(&e.net->vdev, 0);
	assert_int_equal(take_merged(&e, at, 500, 100, 1), 1);
	on_loop(nothing);
	assert_true(mock.want[0]);
	give(&e, 0, 500);
	assert_false(vqd_show(&e.d[0])); /* and now it is not */
	tear_down(&e);
}

static uint64_t turns;

static void note_turns(void)
{
	turns = mock.b.loop->turns;
}

static void idle_card_sleeps(void **state)
{
	struct env e;
	uint64_t before = 0;
	gpa_t at;

	(void)state;
	set_up(&e, 1, MERGE);
	at = give(&e, 0, 500);
	for (unsigned int i = 0; i < 20; i++)
		give(&e, 0, 500);
	kick(&e, 0);
	for (unsigned int i = 0; i < 20; i++) {
		arrive(0, 60, i);
		take_merged(&e, at + i * 500, 500, 60, i);
	}
	/* Once it has done what there is to do. */
	for (unsigned int i = 0; i < 20 && turns != before + 1; i++) {
		on_loop(note_turns);
		before = turns;
		usleep(50000);
		on_loop(note_turns);
	}
	assert_int_equal(turns, before + 1); /* the one that looks */
	tear_down(&e);
}

static void received_bytes_are_dirty(void **state)
{
	struct env e;
	gpa_t at;

	(void)state;
	set_up(&e, 1, MERGE);
	at = give(&e, 0, 3 * 4096);
	at = align_up(at, 4096);
	assert_int_equal(gmem_log_start(&e.vm.mem), 0);
	kick(&e, 0);
	arrive(0, 6000, 1);
	wait_used(&e, 0);
	assert_true(e.vm.mem.dirty[at >> 18] & 1ull << (at >> 12 & 63));
	tear_down(&e);
}

static void hostile_receive_rings(void **state)
{
	static const struct {
		struct vqd_buf buf;
		const char *why;
	} cases[] = {
		{ { MiB(1) + KiB(64), 11, true }, "receive buffer too small for the header" },
		{ { MiB(1) + KiB(64), 100, false }, "receive buffer that is not for writing" },
		{ { RAM - 50, 100, true }, "buffer outside guest memory" },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct env e;

		set_up(&e, 1, MERGE);
		give(&e, 0, 500);
		kick(&e, 0);
		on_loop(nothing);
		vqd_post(&e.d[0], &cases[i].buf, 1);
		(void)vqd_show(&e.d[0]);
		arrive(0, 100, 1); /* so the second buffer is looked at */
		arrive(0, 2000, 1);
		assert_int_equal(wait_for(&host.broken), 0);
		assert_string_equal(host.why, cases[i].why);
		on_loop(nothing);
		assert_false(mock.want[0]);
		assert_int_equal(virtio_pci_reset(&e.net->vdev), 0);
		tear_down(&e);
	}
}

static void hostile_transmit_rings(void **state)
{
	struct vqd_buf tiny = { MiB(2) + KiB(64), 11, false }, in = { MiB(2) + KiB(64), 11, true };
	struct env e;

	(void)state;
	set_up(&e, 1, 0);
	vqd_post(&e.d[1], &tiny, 1);
	kick(&e, 1);
	assert_int_equal(wait_for(&host.broken), 0);
	assert_string_equal(host.why, "packet without a whole header");
	tear_down(&e);
	set_up(&e, 1, 0);
	vqd_post(&e.d[1], &in, 1);
	kick(&e, 1);
	assert_int_equal(wait_for(&host.broken), 0);
	tear_down(&e);
}

/* Buffers that were taken and not used are in the ring again after a stop. */
static void a_pause_loses_no_buffers(void **state)
{
	struct env e;
	gpa_t at;

	(void)state;
	set_up(&e, 1, MERGE);
	at = give(&e, 0, 500);
	for (unsigned int i = 0; i < 9; i++)
		give(&e, 0, 500);
	kick(&e, 0);
	arrive(0, 60, 1);
	take_merged(&e, at, 500, 60, 1);
	on_loop(nothing);
	assert_true(e.net->pairs[0].nbufs > 0);
	assert_int_equal(virtio_pci_quiesce(&e.net->vdev), 0);
	assert_int_equal(e.net->vdev.queues[0].index, 1);
	assert_false(mock.want[0]);
	arrive(0, 70, 2);
	usleep(5000);
	assert_int_equal(e.d[0].used->idx, 1);
	virtio_pci_resume(&e.net->vdev);
	take_merged(&e, at + 500, 500, 70, 2);
	tear_down(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_go_out),
		cmocka_unit_test(headers_are_checked),
		cmocka_unit_test(hint_is_inside_of_the_frame),
		cmocka_unit_test(backend_without_room_is_waited_for),
		cmocka_unit_test(failing_backend_loses_frames),
		cmocka_unit_test(long_queue_of_frames),
		cmocka_unit_test(frame_in_one_buffer),
		cmocka_unit_test(header_in_pieces),
		cmocka_unit_test(frames_over_several_buffers),
		cmocka_unit_test(frame_waits_for_more_buffers),
		cmocka_unit_test(frame_without_hope_is_dropped),
		cmocka_unit_test(runts_and_giants_are_dropped),
		cmocka_unit_test(no_buffers_no_watching),
		cmocka_unit_test(idle_card_sleeps),
		cmocka_unit_test(received_bytes_are_dirty),
		cmocka_unit_test(hostile_receive_rings),
		cmocka_unit_test(hostile_transmit_rings),
		cmocka_unit_test(a_pause_loses_no_buffers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
