/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_unvf_blk.c - a disk of unvf, driven through real rings over a socket: what is read is what
 * was written, nothing is served before the doorbell, broken rings and lost clients harm nobody.
 * The test's thread is the client.
 */
#include "unvf_env.h"

#include <sys/mman.h>

static void pattern(uint8_t *buf, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)((seed * 2654435761u + i * 40503u) >> 3);
}

static void read_write(struct client *c, unsigned int q)
{
	uint8_t out[4096], in[4096];

	for (uint32_t i = 0; i < 40; i++) {
		pattern(out, sizeof(out), i);
		assert_int_equal(unvf_client_blk(c, q, VIRTIO_BLK_T_OUT, i * 8, out, sizeof(out)),
				 VIRTIO_BLK_S_OK);
	}
	assert_int_equal(unvf_client_blk(c, q, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
	for (uint32_t i = 0; i < 40; i++) {
		pattern(out, sizeof(out), i);
		assert_int_equal(unvf_client_blk(c, q, VIRTIO_BLK_T_IN, i * 8, in, sizeof(in)),
				 VIRTIO_BLK_S_OK);
		assert_memory_equal(in, out, sizeof(in));
	}
}

/* Every kind of doorbell, with and without event indexes, on the last of several queues. */
static void test_read_write(void **state)
{
	static const char *const lines[] = {
		"--type blk --image IMAGE",
		"--type blk --image IMAGE --doorbell ioeventfd",
		"--type blk --image IMAGE --doorbell message",
		"--type blk --image IMAGE --page-per-vq --queues 4",
		"--type blk --image IMAGE --queues 16 --queue-size 16 --ring-reset --pattern",
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(lines); i++)
		for (unsigned int event = 0; event < 2; event++) {
			struct env *e = env_new(lines[i]);
			struct client *c = env_client(e, 0);
			uint64_t features = BLK_FEATURES;
			unsigned int n;

			if (event)
				features |= VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX);
			unvf_client_open(c);
			n = unvf_client_reg(c, VIRTIO_PCI_COMMON_NUMQ, 2);
			unvf_client_drive(c, features, n, 16);
			read_write(c, n - 1);
			assert_true(unvf_client_irq(c, n - 1, 0));
			env_drop(c);
			env_free(e);
		}
}

static struct client *driven(struct env *e, unsigned int i, unsigned int queues, uint16_t size)
{
	struct client *c = env_client(e, i);

	unvf_client_open(c);
	unvf_client_drive(c, BLK_FEATURES & unvf_client_offered(c), queues, size);
	return c;
}

static void test_other_requests(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --serial unvf-1");
	struct client *c = driven(e, 0, 1, 64);
	struct virtio_blk_discard_write_zeroes seg = { .sector = 8, .num_sectors = 8 };
	uint8_t buf[4096], zeroes[4096] = { 0 };

	(void)state;
	memset(buf, 0x77, sizeof(buf));
	for (uint32_t sector = 0; sector < 24; sector += 8)
		assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_OUT, sector, buf, sizeof(buf)),
				 0);
	assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_DISCARD, 0, &seg, sizeof(seg)), 0);
	seg.sector = 16;
	assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, &seg, sizeof(seg)), 0);
	for (uint32_t sector = 0; sector < 24; sector += 8) {
		assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_IN, sector, buf, sizeof(buf)),
				 0);
		if (sector)
			assert_memory_equal(buf, zeroes, sizeof(buf));
		else
			assert_int_equal(buf[4095], 0x77);
	}
	assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_GET_ID, 0, buf, 20), 0);
	assert_string_equal((char *)buf, "unvf-1");
	assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_IN, IMAGE_SIZE / 512, buf, 512),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(unvf_client_blk(c, 0, 99, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
	env_drop(c);
	env_free(e);
}

/* Whoever forgets to ring is not served, however busy the thread is with another queue. */
static void test_doorbell_is_needed(void **state)
{
	static const char *const lines[] = { "--type blk --image IMAGE --queues 2",
					     "--type blk --image IMAGE --queues 2 --doorbell "
					     "ioeventfd" };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(lines); i++) {
		struct env *e = env_new(lines[i]);
		struct client *c = driven(e, 0, 2, 64);
		struct vring_used_elem u;
		struct unvf_client_blk silent;
		uint8_t buf[512];

		silent = unvf_client_blk_post(c, 1, VIRTIO_BLK_T_IN, 0, NULL, 512);
		(void)vqd_show(&c->q[1]);
		for (unsigned int n = 0; n < 50; n++)
			assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_IN, n, buf, 512), 0);
		assert_false(unvf_client_take(c, 1, &u, 20));
		/* The value in another queue's cell is not this queue's index. */
		if (c->doorbells) {
			uint16_t *cell = (uint16_t *)(c->doorbells + c->multiplier);

			__atomic_store_n(cell, 0, __ATOMIC_SEQ_CST);
			assert_false(unvf_client_take(c, 1, &u, 20));
			assert_int_equal(__atomic_load_n(cell, __ATOMIC_SEQ_CST), FN_CELL_EMPTY);
		}
		unvf_client_kick(c, 1);
		assert_true(unvf_client_take(c, 1, &u, CLIENT_MS));
		assert_int_equal(u.id, silent.head);
		assert_int_equal(*silent.status, 0);
		env_drop(c);
		env_free(e);
	}
}

