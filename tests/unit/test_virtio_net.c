/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_net.c - the virtio network card with a driver on one side and a backend of the test's
 * own on the other: every byte and header both ways, buffers that run out, filters, commands,
 * hostile rings. What taps and passt do is in test_net_backends.c.
 */
#include "net_env.h"
#include "state_check.h"

#define MERGE FEATURE(MRG_RXBUF)
#define OFFLOADS                                                                       \
	(FEATURE(CSUM) | FEATURE(HOST_TSO4) | FEATURE(HOST_TSO6) | FEATURE(HOST_ECN) | \
	 FEATURE(CTRL_GUEST_OFFLOADS) | NET_GUEST_OFFLOADS)

/* --- the guest sends -------------------------------------------------------------------------- */

/* Header and `len` bytes of pattern, cut where the test wants: 0 ends the list of cuts. */
static uint16_t send_cut(struct env *e, unsigned int pair, const struct virtio_net_hdr_v1 *hdr,
			 unsigned int len, const unsigned int *cuts, bool indirect)
{
	struct vq_driver *d = &e->d[2 * pair + 1];
	unsigned int total = NET_HDR + len, at = 0, n = 0;
	gpa_t gpa = vqd_alloc(d, total, 1);
	uint8_t *p = vqd_at(d, gpa, total);
	struct vqd_buf bufs[16];

	memcpy(p, hdr, NET_HDR);
	for (unsigned int i = 0; i < len; i++)
		p[NET_HDR + i] = pattern(i, len);
	while (at < total) {
		unsigned int part = cuts && *cuts ? *cuts++ : total - at;

		/* A gap in between, or the pieces would be joined again. */
		gpa_t piece = vqd_alloc(d, part + 3, 1);

		memcpy(vqd_at(d, piece, part), p + at, part);
		bufs[n++] = (struct vqd_buf){ .gpa = piece, .len = part };
		at += part;
	}
	return indirect ? vqd_post_indirect(d, bufs, n) : vqd_post(d, bufs, n);
}

static void send_one(struct env *e, const struct virtio_net_hdr_v1 *hdr, unsigned int len)
{
	send_cut(e, 0, hdr, len, NULL, false);
	kick(e, 1);
	assert_int_equal(wait_used(e, 1).len, 0);
}

