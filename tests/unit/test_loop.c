/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_loop.c - the event loop: calls from other threads, watches and their removal, deferred work,
 * operations beyond the queue's size, restrictions, and that an idle loop sleeps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <unvmm/loop.h>

static struct diag diag;

static void wait_sem(sem_t *s)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 30;
	assert_int_equal(sem_timedwait(s, &until), 0);
}

/* A call into the loop's thread that the test waits for. */
struct sync_call {
	struct loop_work work;
	struct io_thread *t;
	void (*fn)(struct io_thread *t, void *arg);
	void *arg;
	sem_t done;
};

static void sync_fn(struct loop_work *w)
{
	struct sync_call *c = container_of(w, struct sync_call, work);

	c->fn(c->t, c->arg);
	sem_post(&c->done);
}

static void on_loop(struct io_thread *t, void (*fn)(struct io_thread *t, void *arg), void *arg)
{
	struct sync_call c = { .work.fn = sync_fn, .t = t, .fn = fn, .arg = arg };

	sem_init(&c.done, 0, 0);
	loop_call(&t->loop, &c.work);
	wait_sem(&c.done);
	sem_destroy(&c.done);
}

static void nothing(struct io_thread *t, void *arg)
{
	(void)t;
	(void)arg;
}

static void start(struct io_thread *t)
{
	memset(t, 0, sizeof(*t));
	assert_int_equal(io_thread_start(t, "test-io", &diag), 0);
}

/* --- calls ----------------------------------------------------------------------------------- */

#define CALLS 1000

struct counted {
	struct loop_work work;
	int *order, *next, number;
};

static void count_fn(struct loop_work *w)
{
	struct counted *c = container_of(w, struct counted, work);

	c->order[(*c->next)++] = c->number;
}

static void calls_run_once_and_in_order(void **state)
{
	static struct counted calls[CALLS];
	static int order[CALLS + 1];
	struct io_thread t;
	int next = 0;

	(void)state;
	start(&t);
	for (int i = 0; i < CALLS; i++) {
		calls[i] = (struct counted){ { .fn = count_fn }, order, &next, i };
		loop_call(&t.loop, &calls[i].work);
	}
	io_thread_stop(&t); /* calls before the quit are run */
	assert_int_equal(next, CALLS);
	for (int i = 0; i < CALLS; i++)
		assert_int_equal(order[i], i);
}

static void queued_call_is_not_repeated(void **state)
{
	int order[4], next = 0;
	struct counted c = { { .fn = count_fn }, order, &next, 7 };
	struct loop l;

	(void)state;
	assert_int_equal(loop_init(&l, 8, &diag), 0);
	loop_call(&l, &c.work);
	loop_call(&l, &c.work);
	loop_quit(&l);
	assert_int_equal(loop_run(&l), 0);
	assert_int_equal(next, 1);
	loop_call(&l, &c.work);
	loop_quit(&l);
	assert_int_equal(loop_run(&l), 0); /* the same thread may run it again */
	assert_int_equal(next, 2);
	loop_fini(&l);
}

