/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_vfio.c - the VFIO backend on a made-up kernel: opening and its failures, regions, memory,
 * reset, migration. What a real kernel does with it is shown by tests/testbed/vf-io.c. The test's
 * thread, and the loop's.
 */
#include "vf_vfio_env.h"

#define CALLS_MAX 64

/* --- opening ---------------------------------------------------------------------------------- */

static void test_open(void **state)
{
	struct vf *vf = open_vf("3:0.2");
	uint16_t command;

	(void)state;
	assert_string_equal(vf->name, ADDRESS);
	assert_string_equal(vf->ops->kind, "vfio");
	assert_int_equal(vf->info.nvectors, VECTORS);
	assert_int_equal(vf->info.niova, 2);
	assert_int_equal(vf->info.regions[4].nareas, 1);
	assert_int_equal(vf->info.regions[8].size, 0);
	assert_true(vf->info.coherent && !vf->info.can_reset && !vf->info.needs_shared_ram);
	assert_int_equal(vf->ops->region_read(vf, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND,
					      &command, 2),
			 0);
	assert_int_equal(command, PCI_COMMAND_MEMORY);
	assert_int_equal(fake_vfio.nvectors, 0);
	vf->ops->close(vf);
	assert_null(env.vm.vfio);
}

/* Whatever the kernel refuses on the way: a sentence about the function, and nothing left behind.
 */
static void test_open_fails_at_each_step(void **state)
{
	unsigned int steps, before;
	struct vf *vf = open_vf(ADDRESS);

	(void)state;
	steps = fake_vfio.calls;
	assert_in_range(steps, 15, CALLS_MAX);
	vf->ops->close(vf);
	sync_loop();
	before = open_files();
	for (unsigned int step = 1; step <= steps; step++) {
		struct diag d = { 0 };
		int err;

		fake_vfio.calls = 0;
		fake_vfio.fail_at = step;
		fake_vfio.fail_with = -EIO;
		err = vf_vfio_open_on(&fake_vfio.k, &env.vm, &env.io.loop, ADDRESS, &vf, &d);
		/* Without cache coherence it works all the same. */
		if (!err && fake_vfio.failed == VFIO_CHECK_EXTENSION) {
			assert_false(vf->info.coherent);
			vf->ops->close(vf);
		} else if (!err || !strstr(d.text, ADDRESS)) {
			fail_msg("step %u: %d, '%s'", step, err, d.text);
		}
		fake_vfio_drop_events();
		sync_loop();
		assert_null(env.vm.vfio);
		assert_int_equal(open_files(), before - 2);
	}
}

static void expect_refused(const char *address, int err, const char *what)
{
	struct diag d = { 0 };
	struct vf *vf;

	assert_int_equal(vf_vfio_open_on(&fake_vfio.k, &env.vm, &env.io.loop, address, &vf, &d),
			 err);
	if (!strstr(d.text, what))
		fail_msg("'%s' does not say '%s'", d.text, what);
	assert_null(env.vm.vfio);
}

static void test_sentences(void **state)
{
	(void)state;
	expect_refused("eth0", -EINVAL, "is no PCI address");
	fake_vfio.not_viable = true;
	expect_refused(ADDRESS, -EPERM, "shares IOMMU group 7");
	fake_vfio.not_viable = false;
	fake_vfio_shell("rm dev/vfio/7");
	expect_refused(ADDRESS, -ENOENT, "there is no /dev/vfio/7");
	fake_vfio_shell("rm dev/vfio/vfio");
	expect_refused(ADDRESS, -ENOENT, "there is no /dev/vfio/vfio");
	fake_vfio_shell("touch dev/vfio/vfio dev/vfio/7");
	fake_vfio.fail_request = VFIO_GET_API_VERSION;
	fake_vfio.fail_with = 1;
	expect_refused(ADDRESS, -ENOTSUP, "API version 1 instead of 0");
	fake_vfio.fail_request = VFIO_CHECK_EXTENSION;
	fake_vfio.fail_with = 0;
	expect_refused(ADDRESS, -ENOTSUP, "vfio_iommu_type1");
	fake_vfio.fail_request = VFIO_SET_IOMMU;
	fake_vfio.fail_with = -EPERM;
	expect_refused(ADDRESS, -EPERM, "interrupt remapping");
}

/* --- regions ---------------------------------------------------------------------------------- */

