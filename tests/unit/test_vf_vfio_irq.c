/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vf_vfio_irq.c - the eventfds of the VFIO backend on a made-up kernel: vectors, doorbells
 * that the kernel rings, error and request events. The test's thread, and the loop's.
 */
#include "vf_vfio_env.h"

/* --- vectors ---------------------------------------------------------------------------------- */

static bool wired(unsigned int vector, int fd)
{
	const uint64_t one = 1;
	uint64_t n;

	if (fake_vfio.vectors[vector] < 0)
		return fd < 0;
	assert_int_equal(write(fake_vfio.vectors[vector], &one, sizeof(one)), sizeof(one));
	return fd >= 0 && read(fd, &n, sizeof(n)) == sizeof(n) && n == 1;
}

static void test_vectors(void **state)
{
	struct vf *vf = open_vf(ADDRESS);
	int fds[VECTORS + 1] = { 0 };
	unsigned int calls;

	(void)state;
	for (int i = 0; i < VECTORS; i++)
		fds[i] = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(vf->ops->irq_set(vf, fds, VECTORS + 1), -EINVAL);
	assert_int_equal(vf->ops->irq_set(vf, fds, 0), 0);
	calls = fake_vfio.set_irqs;
	/* All of them at the first call, because more cannot be had later. */
	assert_int_equal(vf->ops->irq_set(vf, fds, 2), 0);
	assert_int_equal(fake_vfio.set_irqs, calls + 1);
	assert_int_equal(fake_vfio.nvectors, VECTORS);
	assert_true(wired(0, fds[0]) && wired(1, fds[1]) && wired(2, -1));
	assert_int_equal(vf->ops->irq_set(vf, fds, VECTORS), 0);
	assert_int_equal(fake_vfio.set_irqs, calls + 2);
	assert_true(wired(2, fds[2]) && wired(4, fds[4]));
	/* What does not change is not touched: two runs, two calls. */
	close(fds[1]);
	close(fds[4]);
	fds[1] = fds[4] = -1;
	assert_int_equal(vf->ops->irq_set(vf, fds, VECTORS), 0);
	assert_int_equal(fake_vfio.set_irqs, calls + 4);
	assert_true(wired(0, fds[0]) && wired(1, -1) && wired(3, fds[3]) && wired(4, -1));
	assert_int_equal(vf->ops->irq_set(vf, fds, VECTORS), 0);
	assert_int_equal(fake_vfio.set_irqs, calls + 4);
	/* Fewer of them: the set stays. */
	assert_int_equal(vf->ops->irq_set(vf, fds, 1), 0);
	assert_int_equal(fake_vfio.set_irqs, calls + 5);
	assert_true(wired(0, fds[0]) && wired(2, -1) && wired(3, -1));
	/* A change that fails leaves its vectors wired to nothing, and can be made again. */
	fake_vfio.calls = 0;
	fake_vfio.fail_at = 1;
	fake_vfio.fail_with = -EIO;
	assert_int_equal(vf->ops->irq_set(vf, fds, VECTORS), -EIO);
	assert_true(wired(0, fds[0]) && wired(2, -1) && wired(3, -1));
	assert_int_equal(vf->ops->irq_set(vf, fds, VECTORS), 0);
	assert_true(wired(2, fds[2]) && wired(3, fds[3]));
	assert_int_equal(vf->ops->irq_set(vf, NULL, 0), 0);
	assert_int_equal(fake_vfio.nvectors, 0);
	vf->ops->close(vf);
	for (int i = 0; i < VECTORS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* A host that has fewer interrupts left than the function has vectors. */
static void test_few_vectors(void **state)
{
	struct vf *vf = open_vf(ADDRESS);
	int fds[VECTORS];

	(void)state;
	for (int i = 0; i < VECTORS; i++)
		fds[i] = eventfd(0, EFD_NONBLOCK);
	fake_vfio.calls = 0;
	fake_vfio.fail_at = 1;
	fake_vfio.fail_with = 3;
	assert_int_equal(vf->ops->irq_set(vf, fds, 2), 0);
	assert_int_equal(fake_vfio.nvectors, 2);
	assert_true(wired(1, fds[1]));
	/* More of them need the set to be made anew. */
	assert_int_equal(vf->ops->irq_set(vf, fds, 4), 0);
	assert_int_equal(fake_vfio.nvectors, VECTORS);
	assert_true(wired(3, fds[3]) && wired(4, -1));
	assert_int_equal(vf->ops->irq_set(vf, fds, 0), 0);
	fake_vfio.fail_request = VFIO_DEVICE_SET_IRQS;
	fake_vfio.fail_with = 3;
	assert_int_equal(vf->ops->irq_set(vf, fds, VECTORS), -ENOSPC);
	fake_vfio.fail_with = -EBUSY;
	assert_int_equal(vf->ops->irq_set(vf, fds, 2), -EBUSY);
	fake_vfio.fail_request = 0;
	vf->ops->close(vf);
	for (int i = 0; i < VECTORS; i++)
		close(fds[i]);
}

/* --- doorbells, events, reset ----------------------------------------------------------------- */

static void test_doorbells(void **state)
{
	struct vf *vf = open_vf(ADDRESS);
	int fd = -1, again = -1, mine = eventfd(0, 0);

	(void)state;
	assert_int_equal(vf->ops->doorbell_fd(vf, 4, 0x3004, 2, 1, &fd), 0);
	assert_true(fd >= 0);
	assert_int_equal(fake_vfio.doorbell_at, (4 << FAKE_VFIO_REGION_AT) + 0x3004);
	assert_int_equal(fake_vfio.doorbell_value, 1);
	assert_int_equal(vf->ops->doorbell_fd(vf, 4, 0x3004, 2, 1, &again), 0);
	assert_int_equal(again, fd);
	assert_int_equal(fake_vfio.doorbells, 1);
	/* The same register for another descriptor: the old one rings no more. */
	assert_int_equal(vf->ops->doorbell_fd(vf, 4, 0x3004, 2, 1, &mine), 0);
	assert_int_equal(fake_vfio.doorbells, 1);
	fd = -1;
	assert_int_equal(vf->ops->doorbell_fd(vf, 4, 0x3004, 2, 2, &fd), 0);
	assert_int_equal(fake_vfio.doorbells, 2);
	fd = -1;
	assert_int_equal(vf->ops->doorbell_fd(vf, 4, REGION, 2, 1, &fd), -EINVAL);
	assert_int_equal(vf->ops->doorbell_fd(vf, 4, 0, 1, 1, &fd), -EINVAL);
	assert_int_equal(vf->ops->doorbell_fd(vf, VFIO_PCI_CONFIG_REGION_INDEX, 0, 2, 1, &fd),
			 -EINVAL);
	fake_vfio.fail_request = VFIO_DEVICE_IOEVENTFD;
	fake_vfio.fail_with = -ENOSPC;
	assert_int_equal(vf->ops->doorbell_fd(vf, 4, 0, 4, 1, &fd), -EOPNOTSUPP);
	assert_int_equal(fd, -1);
	fake_vfio.fail_request = 0;
	vf->ops->close(vf);
	assert_int_equal(close(mine), 0);
}

static void test_lost(void **state)
{
	struct vf *vf = open_vf(ADDRESS);
	const uint64_t one = 1;
	int fds[1] = { -1 };
	uint32_t v;

	(void)state;
	assert_int_equal(map(vf, 0, 0x1000, 0x1000), 0);
	assert_int_equal(write(fake_vfio.request_fd, &one, 8), 8);
	sem_wait(&env.told);
	assert_int_equal(__atomic_load_n(&env.requests, __ATOMIC_RELAXED), 1);
	assert_int_equal(vf->ops->region_read(vf, 4, 0, &v, 4), 0);
	assert_int_equal(write(fake_vfio.request_fd, &one, 8), 8);
	sem_wait(&env.told);
	assert_int_equal(__atomic_load_n(&env.requests, __ATOMIC_RELAXED), 2);
	assert_int_equal(write(fake_vfio.error_fd, &one, 8), 8);
	sem_wait(&env.told);
	assert_int_equal(write(fake_vfio.error_fd, &one, 8), 8);
	sync_loop();
	sync_loop();
	assert_int_equal(__atomic_load_n(&env.lost, __ATOMIC_RELAXED), 1);
	assert_non_null(strstr(env.why, "PCI Express"));
	assert_int_equal(vf->ops->region_read(vf, 4, 0, &v, 4), -ENODEV);
	assert_int_equal(vf->ops->irq_set(vf, fds, 1), -ENODEV);
	assert_int_equal(map(vf, 0x1000, 0x1000, 0x1000), -ENODEV);
	assert_int_equal(vf->ops->dma_unmap(vf, 0, 0x1000), 0);
	vf->ops->close(vf);
	/* Nobody is told of a function that is closed. */
	assert_int_equal(write(fake_vfio.request_fd, &one, 8), 8);
	sync_loop();
	assert_int_equal(__atomic_load_n(&env.requests, __ATOMIC_RELAXED), 2);
}

static sem_t held;

static void hold(struct loop_work *w)
{
	(void)w;
	sem_post(&env.told);
	sem_wait(&held);
}

/* An event that is on its way when the function is closed reaches nobody. */
static void test_closed_before_told(void **state)
{
	struct loop_work w = { .fn = hold };
	struct vf *vf = open_vf(ADDRESS);
	const uint64_t one = 1;

	(void)state;
	sem_init(&held, 0, 0);
	loop_call(&env.io.loop, &w);
	sem_wait(&env.told);
	assert_int_equal(write(fake_vfio.request_fd, &one, 8), 8);
	assert_int_equal(write(fake_vfio.error_fd, &one, 8), 8);
	vf->ops->close(vf);
	sem_post(&held);
	sync_loop();
	sync_loop();
	assert_int_equal(__atomic_load_n(&env.requests, __ATOMIC_RELAXED), 0);
	assert_int_equal(__atomic_load_n(&env.lost, __ATOMIC_RELAXED), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_vectors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_few_vectors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_doorbells, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(test_closed_before_told, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
