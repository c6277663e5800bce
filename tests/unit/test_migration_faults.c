/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migration_faults.c - migrations that go wrong: refusals, ends in the middle, a disk that
 * both sides reach, and every fault at every message. At most one copy of the guest runs, ever.
 */
#include "migration_env.h"

#include "exactly.h"

#define JOBS 4u /* processes for the faults at every message */

/* --- refusals --------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
	const struct plan p = { .cmdline = "hot=16", .memory = "16M", .vcpus = 1 };
	const struct plan larger = { .cmdline = "hot=16", .memory = "32M", .vcpus = 1 };
	struct migration_params prm = params();
	struct diag d = { 0 };
	int pair[2];
	struct side x;
	pid_t pid;

	(void)state;
	need_kvm();
	side_open(&x, &p, false);
	assert_true(run_until(&x, has_begun, 30000));
	/* Less memory, or more. */
	make_pair(pair);
	pid = fork_target(pair[1], &larger, false);
	close(pair[1]);
	assert_int_equal(migration_start(x.migration, pair[0], &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 60000));
	assert_int_equal(x.status.phase, MIGRATION_FAILED);
	assert_string_equal(x.status.error,
			    "the target refuses: memory: the guest has 16 MiB, this "
			    "machine 32 MiB; they must be equal");
	assert_int_equal(x.status.pages + x.status.zero_pages, 0);
	assert_int_equal(target_status(pid), TARGET_NOT_RUN);
	assert_true(runs(&x));
	/* A machine that has run is no target. */
	make_pair(pair);
	assert_int_equal(migration_receive(x.migration, pair[0], &prm, &d), -EINVAL);
	close(pair[1]);
	/* Impossible parameters. */
	prm.downtime_ms = 0;
	d.text[0] = 0;
	assert_int_equal(migration_start(x.migration, dup(2), &prm, &d), -EINVAL);
	assert_non_null(strstr(d.text, "downtime"));
	/* What does not answer at all. */
	prm = params();
	prm.peer_timeout_ms = 200;
	make_pair(pair);
	x.ended = false;
	assert_int_equal(migration_start(x.migration, pair[0], &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 60000));
	assert_non_null(strstr(x.status.error, "sends nothing"));
	assert_true(runs(&x));
	close(pair[1]);
	assert_true(guest_is_content(&x));
	side_close(&x);
}

/* The process ends in the middle of it: nothing hangs, the target gives up. */
static void test_end_while_moving(void **state)
{
	const struct plan p = { .cmdline = "hot=500", .memory = "32M", .vcpus = 1 };
	struct migration_params prm = params();
	struct diag d = { 0 };
	int pair[2];
	struct side x;
	pid_t pid;

	(void)state;
	need_kvm();
	make_pair(pair);
	pid = fork_target(pair[1], &p, false);
	close(pair[1]);
	side_open(&x, &p, false);
	assert_true(run_until(&x, has_begun, 30000));
	prm.bandwidth = MiB(2);
	assert_int_equal(migration_start(x.migration, pair[0], &prm, &d), 0);
	assert_true(run_until(&x, is_sending, 60000));
	side_close(&x);
	assert_false(x.ended);
	assert_int_equal(target_status(pid), TARGET_NOT_RUN);
}

/* --- a disk that both sides reach ---------------------------------------------------------- */

static bool locked(const char *path)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_GETLK, &l), 0);
	close(fd);
	return l.l_type != F_UNLCK;
}