static void test_regions(void **state)
{
	struct vf *vf = open_vf(ADDRESS);
	uint32_t v = 0x11223344, back = 0;
	uint8_t page[4097];
	void *p;

	(void)state;
	assert_int_equal(vf->ops->region_write(vf, 4, 0x1004, &v, 4), 0);
	assert_int_equal(vf->ops->region_read(vf, 4, 0x1004, &back, 4), 0);
	assert_int_equal(back, v);
	assert_int_equal(vf->ops->region_read(vf, 4, REGION - 4096, page, 4096), 0);
	assert_int_equal(vf->ops->region_read(vf, 4, 0, page, 4097), -EINVAL);
	assert_int_equal(vf->ops->region_read(vf, 4, 0, page, 0), -EINVAL);
	assert_int_equal(vf->ops->region_read(vf, 4, REGION - 3, page, 4), -EINVAL);
	assert_int_equal(vf->ops->region_write(vf, 4, UINT64_MAX, page, 4), -EINVAL);
	assert_int_equal(vf->ops->region_read(vf, 0, 0, page, 4), -EINVAL);
	assert_int_equal(vf->ops->region_read(vf, VF_REGIONS, 0, page, 4), -EINVAL);
	assert_int_equal(vf->ops->region_mmap(vf, 4, 0x1000, 0x1000, &p), 0);
	assert_memory_equal((uint8_t *)p + 4, &v, 4);
	munmap(p, 0x1000);
	assert_int_equal(vf->ops->region_mmap(vf, 4, 0x1000, REGION, &p), -EINVAL);
	assert_int_equal(vf->ops->region_mmap(vf, 4, 0x800, 0x1000, &p), -EINVAL);
	assert_int_equal(vf->ops->region_mmap(vf, 4, 0x1000, 0, &p), -EINVAL);
	assert_int_equal(vf->ops->region_mmap(vf, VFIO_PCI_CONFIG_REGION_INDEX, 0, 0x1000, &p),
			 -EINVAL);
	assert_int_equal(vf->ops->region_mmap(vf, 99, 0, 0x1000, &p), -EINVAL);
	vf->ops->close(vf);
}

/* --- memory ----------------------------------------------------------------------------------- */

static void test_maps(void **state)
{
	struct vf *vf = open_vf(ADDRESS);
	struct diag d = { 0 };

	(void)state;
	assert_int_equal(map(vf, 0x10000, 0x4000, 0x1000), 0);
	assert_int_equal(map(vf, 0x10000, 0x4000, 0x1000), -EEXIST);
	assert_int_equal(map(vf, 0x13000, 0x1000, 0x1000), -EEXIST);
	assert_int_equal(map(vf, 0x14000, 0x1000, 0x1000), 0);
	assert_int_equal(map(vf, 0x20000, 0, 0x1000), -EINVAL);
	assert_int_equal(map(vf, 0x20000, 0x800, 0x1000), -EINVAL);
	assert_int_equal(map(vf, 0x20000, 0x1000, 0x1001), -EINVAL);
	/* Over the MSI window, at the end of the space, beyond it. */
	assert_int_equal(vf->ops->dma_map(vf, 0xc0000000, 0x40000000, NULL, -1, 0, &d), -EINVAL);
	assert_non_null(strstr(d.text, "0x0-0xfedfffff, 0xfef00000-0x7fffffffff"));
	assert_int_equal(map(vf, 0x7ffffff000, 0x1000, 0x1000), 0);
	assert_int_equal(map(vf, 0x7ffffff000, 0x2000, 0x1000), -EINVAL);
	assert_int_equal(map(vf, UINT64_MAX - 0xfff, 0x1000, 0x1000), -EINVAL);
	assert_int_equal(fake_vfio.maps, 3);
	assert_int_equal(vf->ops->dma_unmap(vf, 0x10000, 0x1000), -ENOENT);
	assert_int_equal(vf->ops->dma_unmap(vf, 0x10000, 0x4000), 0);
	assert_int_equal(vf->ops->dma_unmap(vf, 0x10000, 0x4000), -ENOENT);
	assert_int_equal(map(vf, 0x10000, 0x8000, 0x1000), -EEXIST);
	assert_int_equal(fake_vfio.unmaps, 1);
	vf->ops->close(vf);
	assert_int_equal(fake_vfio.unmaps, 3);
}