/* The first kick after the thread has gone to sleep between its scans. */
static void test_first_kick_after_idle(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = driven(e, 0, 1, 64);
	uint8_t buf[512];

	(void)state;
	for (unsigned int i = 0; i < 20; i++) {
		usleep(5000);
		assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_IN, 0, buf, 512), 0);
	}
	env_drop(c);
	env_free(e);
}

static bool needs_reset(struct client *c)
{
	for (int t = 0; t < 30000; t++) {
		if (unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_CONFIG_S_NEEDS_RESET)
			return true;
		usleep(1000);
	}
	return false;
}

/* --- what breaks a ring, and only that ---------------------------------------------------------
 */

static void break_loop(struct client *c)
{
	c->q[0].desc[0] = (struct vring_desc){ .flags = VRING_DESC_F_NEXT, .next = 0 };
	vqd_post_head(&c->q[0], 0);
}

static void break_head(struct client *c)
{
	vqd_post_head(&c->q[0], 64);
}

static void break_address(struct client *c)
{
	c->q[0].desc[0] = (struct vring_desc){ .addr = CLIENT_RAM - 8, .len = 16 };
	vqd_post_head(&c->q[0], 0);
}

static void break_index(struct client *c)
{
	c->q[0].avail_idx = (uint16_t)(c->q[0].avail_idx + 65);
}

static void break_indirect(struct client *c)
{
	c->q[0].desc[0] =
		(struct vring_desc){ .addr = 0x1000, .len = 17, .flags = VRING_DESC_F_INDIRECT };
	vqd_post_head(&c->q[0], 0);
}

static void test_hostile_rings(void **state)
{
	static void (*const breaks[])(struct client * c) = { break_loop, break_head, break_address,
							     break_index, break_indirect };
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = env_client(e, 0);

	(void)state;
	unvf_client_open(c);
	for (unsigned int i = 0; i < ARRAY_SIZE(breaks); i++) {
		uint8_t buf[512];

		unvf_client_drive(c, BLK_FEATURES, 1, 64);
		breaks[i](c);
		(void)vqd_show(&c->q[0]);
		unvf_client_kick(c, 0);
		assert_true(needs_reset(c));
		/* A reset mends it. */
		unvf_client_drive(c, BLK_FEATURES, 1, 64);
		assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_IN, 0, buf, 512), 0);
	}
	env_drop(c);
	env_free(e);
}

/* Rings in memory that was never mapped, or that is mapped for reading only. */
static void test_unmapped_rings(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = env_client(e, 0);
	uint8_t buf[512];

	(void)state;
	unvf_client_open(c);
	assert_int_equal(unvf_client_unmap(c, 0, CLIENT_RAM), 0);
	assert_int_equal(unvf_client_unmap(c, 0, CLIENT_RAM), -ENOENT);
	unvf_client_drive(c, BLK_FEATURES, 1, 64);
	assert_true(needs_reset(c));
	assert_int_equal(unvf_client_map(c, 0, CLIENT_RAM, c->mem.fd, 0), 0);
	unvf_client_drive(c, BLK_FEATURES, 1, 64);
	assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_IN, 0, buf, 512), 0);
	env_drop(c);
	env_free(e);
}

/* --- clients that leave, memory that goes -------------------------------------------------------
 */

/* As many requests as there is room for; returns how many. */
static unsigned int flood(struct client *c, unsigned int q)
{
	static const uint8_t data[16384];
	unsigned int n = 0;

	while (c->q[q].nfree >= 3 && c->q[q].heap + 32768 < c->q[q].heap_end) {
		unvf_client_blk_post(c, q, n % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, n * 32, data,
				     sizeof(data));
		n++;
	}
	(void)vqd_show(&c->q[q]);
	unvf_client_kick(c, (uint16_t)q);
	return n;
}