static void is_pattern(const uint8_t *p, unsigned int len, unsigned int seed)
{
	for (unsigned int i = 0; i < len; i++)
		if (p[i] != pattern(i, seed))
			fail_msg("byte %u of %u is %02x instead of %02x", i, len, p[i],
				 pattern(i, seed));
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
	uint8_t *bytes = malloc(NET_HDR + len);
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
	uint64_t before;
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
	on_loop(nothing);
	on_loop(note_turns);
	before = turns;
	usleep(50000);
	on_loop(note_turns);
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

/* --- commands --------------------------------------------------------------------------------- */

static const uint8_t own[] = { 0x52, 0x54, 0, 0, 0, 7 }, other[] = { 0x52, 0x54, 0, 0, 0, 8 },
		     broadcast[] = { 255, 255, 255, 255, 255, 255 },
		     group[] = { 1, 0, 0x5e, 1, 2, 3 };

/* Does a frame to this address, with these bytes behind both addresses, reach the guest? */
static bool passes(struct env *e, const uint8_t *dst, const void *more, size_t nmore)
{
	uint64_t before, filtered;

	give(e, 0, 200);
	kick(e, 0);
	on_loop(nothing);
	before = e->net->count.rx_packets;
	filtered = e->net->count.rx_filtered;
	arrive_to(0, dst, more, nmore, 100, 1);
	on_loop(ready_now);
	on_loop(nothing);
	assert_int_equal(e->net->count.rx_packets - before + e->net->count.rx_filtered - filtered,
			 1);
	if (e->net->count.rx_packets == before)
		return false;
	wait_used(e, 0);
	return true;
}

static void set_macs(struct env *e, uint32_t nuni, uint32_t nmulti, const uint8_t *uni,
		     const uint8_t *multi)
{
	uint8_t data[8 + 6 * 200], *p = data;

	memcpy(p, &nuni, 4);
	p += 4;
	for (uint32_t i = 0; i < nuni; i++, p += 6)
		memcpy(p, uni, 6);
	memcpy(p, &nmulti, 4);
	p += 4;
	for (uint32_t i = 0; i < nmulti; i++, p += 6)
		memcpy(p, multi, 6);
	assert_int_equal(command(e, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, data,
				 (uint32_t)(p - data)),
			 VIRTIO_NET_OK);
}

static void receive_filter(void **state)
{
	static const uint8_t on = 1, off = 0, vlan5[] = { 0x81, 0, 0xe0, 5 },
			     priority[] = { 0x81, 0, 0xe0, 0 };
	static const uint16_t five = 5;
	struct env e;

	(void)state;
	set_up(&e, 1, CTRL);
	assert_true(passes(&e, other, NULL, 0)); /* until the driver says otherwise */
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1), 0);
	assert_true(passes(&e, own, NULL, 0));
	assert_true(passes(&e, broadcast, NULL, 0));
	assert_false(passes(&e, other, NULL, 0));
	assert_false(passes(&e, group, NULL, 0));
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1), 0);
	assert_true(passes(&e, group, NULL, 0));
	assert_false(passes(&e, other, NULL, 0));
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &off, 1), 0);

	set_macs(&e, 1, 1, other, group);
	assert_true(passes(&e, other, NULL, 0));
	assert_true(passes(&e, group, NULL, 0));
	set_macs(&e, 0, 0, NULL, NULL);
	assert_false(passes(&e, other, NULL, 0));
	set_macs(&e, 65, 0, own, NULL); /* too many to remember: all unicast */
	assert_true(passes(&e, other, NULL, 0));
	assert_false(passes(&e, group, NULL, 0));
	set_macs(&e, 64, 64, other, group);
	assert_true(passes(&e, other, NULL, 0));

	assert_false(passes(&e, own, vlan5, 4));
	assert_false(passes(&e, broadcast, vlan5, 4));
	assert_true(passes(&e, own, priority, 4));
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &five, 2), 0);
	assert_true(passes(&e, own, vlan5, 4));
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL, &five, 2), 0);
	assert_false(passes(&e, own, vlan5, 4));

	assert_int_equal(command(&e, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, broadcast,
				 5),
			 VIRTIO_NET_ERR);
	set_macs(&e, 0, 0, NULL, NULL);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6),
			 0);
	assert_false(passes(&e, own, NULL, 0));
	assert_true(passes(&e, other, NULL, 0));
	/* A reset takes it all back. */
	assert_int_equal(virtio_pci_reset(&e.net->vdev), 0);
	assert_true(e.net->ctrl.promisc);
	assert_memory_equal(e.net->ctrl.mac, own, 6);
	tear_down(&e);
}

static void commands_that_make_no_sense(void **state)
{
	static const uint8_t two[] = { 2, 0 }, table[] = { 2, 0, 0, 0, 1, 2, 3, 4, 5, 6 },
			     huge[] = { 255, 255, 255, 255, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0 },
			     longer[] = { 0, 0, 0, 0, 0, 0, 0, 0, 0 };
	static const uint16_t vid = 4096, none = 0, three = 3;
	static const uint64_t offloads = 1ull << VIRTIO_NET_F_GUEST_UFO;
	static const struct {
		uint8_t class, cmd;
		const void *data;
		uint32_t len;
	} cases[] = {
		{ VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, two, 1 },
		{ VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, two, 2 },
		{ VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, NULL, 0 },
		{ VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, two + 1, 1 },
		{ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof(table) },
		{ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, 3 },
		{ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, huge, sizeof(huge) },
		{ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, longer, sizeof(longer) },
		{ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, table, 7 },
		{ VIRTIO_NET_CTRL_MAC, 9, table, 6 },
		{ VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &vid, 2 },
		{ VIRTIO_NET_CTRL_VLAN, 7, &three, 2 },
		{ VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &none, 2 },
		{ VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &three, 2 },
		{ VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG, &three, 2 },
		{ VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &offloads,
		  8 },
		{ VIRTIO_NET_CTRL_ANNOUNCE, 5, NULL, 0 },
		{ VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL, 0 },
		{ 99, 0, NULL, 0 },
	};
	struct net_ctrl before;
	struct env e;

	(void)state;
	set_up(&e, 2, CTRL | OFFLOADS | FEATURE(MQ));
	before = e.net->ctrl;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++)
		if (command(&e, cases[i].class, cases[i].cmd, cases[i].data, cases[i].len) !=
		    VIRTIO_NET_ERR)
			fail_msg("case %u is accepted", i);
	assert_memory_equal(&before, &e.net->ctrl, sizeof(before));
	tear_down(&e);
	/* What was not negotiated is no command. */
	set_up(&e, 1, FEATURE(CTRL_VQ));
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_RX, 0, two + 1, 1), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_VLAN, 0, &three, 2), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_MAC, 1, own, 6), VIRTIO_NET_ERR);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_MAC, 0, longer, 8), VIRTIO_NET_ERR);
	tear_down(&e);
}

