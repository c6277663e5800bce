/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_unvf_state.c - functions of unvf that are moved: VFIO's states, the state stream between two
 * functions that drive the same rings in turn, hostile streams, the log of DMA. The test's thread
 * is the client.
 */
#include "unvf_env.h"

#define STOP	  VFIO_DEVICE_STATE_STOP
#define RUNNING	  VFIO_DEVICE_STATE_RUNNING
#define STOP_COPY VFIO_DEVICE_STATE_STOP_COPY
#define RESUMING  VFIO_DEVICE_STATE_RESUMING
#define P2P	  VFIO_DEVICE_STATE_RUNNING_P2P
#define GET	  VFIO_DEVICE_FEATURE_GET
#define SET	  VFIO_DEVICE_FEATURE_SET
#define START	  (SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START)

static uint32_t state_of(struct client *c)
{
	struct vfio_device_feature_mig_state s;

	assert_int_equal(unvf_client_feature(c, GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, NULL,
					     0),
			 0);
	memcpy(&s, c->body + 8, sizeof(s));
	return s.device_state;
}

/* From every state to every state, by the shortest path. */
static void test_every_arc(void **state)
{
	static const uint32_t states[] = { STOP, RUNNING, STOP_COPY, RESUMING, P2P };
	struct env *e = env_new("--type blk --image IMAGE --state");
	struct client *c = env_client(e, 0);

	(void)state;
	unvf_client_open(c);
	for (unsigned int i = 0; i < 25; i++) {
		assert_int_equal(unvf_client_state(c, states[i / 5]), 0);
		assert_int_equal(unvf_client_state(c, states[i % 5]), 0);
		assert_int_equal(state_of(c), states[i % 5]);
	}
	assert_int_equal(unvf_client_state(c, VFIO_DEVICE_STATE_ERROR), -EINVAL);
	assert_int_equal(unvf_client_state(c, 6 /* PRE_COPY */), -EINVAL);
	assert_int_equal(unvf_client_state(c, 99), -EINVAL);
	assert_int_equal(state_of(c), P2P);
	env_drop(c);
	env_free(e);
}

static void test_features(void **state)
{
	static const char *const lines[] = { "--type blk --image IMAGE",
					     "--type blk --image IMAGE --state --dirty-log" };

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		struct env *e = env_new(lines[i]);
		struct client *c = env_client(e, 0);
		int want = i ? 0 : -ENOTTY;

		unvf_client_open(c);
		assert_int_equal(unvf_client_feature(c, GET | VFIO_DEVICE_FEATURE_MIGRATION, NULL,
						     0),
				 want);
		if (i)
			assert_int_equal(*(uint64_t *)(c->body + 8),
					 VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P);
		assert_int_equal(unvf_client_feature(c, START | VFIO_DEVICE_FEATURE_PROBE, NULL, 0),
				 want);
		assert_int_equal(unvf_client_feature(c, GET | 55, NULL, 0), -ENOTTY);
		env_drop(c);
		env_free(e);
	}
}

static size_t save(struct client *c, uint8_t *buf, size_t cap, uint32_t piece)
{
	struct vfio_user_mig_data m = { .argsz = sizeof(m) + piece, .size = piece }, got;
	size_t len = 0;

	do {
		assert_int_equal(unvf_client_call(c, VFIO_USER_MIG_DATA_READ, &m, sizeof(m), NULL,
						  0),
				 0);
		memcpy(&got, c->body, sizeof(got));
		assert_true(got.size <= piece && len + got.size <= cap);
		memcpy(buf + len, c->body + sizeof(got), got.size);
		len += got.size;
	} while (got.size == piece);
	return len;
}

static int load(struct client *c, const uint8_t *buf, size_t len, uint32_t piece)
{
	while (len) {
		uint8_t msg[4096 + 8];
		uint32_t n = len < piece ? (uint32_t)len : piece;
		struct vfio_user_mig_data m = { .argsz = sizeof(m) + n, .size = n };
		int ret;

		memcpy(msg, &m, sizeof(m));
		memcpy(msg + sizeof(m), buf, n);
		ret = unvf_client_call(c, VFIO_USER_MIG_DATA_WRITE, msg, sizeof(m) + n, NULL, 0);
		if (ret)
			return ret;
		buf += n;
		len -= n;
	}
	return 0;
}

