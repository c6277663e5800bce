/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - the event loop of one thread on one io_uring, and threads that run such a loop.
 * Runs on the thread that calls loop_run(); loop_call() and loop_quit() are for all threads.
 *
 * user_data of a completion: the address of a struct loop_op (even), or a watch (odd: generation,
 * slot number, 1), or 0 for those that nobody waits for.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/loop.h>
#include <unvmm/thread.h>

/*
 * What the kernel knows of a watch. It outlives the struct loop_fd: after loop_del() it stays until
 * the poll's last completion, so that a late completion meets lf == NULL and not freed memory.
 */
struct loop_slot {
	struct loop_fd *lf;
	uint32_t generation;  /* a completion of an earlier use of the slot is not mistaken */
	unsigned int invalid; /* polls in a row that failed with EINVAL */
	bool used;
};

#define LOOP_SLOTS_MIN 8
#define INVALID_MAX    1000

static uint64_t slot_user_data(const struct loop *l, uint32_t slot)
{
	return (uint64_t)l->slots[slot].generation << 32 | (uint64_t)slot << 1 | 1;
}

static void queue_init(struct loop_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void queue_add(struct loop_queue *q, struct loop_work *w)
{
	if (w->queued)
		return;
	w->queued = true;
	w->next = NULL;
	*q->tail = w;
	q->tail = &w->next;
}

/* Runs what is in the queue now. A work may queue itself again, or be freed, from its fn. */
static void queue_run(struct loop_work *w)
{
	while (w) {
		struct loop_work *next = w->next;

		w->queued = false;
		w->fn(w);
		w = next;
	}
}

/* What devices and the loop itself use. None opens a file, makes a socket or a connection. */
static const uint8_t allowed_ops[] = {
	IORING_OP_NOP,	     IORING_OP_READ,	 IORING_OP_READV,
	IORING_OP_WRITE,     IORING_OP_WRITEV,	 IORING_OP_FSYNC,
	IORING_OP_FALLOCATE, IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL,
};

static int restrict_ring(struct io_uring *ring)
{
	struct io_uring_restriction r[ARRAY_SIZE(allowed_ops) + 1] = { 0 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(allowed_ops); i++) {
		r[i].opcode = IORING_RESTRICTION_SQE_OP;
		r[i].sqe_op = allowed_ops[i];
	}
	r[i].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	r[i].sqe_flags = 0;
	/* Not by liburing's own functions for it: Debian's shared library does not export them. */
	return io_uring_register(ring->ring_fd, IORING_REGISTER_RESTRICTIONS, r, i + 1);
}

/*
 * The ring starts disabled: restrictions can only be set then, and the thread that enables it
 * becomes its single issuer. Deferred task work (6.1) means that completions are collected when
 * the thread waits, never by interrupting it; an older kernel does without.
 */
static int setup_ring(struct io_uring *ring, unsigned int entries)
{
	static const unsigned int flags[] = {
		IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_R_DISABLED,
	};
	unsigned int i;
	int err = -EINVAL;

	for (i = 0; i < ARRAY_SIZE(flags) && err == -EINVAL; i++) {
		struct io_uring_params p = { .flags = flags[i] };

		err = io_uring_queue_init_params(entries, ring, &p);
	}
	return err;
}

static void wake_ready(struct loop_fd *lf, uint32_t revents)
{
	struct loop *l = container_of(lf, struct loop, wake);
	struct loop_work *w;

	(void)revents;
	pthread_mutex_lock(&l->lock);
	/* Calls that come while these run are for the next turn. */
	l->called = l->works.head;
	queue_init(&l->works);
	while ((w = l->called)) {
		l->called = w->next;
		w->queued = false;
		pthread_mutex_unlock(&l->lock);
		w->fn(w);
		pthread_mutex_lock(&l->lock);
	}
	pthread_mutex_unlock(&l->lock);
}

int loop_init(struct loop *l, unsigned int entries, struct diag *d)
{
	int err;

	memset(l, 0, sizeof(*l));
	queue_init(&l->works);
	queue_init(&l->tail);
	queue_init(&l->next);
	err = setup_ring(&l->ring, entries);
	if (err == -ENOSYS || err == -EPERM)
		return diag_errno(d, err,
				  "io_uring is needed and this host refuses it (see the sysctl "
				  "kernel.io_uring_disabled, or the container's seccomp profile)");
	if (err)
		return diag_errno(d, err, "cannot set up an io_uring of %u entries", entries);
	err = restrict_ring(&l->ring);
	if (err) {
		diag_errno(d, err, "cannot restrict the io_uring (Linux 5.10 or later is needed)");
		goto out_ring;
	}
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0) {
		err = diag_errno(d, -errno, "cannot create an eventfd for the event loop");
		goto out_ring;
	}
	pthread_mutex_init(&l->lock, NULL);
	err = loop_add_eventfd(l, &l->wake, l->wake_fd, wake_ready);
	if (err) {
		diag_errno(d, err, "cannot watch the event loop's eventfd");
		goto out_wake;
	}
	return 0;

out_wake:
	pthread_mutex_destroy(&l->lock);
	close(l->wake_fd);
	free(l->slots);
out_ring:
	io_uring_queue_exit(&l->ring);
	return err;
}