static void command_without_room_for_its_answer(void **state)
{
	struct vqd_buf b = { MiB(3) + KiB(64), 2, false };
	struct env e;

	(void)state;
	set_up(&e, 1, CTRL);
	vqd_post(&e.d[2], &b, 1);
	kick(&e, 2);
	assert_int_equal(wait_for(&host.broken), 0);
	assert_string_equal(host.why, "command without room for its answer");
	tear_down(&e);
}

static void offloads_follow_the_driver(void **state)
{
	const uint64_t csum = FEATURE(GUEST_CSUM);
	struct env e;

	(void)state;
	set_up(&e, 1, CTRL | OFFLOADS);
	assert_int_equal(mock.offload, NET_GUEST_OFFLOADS);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
				 VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &csum, 8),
			 0);
	assert_int_equal(mock.offload, csum);
	/* A pause is no reset. */
	assert_int_equal(virtio_pci_quiesce(&e.net->vdev), 0);
	mock.offload = 0;
	virtio_pci_resume(&e.net->vdev);
	assert_int_equal(mock.offload, csum);
	tear_down(&e);
}

static void several_pairs(void **state)
{
	const struct virtio_net_hdr_v1 hdr = { 0 };
	const uint16_t two = 2, one = 1;
	struct env e;
	gpa_t at;

	(void)state;
	set_up(&e, 2, CTRL | FEATURE(MQ) | MERGE);
	assert_int_equal(e.net->vdev.nqueues, 5);
	assert_int_equal(net_ctrl_queue(e.net), 4);
	assert_int_equal(mock.set_queues, 1);
	at = give(&e, 1, 500);
	give(&e, 1, 500);
	kick(&e, 2);
	on_loop(nothing);
	assert_false(mock.want[1]);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &two, 2),
			 0);
	assert_int_equal(mock.set_queues, 2);
	assert_true(mock.want[1]);
	arrive(1, 60, 6);
	assert_int_equal(wait_used(&e, 2).len, 72);
	is_pattern(vqd_at(&e.d[2], at + NET_HDR, 60), 60, 6);
	send_cut(&e, 1, &hdr, 80, NULL, false);
	kick(&e, 3);
	wait_used(&e, 3);
	assert_int_equal(mock.out[0].pair, 1);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &one, 2),
			 0);
	assert_false(mock.want[1]);
	assert_int_equal(e.net->sq.queues[2].vq.next_avail, 1); /* its buffer is back */
	tear_down(&e);

	set_up(&e, 2, CTRL); /* without MQ the commands go to queue 2 (5.1.2) */
	assert_int_equal(net_ctrl_queue(e.net), 2);
	assert_int_equal(command(&e, 99, 0, NULL, 0), VIRTIO_NET_ERR);
	kick(&e, 4);
	on_loop(nothing);
	tear_down(&e);
}

/* --- configuration ---------------------------------------------------------------------------- */

static struct virtio_net_config config_of(struct env *e)
{
	struct virtio_net_config c = { 0 };

	e->net->vdev.ops->config_read(&e->net->vdev, 0, &c, e->net->vdev.config_size);
	return c;
}

static void unplug(void)
{
	mock.b.link = false;
	mock.b.events->link_changed(&mock.b);
}

static void link_and_announcement(void **state)
{
	struct env e;

	(void)state;
	set_up(&e, 1, CTRL | FEATURE(STATUS) | FEATURE(GUEST_ANNOUNCE));
	assert_memory_equal(config_of(&e).mac, own, 6);
	assert_int_equal(config_of(&e).mtu, 9000);
	assert_int_equal(config_of(&e).status, VIRTIO_NET_S_LINK_UP);
	on_loop(unplug);
	assert_int_equal(wait_for(&host.config), 0);
	assert_int_equal(config_of(&e).status, 0);
	virtio_net_announce(&e.dev);
	assert_int_equal(wait_for(&host.config), 0);
	assert_int_equal(config_of(&e).status, VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(wait_for(&mock.sent), 0);
	on_loop(nothing);
	assert_int_equal(mock.out[0].len, NET_HDR + 60);
	assert_memory_equal(mock.out[0].bytes + NET_HDR, broadcast, 6);
	assert_memory_equal(mock.out[0].bytes + NET_HDR + 6, own, 6);
	assert_memory_equal(mock.out[0].bytes + NET_HDR + 12, "\x80\x35\0\1\x08\0\6\4\0\3", 10);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL,
				 0),
			 0);
	assert_int_equal(config_of(&e).status, 0);
	tear_down(&e);
}