/* One container for all: a mapping is made once, and stays for who still uses it. */
static void test_shared_maps(void **state)
{
	struct vf *a = open_vf(ADDRESS), *b = open_vf(SAME_GROUP), *c = open_vf(OTHER);

	(void)state;
	assert_int_equal(fake_vfio.groups_set, 2);
	assert_int_equal(map(a, 0, 0x1000, 0x1000), 0);
	assert_int_equal(map(b, 0, 0x1000, 0x1000), 0);
	assert_int_equal(map(c, 0, 0x1000, 0x2000), -EEXIST);
	assert_int_equal(map(c, 0, 0x1000, 0x1000), 0);
	assert_int_equal(map(c, 0x8000, 0x1000, 0x1000), 0);
	assert_int_equal(fake_vfio.maps, 2);
	assert_int_equal(a->ops->dma_unmap(a, 0x8000, 0x1000), -ENOENT);
	assert_int_equal(a->ops->dma_unmap(a, 0, 0x1000), 0);
	assert_int_equal(a->ops->dma_unmap(a, 0, 0x1000), -ENOENT);
	b->ops->close(b);
	assert_int_equal(fake_vfio.unmaps, 0);
	/* Its slot is free for another one, which has no part in the old mappings. */
	b = open_vf(SAME_GROUP);
	assert_int_equal(fake_vfio.groups_set, 2);
	assert_int_equal(b->ops->dma_unmap(b, 0, 0x1000), -ENOENT);
	c->ops->close(c);
	assert_int_equal(fake_vfio.unmaps, 2);
	a->ops->close(a);
	assert_non_null(env.vm.vfio);
	b->ops->close(b);
	assert_null(env.vm.vfio);
}

static void test_twice(void **state)
{
	struct vf *vf = open_vf(ADDRESS), *again;
	struct diag d = { 0 };

	(void)state;
	assert_int_equal(vf_vfio_open_on(&fake_vfio.k, &env.vm, &env.io.loop, "3:0.2", &again, &d),
			 -EBUSY);
	assert_string_equal(d.text, ADDRESS " is given to this guest twice");
	vf->ops->close(vf);
	vf = open_vf(ADDRESS);
	vf->ops->close(vf);
}

static void test_map_refused(void **state)
{
	struct rlimit was, low = { .rlim_cur = 65536 };
	struct diag d = { 0 };
	struct vf *vf;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &was), 0);
	low.rlim_max = was.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &low), 0);
	vf = open_vf(ADDRESS);
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &was), 0);
	fake_vfio.fail_request = VFIO_IOMMU_MAP_DMA;
	fake_vfio.fail_with = -ENOMEM;
	assert_int_equal(vf->ops->dma_map(vf, 0, MiB(64), NULL, -1, 0, &d), -ENOMEM);
	assert_non_null(strstr(d.text, "64 MiB of guest memory must be locked"));
	d.text[0] = '\0';
	fake_vfio.fail_with = -ENOSPC;
	assert_int_equal(vf->ops->dma_map(vf, 0, 0x1000, NULL, -1, 0, &d), -ENOSPC);
	assert_non_null(strstr(d.text, "dma_entry_limit"));
	fake_vfio.fail_request = 0;
	assert_int_equal(map(vf, 0, 0x1000, 0), 0);
	fake_vfio.fail_request = VFIO_IOMMU_UNMAP_DMA;
	assert_int_equal(vf->ops->dma_unmap(vf, 0, 0x1000), -ENOSPC);
	fake_vfio.fail_request = 0;
	assert_int_equal(vf->ops->dma_unmap(vf, 0, 0x1000), 0);
	vf->ops->close(vf);
}

/* --- reset ------------------------------------------------------------------------------------ */

static void test_reset(void **state)
{
	struct vf *vf = open_vf(ADDRESS);

	(void)state;
	assert_int_equal(vf->ops->reset(vf), -EOPNOTSUPP);
	vf->ops->close(vf);
	fake_vfio.can_reset = true;
	vf = open_vf(ADDRESS);
	assert_true(vf->info.can_reset);
	assert_int_equal(vf->ops->reset(vf), 0);
	assert_int_equal(fake_vfio.resets, 1);
	fake_vfio.fail_request = VFIO_DEVICE_RESET;
	fake_vfio.fail_with = -EAGAIN;
	assert_int_equal(vf->ops->reset(vf), -EAGAIN);
	vf->ops->close(vf);
}

