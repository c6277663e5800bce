/* SPDX-License-Identifier: Apache-2.0 */
/*
 * matrix_env.h - the two sides of test_migration_matrix.c: processes with a machine that has
 * memory, a disk's lock and parts of state, but no vcpus; and what they share with the test.
 * Included once.
 */
#ifndef UNVMM_TESTS_MATRIX_ENV_H
#define UNVMM_TESTS_MATRIX_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/device.h>
#include <unvmm/log.h>
#include <unvmm/migration.h>
#include <unvmm/vm.h>

#include "fake_machine.h"
#include "proto.h"
#include "ram.h"

#define RAM_SIZE MiB(16)
/* Pages that are not zero: so few that no round waits for its answer. */
#define FULL	 40u
#define LIMIT_MS 60000 /* nothing takes so long */

enum side { SOURCE, TARGET, NOBODY };

/* What the processes of a case share. */
struct shared {
	/* Asked of the sides. */
	bool cancel, refuse, fail_load, fail_claim, slow_target;
	uint32_t bandwidth, silence_ms;
	bool fired, resume, finish;
	/* Their answers. */
	struct {
		bool ended, resumed, runs, leaked;
		enum migration_phase phase;
		char error[300];
	} side[2];
	enum side owner; /* of the disk's lock; atomic */
};

static struct shared *sh;
/* In a side's process. */
static enum side me;
static bool checked; /* the source's HELLO has been */

static inline uint64_t now_ms(void)
{
	return stream_now() / 1000000;
}

/* --- a machine without vcpus -------------------------------------------------------------------
 */

static int parse_part(const char *id, const void *blob, size_t len, struct diag *d)
{
	return len == 5 && !memcmp(blob, "state", 5) ? 0 : diag_set(d, -EINVAL, "%s: bad", id);
}

static int commit_parts(struct diag *d)
{
	return sh->fail_load ? diag_set(d, -EIO, "the state is not taken") : 0;
}

static int check_description(const void *description, size_t len, struct diag *d)
{
	(void)description;
	(void)len;
	checked = true;
	return sh->refuse ? diag_set(d, -ENOTSUP, "no such guest here") : 0;
}

static const struct fake_machine fake_machine = { .parts = 2,
						  .state = "state",
						  .parse = parse_part,
						  .commit = commit_parts,
						  .check = check_description };

/*
 * A disk that both reach: its lock, as the kernel keeps it, opaque bytes, and what it writes to
 * memory when it stops.
 */
static inline int disk_claim(struct device *dev, bool take, struct diag *d)
{
	enum side was = take ? NOBODY : me;

	(void)dev;
	if (take && me == TARGET && sh->fail_claim)
		return diag_set(d, -EBUSY, "somebody else has the disk");
	if (__atomic_compare_exchange_n(&sh->owner, &was, take ? me : NOBODY, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) ||
	    !take || was == me)
		return 0;
	return diag_set(d, -EBUSY, "the other side has the disk");
}

static inline void disk_opaque_get(struct device *dev, const void **data, size_t *len)
{
	(void)dev;
	*data = "opaque";
	*len = 6;
}

static inline int disk_quiesce(struct device *dev)
{
	struct vm *vm = dev->priv;

	return gmem_write(&vm->mem, 0, "done", 4);
}

static const struct device_class disk_class = { .name = "disk",
						.id = "disk",
						.claim = disk_claim,
						.quiesce = disk_quiesce,
						.opaque_get = disk_opaque_get };

/* --- the process of a side ---------------------------------------------------------------------
 */

static inline unsigned int entries(const char *folder)
{
	DIR *dir = opendir(folder);
	unsigned int n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

static inline void on_ended(void *arg, const struct migration_status *s)
{
	(void)arg;
	sh->side[me].phase = s->phase;
	snprintf(sh->side[me].error, sizeof(sh->side[me].error), "%.299s", s->error);
}

static inline void report(const struct vm *vm)
{
	sh->side[me].runs = !vm->held && !vm->paused;
	__atomic_store_n(&sh->side[me].ended, true, __ATOMIC_RELEASE);
}

static inline void turn(struct vm *vm)
{
	if (loop_turn(&vm->main_loop, 1000000) < 0)
		abort();
}

/* Until it is told to finish. */
static inline void live(struct vm *vm, struct migration *m)
{
	struct diag d = { 0 };
	unsigned int slow = 0;
	bool cancelled = false;

	while (!sh->finish) {
		if (sh->slow_target && checked && !sh->fired && slow++ < 3000)
			usleep(1000); /* preparing takes a while */
		else
			turn(vm);
		if (sh->cancel && me == SOURCE && !cancelled)
			cancelled = !migration_cancel(m, &d);
		if (sh->side[me].phase != MIGRATION_IDLE && !sh->side[me].ended)
			report(vm);
		if (sh->resume && me == SOURCE && !sh->side[me].resumed) {
			if (migration_resume_source(m, &d))
				abort();
			report(vm);
			sh->side[me].resumed = true;
		}
	}
}

static inline void run_side(enum side side, int fd)
{
	const struct migration_events events = { .ended = on_ended };
	struct vm vm;
	struct device disk = { .id = "disk0", .cls = &disk_class, .priv = &vm };
	unsigned int fds, tasks;
	struct vm_config config = { 0 };
	struct migration_params p;
	struct migration *m;
	struct diag d = { 0 };

	me = side;
	alarm(LIMIT_MS / 1000 + 10);
	migration_params_init(&p);
	p.peer_timeout_ms = sh->silence_ms;
	p.bandwidth = sh->bandwidth;
	if (sh->bandwidth) /* it is to be cancelled before the switch */
		p.downtime_ms = 1;
	if (vm_init(&vm, &config, &d) || gmem_create(&vm.mem, RAM_SIZE, GMEM_PRIVATE, &d))
		abort();
	vm.kvm.vm_fd = -1;
	vm.kvm.has_sregs2 = true; /* the state may be loaded while the last pages come */
	vm.devices = &disk;
	for (uint64_t i = 0; i < FULL && me == SOURCE; i++)
		vm.mem.base[i * 97 * PAGE_SIZE_4K + 5] = 1;
	if (me == SOURCE ? vm_claim(&vm, &d) : vm_hold(&vm, &d))
		abort();
	fds = entries("/proc/self/fd") - 1; /* without the one that the migration closes */
	tasks = entries("/proc/self/task");
	if (migration_create(&vm, &events, &m, &d) ||
	    (me == SOURCE ? migration_start : migration_receive)(m, fd, &p, &d))
		abort();
	live(&vm, m);
	migration_destroy(m);
	/* A thread that has been joined is in /proc for another moment. */
	for (unsigned int i = 0; i < 1000 && entries("/proc/self/task") != tasks; i++)
		usleep(1000);
	sh->side[me].leaked =
		entries("/proc/self/fd") != fds || entries("/proc/self/task") != tasks;
	gmem_destroy(&vm.mem);
	vm_fini(&vm);
	_exit(0);
}

#endif
