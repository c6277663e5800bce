/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_vm.c - the threads that a machine starts on first use, and who is asked when memory that
 * the guest sees has gone away. Threads: the test's, io and vf.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <semaphore.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "fake_vm.h"

struct call {
	struct loop_work work;
	sem_t done;
	pid_t tid;
	char name[16];
};

static void note_thread(struct loop_work *w)
{
	struct call *c = container_of(w, struct call, work);

	c->tid = gettid();
	pthread_getname_np(pthread_self(), c->name, sizeof(c->name));
	sem_post(&c->done);
}

static void call(struct loop *l, struct call *c)
{
	struct timespec until;

	*c = (struct call){ .work.fn = note_thread };
	sem_init(&c->done, 0, 0);
	loop_call(l, &c->work);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 30;
	assert_int_equal(sem_timedwait(&c->done, &until), 0);
}

/* Who waits for a function holds up nobody else: not main, not the software devices. */
static void test_threads(void **state)
{
	struct fake_vm *f = fake_vm_new("none");
	struct loop *io, *vf;
	struct diag d = { 0 };
	struct call a, b;

	(void)state;
	assert_false(f->vm.io_started || f->vm.vf_started);
	vf = vm_vf_loop(&f->vm, &d);
	assert_non_null(vf);
	assert_false(f->vm.io_started);
	io = vm_io_loop(&f->vm, &d);
	assert_non_null(io);
	assert_ptr_equal(vm_vf_loop(&f->vm, &d), vf);
	assert_ptr_not_equal(io, vf);
	call(vf, &a);
	call(io, &b);
	assert_string_equal(a.name, "vf");
	assert_string_equal(b.name, "unvmm-io");
	assert_int_not_equal(a.tid, b.tid);
	assert_int_not_equal(a.tid, gettid());
	fake_vm_free(f);
}

static unsigned long switches(pid_t tid)
{
	unsigned long sum = 0, n;
	char path[64], line[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %lu", &n) == 1)
			sum += n;
	fclose(f);
	return sum;
}

/* Nothing wakes it but calls. */
static void test_idle(void **state)
{
	struct fake_vm *f = fake_vm_new("none");
	struct diag d = { 0 };
	struct timespec while_idle = { .tv_nsec = 200 * 1000 * 1000 };
	struct loop *vf = vm_vf_loop(&f->vm, &d);
	struct call c;
	unsigned long before, after = 0;

	(void)state;
	assert_non_null(vf);
	call(vf, &c);
	/* Once it has gone to sleep. */
	do {
		before = after;
		nanosleep(&while_idle, NULL);
		after = switches(c.tid);
		assert_in_range(after, 1, 100);
	} while (after != before);
	fake_vm_free(f);
}

/* --- mappers --------------------------------------------------------------------------------- */

struct mapper {
	struct vm_mapper mapper;
	bool mapped;
	unsigned int asked;
};

static bool fault(struct vm_mapper *m)
{
	struct mapper *x = container_of(m, struct mapper, mapper);
	bool was = x->mapped;

	x->asked++;
	x->mapped = false;
	return was;
}

static void test_mappers(void **state)
{
	struct mapper m[3] = { { .mapper.fault = fault, .mapped = true },
			       { .mapper.fault = fault },
			       { .mapper.fault = fault, .mapped = true } };
	struct fake_vm *f = fake_vm_new("none");
	uint32_t now = slots_removals(&f->vm.slots);

	(void)state;
	assert_false(vm_memory_fault(&f->vm, now));
	for (unsigned int i = 0; i < 3; i++)
		vm_add_mapper(&f->vm, &m[i].mapper);
	/* Nobody knows whose it was: all of them. */
	assert_true(vm_memory_fault(&f->vm, now));
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(m[i].asked, 1);
	assert_false(m[0].mapped || m[2].mapped);
	assert_false(vm_memory_fault(&f->vm, now));
	/* Something was removed since this vcpu entered the guest: nobody is asked. */
	assert_true(vm_memory_fault(&f->vm, now - 1));
	assert_int_equal(m[0].asked, 2);
	m[0].mapped = m[1].mapped = true;
	vm_remove_mapper(&f->vm, &m[1].mapper);
	assert_true(vm_memory_fault(&f->vm, now));
	assert_true(m[1].mapped);
	vm_remove_mapper(&f->vm, &m[0].mapper);
	vm_remove_mapper(&f->vm, &m[2].mapper);
	vm_remove_mapper(&f->vm, &m[2].mapper);
	assert_null(f->vm.mappers);
	fake_vm_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_mappers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