static void test_disconnect_under_load(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --queues 2");

	(void)state;
	for (unsigned int i = 0; i < 20; i++) {
		struct client *c = driven(e, 0, 2, 64);

		flood(c, 0);
		flood(c, 1);
		usleep(i * 50);
		env_drop(c);
		env_wait_free(e, 0);
		assert_int_equal(e->f[0]->vm.mem.nshared, 0);
		assert_int_equal(e->f[0]->v->status, 0);
	}
	env_free(e);
}

/* Once the unmap is answered nothing is written to the memory any more. */
static void test_unmap_under_load(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE");

	(void)state;
	for (unsigned int i = 0; i < 20; i++) {
		struct client *c = driven(e, 0, 1, 64);
		static uint8_t before[CLIENT_RAM];
		uint8_t *ram = vqd_at(&c->q[0], 0, CLIENT_RAM);

		flood(c, 0);
		usleep(i * 50);
		assert_int_equal(unvf_client_unmap(c, 0, CLIENT_RAM), 0);
		memcpy(before, ram, CLIENT_RAM);
		usleep(3000);
		assert_memory_equal(ram, before, CLIENT_RAM);
		assert_true(needs_reset(c));
		env_drop(c);
		env_wait_free(e, 0);
	}
	env_free(e);
}

/* Other memory comes and goes while the rings are served, and no request is lost. */
static void test_unmap_of_something_else(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE");
	struct client *c = driven(e, 0, 1, 64);
	struct vring_used_elem u;
	unsigned int n;

	(void)state;
	n = flood(c, 0);
	for (unsigned int i = 0; i < 50; i++) {
		assert_int_equal(unvf_client_map(c, GiB(8), MiB(1), c->mem.fd, MiB(1)), 0);
		assert_int_equal(unvf_client_map(c, GiB(8) + 4096, 4096, c->mem.fd, 0), -EEXIST);
		assert_int_equal(unvf_client_unmap(c, GiB(8), MiB(1)), 0);
	}
	for (unsigned int i = 0; i < n; i++)
		assert_true(unvf_client_take(c, 0, &u, CLIENT_MS));
	env_drop(c);
	env_free(e);
}

/* A client that cuts its file loses its function, and nobody else does. */
static void test_truncated_memory(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --read-only / --type blk --image IMAGE "
				"--read-only");
	struct client *bad = env_client(e, 0), *good = driven(e, 1, 1, 64);
	int fd = memfd_create("cut", MFD_CLOEXEC);
	uint8_t buf[512];

	(void)state;
	unvf_client_open(bad);
	assert_int_equal(ftruncate(fd, MiB(2)), 0);
	assert_int_equal(unvf_client_map(bad, GiB(1), MiB(4), fd, 0), -EINVAL);
	assert_int_equal(unvf_client_map(bad, GiB(1), MiB(2), fd, 0), 0);
	assert_true(unvf_client_negotiate(bad, BASE_FEATURES));
	vqd_init(&bad->q[0], &bad->mem, MiB(1), KiB(64), 64, BASE_FEATURES);
	bad->q[0].layout.desc = GiB(1);
	unvf_client_program(bad, 0);
	unvf_client_set_reg(bad, VIRTIO_PCI_COMMON_STATUS, 1, 15);
	assert_int_equal(ftruncate(fd, 0), 0);
	vqd_post_head(&bad->q[0], 0);
	(void)vqd_show(&bad->q[0]);
	unvf_client_kick(bad, 0);
	env_wait_free(e, 0);
	assert_int_equal(unvf_client_blk(good, 0, VIRTIO_BLK_T_IN, 0, buf, 512), 0);
	close(fd);
	env_drop(bad);
	env_drop(good);
	env_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_write),
		cmocka_unit_test(test_other_requests),
		cmocka_unit_test(test_doorbell_is_needed),
		cmocka_unit_test(test_first_kick_after_idle),
		cmocka_unit_test(test_hostile_rings),
		cmocka_unit_test(test_unmapped_rings),
		cmocka_unit_test(test_disconnect_under_load),
		cmocka_unit_test(test_unmap_under_load),
		cmocka_unit_test(test_unmap_of_something_else),
		cmocka_unit_test(test_truncated_memory),
	};

	return cmocka_run_group_tests_name("unvf_blk", tests, NULL, NULL);
}
