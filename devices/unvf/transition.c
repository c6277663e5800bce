/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transition.c - what main asks of a function's queues: to be started, paused, stopped, reset one
 * by one, and given other memory. Asked on the main thread, done on the poll thread, which answers
 * by a note when no request of the queues is under way in the device any more.
 */
#include "function.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

static struct function *of_sq(const struct softq *sq)
{
	return function_of(sq->vdev);
}

static void doorbell_ready(struct loop_fd *lf, uint32_t revents)
{
	struct fn_queue *fq = container_of(lf, struct fn_queue, doorbell);
	struct fn_engine *e = container_of(fq - fq->index, struct fn_engine, queues[0]);

	if (revents & POLLERR) {
		softq_broken(e->sq, fq->index, "the host cannot watch its doorbell");
		return;
	}
	__atomic_store_n(fq->cell, (uint16_t)fq->index, __ATOMIC_SEQ_CST);
}

/* rung: as far as it was rung before it was saved, it need not be rung again. */
static void queue_start(struct function *f, unsigned int q, bool rung)
{
	const struct vdev_queue *vqueue = &f->v->queues[q];
	struct softq_queue *sqq = &f->e.sq->queues[q];
	struct fn_queue *fq = &f->e.queues[q];
	struct vq_layout layout = { .size = vqueue->size,
				    .desc = vqueue->desc,
				    .avail = vqueue->driver,
				    .used = vqueue->device };
	int err = vq_start(&sqq->vq, &f->vm.mem, &layout, f->v->negotiated, vqueue->index);

	sqq->broken = false;
	sqq->held = false;
	fq->look = rung;
	fq->again = fq->resetting = false;
	fq->nheld = fq->hung = 0;
	if (!err && f->doorbell_fds[q] >= 0 && !fq->doorbell.loop)
		err = loop_add_eventfd(f->e.sq->loop, &fq->doorbell, f->doorbell_fds[q],
				       doorbell_ready);
	if (err) {
		vq_stop(&sqq->vq);
		vdev_needs_reset(f->v, "its rings are not in memory that was mapped");
	}
}

static void queue_stop(struct function *f, unsigned int q)
{
	struct softq_queue *sqq = &f->e.sq->queues[q];
	struct fn_queue *fq = &f->e.queues[q];

	loop_del(&fq->doorbell);
	if (sqq->vq.running)
		f->v->queues[q].index = sqq->vq.next_avail;
	vq_stop(&sqq->vq);
	fq->look = fq->again = fq->resetting = false;
	fq->nheld = fq->hung = 0;
}

static void start_work(struct loop_work *w)
{
	struct softq *sq = container_of(w, struct softq, start_work);
	struct function *f = of_sq(sq);

	sq->inflight = 0;
	f->e.phase = FN_PHASE_SERVING;
	for (unsigned int q = 0; q < f->v->nqueues; q++)
		if (f->v->queues[q].enabled)
			queue_start(f, q, f->rung >> q & 1);
}

static void slow(const struct function *f, uint64_t *at)
{
	*at = engine_clock() + f->opt.faults.n[FAULT_SLOW_DISABLE] * 1000000ull;
}

static void drain(struct function *f, enum fn_phase phase)
{
	f->e.phase = phase;
	if (f->e.sq->drain)
		f->e.sq->drain(f->e.sq);
	f->e.settle_at = 0;
	if (phase == FN_PHASE_STOPPING && f->opt.faults.n[FAULT_SLOW_DISABLE])
		slow(f, &f->e.settle_at);
}

static void stop_work(struct loop_work *w)
{
	drain(of_sq(container_of(w, struct softq, stop_work)), FN_PHASE_STOPPING);
}

static void pause_work(struct loop_work *w)
{
	drain(container_of(w, struct function, e.pause_work), FN_PHASE_PAUSING);
}

/*
 * The client may have moved memory under the function meanwhile. Rings that are not where they were
 * are not started over: nobody could say what has become of the requests in them.
 */
static void resume_work(struct loop_work *w)
{
	struct function *f = container_of(w, struct function, e.resume_work);

	f->e.phase = FN_PHASE_SERVING;
	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		struct softq_queue *sqq = &f->e.sq->queues[q];

		if (!sqq->vq.running)
			continue;
		if (!vq_rings_stand(&sqq->vq)) {
			vq_stop(&sqq->vq);
			vdev_needs_reset(f->v, "the memory of its rings was unmapped");
			continue;
		}
		f->e.queues[q].again = sqq->vq.budget;
	}
}

/* The end of a pause or a stop, once no request is under way in the device any more. */
static void settle(struct function *f)
{
	struct softq *sq = f->e.sq;
	bool stop = f->e.phase == FN_PHASE_STOPPING;

	if ((!stop && f->e.phase != FN_PHASE_PAUSING) || sq->inflight ||
	    f->engine->now < f->e.settle_at)
		return;
	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		struct softq_queue *sqq = &sq->queues[q];

		if (stop)
			queue_stop(f, q);
		else if (sqq->vq.running)
			engine_publish(&sqq->publish);
	}
	f->e.phase = stop ? FN_PHASE_OFF : FN_PHASE_PAUSED;
	if (stop)
		vdev_stopped(f->v);
	else
		function_note(f, FN_NOTE_PAUSED);
}

/* RING_RESET. The network card gives back what it has taken of all its rings, and takes it again.
 */
