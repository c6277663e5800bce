/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - the poll thread: hears doorbells, has the devices serve their rings, and shows the
 * driver what is completed. What main asks of a function's queues is in transition.c. The two are
 * this program's softq.h.
 */
#include "function.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/thread.h>

#define ENGINE_ENTRIES 256

#define HOLD_NS 1000000u /* the longest that a fault keeps a completion from the driver */

static struct function *of_sq(const struct softq *sq)
{
	return function_of(sq->vdev);
}

uint64_t engine_clock(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* --- doorbells ------------------------------------------------------------------------------- */

/* The load spares the bus an exchange for each cell of each turn. */
static bool cell_take(uint16_t *cell, unsigned int q)
{
	if (__atomic_load_n(cell, __ATOMIC_RELAXED) == FN_CELL_EMPTY)
		return false;
	return __atomic_exchange_n(cell, FN_CELL_EMPTY, __ATOMIC_SEQ_CST) == q;
}

static bool doorbell_lost(struct function *f)
{
	uint32_t n = f->opt.faults.n[FAULT_LOST_DOORBELL];

	return ++f->e.doorbells && n && f->e.doorbells % n == 0;
}

void fn_engine_forget(struct function *f, unsigned int q)
{
	uint64_t n;
	struct iovec iov = { &n, sizeof(n) };

	__atomic_store_n(f->e.queues[q].cell, FN_CELL_EMPTY, __ATOMIC_SEQ_CST);
	/* The client has it too, and can have made it block: RWF_NOWAIT does not wait all the same.
	 */
	if (f->doorbell_fds[q] >= 0 && preadv2(f->doorbell_fds[q], &iov, 1, -1, RWF_NOWAIT) < 0)
		return; /* it has not been rung */
}

void fn_engine_ring(struct function *f, unsigned int q)
{
	__atomic_store_n(f->e.queues[q].cell, (uint16_t)q, __ATOMIC_SEQ_CST);
	loop_call(&f->engine->loop, &f->e.wake_work);
}

/* --- one queue ------------------------------------------------------------------------------- */

bool engine_may_serve(const struct function *f, unsigned int q)
{
	const struct softq_queue *sqq = &f->e.sq->queues[q];

	return f->e.phase == FN_PHASE_SERVING && sqq->vq.running && !sqq->broken &&
	       !f->e.queues[q].resetting;
}

static void serve(struct function *f, unsigned int q)
{
	struct softq_queue *sqq = &f->e.sq->queues[q];
	struct fn_queue *fq = &f->e.queues[q];

	fq->again = false;
	if (fq->look)
		fq->look = vq_look(&sqq->vq);
	sqq->held = false;
	f->e.sq->handle(f->e.sq, q);
	fq->again = !sqq->held && !sqq->broken && sqq->vq.budget;
}

static bool scan(struct function *f)
{
	bool work = false;

	if (__atomic_load_n(&f->e.gone, __ATOMIC_RELAXED))
		return false;
	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		struct fn_queue *fq = &f->e.queues[q];

		if (!engine_may_serve(f, q))
			continue;
		if (cell_take(fq->cell, q) && !doorbell_lost(f)) {
			vdev_count(&f->v->counters[q].kicks);
			fq->look = true;
		}
		if (fq->look || fq->again) {
			serve(f, q);
			work = true;
		}
	}
	return work;
}

/* --- completions ----------------------------------------------------------------------------- */

/* Has a fault reason to keep what is held a little longer, for more of it? */
static bool hold_on(const struct function *f, unsigned int q)
{
	const struct fn_queue *fq = &f->e.queues[q];
	const struct vq *vq = &f->e.sq->queues[q].vq;
	const uint32_t *n = f->opt.faults.n;
	uint32_t want = n[FAULT_MERGED_USED] > n[FAULT_OUT_OF_ORDER] ? n[FAULT_MERGED_USED]
								     : n[FAULT_OUT_OF_ORDER];

	return f->e.phase == FN_PHASE_SERVING && fq->nheld < want &&
	       vq->outstanding > fq->nheld + fq->hung && f->engine->now - fq->held_since < HOLD_NS;
}

static void release_held(struct function *f, unsigned int q)
{
	struct fn_queue *fq = &f->e.queues[q];
	bool reverse = f->opt.faults.n[FAULT_OUT_OF_ORDER];

	for (unsigned int i = 0; i < fq->nheld; i++) {
		const struct fn_held *h = &fq->held[reverse ? fq->nheld - 1 - i : i];

		vq_push(&f->e.sq->queues[q].vq, h->head, h->len);
	}
	fq->nheld = 0;
}

void engine_publish(struct loop_work *w)
{
	struct softq_queue *sqq = container_of(w, struct softq_queue, publish);
	struct function *f = of_sq(sqq->sq);

	if (!sqq->vq.running || hold_on(f, sqq->index))
		return;
	release_held(f, sqq->index);
	if (vq_publish(&sqq->vq)) {
		vdev_count(&f->v->counters[sqq->index].interrupts);
		vdev_interrupt(f->v, sqq->index);
	}
}