/* Its lock goes along with the guest, and stays if the guest does. */
static void test_a_disk_has_one_owner(void **state)
{
	char disk[] = "/tmp/unvmm-disk-XXXXXX";
	const struct plan p = {
		.cmdline = "hot=600 cold=600", .memory = "16M", .vcpus = 1, .disk = disk
	};
	const struct plan larger = {
		.cmdline = "hot=16", .memory = "32M", .vcpus = 1, .disk = disk
	};
	struct migration_params prm = params();
	int fd = mkstemp(disk), pair[2];
	struct diag d = { 0 };
	struct side x;
	pid_t pid;

	(void)state;
	need_kvm();
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, MiB(1)), 0);
	side_open(&x, &p, false);
	assert_true(run_until(&x, has_begun, 30000));
	assert_true(locked(disk));
	make_pair(pair);
	pid = fork_target(pair[1], &larger, false);
	close(pair[1]);
	assert_int_equal(migration_start(x.migration, pair[0], &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 60000));
	assert_int_equal(x.status.phase, MIGRATION_FAILED);
	assert_int_equal(target_status(pid), TARGET_NOT_RUN);
	assert_true(locked(disk));
	assert_true(runs(&x));

	/* Given up in the middle of it. */
	make_pair(pair);
	pid = fork_target(pair[1], &p, false);
	close(pair[1]);
	x.ended = false;
	prm.bandwidth = MiB(2);
	assert_int_equal(migration_start(x.migration, pair[0], &prm, &d), 0);
	assert_true(run_until(&x, is_sending, 60000));
	assert_true(locked(disk));
	assert_int_equal(migration_cancel(x.migration, &d), 0);
	assert_true(run_until(&x, has_ended, 60000));
	assert_int_equal(target_status(pid), TARGET_NOT_RUN);
	assert_true(locked(disk));
	assert_true(runs(&x));

	make_pair(pair);
	pid = fork_target(pair[1], &p, false);
	close(pair[1]);
	x.ended = false;
	prm.bandwidth = 0;
	assert_int_equal(migration_start(x.migration, pair[0], &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 60000));
	if (x.status.phase != MIGRATION_COMPLETED)
		fail_msg("%s", x.status.error);
	assert_true(locked(disk)); /* by the target */
	assert_int_equal(target_status(pid), TARGET_OK);
	assert_false(locked(disk)); /* the source has nothing any more */
	side_close(&x);
	unlink(disk);
	close(fd);
}

/* --- faults at every message ------------------------------------------------------------------ */

enum how {
	FAULT_CLOSE, /* the connection breaks before it is delivered */
	FAULT_KILL,  /* so does the target's process */
	FAULT_HANG,  /* from here on nothing is delivered, either way */
	FAULT_HOLD,  /* ... this way only */
	FAULT_FLIP,  /* it is delivered with a wrong bit */
	FAULTS,
};
static const char *const fault_names[] = { "close", "kill", "hang", "hold", "flip" };

struct way {
	int from, to;
	uint8_t buf[STREAM_HEADER + STREAM_PAYLOAD_MAX];
	bool held;
};

struct proxy {
	struct way ways[2];
	unsigned int msg;
	enum how how;
	pid_t target;
	int fired; /* pipe */
};

/* Passes one section on; false: the proxy's work is over. */
static bool pass_on(struct proxy *x, struct way *w)
{
	size_t len;

	if (!read_exactly(w->from, w->buf, STREAM_HEADER))
		return false;
	len = STREAM_HEADER + get_le32(w->buf + 4);
	if (!read_exactly(w->from, w->buf + STREAM_HEADER, len - STREAM_HEADER))
		return false;
	if (get_le16(w->buf) == x->msg) {
		x->msg = MSG_NONE;
		if (write(x->fired, "!", 1) != 1)
			return false;
		if (x->how == FAULT_CLOSE)
			return false;
		if (x->how == FAULT_KILL) {
			kill(x->target, SIGKILL);
			return false;
		}
		if (x->how == FAULT_FLIP)
			w->buf[len - 1] ^= 0x10;
		if (x->how == FAULT_HANG)
			x->ways[0].held = x->ways[1].held = true;
		if (x->how == FAULT_HOLD)
			w->held = true;
	}
	return w->held || write_exactly(w->to, w->buf, len);
}

static void run_proxy(struct proxy *x)
{
	for (;;) {
		struct pollfd p[] = { { .fd = x->ways[0].from, .events = POLLIN },
				      { .fd = x->ways[1].from, .events = POLLIN } };

		if (poll(p, 2, -1) < 0)
			return;
		for (unsigned int i = 0; i < 2; i++)
			if (p[i].revents && !pass_on(x, &x->ways[i]))
				return;
	}
}

static pid_t fork_proxy(int source, int target, unsigned int msg, enum how how, pid_t pid,
			int fired)
{
	pid_t proxy = fork();

	assert_true(proxy >= 0);
	if (!proxy) {
		struct proxy *x = calloc(1, sizeof(*x));

		alarm(120);
		if (!x)
			_exit(1);
		x->ways[0] = (struct way){ .from = source, .to = target };
		x->ways[1] = (struct way){ .from = target, .to = source };
		x->msg = msg;
		x->how = how;
		x->target = pid;
		x->fired = fired;
		run_proxy(x);
		_exit(0);
	}
	return proxy;
}