static void features_that_need_others(void **state)
{
	static const struct {
		uint64_t features;
		bool ok;
	} cases[] = {
		{ 0, true },
		{ OFFLOADS | CTRL, true },
		{ FEATURE(GUEST_TSO4), false },
		{ FEATURE(GUEST_CSUM) | FEATURE(GUEST_ECN), false },
		{ FEATURE(GUEST_CSUM) | FEATURE(GUEST_TSO6) | FEATURE(GUEST_ECN), true },
		{ FEATURE(HOST_TSO6), false },
		{ FEATURE(CSUM) | FEATURE(HOST_TSO6), true },
		{ FEATURE(CSUM) | FEATURE(HOST_ECN), false },
		{ FEATURE(MQ), false },
		{ FEATURE(CTRL_RX), false },
		{ FEATURE(GUEST_ANNOUNCE), false },
	};
	struct env e;

	(void)state;
	set_up(&e, 1, 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++)
		if (e.net->vdev.ops->accept_features(&e.net->vdev, cases[i].features) !=
		    cases[i].ok)
			fail_msg("case %u", i);
	assert_int_equal(e.net->vdev.offered,
			 offer_features(VIRTIO_ID_NET, OFFLOADS | FEATURE(MTU)));
	tear_down(&e);
}

static void addresses(void **state)
{
	static const char *const good[] = { "52:54:00:12:34:56", "02:AA:bb:cc:DD:ee" };
	static const char *const bad[] = { "",
					   "52:54:00:12:34",
					   "52:54:00:12:34:5",
					   "5:54:00:12:34:567",
					   "52-54-00-12-34-56",
					   "52:54:00:12:34:5g",
					   "52:54:00:12:34:56:78",
					   "00:00:00:00:00:00",
					   "01:00:5e:00:00:01",
					   "ff:ff:ff:ff:ff:ff",
					   " 2:54:00:12:34:56" };
	uint8_t a[6], b[6], c[6];

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(check_mac(&(struct net_conf){ .mac = strdupa(good[i]) }, NULL), 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(check_mac(&(struct net_conf){ .mac = strdupa(bad[i]) }, NULL),
				 -EINVAL);
	made_up_mac("web", "net0", a);
	made_up_mac("web", "net0", b);
	assert_memory_equal(a, b, 6);
	made_up_mac("web", "net1", b);
	made_up_mac("db", "net0", c);
	assert_memory_not_equal(a, b, 6);
	assert_memory_not_equal(a, c, 6);
	assert_int_equal(a[0] & 3, 2); /* of one card, given by us */
}

static void state_travels(void **state)
{
	static const uint8_t off = 0;
	static const uint16_t five = 5, two = 2;
	const struct state_ref *ref;
	struct env e;

	(void)state;
	set_up(&e, 2, CTRL | OFFLOADS | FEATURE(MQ));
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1), 0);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &five, 2), 0);
	assert_int_equal(command(&e, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &two, 2),
			 0);
	set_macs(&e, 2, 3, other, group);
	assert_int_equal(virtio_pci_quiesce(&e.net->vdev), 0);
	ref = &e.dev.state[VIRTIO_PCI_STATES];
	assert_int_equal(e.dev.nstate, VIRTIO_PCI_STATES + 1);
	state_check_roundtrip("net0", ref, 1);
	state_check_refuses("net0", ref, 1, "/virtio-net", "npairs", 1, "npairs");
	state_check_refuses("net0", ref, 1, "/virtio-net", "mtu", 1500, "mtu");
	state_check_refuses("net0", ref, 1, "/virtio-net", "ctrl.uni.n", 65, "addresses");
	state_check_refuses("net0", ref, 1, "/virtio-net", "ctrl.multi.n", 65, "addresses");
	state_check_refuses("net0", ref, 1, "/virtio-net", "ctrl.pairs", 3, "pairs");
	state_check_refuses("net0", ref, 1, "/virtio-net", "ctrl.pairs", 0, "pairs");
	virtio_pci_resume(&e.net->vdev);
	assert_int_equal(mock.set_queues, 2);
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
		cmocka_unit_test(receive_filter),
		cmocka_unit_test(commands_that_make_no_sense),
		cmocka_unit_test(command_without_room_for_its_answer),
		cmocka_unit_test(offloads_follow_the_driver),
		cmocka_unit_test(several_pairs),
		cmocka_unit_test(link_and_announcement),
		cmocka_unit_test(features_that_need_others),
		cmocka_unit_test(addresses),
		cmocka_unit_test(state_travels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