/* One turn by one, for a thread that polls something else: not at all, for a while, for ever. */
static void single_turns(void **state)
{
	struct timespec before, after;
	int order[4], next = 0;
	struct counted c = { { .fn = count_fn }, order, &next, 7 };
	struct loop l;
	int64_t ns;

	(void)state;
	assert_int_equal(loop_init(&l, 8, &diag), 0);
	assert_int_equal(loop_turn(&l, 0), 0);
	loop_call(&l, &c.work);
	assert_true(loop_turn(&l, LOOP_FOREVER) > 0);
	assert_int_equal(next, 1);
	loop_defer(&l, &c.work);
	clock_gettime(CLOCK_MONOTONIC, &before);
	assert_int_equal(loop_turn(&l, 20000000), 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	ns = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
	assert_true(ns >= 19000000);
	assert_int_equal(next, 2);
	loop_next(&l, &c.work);
	assert_int_equal(loop_turn(&l, LOOP_FOREVER), 0);
	assert_int_equal(next, 3);
	loop_fini(&l);
}

/* --- watches --------------------------------------------------------------------------------- */

struct watch {
	struct loop_fd lf;
	sem_t seen;
	int count;
	bool read_all, del_self;
	uint32_t revents;
};

static void watch_ready(struct loop_fd *lf, uint32_t revents)
{
	struct watch *w = container_of(lf, struct watch, lf);
	char c;

	w->count++;
	w->revents = revents;
	if (w->read_all && read(lf->fd, &c, 1) != 1)
		abort();
	if (w->del_self)
		loop_del(lf);
	sem_post(&w->seen);
}

static void add_pipe(struct io_thread *t, void *arg)
{
	struct watch *w = arg;

	assert_int_equal(loop_add(&t->loop, &w->lf, w->lf.fd, POLLIN, watch_ready), 0);
}

static void add_eventfd(struct io_thread *t, void *arg)
{
	struct watch *w = arg;

	assert_int_equal(loop_add_eventfd(&t->loop, &w->lf, w->lf.fd, watch_ready), 0);
}

static void del(struct io_thread *t, void *arg)
{
	(void)t;
	loop_del(&((struct watch *)arg)->lf);
}

static void level_triggered(void **state)
{
	struct watch w = { .read_all = true };
	struct io_thread t;
	int p[2];

	(void)state;
	sem_init(&w.seen, 0, 0);
	assert_int_equal(pipe(p), 0);
	start(&t);
	assert_int_equal(write(p[1], "abc", 3),
			 3); /* one byte is read per call: three are needed */
	w.lf.fd = p[0];
	on_loop(&t, add_pipe, &w);
	for (int i = 0; i < 3; i++)
		wait_sem(&w.seen);
	on_loop(&t, nothing, NULL);
	on_loop(&t, nothing, NULL);
	assert_int_equal(w.count, 3);
	assert_int_equal(w.revents, POLLIN);
	on_loop(&t, del, &w);
	assert_int_equal(write(p[1], "d", 1), 1);
	on_loop(&t, nothing, NULL);
	on_loop(&t, nothing, NULL);
	assert_int_equal(w.count, 3);
	assert_null(w.lf.loop);
	on_loop(&t, del, &w); /* not watched: nothing happens */
	io_thread_stop(&t);
	close(p[0]);
	close(p[1]);
}

/* Changing a terminal's modes wakes who polls it, for nothing. */
static void terminal_modes_may_change(void **state)
{
	struct watch w = { .read_all = true };
	struct termios cooked, raw;
	struct io_thread t;
	int master;

	(void)state;
	sem_init(&w.seen, 0, 0);
	assert_int_equal(openpty(&master, &w.lf.fd, NULL, NULL, NULL), 0);
	tcgetattr(w.lf.fd, &cooked);
	raw = cooked;
	cfmakeraw(&raw);
	start(&t);
	on_loop(&t, add_pipe, &w);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(tcsetattr(w.lf.fd, TCSANOW, i & 1 ? &cooked : &raw), 0);
		on_loop(&t, nothing, NULL);
	}
	on_loop(&t, nothing, NULL);
	assert_int_equal(w.count, 0);
	assert_int_equal(tcsetattr(w.lf.fd, TCSANOW, &raw), 0);
	assert_int_equal(write(master, "k", 1), 1);
	wait_sem(&w.seen);
	assert_int_equal(w.revents, POLLIN);
	io_thread_stop(&t);
	close(master);
	close(w.lf.fd);
}

static void hangup_is_told_and_self_removal_works(void **state)
{
	struct watch w = { .del_self = true };
	struct io_thread t;
	int p[2];

	(void)state;
	sem_init(&w.seen, 0, 0);
	assert_int_equal(pipe(p), 0);
	start(&t);
	w.lf.fd = p[0];
	on_loop(&t, add_pipe, &w);
	close(p[1]);
	wait_sem(&w.seen);
	assert_true(w.revents & POLLHUP);
	on_loop(&t, nothing, NULL);
	on_loop(&t, nothing, NULL);
	assert_int_equal(w.count, 1);
	io_thread_stop(&t);
	close(p[0]);
}

/* An eventfd that nobody reads: each signal is told all the same. */
static void eventfd_needs_no_read(void **state)
{
	struct watch w = { 0 };
	struct io_thread t;
	uint64_t one = 1;

	(void)state;
	sem_init(&w.seen, 0, 0);
	w.lf.fd = eventfd(1, EFD_NONBLOCK);
	start(&t);
	on_loop(&t, add_eventfd, &w);
	wait_sem(&w.seen); /* it was signalled before */
	for (int i = 0; i < 2000; i++) {
		assert_int_equal(write(w.lf.fd, &one, 8), 8);
		wait_sem(&w.seen);
	}
	on_loop(&t, del, &w);
	io_thread_stop(&t);
	close(w.lf.fd);
}