void loop_fini(struct loop *l)
{
	io_uring_queue_exit(&l->ring);
	close(l->wake_fd);
	pthread_mutex_destroy(&l->lock);
	free(l->slots);
	l->slots = NULL;
}

static void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	/* Fails only when the counter is full, and then the loop has been woken often enough. */
	if (write(l->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error("cannot wake an event loop: %s", strerror(errno));
}

void loop_quit(struct loop *l)
{
	__atomic_store_n(&l->quit, true, __ATOMIC_RELEASE);
	loop_wake(l);
}

void loop_call(struct loop *l, struct loop_work *w)
{
	bool first;

	pthread_mutex_lock(&l->lock);
	first = !l->works.head;
	queue_add(&l->works, w);
	pthread_mutex_unlock(&l->lock);
	if (first)
		loop_wake(l);
}

/* Takes w out of a list; false if it is not there. */
static bool list_remove(struct loop_work **at, const struct loop_work *w)
{
	while (*at && *at != w)
		at = &(*at)->next;
	if (!*at)
		return false;
	*at = w->next;
	return true;
}

void loop_uncall(struct loop *l, struct loop_work *w)
{
	pthread_mutex_lock(&l->lock);
	if (w->queued && !list_remove(&l->called, w) && list_remove(&l->works.head, w)) {
		l->works.tail = &l->works.head;
		while (*l->works.tail)
			l->works.tail = &(*l->works.tail)->next;
	}
	w->queued = false;
	pthread_mutex_unlock(&l->lock);
}

void loop_defer(struct loop *l, struct loop_work *w)
{
	queue_add(&l->tail, w);
}

void loop_next(struct loop *l, struct loop_work *w)
{
	queue_add(&l->next, w);
}

static struct loop_work *take_next(struct loop *l)
{
	struct loop_work *w = l->next.head;

	queue_init(&l->next);
	return w;
}

static struct io_uring_sqe *get_sqe(struct loop *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);
	int n = 0;

	while (!sqe && l->enabled && (n >= 0 || n == -EINTR)) {
		n = io_uring_submit(&l->ring);
		sqe = io_uring_get_sqe(&l->ring);
	}
	return sqe;
}

struct io_uring_sqe *loop_sqe(struct loop *l, struct loop_op *op)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	if (sqe)
		io_uring_sqe_set_data(sqe, op);
	return sqe;
}

static void cancel_user_data(struct loop *l, uint64_t user_data)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	if (!sqe)
		return; /* the ring is broken, loop_run() reports it */
	io_uring_prep_cancel64(sqe, user_data, 0);
	io_uring_sqe_set_data64(sqe, 0);
}

void loop_cancel(struct loop *l, struct loop_op *op)
{
	cancel_user_data(l, (uintptr_t)op);
}

static int slot_alloc(struct loop *l, struct loop_fd *lf)
{
	struct loop_slot *slots;
	uint32_t i, n;

	for (i = 0; i < l->nslots && l->slots[i].used; i++)
		;
	if (i == l->nslots) {
		n = l->nslots ? l->nslots * 2 : LOOP_SLOTS_MIN;
		slots = realloc(l->slots, n * sizeof(*slots));
		if (!slots)
			return -ENOMEM;
		memset(slots + l->nslots, 0, (n - l->nslots) * sizeof(*slots));
		l->slots = slots;
		l->nslots = n;
	}
	l->slots[i].lf = lf;
	l->slots[i].used = true;
	l->slots[i].generation++;
	l->slots[i].invalid = 0;
	lf->slot = i;
	return 0;
}