static void queue_reset_begin(struct function *f, unsigned int q)
{
	struct fn_queue *fq = &f->e.queues[q];

	fq->resetting = true;
	fq->reset_at = 0;
	if (f->opt.faults.n[FAULT_SLOW_DISABLE])
		slow(f, &fq->reset_at);
	if (!f->e.sq->drain)
		return;
	f->e.sq->drain(f->e.sq);
	for (unsigned int i = 0; i < f->v->nqueues; i++)
		f->e.queues[i].again = engine_may_serve(f, i);
}

static void queue_reset_settle(struct function *f, unsigned int q)
{
	const struct vq *vq = &f->e.sq->queues[q].vq;
	struct fn_queue *fq = &f->e.queues[q];

	if (!fq->resetting || f->engine->now < fq->reset_at ||
	    (vq->running && vq->outstanding > fq->nheld + fq->hung))
		return;
	queue_stop(f, q);
	__atomic_fetch_or(&f->reset_done, 1ull << q, __ATOMIC_RELEASE);
	function_note(f, FN_NOTE_RING_RESET);
}

bool transition_settle(struct function *f)
{
	bool waits;

	settle(f);
	waits = f->e.phase == FN_PHASE_STOPPING || f->e.phase == FN_PHASE_PAUSING;
	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		queue_reset_settle(f, q);
		waits |= f->e.queues[q].resetting;
	}
	return waits;
}

static void queue_work(struct loop_work *w)
{
	struct function *f = container_of(w, struct function, e.queue_work);
	uint64_t reset = __atomic_exchange_n(&f->e.ask_reset, 0, __ATOMIC_ACQUIRE);
	uint64_t start = __atomic_exchange_n(&f->e.ask_start, 0, __ATOMIC_ACQUIRE);

	for (unsigned int q = 0; q < f->v->nqueues; q++) {
		if (reset >> q & 1)
			queue_reset_begin(f, q);
		if (start >> q & 1)
			queue_start(f, q, false);
	}
}

void fn_engine_pause(struct function *f)
{
	loop_call(&f->engine->loop, &f->e.pause_work);
}

void fn_engine_resume(struct function *f)
{
	loop_call(&f->engine->loop, &f->e.resume_work);
}

void fn_engine_queue_reset(struct function *f, unsigned int q)
{
	__atomic_fetch_or(&f->e.ask_reset, 1ull << q, __ATOMIC_RELEASE);
	loop_call(&f->engine->loop, &f->e.queue_work);
}

void fn_engine_queue_start(struct function *f, unsigned int q)
{
	__atomic_fetch_or(&f->e.ask_start, 1ull << q, __ATOMIC_RELEASE);
	loop_call(&f->engine->loop, &f->e.queue_work);
}

static void memory_work(struct loop_work *w)
{
	struct fn_memory *m = container_of(w, struct fn_memory, work);
	struct gmem *mem = &m->f->vm.mem;

	m->err = 0;
	switch (m->change) {
	case FN_MEMORY_ADD:
		m->err = gmem_share(mem, &m->region);
		break;
	case FN_MEMORY_REMOVE:
		m->err = gmem_unshare(mem, m->region.gpa, m->region.size, &m->region);
		break;
	case FN_MEMORY_CLEAR:
		gmem_shared_log_stop(mem);
		m->all = *mem;
		*mem = GMEM_EMPTY;
		break;
	}
	function_note(m->f, FN_NOTE_MEMORY);
}

void fn_engine_memory(struct function *f, struct fn_memory *m)
{
	m->work.fn = memory_work;
	m->f = f;
	loop_call(&f->engine->loop, &m->work);
}

/* --- softq.h, the side that is called by main --------------------------------------------------
 */

/* The thread scans after every turn of its loop, so to wake it is enough. */
static void nothing(struct loop_work *w)
{
	(void)w;
}

int softq_init(struct softq *sq, struct vdev *v, struct loop *loop,
	       void (*handle)(struct softq *sq, unsigned int q), struct diag *d)
{
	struct function *f = function_of(v);
	const uint32_t *n = f->opt.faults.n;

	*sq = (struct softq){ .vdev = v,
			      .loop = loop,
			      .handle = handle,
			      .start_work.fn = start_work,
			      .stop_work.fn = stop_work };
	f->e.sq = sq;
	f->e.pause_work.fn = pause_work;
	f->e.resume_work.fn = resume_work;
	f->e.queue_work.fn = queue_work;
	f->e.wake_work.fn = nothing;
	sq->queues = calloc(v->nqueues, sizeof(*sq->queues));
	if (!sq->queues)
		return diag_errno(d, -ENOMEM, "%s", v->id);
	for (unsigned int q = 0; q < v->nqueues; q++) {
		struct fn_queue *fq = &f->e.queues[q];

		sq->queues[q] = (struct softq_queue){
			.sq = sq, .index = q, .kick_fd = -1, .publish.fn = engine_publish
		};
		fq->index = q;
		if (!n[FAULT_OUT_OF_ORDER] && !n[FAULT_MERGED_USED])
			continue;
		fq->held = calloc(VQ_SIZE_MAX, sizeof(*fq->held));
		if (!fq->held) {
			softq_fini(sq);
			return diag_errno(d, -ENOMEM, "%s", v->id);
		}
	}
	return 0;
}

void softq_fini(struct softq *sq)
{
	struct function *f = of_sq(sq);

	for (unsigned int q = 0; q < sq->vdev->nqueues; q++)
		free(f->e.queues[q].held);
	free(sq->queues);
	sq->queues = NULL;
}

int softq_start(struct softq *sq)
{
	loop_call(sq->loop, &sq->start_work);
	return 0;
}

void softq_stop(struct softq *sq)
{
	loop_call(sq->loop, &sq->stop_work);
}