/* The watch is freed and its descriptor closed as soon as loop_del() returns, with events pending.
 */
static void churn(struct io_thread *t, void *arg)
{
	uint64_t one = 1;

	(void)arg;
	for (int i = 0; i < 500; i++) {
		struct watch *w = calloc(1, sizeof(*w));
		int fd = eventfd(0, EFD_NONBLOCK);

		sem_init(&w->seen, 0, 0);
		w->lf.fd = fd;
		add_eventfd(t, w);
		assert_int_equal(write(fd, &one, 8), 8);
		if (i % 3 == 0) /* let the poll reach the kernel before it is removed */
			assert_true(io_uring_submit(&t->loop.ring) >= 0);
		loop_del(&w->lf);
		close(fd);
		memset(w, 0xff, sizeof(*w));
		free(w);
	}
}

static void removal_leaves_nothing_behind(void **state)
{
	struct io_thread t;

	(void)state;
	start(&t);
	for (int i = 0; i < 4; i++) {
		on_loop(&t, churn, NULL);
		on_loop(&t, nothing, NULL);
	}
	on_loop(&t, nothing, NULL);
	/* All slots came back: the table holds one round's watches at the most. */
	assert_true(t.loop.nslots <= 1024);
	io_thread_stop(&t);
}

/* --- deferred work and operations ------------------------------------------------------------ */

static void defer_twice(struct io_thread *t, void *arg)
{
	loop_defer(&t->loop, arg);
	loop_defer(&t->loop, arg);
}

static void deferred_work_runs_once_per_turn(void **state)
{
	int order[4], next = 0;
	struct counted c = { { .fn = count_fn }, order, &next, 1 };
	struct io_thread t;

	(void)state;
	start(&t);
	on_loop(&t, defer_twice, &c.work);
	on_loop(&t, nothing, NULL);
	assert_int_equal(next, 1);
	on_loop(&t, defer_twice, &c.work);
	on_loop(&t, nothing, NULL);
	assert_int_equal(next, 2);
	io_thread_stop(&t);
}

#define OPS 3000

struct op {
	struct loop_op op;
	int *done;
};

static void op_done(struct loop_op *op, int res, uint32_t flags)
{
	(void)flags;
	assert_int_equal(res, 0);
	__atomic_fetch_add(container_of(op, struct op, op)->done, 1, __ATOMIC_ACQ_REL);
}

static void submit_many(struct io_thread *t, void *arg)
{
	struct op *ops = arg;

	for (int i = 0; i < OPS; i++) {
		struct io_uring_sqe *sqe = loop_sqe(&t->loop, &ops[i].op);

		assert_non_null(sqe);
		io_uring_prep_nop(sqe);
	}
}

/* More operations in one turn than both queues of the ring hold: none is lost. */
static void queues_may_overflow(void **state)
{
	struct op *ops = calloc(OPS, sizeof(*ops));
	struct io_thread t;
	int done = 0;

	(void)state;
	for (int i = 0; i < OPS; i++)
		ops[i] = (struct op){ { .done = op_done }, &done };
	start(&t);
	on_loop(&t, submit_many, ops);
	for (int i = 0; i < 100 && __atomic_load_n(&done, __ATOMIC_ACQUIRE) < OPS; i++)
		on_loop(&t, nothing, NULL);
	io_thread_stop(&t);
	assert_int_equal(done, OPS);
	free(ops);
}

struct storm {
	struct watch w;
	struct op *ops;
};

static void signal_in_storm(struct io_thread *t, void *arg)
{
	struct storm *s = arg;
	uint64_t one = 1;

	submit_many(t, s->ops);
	assert_int_equal(write(s->w.lf.fd, &one, 8), 8);
	submit_many(t, s->ops);
}