static int watch_arm(struct loop *l, const struct loop_fd *lf)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	if (!sqe)
		return -EIO;
	if (lf->edge)
		io_uring_prep_poll_multishot(sqe, lf->fd, lf->events);
	else
		io_uring_prep_poll_add(sqe, lf->fd, lf->events);
	io_uring_sqe_set_data64(sqe, slot_user_data(l, lf->slot));
	return 0;
}

static int watch_add(struct loop *l, struct loop_fd *lf)
{
	int err;

	err = slot_alloc(l, lf);
	if (err)
		return err;
	lf->loop = l;
	err = watch_arm(l, lf);
	if (err) {
		l->slots[lf->slot].used = false;
		lf->loop = NULL;
	}
	return err;
}

int loop_add(struct loop *l, struct loop_fd *lf, int fd, uint32_t events,
	     void (*ready)(struct loop_fd *lf, uint32_t revents))
{
	lf->fd = fd;
	lf->events = events;
	lf->edge = false;
	lf->ready = ready;
	return watch_add(l, lf);
}

int loop_add_eventfd(struct loop *l, struct loop_fd *lf, int fd,
		     void (*ready)(struct loop_fd *lf, uint32_t revents))
{
	lf->fd = fd;
	lf->events = POLLIN;
	lf->edge = true;
	lf->ready = ready;
	return watch_add(l, lf);
}

void loop_del(struct loop_fd *lf)
{
	struct loop *l = lf->loop;

	if (!l)
		return;
	lf->loop = NULL;
	l->slots[lf->slot].lf = NULL;
	cancel_user_data(l, slot_user_data(l, lf->slot));
}

/*
 * A one-shot poll of a file with two wait queues (a terminal) that is woken for nothing (by a
 * change of modes) is armed again by the kernel itself and fails there with EINVAL (seen in 6.18).
 * What can never be polled fails so too, but without end.
 */
static bool poll_was_nothing(struct loop *l, uint32_t slot, int res)
{
	if (res != -EINVAL) {
		l->slots[slot].invalid = 0;
		return false;
	}
	return ++l->slots[slot].invalid < INVALID_MAX;
}

/*
 * A multishot poll reports every wake-up of the eventfd until it says otherwise (no F_MORE: the
 * completion queue overflowed). A one-shot poll is armed again after ready() has had its turn,
 * which makes it level triggered. In both cases the new poll goes out with the next submission.
 */
static void watch_complete(struct loop *l, uint64_t user_data, int res, uint32_t flags)
{
	uint32_t slot = (uint32_t)user_data >> 1;
	bool more = flags & IORING_CQE_F_MORE, nothing;
	struct loop_fd *lf;
	int err = 0;

	if (slot >= l->nslots || slot_user_data(l, slot) != user_data)
		return;
	lf = l->slots[slot].lf;
	/* Linux 6.1 ends a multishot poll so when the completion queue overflows: an event is lost.
	 */
	if (lf && res == -ECANCELED)
		res = (int)lf->events;
	nothing = poll_was_nothing(l, slot, res);
	if (lf && !nothing)
		lf->ready(lf, res < 0 ? POLLERR : (uint32_t)res);
	if (more)
		return;
	lf = l->slots[slot].lf; /* ready() may have removed it; slots may have moved */
	if (lf && (res >= 0 || nothing))
		err = watch_arm(l, lf);
	if (!lf || (res < 0 && !nothing) || err) {
		if (lf)
			lf->loop = NULL;
		l->slots[slot].lf = NULL;
		l->slots[slot].used = false;
	}
}

static void complete(struct loop *l, uint64_t user_data, int res, uint32_t flags)
{
	struct loop_op *op;

	if (user_data & 1) {
		watch_complete(l, user_data, res, flags);
	} else if (user_data) {
		op = (struct loop_op *)(uintptr_t)user_data;
		op->done(op, res, flags);
	}
}

/*
 * Handles the completions that are there now; those that come meanwhile wait for the next turn, so
 * that deferred work is not starved. The entry is given back before its handler runs, which may
 * submit and so let the kernel add others.
 */
static int run_completions(struct loop *l)
{
	unsigned int n = io_uring_cq_ready(&l->ring), done = 0;
	struct io_uring_cqe *cqe;

	while (done < n && io_uring_peek_cqe(&l->ring, &cqe) == 0) {
		uint64_t user_data = cqe->user_data;
		uint32_t flags = cqe->flags;
		int res = cqe->res;

		io_uring_cqe_seen(&l->ring, cqe);
		complete(l, user_data, res, flags);
		done++;
	}
	return (int)done;
}