/* The second client takes over memory and rings of the first. */
static void take_over(struct client *to, struct client *from)
{
	uint8_t *a = gmem_ptr(&from->mem, 0, CLIENT_RAM), *b = gmem_ptr(&to->mem, 0, CLIENT_RAM);

	memcpy(b, a, CLIENT_RAM);
	memcpy(to->q, from->q, sizeof(to->q));
	for (unsigned int q = 0; q < CLIENT_QUEUES; q++) {
		struct vq_driver *d = &to->q[q];

		if (!d->mem)
			continue;
		d->mem = &to->mem;
		d->desc = vqd_at(d, d->layout.desc, 16);
		d->avail = vqd_at(d, d->layout.avail, 4);
		d->used = vqd_at(d, d->layout.used, 4);
	}
}

/* A disk is moved back and forth in the middle of its ring, with a request rung for on the way. */
static void test_move_disk(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --read-only --serial x --state / "
				"--type blk --image IMAGE --read-only --serial x --state");
	struct client *c[2] = { env_client(e, 0), env_client(e, 1) };
	static uint8_t blob[65536];
	uint8_t buf[512];

	(void)state;
	unvf_client_open(c[0]);
	unvf_client_open(c[1]);
	unvf_client_drive(c[0], BASE_FEATURES, 1, 16);
	for (unsigned int i = 0; i < 30; i++) {
		struct client *from = c[i % 2], *to = c[1 - i % 2];
		struct vring_used_elem u;
		struct unvf_client_blk r;
		size_t len;

		for (unsigned int k = 0; k < 7; k++)
			assert_int_equal(unvf_client_blk(from, 0, VIRTIO_BLK_T_IN, k, buf, 512), 0);
		assert_int_equal(unvf_client_state(from, STOP), 0);
		/* Rung for while it stands still: it travels. */
		r = unvf_client_blk_post(from, 0, VIRTIO_BLK_T_IN, 0, NULL, 512);
		(void)vqd_show(&from->q[0]);
		unvf_client_kick(from, 0);
		assert_int_equal(unvf_client_state(from, STOP_COPY), 0);
		len = save(from, blob, sizeof(blob), i % 3 ? 4096 : 100);
		assert_true(len > 100);
		assert_int_equal(unvf_client_state(to, RESUMING), 0);
		assert_int_equal(load(to, blob, len, i % 3 ? 4096 : 99), 0);
		take_over(to, from);
		assert_int_equal(unvf_client_state(to, RUNNING), 0);
		assert_true(unvf_client_take(to, 0, &u, CLIENT_MS));
		assert_int_equal(u.id, r.head);
		assert_int_equal(unvf_client_state(from, RUNNING), 0);
		assert_true(unvf_client_reset(from));
	}
	env_drop(c[0]);
	env_drop(c[1]);
	env_free(e);
}

/* A stream that is not one leads to ERROR, out of which there is a reset. */
static void test_hostile_stream(void **state)
{
	struct env *e = env_new("--type blk --image IMAGE --state");
	struct client *c = env_client(e, 0);
	static uint8_t blob[65536];
	unsigned int refused = 0;
	size_t len;

	(void)state;
	unvf_client_open(c);
	unvf_client_drive(c, BLK_FEATURES, 1, 16);
	assert_int_equal(unvf_client_state(c, STOP_COPY), 0);
	len = save(c, blob, sizeof(blob), 4096);
	assert_int_equal(unvf_client_state(c, RUNNING), 0);
	for (size_t at = 0; at < len; at += 37) {
		int ret;

		blob[at] ^= 0xff;
		assert_int_equal(unvf_client_state(c, RESUMING), 0);
		assert_int_equal(load(c, blob, at % 2 ? len : at + 1, 4096), 0);
		ret = unvf_client_state(c, STOP);
		refused += ret != 0;
		if (ret) {
			assert_int_equal(state_of(c), VFIO_DEVICE_STATE_ERROR);
			assert_int_equal(unvf_client_state(c, RUNNING), -EINVAL);
			assert_int_equal(unvf_client_call(c, VFIO_USER_DEVICE_RESET, NULL, 0, NULL,
							  0),
					 0);
		}
		assert_int_equal(unvf_client_state(c, RUNNING), 0);
		blob[at] ^= 0xff;
	}
	assert_true(refused > 10);
	/* No more than a blob can have. */
	assert_int_equal(unvf_client_state(c, RESUMING), 0);
	for (unsigned int i = 0; i < 256; i++)
		assert_int_equal(load(c, blob, 4096, 4096), 0);
	assert_int_equal(load(c, blob, 4096, 4096), -ENOSPC);
	env_drop(c);
	env_free(e);
}

