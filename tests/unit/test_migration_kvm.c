/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migration_kvm.c - moves a running micro-guest from one process to another on /dev/kvm, and
 * has either side die, hang or give up at every message of the transition tables: afterwards
 * exactly one copy runs, and no word of its memory is lost. Main threads of both processes.
 */
#include "migration_env.h"

/* --- moves ------------------------------------------------------------------------------------ */

static void print_status(const char *name, const struct migration_status *s)
{
	const struct migration_downtime *t = &s->downtime;

	print_message("# %s: %.1f ms, %u rounds, %.1f MB, %" PRIu64 " pages, %" PRIu64
		      " zero; down %.2f ms: stop %.2f sync %.2f save %.2f ram %.2f state %.2f "
		      "(load %.2f) start %.2f (%.2f); throttle %u %%\n",
		      name, (double)s->elapsed_ns / 1e6, s->rounds, (double)s->transferred / 1e6,
		      s->pages, s->zero_pages, (double)t->total / 1e6, (double)t->park / 1e6,
		      (double)t->sync / 1e6, (double)t->save / 1e6, (double)t->ram / 1e6,
		      (double)t->state / 1e6, (double)t->target_load / 1e6, (double)t->start / 1e6,
		      (double)t->target_start / 1e6, s->throttle);
}

/* The parts are all of it. */
static void check_downtime(const struct migration_downtime *t)
{
	assert_int_equal(t->total, t->park + t->drain + t->stop + t->sync + t->save + t->ram +
					   t->state + t->arm + t->start);
	assert_true(t->park && t->ram && t->state && t->start && !t->drain && !t->stop);
	assert_true(t->target_load <= t->state && t->target_start <= t->start);
}

static struct migration_status moves(const char *name, const struct plan *p,
				     const struct migration_params *prm)
{
	unsigned int before = open_descriptors();
	struct diag d = { 0 };
	int pair[2];
	struct side x;
	pid_t pid;

	make_pair(pair);
	pid = fork_target(pair[1], p, false);
	close(pair[1]);
	side_open(&x, p, false);
	assert_true(run_until(&x, has_begun, 30000));
	if (p->paused)
		assert_int_equal(vm_pause(&x.machine.vm, &d), 0);
	if (migration_start(x.migration, pair[0], prm, &d))
		fail_msg("%s", d.text);
	assert_int_equal(migration_start(x.migration, dup(2), prm, &d), -EBUSY);
	assert_true(run_until(&x, has_ended, 60000));
	if (x.status.phase != MIGRATION_COMPLETED)
		fail_msg("%s: %s", migration_phase_name(x.status.phase), x.status.error);
	print_status(name, &x.status);
	check_downtime(&x.status.downtime);
	assert_true(x.machine.vm.held);
	assert_true(stands(&x));
	vm_resume(&x.machine.vm); /* what an operator may try */
	assert_true(stands(&x));
	assert_int_equal(target_status(pid), TARGET_OK);
	side_close(&x);
	assert_int_equal(open_descriptors(), before);
	return x.status;
}

static void test_moves(void **state)
{
	const struct plan p = { .cmdline = "hot=256 tsc", .memory = "64M", .vcpus = 1 };
	struct migration_params prm = params();
	struct migration_status s;

	(void)state;
	need_kvm();
	s = moves("64 MiB, 1 MiB written", &p, &prm);
	/* Most of this guest's memory was never touched. */
	assert_true(s.zero_pages > 12000 && s.pages >= 512);
	assert_true(s.transferred < MiB(16));
	prm.verify = false;
	moves("the same without hashes", &p, &prm);
}

static void test_moves_a_paused_guest(void **state)
{
	const struct plan p = { .cmdline = "hot=64", .memory = "16M", .vcpus = 1, .paused = true };
	struct migration_params prm = params();

	(void)state;
	need_kvm();
	moves("paused", &p, &prm);
}

