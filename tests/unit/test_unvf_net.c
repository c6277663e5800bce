/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_unvf_net.c - a network card of unvf on a loop: frames through real rings, the control queue,
 * several pairs, resets of single rings, buffers that run out. The test's thread is the client.
 */
#include "unvf_env.h"

#define HDR	   ((uint32_t)sizeof(struct virtio_net_hdr_v1))
#define FEATURE(f) VIRTIO_BIT(VIRTIO_NET_F_##f)
#define NET_FEATURES                                                                              \
	(BASE_FEATURES | FEATURE(MAC) | FEATURE(MRG_RXBUF) | FEATURE(STATUS) | FEATURE(CTRL_VQ) | \
	 FEATURE(CTRL_RX) | FEATURE(CTRL_VLAN) | FEATURE(MQ) | FEATURE(CTRL_MAC_ADDR))
#define Q_RESET 58

static struct client *driven(struct env *e, uint64_t more)
{
	struct client *c = env_client(e, 0);

	unvf_client_open(c);
	unvf_client_drive(c, (NET_FEATURES | more) & unvf_client_offered(c),
			  unvf_client_reg(c, VIRTIO_PCI_COMMON_NUMQ, 2), 32);
	return c;
}

static void post_rx(struct client *c, unsigned int pair, unsigned int n, uint32_t len)
{
	struct vq_driver *d = &c->q[2 * pair];

	while (n--) {
		struct vqd_buf b = { .len = len, .writable = true };

		b.gpa = vqd_alloc(d, len, 16);
		vqd_post(d, &b, 1);
	}
	(void)vqd_show(d);
	unvf_client_kick(c, (uint16_t)(2 * pair));
}

static void send_frame(struct client *c, unsigned int pair, uint8_t fill, uint32_t len)
{
	unsigned int q = 2 * pair + 1;
	struct vq_driver *d = &c->q[q];
	gpa_t at = vqd_alloc(d, HDR + len, 16);
	struct vqd_buf b = { .gpa = at, .len = HDR + len };
	struct vring_used_elem u;
	uint8_t *p = vqd_at(d, at, b.len);

	memset(p, 0, HDR);
	memset(p + HDR, fill, len);
	memset(p + HDR, 0xff, 6); /* to everybody */
	vqd_post(d, &b, 1);
	(void)vqd_show(d);
	unvf_client_kick(c, (uint16_t)q);
	assert_true(unvf_client_take(c, q, &u, CLIENT_MS));
}

/* The frame comes in: in how many buffers? */
static unsigned int receive(struct client *c, unsigned int pair, uint8_t fill, uint32_t len)
{
	struct vq_driver *d = &c->q[2 * pair];
	uint32_t got = 0, want = HDR + len;
	unsigned int n = 0;

	while (got < want) {
		struct vring_used_elem u;
		const uint8_t *p;

		assert_true(unvf_client_take(c, 2 * pair, &u, CLIENT_MS));
		p = vqd_at(d, d->desc[u.id].addr, u.len);
		if (!n++)
			assert_int_equal(((const struct virtio_net_hdr_v1 *)p)->num_buffers, 1);
		got += u.len;
		if (got == want)
			assert_int_equal(p[u.len - 1], fill);
	}
	assert_int_equal(got, want);
	return n;
}

static void test_frames(void **state)
{
	struct env *e = env_new("--type net --loopback --queues 2 --mac 52:54:00:00:00:07");
	struct client *c = driven(e, 0);
	uint64_t mac = unvf_client_read(c, CLIENT_BAR, 0x2000, 4);

	(void)state;
	assert_int_equal(mac, 0x00005452);
	post_rx(c, 0, 8, 2048);
	for (unsigned int i = 0; i < 8; i++) {
		send_frame(c, 0, (uint8_t)i, 60 + i);
		assert_int_equal(receive(c, 0, (uint8_t)i, 60 + i), 1);
	}
	/* Without buffers frames wait, and come once there are some and the doorbell says so. */
	for (unsigned int i = 0; i < 3; i++)
		send_frame(c, 0, (uint8_t)(0x40 + i), 100);
	usleep(5000);
	post_rx(c, 0, 3, 2048);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(receive(c, 0, (uint8_t)(0x40 + i), 100), 1);
	env_drop(c);
	env_free(e);
}