void softq_begin(struct softq *sq)
{
	sq->inflight++;
}

void softq_complete(struct softq *sq, unsigned int q, uint16_t head, uint32_t len)
{
	struct function *f = of_sq(sq);
	struct fn_queue *fq = &f->e.queues[q];
	const uint32_t *n = f->opt.faults.n;

	sq->inflight--;
	vdev_count(&f->v->counters[q].requests);
	if (n[FAULT_HANG_REQUEST] && ++f->e.requests == n[FAULT_HANG_REQUEST]) {
		fq->hung++;
		return;
	}
	if (fq->held) {
		if (!fq->nheld)
			fq->held_since = f->engine->now;
		fq->held[fq->nheld++] = (struct fn_held){ .head = head, .len = len };
	} else {
		vq_push(&sq->queues[q].vq, head, len);
	}
	loop_defer(sq->loop, &sq->queues[q].publish);
}

/* --- softq.h --------------------------------------------------------------------------------- */

void softq_doorbell(struct softq *sq, unsigned int q, struct vdev_doorbell *db)
{
	db->kind = DOORBELL_EVENTFD;
	db->fd = of_sq(sq)->doorbell_fds[q];
}

void softq_kick(struct softq *sq, unsigned int q)
{
	fn_engine_ring(of_sq(sq), q);
}

void softq_hold(struct softq *sq, unsigned int q)
{
	sq->queues[q].held = true;
}

void softq_serve(struct softq *sq, unsigned int q)
{
	struct function *f = of_sq(sq);

	if (engine_may_serve(f, q))
		serve(f, q);
}

void softq_broken(struct softq *sq, unsigned int q, const char *why)
{
	struct softq_queue *sqq = &sq->queues[q];

	sqq->broken = true;
	loop_del(&of_sq(sq)->e.queues[q].doorbell);
	log_limited(&sq->limit, LOG_WARN, "%s: queue %u is broken: %s", sq->vdev->id, q, why);
	vdev_needs_reset(sq->vdev, why);
}

struct loop *vm_io_loop(struct vm *vm, struct diag *d)
{
	(void)d;
	return &container_of(vm, struct function, vm)->engine->loop;
}

/* --- the thread ------------------------------------------------------------------------------ */

/* What a transition, a queue's reset or a fault waits for. False: nothing. */
static bool look_after(struct function *f)
{
	bool waits = transition_settle(f);

	if (f->e.trapped) {
		f->e.trapped = false;
		function_note(f, FN_NOTE_LOST);
	}
	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		if (!f->e.queues[q].nheld)
			continue;
		waits = true;
		if (!hold_on(f, q))
			loop_defer(&f->engine->loop, &f->e.sq->queues[q].publish);
	}
	return waits;
}

/* One look at everything. Returns for how long the loop may sleep. */
static uint64_t engine_scan(struct engine *e, uint64_t *busy_until)
{
	bool work = false, polls = false;

	e->now = engine_clock();
	for (unsigned int i = 0; i < e->nfunctions; i++) {
		struct function *f = e->functions[i];

		if (f->e.phase == FN_PHASE_SERVING) {
			polls = true;
			work |= scan(f);
		}
		polls |= look_after(f);
	}
	if (work)
		*busy_until = e->now + ENGINE_BUSY_NS;
	if (!polls)
		return LOOP_FOREVER;
	return e->now < *busy_until ? 0 : ENGINE_SCAN_NS;
}

static void *engine_main(void *arg)
{
	struct engine *e = arg;
	uint64_t busy_until = 0;

	while (!e->quit) {
		uint64_t wait = engine_scan(e, &busy_until);
		int n = loop_turn(&e->loop, wait);

		if (n < 0) {
			log_error("the poll thread's ring failed: %s", strerror(-n));
			break;
		}
		if (n)
			busy_until = e->now + ENGINE_BUSY_NS;
	}
	return NULL;
}

static void quit_work(struct loop_work *w)
{
	container_of(w, struct engine, quit_work)->quit = true;
}

int engine_init(struct engine *e, struct diag *d)
{
	*e = (struct engine){ .quit_work.fn = quit_work };
	return loop_init(&e->loop, ENGINE_ENTRIES, d);
}

int engine_start(struct engine *e, struct diag *d)
{
	int err = thread_start(&e->thread, "poll", 0, engine_main, e, d);

	e->started = !err;
	return err;
}

void engine_stop(struct engine *e)
{
	if (!e->started)
		return;
	loop_call(&e->loop, &e->quit_work);
	pthread_join(e->thread, NULL);
	e->started = false;
}

void engine_fini(struct engine *e)
{
	engine_stop(e);
	loop_fini(&e->loop);
}
