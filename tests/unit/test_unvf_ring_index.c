/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_unvf_ring_index.c - functions that say where their queues stand and are told where to begin
 * (--ring-index). The test's thread is the client.
 */
#include "unvf_env.h"

#include <linux/pci_regs.h>

#define VIRTIO_BAR 2
#define INDEX_BAR  4
#define CONFIG	   VFIO_PCI_CONFIG_REGION_INDEX
#define DRIVER_OK  0xf

static struct client *open_function(struct env *e)
{
	struct client *c = env_client(e, 0);

	c->bar = VIRTIO_BAR;
	unvf_client_open(c);
	return c;
}

static uint32_t word(struct client *c, uint64_t off)
{
	return (uint32_t)unvf_client_read(c, INDEX_BAR, off, 4);
}

static void set_word(struct client *c, uint64_t off, uint16_t avail, uint16_t used)
{
	unvf_client_write(c, INDEX_BAR, off, 4, avail | (uint32_t)used << 16);
}

static bool disable(struct client *c, uint16_t q)
{
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	for (int i = 0; i < CLIENT_MS; i++) {
		if (!unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2))
			return true;
		usleep(1000);
	}
	return false;
}

/* As a driver finds it: other subsystem, and virtio's structures beside BAR 4. */
static void test_identity(void **state)
{
	static const struct {
		const char *line;
		uint32_t subsystem;
	} kinds[] = { { "--type blk --image IMAGE --ring-index", 0x00028086 },
		      { "--type net --loopback --ring-index", 0x001a8086 },
		      { "--type net --loopback", 0x11001af4 } };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct env *e = env_new(kinds[i].line);
		struct client *c = env_client(e, 0);

		c->bar = i < 2 ? VIRTIO_BAR : CLIENT_BAR;
		unvf_client_open(c);
		assert_int_equal(unvf_client_read(c, CONFIG, PCI_SUBSYSTEM_VENDOR_ID, 4),
				 kinds[i].subsystem);
		assert_true(unvf_client_offered(c) & 1ull << 32);
		env_drop(c);
		env_free(e);
	}
}

/* Where it stood it goes on, also behind a reset; wherever it is told it begins. */
static void test_disk(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --ring-index --queues 2");
	struct client *c = open_function(e);
	uint8_t buf[512];
	struct vq_driver rings;

	(void)state;
	unvf_client_drive(c, BASE_FEATURES, 2, 16);
	for (unsigned int i = 0; i < 21; i++)
		assert_int_equal(unvf_client_blk(c, 1, VIRTIO_BLK_T_IN, i, buf, 512), 0);
	assert_int_equal(word(c, 0x60), 0); /* it is enabled: that is where it began */
	assert_true(disable(c, 1));
	assert_int_equal(word(c, 0x60), 21 | 21 << 16);
	assert_true(disable(c, 0));
	assert_int_equal(word(c, 0x20), 0);
	rings = c->q[1];
	assert_true(unvf_client_reset(c));
	assert_int_equal(word(c, 0x60), 0);

	assert_true(unvf_client_negotiate(c, BASE_FEATURES));
	unvf_client_queue(c, 0, 16);
	c->q[1] = rings;
	unvf_client_program(c, 1);
	/* Programming enables it; that is taken back, told, and done again. */
	assert_true(disable(c, 1));
	set_word(c, 0x60, 21, 20);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	set_word(c, 0x60, 21, 21);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	set_word(c, 0x60, 7, 7); /* too late */
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_STATUS, 1, DRIVER_OK);
	for (unsigned int i = 0; i < 21; i++)
		assert_int_equal(unvf_client_blk(c, 1, VIRTIO_BLK_T_IN, i, buf, 512), 0);
	assert_true(disable(c, 1));
	assert_int_equal(word(c, 0x60), 42 | 42 << 16);
	/* Words that no queue has, and accesses that no word has. */
	set_word(c, 0xa0, 5, 5);
	assert_int_equal(word(c, 0xa0), 0);
	unvf_client_write(c, INDEX_BAR, 0x20, 2, 5);
	assert_int_equal(word(c, 0x20), 0);
	assert_int_equal(unvf_client_read(c, INDEX_BAR, 0xffc, 4), 0);
	env_drop(c);
	env_free(e);
}

/* A card gives back what it had taken and not filled. */
static void test_card(void **state)
{
	struct env *e = env_new("--type net --loopback --ring-index --queues 2");
	struct client *c = open_function(e);

	(void)state;
	unvf_client_drive(c, BASE_FEATURES, 4, 16);
	for (unsigned int i = 0; i < 5; i++) {
		struct vqd_buf buf = { vqd_alloc(&c->q[2], 2048, 16), 2048, true };

		vqd_post(&c->q[2], &buf, 1);
	}
	(void)vqd_show(&c->q[2]);
	unvf_client_kick(c, 2);
	usleep(20000);
	assert_true(disable(c, 2));
	assert_int_equal(word(c, 0x60), 0);
	assert_true(disable(c, 3));
	assert_int_equal(word(c, 0x64), 0);
	/* queue_enable is no reset: that one is not offered. */
	assert_int_equal(unvf_client_reg(c, 58, 2), 0);
	env_drop(c);
	env_free(e);
}

/* Without the option nobody can disable a queue. */
static void test_plain(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = env_client(e, 0);

	(void)state;
	unvf_client_open(c);
	unvf_client_drive(c, BASE_FEATURES, 1, 16);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	usleep(20000);
	assert_int_equal(unvf_client_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	env_drop(c);
	env_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_disk),
		cmocka_unit_test(test_card),
		cmocka_unit_test(test_plain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