/* --- migration -------------------------------------------------------------------------------- */

static void test_cannot_migrate(void **state)
{
	struct vf *vf = open_vf(ADDRESS);
	const struct vf_range range = { 0, 0x1000 };
	struct vf_mig_caps caps = { .flags = 99, .dma_log = true };
	uint64_t bits = 0;
	uint32_t s;
	size_t n;

	(void)state;
	assert_int_equal(vf->ops->mig_caps(vf, &caps), 0);
	assert_true(!caps.flags && !caps.dma_log);
	assert_int_equal(vf->ops->mig_state(vf, VFIO_DEVICE_STATE_STOP), -EOPNOTSUPP);
	assert_int_equal(vf->ops->mig_state_get(vf, &s), -EOPNOTSUPP);
	assert_int_equal(vf->ops->mig_read(vf, &bits, 8, &n), -EINVAL);
	assert_int_equal(vf->ops->mig_write(vf, &bits, 8), -EINVAL);
	assert_int_equal(vf->ops->log_start(vf, &range, 1), -EOPNOTSUPP);
	assert_int_equal(vf->ops->log_report(vf, 0, 0x1000, &bits), -EINVAL);
	assert_int_equal(vf->ops->log_stop(vf), 0);
	vf->ops->close(vf);
}

static void test_migration(void **state)
{
	struct vf *vf;
	struct vf_mig_caps caps;
	char buf[8];
	uint32_t s;
	size_t n;

	(void)state;
	fake_vfio.migrates = true;
	vf = open_vf(ADDRESS);
	assert_int_equal(vf->ops->mig_caps(vf, &caps), 0);
	assert_int_equal(caps.flags, VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P);
	assert_true(caps.dma_log);
	assert_int_equal(vf->ops->mig_state(vf, VFIO_DEVICE_STATE_RESUMING), 0);
	assert_int_equal(vf->ops->mig_write(vf, "state", 5), 0);
	assert_int_equal(vf->ops->mig_state(vf, VFIO_DEVICE_STATE_STOP), 0);
	assert_int_equal(vf->ops->mig_write(vf, "x", 1), -EINVAL);
	assert_int_equal(vf->ops->mig_state(vf, VFIO_DEVICE_STATE_STOP_COPY), 0);
	assert_int_equal(vf->ops->mig_state_get(vf, &s), 0);
	assert_int_equal(s, VFIO_DEVICE_STATE_STOP_COPY);
	assert_int_equal(vf->ops->mig_read(vf, buf, sizeof(buf), &n), 0);
	assert_int_equal(n, 5);
	assert_memory_equal(buf, "state", 5);
	close(fake_vfio.mig_pipe[1]);
	fake_vfio.mig_pipe[1] = -1;
	assert_int_equal(vf->ops->mig_read(vf, buf, sizeof(buf), &n), 0);
	assert_int_equal(n, 0);
	vf->ops->close(vf);
}

static void test_dma_log(void **state)
{
	const struct vf_range range = { 0, 0x4000 }, many[300] = { { 0, 0x1000 } };
	struct vf *vf;
	uint64_t bits = 1ULL << 63;

	(void)state;
	fake_vfio.migrates = true;
	vf = open_vf(ADDRESS);
	assert_int_equal(vf->ops->log_stop(vf), 0);
	assert_int_equal(vf->ops->log_start(vf, &range, 0), -EINVAL);
	assert_int_equal(vf->ops->log_start(vf, many, 300), -EINVAL);
	assert_int_equal(vf->ops->log_start(vf, &range, 1), 0);
	assert_int_equal(vf->ops->log_start(vf, &range, 1), 0);
	assert_int_equal(vf->ops->log_report(vf, 0, 0x4000, &bits), 0);
	assert_int_equal(bits, 1ULL << 63 | 4);
	assert_int_equal(vf->ops->log_stop(vf), 0);
	assert_false(fake_vfio.logging);
	assert_int_equal(vf->ops->log_report(vf, 0, 0x4000, &bits), -EINVAL);
	vf->ops->close(vf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_open, setup, teardown),
		cmocka_unit_test_setup_teardown(test_open_fails_at_each_step, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sentences, setup, teardown),
		cmocka_unit_test_setup_teardown(test_regions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_maps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shared_maps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_twice, setup, teardown),
		cmocka_unit_test_setup_teardown(test_map_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cannot_migrate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_migration, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dma_log, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