/* Two vcpus that write more than the link carries: only with less time do they ever fit. */
static void test_throttles(void **state)
{
	const struct plan p = { .cmdline = "cpus=2 hot=2000 tsc", .memory = "32M", .vcpus = 2 };
	struct migration_params prm = params();
	struct migration_status s;

	(void)state;
	need_kvm();
	prm.bandwidth = MiB(40);
	prm.downtime_ms = 120;
	s = moves("40 MiB/s, 16 MiB written", &p, &prm);
	assert_true(s.throttle >= 20);
	assert_true(s.rounds >= 3);
}

/* Not in time: the guest goes on here, or moves all the same, as one was told. */
static void test_timeouts(void **state)
{
	const struct plan p = { .cmdline = "hot=2000", .memory = "32M", .vcpus = 1 };
	struct migration_params prm = params();
	struct migration_status s;
	struct diag d = { 0 };
	int pair[2];
	struct side x;
	pid_t pid;

	(void)state;
	need_kvm();
	prm.bandwidth = MiB(20);
	prm.downtime_ms = 10;
	prm.throttle = false;
	prm.timeout_ms = 1500;
	prm.on_timeout = MIGRATION_TIMEOUT_FORCE;
	s = moves("forced", &p, &prm);
	assert_in_range(s.elapsed_ns / 1000000, 1500, 30000);

	prm.on_timeout = MIGRATION_TIMEOUT_CANCEL;
	make_pair(pair);
	pid = fork_target(pair[1], &p, false);
	close(pair[1]);
	side_open(&x, &p, false);
	assert_true(run_until(&x, has_begun, 30000));
	assert_int_equal(migration_start(x.migration, pair[0], &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 60000));
	assert_int_equal(x.status.phase, MIGRATION_FAILED);
	assert_non_null(strstr(x.status.error, "faster than it can be moved"));
	assert_int_equal(target_status(pid), TARGET_NOT_RUN);
	assert_true(runs(&x));
	assert_true(guest_is_content(&x));
	side_close(&x);
}

/* Cancelled in the middle of it, then moved for good. */
static void test_cancel_and_again(void **state)
{
	const struct plan p = { .cmdline = "hot=1000", .memory = "32M", .vcpus = 1 };
	struct migration_params prm = params();
	struct diag d = { 0 };
	int pair[2];
	struct side x;
	pid_t pid;

	(void)state;
	need_kvm();
	side_open(&x, &p, false);
	assert_true(run_until(&x, has_begun, 30000));
	assert_int_equal(migration_cancel(x.migration, &d), -EALREADY);
	prm.bandwidth = MiB(2);
	for (unsigned int i = 0; i < 2; i++) {
		make_pair(pair);
		pid = fork_target(pair[1], &p, false);
		close(pair[1]);
		x.ended = false;
		d.text[0] = 0;
		if (migration_start(x.migration, pair[0], &prm, &d))
			fail_msg("%s", d.text);
		if (i)
			break;
		assert_true(run_until(&x, is_sending, 60000));
		assert_int_equal(migration_cancel(x.migration, &d), 0);
		assert_true(run_until(&x, has_ended, 60000));
		assert_int_equal(x.status.phase, MIGRATION_CANCELLED);
		assert_int_equal(target_status(pid), TARGET_NOT_RUN);
		assert_true(runs(&x));
	}
	/* The limit goes while it is under way. */
	assert_true(run_until(&x, is_sending, 60000));
	prm.bandwidth = 0;
	assert_int_equal(migration_set_params(x.migration, &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 60000));
	assert_int_equal(x.status.phase, MIGRATION_COMPLETED);
	assert_int_equal(target_status(pid), TARGET_OK);
	side_close(&x);
}

/* Both sides with their system calls filtered: a forbidden one would end the process. */
static int run_source(int fd)
{
	const struct plan p = {
		.cmdline = "hot=256", .memory = "32M", .vcpus = 1, .sandbox = true
	};
	struct migration_params prm = params();
	struct diag d = { 0 };
	struct side x;
	bool good;

	side_open(&x, &p, false);
	if (!run_until(&x, has_begun, 30000) || migration_start(x.migration, fd, &prm, &d))
		return 1;
	good = run_until(&x, has_ended, 60000) && x.status.phase == MIGRATION_COMPLETED;
	if (!good)
		fprintf(stderr, "source: %s\n", x.status.error);
	side_close(&x);
	return good ? 0 : 2;
}