/* At most a MiB, which is 256 bits. */
static int report(struct client *c, uint64_t iova, uint64_t len, uint64_t bits[4])
{
	struct vfio_user_log_report r = { .iova = iova, .length = len, .page_size = 4096 };
	int ret =
		unvf_client_feature(c, GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, &r, sizeof(r));

	if (!ret)
		memcpy(bits, c->body + 8 + sizeof(r), 32);
	return ret;
}

static unsigned int count_dirty(struct client *c)
{
	unsigned int n = 0;

	for (uint64_t at = 0; at < CLIENT_RAM; at += MiB(1)) {
		uint64_t bits[4];

		assert_int_equal(report(c, at, MiB(1), bits), 0);
		for (unsigned int i = 0; i < 4; i++)
			n += (unsigned int)__builtin_popcountll(bits[i]);
	}
	return n;
}

static void test_dirty_log(void **state)
{
	struct vfio_device_feature_dma_logging_control on = { .page_size = 4096 };
	struct env *e = env_new("--type blk --image IMAGE --dirty-log");
	struct client *c = env_client(e, 0);
	struct unvf_client_blk r;
	struct vring_used_elem u;
	uint64_t bits[4];

	(void)state;
	unvf_client_open(c);
	unvf_client_drive(c, BLK_FEATURES, 1, 16);
	assert_int_equal(unvf_client_feature(c, START, &on, sizeof(on)), 0);
	assert_int_equal(count_dirty(c), 0);
	c->q[0].heap = align_up(c->q[0].heap, 65536ull);
	r = unvf_client_blk_post(c, 0, VIRTIO_BLK_T_IN, 0, NULL, 16384);
	(void)vqd_show(&c->q[0]);
	unvf_client_kick(c, 0);
	assert_true(unvf_client_take(c, 0, &u, CLIENT_MS));
	/* The data, the status behind it, the used ring; found once. */
	assert_int_equal(report(c, align_down(r.data, MiB(1)), MiB(1), bits), 0);
	for (gpa_t at = r.data; at < r.data + 16384; at += 4096)
		assert_true(bits[at % MiB(1) / 4096 / 64] >> (at / 4096 % 64) & 1);
	assert_int_equal(count_dirty(c), 0);
	assert_int_equal(unvf_client_blk(c, 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), 0);
	assert_in_range(count_dirty(c), 1, 3);
	/* Mapped later, logged as well. Not mapped: an error. */
	assert_int_equal(report(c, GiB(1), MiB(1), bits), -ENOENT);
	assert_int_equal(unvf_client_map(c, GiB(1), MiB(1), c->mem.fd, 0), 0);
	assert_int_equal(report(c, GiB(1), MiB(1), bits), 0);
	assert_int_equal(report(c, GiB(1) - MiB(1), MiB(2), bits), -ENOENT);
	assert_int_equal(report(c, 1, 4096, bits), -EINVAL);
	assert_int_equal(report(c, 0, 0, bits), -EINVAL);
	assert_int_equal(report(c, 0, UINT64_MAX - 4095, bits), -EINVAL);
	assert_int_equal(unvf_client_feature(c, SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL,
					     0),
			 0);
	env_drop(c);
	env_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_arc), cmocka_unit_test(test_features),
		cmocka_unit_test(test_move_disk), cmocka_unit_test(test_hostile_stream),
		cmocka_unit_test(test_dirty_log),
	};

	return cmocka_run_group_tests_name("unvf_state", tests, NULL, NULL);
}
