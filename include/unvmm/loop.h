/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - the event loop of one thread, on one io_uring (liburing).
 *
 * Descriptors that become readable, disk operations and calls from other threads all complete
 * through the same ring, so that a turn of the loop is one system call: it submits what the
 * handlers of the last turn queued and waits for the next completion. An idle loop sleeps for
 * ever: no timers, no wake-ups. One that was woken again and again within microseconds looks for
 * some before it sleeps.
 *
 * The ring is restricted to the operations that devices need (read, write, sync, allocate, poll,
 * cancel): it cannot open files or make connections, whatever becomes of the process.
 *
 * Thread: loop_init() anywhere; loop_call() and loop_quit() from any thread; everything else on
 * the thread that runs the loop (before loop_run() starts: the thread that sets up, and then at
 * most `entries` watches and operations, because nothing is submitted before the loop runs).
 */
#ifndef UNVMM_LOOP_H
#define UNVMM_LOOP_H

#include <liburing.h>
#include <pthread.h>

#include <unvmm/diag.h>

struct loop;
struct loop_slot;

/* One operation in the ring. Embed it; it must stay valid until done() runs. */
struct loop_op {
	/* res: as of the operation, bytes or -errno; -ECANCELED after loop_cancel(). */
	void (*done)(struct loop_op *op, int res, uint32_t cqe_flags);
};

/* A descriptor watched for input. Embed it. */
struct loop_fd {
	struct loop *loop; /* NULL while it is not watched; so zeroed memory is a valid start */
	int fd;
	uint32_t events; /* POLLIN, POLLOUT */
	uint32_t slot;	 /* private */
	bool edge;	 /* private */
	/* revents as poll(2), POLLERR alone if polling failed. May call loop_del() on itself. */
	void (*ready)(struct loop_fd *lf, uint32_t revents);
};

/* A call into the loop's thread. Embed it; must stay valid until fn runs; re-usable from there. */
struct loop_work {
	void (*fn)(struct loop_work *w);
	struct loop_work *next; /* private */
	bool queued;		/* private */
};

struct loop_queue {
	struct loop_work *head, **tail;
};

struct loop {
	struct io_uring ring;
	bool enabled; /* the ring has been taken over by the thread that runs it */
	bool quit;    /* atomic */
	int wake_fd;  /* eventfd behind loop_call() */
	struct loop_fd wake;
	pthread_mutex_t lock;	  /* protects `works` and `called` */
	struct loop_queue works;  /* loop_call() */
	struct loop_work *called; /* those of this turn that have not run yet */
	struct loop_queue tail;	  /* loop_defer() */
	struct loop_queue next;	  /* loop_next() */
	struct loop_slot *slots;  /* of the watches; owned */
	uint32_t nslots;
	int look;	/* private: above 0, the next wait begins with looking */
	uint64_t turns; /* statistics */
	uint64_t looks; /* ... waits that began with looking */
	uint64_t found; /* ... and ended with it */
};

/* entries: submission queue size, a power of two. -errno with a sentence (io_uring disabled...). */
int loop_init(struct loop *l, unsigned int entries, struct diag *d) must_check;
/* No thread runs the loop any more. Operations still under way are cancelled, done() is not run. */
void loop_fini(struct loop *l);

/*
 * Makes the calling thread the one that runs the loop. loop_run() does it if it was not done; apart
 * from it, for a thread that is about to give up io_uring_register() (sandbox.h).
 */
int loop_enable(struct loop *l) must_check;
/* Runs until loop_quit(). 0, or -errno if the ring itself failed. Always by the same thread. */
int loop_run(struct loop *l) must_check;
/* Calls queued by loop_call() before it are still run. */
void loop_quit(struct loop *l);

/*
 * One turn, for a thread that has something to poll besides: submits, waits for a completion for at
 * most wait_ns (0: not at all, LOOP_FOREVER), handles those that are there and the deferred work.
 * Returns how many completions there were, or -errno if the ring failed. Not with loop_run().
 */
#define LOOP_FOREVER UINT64_MAX
int loop_turn(struct loop *l, uint64_t wait_ns) must_check;

/*
 * Starts and ends watching lf->fd. ready() is called as long as one of the events is there (level
 * triggered). After loop_del() returns, ready() is not called any more, the descriptor may be
 * closed and lf may be freed: the ring only knows a slot number. The kernel lets go of the file
 * itself at the end of the turn. loop_del() of what is not watched does nothing. -ENOMEM.
 */
int loop_add(struct loop *l, struct loop_fd *lf, int fd, uint32_t events,
	     void (*ready)(struct loop_fd *lf, uint32_t revents)) must_check;
void loop_del(struct loop_fd *lf);

/*
 * The same for an eventfd, edge triggered: ready() is called at least once after each signal, and
 * once at the start if the eventfd is already signalled. It need not read the eventfd, ever: that
 * is a system call less per doorbell.
 */
int loop_add_eventfd(struct loop *l, struct loop_fd *lf, int fd,
		     void (*ready)(struct loop_fd *lf, uint32_t revents)) must_check;

/*
 * A free submission entry whose completion runs op->done. Prepare it with the io_uring_prep_*() of
 * an allowed operation, before anything else is asked of the loop (these leave user_data alone);
 * it is submitted with the loop's next turn. If the submission queue is full it is flushed first,
 * so this cannot fail short of a broken ring (NULL).
 */
struct io_uring_sqe *loop_sqe(struct loop *l, struct loop_op *op) must_check;

/* Asks for an operation to be given up. done() runs all the same, soon if the kernel can do it. */
void loop_cancel(struct loop *l, struct loop_op *op);

/* Has w->fn(w) run on the loop's thread, soon, once, in the order of the calls. Any thread. */
void loop_call(struct loop *l, struct loop_work *w);
/*
 * Takes back a call that has not run: w may be freed. On the loop's thread, or while none runs it;
 * nobody calls w at the same time.
 */
void loop_uncall(struct loop *l, struct loop_work *w);

/*
 * Has w->fn(w) run at the end of this turn, after all completions that the turn began with and
 * before the loop submits and sleeps: the place for what many completions can share, such as one
 * interrupt. The loop's thread only. Queueing what is queued does nothing.
 */
void loop_defer(struct loop *l, struct loop_work *w);
/*
 * Runs `w` in the next turn, which comes at once: to go on with what would keep others waiting. The
 * loop's thread only. Queueing what is queued does nothing.
 */
void loop_next(struct loop *l, struct loop_work *w);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t loop_now(void);

/* A loop with a thread of its own, for software devices. The thread blocks all signals. */
struct io_thread {
	struct loop loop;
	pthread_t thread;
	bool started;
};

int io_thread_start(struct io_thread *t, const char *name, struct diag *d) must_check;
/* Ends the thread and joins it. Devices have been stopped before. */
void io_thread_stop(struct io_thread *t);

#endif