static void test_in_the_sandbox(void **state)
{
	const struct plan p = {
		.cmdline = "hot=256", .memory = "32M", .vcpus = 1, .sandbox = true
	};
	pid_t target, source;
	int pair[2];

	(void)state;
	need_kvm();
	make_pair(pair);
	target = fork_target(pair[1], &p, false);
	close(pair[1]);
	source = fork();
	assert_true(source >= 0);
	if (!source) {
		alarm(120);
		hear_forbidden_calls();
		_exit(run_source(pair[0]));
	}
	close(pair[0]);
	assert_int_equal(target_status(source), 0);
	assert_int_equal(target_status(target), TARGET_OK);
}

/* --- files ------------------------------------------------------------------------------------ */

static void save(struct side *x, int fd, bool stay_paused)
{
	struct migration_params prm = params();
	struct diag d = { 0 };

	x->ended = false;
	if (migration_save(x->migration, dup(fd), stay_paused, &prm, &d))
		fail_msg("%s", d.text);
	assert_true(run_until(x, has_ended, 30000));
	if (x->status.phase != MIGRATION_COMPLETED)
		fail_msg("%s", x->status.error);
}

static int restore(int fd, const struct plan *p)
{
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return target_status(fork_target(dup(fd), p, true));
}

static void test_snapshots(void **state)
{
	const struct plan p = { .cmdline = "hot=64", .memory = "16M", .vcpus = 1 };
	char name[] = "/tmp/unvmm-snapshot-XXXXXX";
	struct migration_params prm = params();
	int fd = mkstemp(name), other, full;
	struct diag d = { 0 };
	struct side x;
	off_t size;

	(void)state;
	need_kvm();
	assert_true(fd >= 0);
	unlink(name);
	side_open(&x, &p, false);
	assert_true(run_until(&x, has_begun, 30000));
	save(&x, fd, false);
	print_status("into a file", &x.status);
	assert_true(runs(&x));
	assert_int_equal(restore(fd, &p), TARGET_OK);
	assert_int_equal(restore(fd, &p), TARGET_OK);
	/* Cut anywhere it is no snapshot, and nothing runs. */
	size = lseek(fd, 0, SEEK_END);
	for (unsigned int i = 1; i < 4; i++) {
		assert_int_equal(ftruncate(fd, i == 1 ? size - 1 : size / i), 0);
		assert_int_equal(restore(fd, &p), TARGET_NOT_RUN);
	}
	/* A full disk: the guest goes on. */
	full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	assert_true(full >= 0);
	x.ended = false;
	assert_int_equal(migration_save(x.migration, full, true, &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 30000));
	assert_int_equal(x.status.phase, MIGRATION_FAILED);
	assert_non_null(strstr(x.status.error, "No space left"));
	assert_true(runs(&x));
	/* Left paused at the very place. */
	other = mkstemp(strcpy(name, "/tmp/unvmm-snapshot-XXXXXX"));
	assert_true(other >= 0);
	unlink(name);
	save(&x, other, true);
	assert_true(stands(&x));
	assert_int_equal(restore(other, &p), TARGET_OK);
	vm_release(&x.machine.vm);
	assert_true(runs(&x));
	assert_true(guest_is_content(&x));
	side_close(&x);
	close(fd);
	close(other);
}
int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moves),
		cmocka_unit_test(test_moves_a_paused_guest),
		cmocka_unit_test(test_throttles),
		cmocka_unit_test(test_timeouts),
		cmocka_unit_test(test_cancel_and_again),
		cmocka_unit_test(test_in_the_sandbox),
		cmocka_unit_test(test_snapshots),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