/* Exactly one copy runs, and it has lost nothing; or none does, and a person is asked. */
static void check_copies(struct side *x, int target, unsigned int msg, enum how how)
{
	enum migration_phase phase = x->status.phase;

	assert_int_not_equal(target, TARGET_BROKEN);
	assert_true(phase == MIGRATION_COMPLETED || x->status.error[0]);
	if (phase == MIGRATION_COMPLETED) {
		/* Only what is not waited for may be lost. */
		assert_true(msg == MSG_PING || msg == MSG_PONG);
		assert_int_equal(target, TARGET_OK);
		assert_true(stands(x));
		return;
	}
	if (phase == MIGRATION_HANDED_OVER) {
		struct diag d = { 0 };

		assert_true(msg == MSG_COMMIT || msg == MSG_RUNNING);
		assert_true(stands(x));
		if (target == TARGET_OK)
			return;
		/* The person looks and finds it dead. */
		assert_int_equal(migration_resume_source(x->migration, &d), 0);
	} else {
		assert_int_equal(phase, MIGRATION_FAILED);
	}
	assert_true(runs(x));
	assert_int_not_equal(target, TARGET_OK);
	assert_true(target == TARGET_NOT_RUN || (how == FAULT_KILL && target == 100 + SIGKILL));
	assert_true(guest_is_content(x));
}

/* False: on a busy host the migration ended by `ms` of silence before it came to the message. */
static bool fault(unsigned int msg, enum how how, unsigned int ms)
{
	const struct plan p = {
		.cmdline = "hot=32 cold=32 zeroed=32", .memory = "16M", .vcpus = 1, .target_ms = ms
	};
	unsigned int before = open_descriptors();
	struct migration_params prm = params();
	int a[2], b[2], fired[2], target;
	struct diag d = { 0 };
	pid_t pid, proxy;
	struct side x;
	bool did;
	char c;

	prm.peer_timeout_ms = 3 * ms;
	make_pair(a);
	make_pair(b);
	assert_int_equal(pipe(fired), 0);
	pid = fork_target(b[1], &p, false);
	close(b[1]);
	proxy = fork_proxy(a[1], b[0], msg, how, pid, fired[1]);
	close(a[1]);
	close(b[0]);
	close(fired[1]);
	side_open(&x, &p, false);
	assert_true(run_until(&x, has_begun, 30000));
	assert_int_equal(migration_start(x.migration, a[0], &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 60000));
	target = target_status(pid);
	kill(proxy, SIGKILL);
	assert_int_equal(waitpid(proxy, NULL, 0), proxy);
	did = read(fired[0], &c, 1) == 1;
	close(fired[0]);
	if (getenv("SHOW"))
		print_message("# %s at %s: source %s, target %d: %s\n", fault_names[how],
			      proto_msg_name(msg), migration_phase_name(x.status.phase), target,
			      x.status.error);
	if (did)
		check_copies(&x, target, msg, how);
	side_close(&x);
	assert_int_equal(open_descriptors(), before);
	return did;
}

/*
 * Messages of a migration without a fault: the rows of the source's table but the refusals, and but
 * what only a function has to say.
 */
static bool usual(unsigned int msg)
{
	return msg != MSG_REFUSE && msg != MSG_ABORT && msg != MSG_ABORTED && msg != MSG_OPAQUE;
}

/* Every JOBS-th case, from the one with number `job` on. */
static void faults_of(unsigned int job)
{
	bool done[MSG_COUNT] = { false };
	unsigned int n = 0;

	for (unsigned int i = 0; i < proto_source.n; i++) {
		unsigned int msg = proto_source.rules[i].msg;

		if (done[msg] || !usual(msg))
			continue;
		done[msg] = true;
		for (enum how how = 0; how < FAULTS; how++) {
			/* Only those two have to be waited for. */
			unsigned int ms = how == FAULT_HANG || how == FAULT_HOLD ? 200 : 5000;

			if (n++ % JOBS != job)
				continue;
			while (!fault(msg, how, ms)) {
				assert_true(ms < 15000);
				ms *= 3;
			}
		}
	}
}

/* In some processes, for most of what the cases do is wait. One that fails says why by itself. */
static void test_faults(void **state)
{
	pid_t pids[JOBS];
	int status;

	(void)state;
	need_kvm();
	fflush(NULL);
	for (unsigned int job = 0; job < JOBS; job++) {
		pids[job] = fork();
		assert_true(pids[job] >= 0);
		if (!pids[job]) {
			faults_of(job);
			_exit(0);
		}
	}
	for (unsigned int job = 0; job < JOBS; job++) {
		assert_int_equal(waitpid(pids[job], &status, 0), pids[job]);
		assert_int_equal(status, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_a_disk_has_one_owner),
		cmocka_unit_test(test_end_while_moving),
		cmocka_unit_test(test_faults),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