/* A completion queue that overflows ends polls on some kernels; the watch lives on. */
static void watch_survives_an_overflow(void **state)
{
	struct storm s = { .ops = calloc(OPS, sizeof(*s.ops)) };
	struct io_thread t;
	uint64_t one = 1;
	int done = 0;

	(void)state;
	for (int i = 0; i < OPS; i++)
		s.ops[i] = (struct op){ { .done = op_done }, &done };
	sem_init(&s.w.seen, 0, 0);
	s.w.lf.fd = eventfd(0, EFD_NONBLOCK);
	start(&t);
	on_loop(&t, add_eventfd, &s.w);
	for (int i = 0; i < 5; i++) {
		on_loop(&t, signal_in_storm, &s);
		wait_sem(&s.w.seen);
		while (sem_trywait(&s.w.seen) == 0)
			;
		on_loop(&t, nothing, NULL);
		assert_int_equal(write(s.w.lf.fd, &one, 8), 8);
		wait_sem(&s.w.seen);
		assert_int_equal(s.w.revents, POLLIN);
	}
	io_thread_stop(&t);
	assert_int_equal(done, 5 * 2 * OPS);
	close(s.w.lf.fd);
	free(s.ops);
}

struct result {
	struct loop_op op;
	int fd, res;
	char buf[4];
	sem_t done;
};

static void result_done(struct loop_op *op, int res, uint32_t flags)
{
	struct result *r = container_of(op, struct result, op);

	(void)flags;
	r->res = res;
	sem_post(&r->done);
}

static void try_open(struct io_thread *t, void *arg)
{
	struct result *r = arg;
	struct io_uring_sqe *sqe = loop_sqe(&t->loop, &r->op);

	assert_non_null(sqe);
	io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY, 0);
}

static void ring_cannot_open_files(void **state)
{
	struct result r = { .op.done = result_done };
	struct io_thread t;

	(void)state;
	sem_init(&r.done, 0, 0);
	start(&t);
	on_loop(&t, try_open, &r);
	wait_sem(&r.done);
	assert_int_equal(r.res, -EACCES);
	io_thread_stop(&t);
}

static void read_pipe(struct io_thread *t, void *arg)
{
	struct result *r = arg;
	struct io_uring_sqe *sqe = loop_sqe(&t->loop, &r->op);

	assert_non_null(sqe);
	io_uring_prep_read(sqe, r->fd, r->buf, sizeof(r->buf), 0);
}

static void cancel(struct io_thread *t, void *arg)
{
	loop_cancel(&t->loop, &((struct result *)arg)->op);
}

static void cancelled_operation_ends(void **state)
{
	struct result r = { .op.done = result_done };
	struct io_thread t;
	int p[2];

	(void)state;
	sem_init(&r.done, 0, 0);
	assert_int_equal(pipe(p), 0);
	start(&t);
	r.fd = p[0];
	on_loop(&t, read_pipe, &r);
	on_loop(&t, nothing, NULL);
	assert_int_equal(sem_trywait(&r.done), -1);
	on_loop(&t, cancel, &r);
	wait_sem(&r.done);
	assert_int_equal(r.res, -ECANCELED);
	io_thread_stop(&t);
	close(p[0]);
	close(p[1]);
}

/* --- idleness -------------------------------------------------------------------------------- */

struct activity {
	long switches;
	uint64_t turns;
};

static void thread_activity(struct io_thread *t, void *arg)
{
	struct activity *a = arg;
	struct rusage u;

	getrusage(RUSAGE_THREAD, &u);
	a->switches = u.ru_nvcsw; /* being preempted is not its doing */
	a->turns = t->loop.turns;
}

static void idle_loop_sleeps(void **state)
{
	struct watch w = { 0 };
	struct io_thread t;
	struct activity before, after;

	(void)state;
	sem_init(&w.seen, 0, 0);
	w.lf.fd = eventfd(0, EFD_NONBLOCK);
	start(&t);
	on_loop(&t, add_eventfd, &w);
	on_loop(&t, thread_activity, &before);
	usleep(300000);
	on_loop(&t, thread_activity, &after);
	assert_true(after.turns - before.turns <= 2); /* the sleep, and being woken to answer */
	assert_true(after.switches - before.switches <= 4);
	io_thread_stop(&t);
	close(w.lf.fd);
}

static void signals_are_for_other_threads(struct io_thread *t, void *arg)
{
	sigset_t set;

	(void)t;
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	*(bool *)arg = sigismember(&set, SIGTERM) && sigismember(&set, SIGINT);
}

static void io_thread_blocks_signals(void **state)
{
	struct io_thread t;
	bool blocked = false;

	(void)state;
	start(&t);
	on_loop(&t, signals_are_for_other_threads, &blocked);
	assert_true(blocked);
	io_thread_stop(&t);
	io_thread_stop(&t); /* stopped already: nothing happens */
}

