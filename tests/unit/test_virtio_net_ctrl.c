/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_virtio_net_ctrl.c - what a driver tells the virtio network card: receive filter, offloads,
 * pairs of queues; commands that make no sense; device configuration, features, addresses, state.
 */
#include "net_env.h"
#include "state_check.h"

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