/* A frame for which there are buffers in the ring, but no doorbell for them, waits. */
static void test_rx_doorbell_is_needed(void **state)
{
	struct env *e = env_new("--type net --loopback");
	struct client *c = driven(e, 0);
	struct vqd_buf b = { .len = 2048, .writable = true };
	struct vring_used_elem u;

	(void)state;
	post_rx(c, 0, 1, 2048);
	send_frame(c, 0, 1, 100);
	receive(c, 0, 1, 100);
	b.gpa = vqd_alloc(&c->q[0], b.len, 16);
	vqd_post(&c->q[0], &b, 1);
	(void)vqd_show(&c->q[0]); /* not rung */
	send_frame(c, 0, 2, 100);
	assert_false(unvf_client_take(c, 0, &u, 20));
	unvf_client_kick(c, 0);
	receive(c, 0, 2, 100);
	env_drop(c);
	env_free(e);
}

static uint8_t command(struct client *c, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
	unsigned int q = unvf_client_reg(c, VIRTIO_PCI_COMMON_NUMQ, 2) - 1;
	struct vq_driver *d = &c->q[q];
	gpa_t out = vqd_alloc(d, 2 + len, 16), ack = vqd_alloc(d, 1, 1);
	struct vqd_buf b[] = { { out, 2 + len, false }, { ack, 1, true } };
	struct vring_used_elem u;
	uint8_t *p = vqd_at(d, out, 2 + len);

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	*(uint8_t *)vqd_at(d, ack, 1) = 0xee;
	vqd_post(d, b, 2);
	(void)vqd_show(d);
	unvf_client_kick(c, (uint16_t)q);
	assert_true(unvf_client_take(c, q, &u, CLIENT_MS));
	return *(uint8_t *)vqd_at(d, ack, 1);
}

static void test_control(void **state)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 0, 0, 0x99 };
	struct env *e = env_new("--type net --loopback --queues 4");
	struct client *c = driven(e, 0);
	uint16_t pairs = 4, vlan = 7;
	uint8_t on = 1;

	(void)state;
	assert_int_equal(command(c, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6), 0);
	assert_int_equal(unvf_client_read(c, CLIENT_BAR, 0x2002, 4), 0x99000000);
	assert_int_equal(command(c, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1), 0);
	assert_int_equal(command(c, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &vlan, 2), 0);
	/* Rings of pairs that are not in use yet are not served. */
	post_rx(c, 3, 2, 2048);
	assert_int_equal(command(c, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, 2),
			 0);
	send_frame(c, 3, 9, 80);
	receive(c, 3, 9, 80);
	pairs = 5;
	assert_int_equal(command(c, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, 2),
			 1);
	env_drop(c);
	env_free(e);
}

/* A receive ring is reset under traffic; the other pair does not notice. */
static void test_ring_reset(void **state)
{
	struct env *e = env_new("--type net --loopback --queues 2 --ring-reset");
	struct client *c = driven(e, VIRTIO_BIT(40));
	uint16_t pairs = 2;

	(void)state;
	assert_int_equal(command(c, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, 2),
			 0);
	for (unsigned int i = 0; i < 10; i++) {
		post_rx(c, 0, 4, 2048);
		post_rx(c, 1, 1, 2048);
		send_frame(c, 0, 1, 90);
		receive(c, 0, 1, 90);
		unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		unvf_client_set_reg(c, Q_RESET, 2, 1);
		while (unvf_client_reg(c, Q_RESET, 2))
			;
		send_frame(c, 1, 2, 91);
		receive(c, 1, 2, 91);
		unvf_client_queue(c, 0, 32);
		post_rx(c, 0, 1, 2048);
		send_frame(c, 0, 3, 92);
		receive(c, 0, 3, 92);
		unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		unvf_client_set_reg(c, Q_RESET, 2, 1);
		while (unvf_client_reg(c, Q_RESET, 2))
			;
		unvf_client_queue(c, 0, 32);
	}
	env_drop(c);
	env_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_rx_doorbell_is_needed),
		cmocka_unit_test(test_control),
		cmocka_unit_test(test_ring_reset),
	};

	return cmocka_run_group_tests_name("unvf_net", tests, NULL, NULL);
}