struct ball {
	struct loop_work work;
	uint32_t hits;
};

static void hit(struct loop_work *w)
{
	__atomic_fetch_add(&container_of(w, struct ball, work)->hits, 1, __ATOMIC_SEQ_CST);
}

static struct {
	uint64_t looks, found;
} seen;

static void note_looks(struct io_thread *t, void *arg)
{
	(void)arg;
	seen.looks = t->loop.looks;
	seen.found = t->loop.found;
}

/* Asked again as soon as it has answered, it does not fall asleep in between; once idle, it does.
 */
static void busy_loop_looks(void **state)
{
	struct ball ball = { .work.fn = hit };
	struct io_thread t = { 0 };
	uint64_t looks = 0, end = loop_now() + 30000000000;

	(void)state;
	start(&t);
	/* On a loaded machine either side may be off its processor: in the long run they meet. */
	for (uint32_t i = 1; loop_now() < end && seen.found < 100; i++) {
		loop_call(&t.loop, &ball.work);
		while (__atomic_load_n(&ball.hits, __ATOMIC_SEQ_CST) < i)
			;
		if (i % 1000 == 0)
			on_loop(&t, note_looks, NULL);
	}
	assert_true(seen.found >= 100);
	for (unsigned int i = 0; i < 5; i++) {
		usleep(20000);
		on_loop(&t, note_looks, NULL);
		looks = i ? looks : seen.looks;
	}
	/* Each of these calls came after a long sleep. */
	assert_true(seen.looks <= looks + 1);
	io_thread_stop(&t);
}

/* --- the next turn --------------------------------------------------------------------------- */

#define MANY  2000
#define PEEKS 500 /* each is a turn, too */

struct repeated {
	struct loop_work work;
	struct loop *loop;
	uint64_t runs, turns; /* of the loop, when it began */
	bool enough;
};

static void repeat(struct loop_work *w)
{
	struct repeated *r = container_of(w, struct repeated, work);

	r->runs++;
	if (!r->enough)
		loop_next(r->loop, &r->work);
}

static void begin_repeating(struct io_thread *t, void *arg)
{
	struct repeated *r = arg;

	r->loop = &t->loop;
	r->turns = t->loop.turns;
	loop_next(r->loop, &r->work);
	loop_next(r->loop, &r->work);
}

static void see_repeating(struct io_thread *t, void *arg)
{
	struct repeated *r = arg;

	assert_true(t->loop.turns - r->turns >= r->runs);
	r->enough = r->runs > MANY;
}

/* Without a wait, once in a turn, and for as long as one likes: others are served meanwhile. */
static void work_goes_on_in_the_next_turn(void **state)
{
	struct repeated r = { .work.fn = repeat };
	struct io_thread t;
	uint64_t runs;

	(void)state;
	start(&t);
	on_loop(&t, begin_repeating, &r);
	for (unsigned int i = 0; i < PEEKS && !r.enough; i++) {
		usleep(10000);
		on_loop(&t, see_repeating, &r);
	}
	assert_true(r.enough);
	on_loop(&t, nothing, NULL);
	runs = r.runs;
	on_loop(&t, nothing, NULL);
	assert_int_equal(r.runs, runs);
	io_thread_stop(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls_run_once_and_in_order),
		cmocka_unit_test(queued_call_is_not_repeated),
		cmocka_unit_test(single_turns),
		cmocka_unit_test(level_triggered),
		cmocka_unit_test(terminal_modes_may_change),
		cmocka_unit_test(hangup_is_told_and_self_removal_works),
		cmocka_unit_test(eventfd_needs_no_read),
		cmocka_unit_test(removal_leaves_nothing_behind),
		cmocka_unit_test(deferred_work_runs_once_per_turn),
		cmocka_unit_test(queues_may_overflow),
		cmocka_unit_test(watch_survives_an_overflow),
		cmocka_unit_test(ring_cannot_open_files),
		cmocka_unit_test(cancelled_operation_ends),
		cmocka_unit_test(idle_loop_sleeps),
		cmocka_unit_test(busy_loop_looks),
		cmocka_unit_test(work_goes_on_in_the_next_turn),
		cmocka_unit_test(io_thread_blocks_signals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