static void run_tail(struct loop *l)
{
	struct loop_work *w;

	while ((w = l->tail.head)) {
		queue_init(&l->tail);
		queue_run(w);
	}
}

uint64_t loop_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/*
 * To fall asleep and be woken takes longer, and more cycles, than many a wait lasts: a driver that
 * has got its answer puts the next question within microseconds. So after a short wait the next one
 * begins with looking; if that is in vain, the loop sleeps and does not look for some time.
 */
#define LOOK_NS	  16000
#define SHORT_NS  50000 /* a wait, the time that waking up takes included */
#define LOOK_REST 16	/* waits without looking, after one in vain */

static int submit_and_wait(struct loop *l)
{
	uint64_t start = loop_now();
	int n;

	if (l->look > 0) {
		n = io_uring_submit_and_get_events(&l->ring);
		if (n < 0 || io_uring_cq_ready(&l->ring))
			return n;
		l->looks++;
		while (loop_now() - start < LOOK_NS) {
			n = io_uring_get_events(&l->ring);
			if (n >= 0 && !io_uring_cq_ready(&l->ring))
				continue;
			l->found++;
			return n;
		}
		l->look = -LOOK_REST;
	}
	n = io_uring_submit_and_wait(&l->ring, 1);
	if (l->look < 0)
		l->look++;
	else
		l->look = loop_now() - start < SHORT_NS;
	return n;
}

int loop_enable(struct loop *l)
{
	int err;

	if (l->enabled)
		return 0;
	/* Makes io_uring_enter cheaper; the loop works without it. */
	(void)io_uring_register_ring_fd(&l->ring);
	err = io_uring_register(l->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (err < 0)
		return err;
	l->enabled = true;
	return 0;
}

static int submit_for(struct loop *l, uint64_t wait_ns)
{
	struct __kernel_timespec ts = { .tv_sec = (int64_t)(wait_ns / 1000000000),
					.tv_nsec = (long long)(wait_ns % 1000000000) };
	struct io_uring_cqe *cqe;

	if (!wait_ns)
		return io_uring_submit_and_get_events(&l->ring);
	if (wait_ns == LOOP_FOREVER)
		return io_uring_submit_and_wait(&l->ring, 1);
	return io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, &ts, NULL);
}

int loop_turn(struct loop *l, uint64_t wait_ns)
{
	struct loop_work *w;
	int n = loop_enable(l);

	if (n)
		return n;
	run_tail(l);
	w = take_next(l);
	n = submit_for(l, w ? 0 : wait_ns);
	if (n < 0 && n != -ETIME && n != -EINTR && n != -EBUSY && n != -EAGAIN)
		return n;
	l->turns++;
	n = run_completions(l);
	queue_run(w);
	run_tail(l);
	return n;
}

int loop_run(struct loop *l)
{
	struct loop_work *w;
	bool quit = false;
	int n = loop_enable(l);

	if (n)
		return n;
	while (!quit) {
		run_tail(l);
		w = take_next(l);
		n = w ? submit_for(l, 0) : submit_and_wait(l);
		/* EBUSY, EAGAIN: the kernel wants completions taken, or memory, first. */
		if (n < 0 && n != -EINTR && n != -EBUSY && n != -EAGAIN)
			return n;
		l->turns++;
		/* Read first: what was called before the quit is in the list that is run next. */
		quit = __atomic_load_n(&l->quit, __ATOMIC_ACQUIRE);
		run_completions(l);
		queue_run(w);
		if (quit)
			wake_ready(&l->wake, 0);
	}
	run_tail(l);
	__atomic_store_n(&l->quit, false, __ATOMIC_RELAXED);
	return 0;
}

static void *io_thread_main(void *arg)
{
	struct io_thread *t = arg;
	int err = loop_run(&t->loop);

	if (err)
		log_error("an event loop failed: %s; its devices stand still", strerror(-err));
	return NULL;
}

#define IO_THREAD_ENTRIES 128

int io_thread_start(struct io_thread *t, const char *name, struct diag *d)
{
	int err;

	err = loop_init(&t->loop, IO_THREAD_ENTRIES, d);
	if (err)
		return err;
	err = thread_start(&t->thread, name, 0, io_thread_main, t, d);
	if (err) {
		loop_fini(&t->loop);
		return err;
	}
	t->started = true;
	return 0;
}

void io_thread_stop(struct io_thread *t)
{
	if (!t->started)
		return;
	loop_quit(&t->loop);
	pthread_join(t->thread, NULL);
	loop_fini(&t->loop);
	t->started = false;
}
