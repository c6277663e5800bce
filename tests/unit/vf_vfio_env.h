/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_vfio_env.h - a machine whose assigned functions are fake_vfio.h's, for the unit tests of the
 * VFIO backend: a loop with its thread, and an owner that counts what it is told. Included once by
 * each test program.
 */
#ifndef UNVMM_TESTS_VF_VFIO_ENV_H
#define UNVMM_TESTS_VF_VFIO_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <unvmm/vm.h>

#include "fake_vfio.h"
#include "vf_vfio.h"

#define VECTORS	   FAKE_VFIO_VECTORS
#define REGION	   FAKE_VFIO_BAR_SIZE
#define ADDRESS	   FAKE_VFIO_A
#define SAME_GROUP FAKE_VFIO_A2
#define OTHER	   FAKE_VFIO_B

/* --- the machine ------------------------------------------------------------------------------ */

static struct env {
	struct vm vm;
	struct io_thread io;
	sem_t told;
	unsigned int lost, requests;
	char why[128];
} env;

static void was_lost(struct vf *vf, const char *why)
{
	assert_ptr_equal(vf->owner, &env);
	__atomic_add_fetch(&env.lost, 1, __ATOMIC_RELAXED);
	snprintf(env.why, sizeof(env.why), "%s", why);
	sem_post(&env.told);
}

static void was_requested(struct vf *vf)
{
	(void)vf;
	__atomic_add_fetch(&env.requests, 1, __ATOMIC_RELAXED);
	sem_post(&env.told);
}

static int setup(void **state)
{
	static const struct vm_config config;

	(void)state;
	memset(&env, 0, sizeof(env));
	sem_init(&env.told, 0, 0);
	return fake_vfio_start() || vm_init(&env.vm, &config, NULL) ||
	       io_thread_start(&env.io, "vf", NULL);
}

static int teardown(void **state)
{
	(void)state;
	io_thread_stop(&env.io);
	vm_fini(&env.vm);
	return fake_vfio_end();
}

struct owning {
	struct loop_work work;
	struct vf *vf;
};

static void own(struct loop_work *w)
{
	struct vf *vf = container_of(w, struct owning, work)->vf;

	vf->owner = &env;
	vf->lost = was_lost;
	vf->request = was_requested;
	sem_post(&env.told);
}

/* Opened by the test, owned on the loop's thread, which is where it is told of events. */
static struct vf *open_vf(const char *address)
{
	struct owning o = { .work.fn = own };
	struct diag d = { 0 };

	if (vf_vfio_open_on(&fake_vfio.k, &env.vm, &env.io.loop, address, &o.vf, &d))
		fail_msg("%s", d.text);
	loop_call(&env.io.loop, &o.work);
	sem_wait(&env.told);
	return o.vf;
}

static inline unsigned int open_files(void)
{
	unsigned int n = 0;
	DIR *dir = opendir("/proc/self/fd");

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void nothing(struct loop_work *w)
{
	sem_post(&env.told);
	(void)w;
}

/* Until the loop's thread has done what it was told so far. */
static inline void sync_loop(void)
{
	struct loop_work w = { .fn = nothing };

	loop_call(&env.io.loop, &w);
	sem_wait(&env.told);
}

static inline int map(struct vf *vf, uint64_t iova, uint64_t size, uintptr_t hva)
{
	return vf->ops->dma_map(vf, iova, size, (void *)hva, -1, 0, NULL);
}

#endif
