/* SPDX-License-Identifier: Apache-2.0 */
/*
 * softq.c - runs the queues of a software vdev on an event loop: doorbells in, interrupts out, and
 * the way from serving to stopped. Calls come in on vcpu and main threads and are handed to the
 * loop's thread, which owns everything from the start of a queue until it has drained.
 */
#include <unvmm/softq.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define SYNC_TIMEOUT_S 10

static void wake_waiter(struct softq *sq)
{
	pthread_mutex_lock(&sq->lock);
	sq->waiting = false;
	pthread_cond_signal(&sq->done);
	pthread_mutex_unlock(&sq->lock);
}

/*
 * The last request has come back: the rings are let go. Deferred behind the publish works of the
 * turn, because from vdev_stopped() on another thread may start the queues anew.
 */
static void drained_work(struct loop_work *w)
{
	struct softq *sq = container_of(w, struct softq, drained_work);
	struct vdev *v = sq->vdev;

	for (unsigned int i = 0; i < v->nqueues; i++) {
		struct softq_queue *sqq = &sq->queues[i];

		if (!sqq->vq.running)
			continue;
		v->queues[i].index = sqq->vq.next_avail;
		vq_stop(&sqq->vq);
	}
	sq->phase = SOFTQ_IDLE;
	if (sq->tell_transport)
		vdev_stopped(v);
	else
		wake_waiter(sq);
}

static void publish_work(struct loop_work *w)
{
	struct softq_queue *sqq = container_of(w, struct softq_queue, publish);
	struct softq *sq = sqq->sq;

	if (sqq->vq.running && vq_publish(&sqq->vq)) {
		vdev_count(&sq->vdev->counters[sqq->index].interrupts);
		vdev_interrupt(sq->vdev, sqq->index);
	}
	if (sq->phase == SOFTQ_DRAINING && !sq->inflight)
		loop_defer(sq->loop, &sq->drained_work);
}

/*
 * One pass over the ring; what has come meanwhile is for another turn of the loop. A guest that
 * keeps a ring filled, or lays its rings over each other so that it never looks empty, gets its
 * share of the thread and not all of it, and a stop is heard.
 */
static void serve(struct softq_queue *sqq)
{
	struct softq *sq = sqq->sq;

	if (sq->phase != SOFTQ_SERVING || !sqq->vq.running || sqq->broken)
		return;
	sqq->held = false;
	vq_begin(&sqq->vq);
	vq_disable_kicks(&sqq->vq);
	sq->handle(sq, sqq->index);
	if (!sqq->held && !sqq->broken && !vq_enable_kicks(&sqq->vq))
		loop_next(sq->loop, &sqq->again);
}

static void again_work(struct loop_work *w)
{
	serve(container_of(w, struct softq_queue, again));
}

static void kick_ready(struct loop_fd *lf, uint32_t revents)
{
	struct softq_queue *sqq = container_of(lf, struct softq_queue, kick);

	if (revents & POLLERR) {
		softq_broken(sqq->sq, sqq->index, "the host cannot watch its doorbell");
		return;
	}
	vdev_count(&sqq->sq->vdev->counters[sqq->index].kicks);
	/*
	 * At once. To give way first (sched_yield) would let a burst gather, and save doorbells;
	 * but on a busy host it costs a round of all who want this CPU, each time, without limit.
	 */
	serve(sqq);
}

static int start_queues(struct softq *sq)
{
	struct vdev *v = sq->vdev;
	unsigned int i;
	int err = 0;

	for (i = 0; i < v->nqueues && !err; i++) {
		const struct vdev_queue *vqueue = &v->queues[i];
		struct vq_layout layout = { .size = vqueue->size,
					    .desc = vqueue->desc,
					    .avail = vqueue->driver,
					    .used = vqueue->device };

		sq->queues[i].broken = false;
		if (vqueue->enabled)
			err = vq_start(&sq->queues[i].vq, &v->vm->mem, &layout, v->negotiated,
				       vqueue->index);
	}
	while (err && i--)
		vq_stop(&sq->queues[i].vq);
	return err;
}

static void start_work(struct loop_work *w)
{
	struct softq *sq = container_of(w, struct softq, start_work);

	sq->phase = SOFTQ_SERVING;
	for (unsigned int i = 0; i < sq->vdev->nqueues; i++) {
		struct softq_queue *sqq = &sq->queues[i];

		if (!sqq->vq.running || sqq->broken)
			continue;
		if (loop_add_eventfd(sq->loop, &sqq->kick, sqq->kick_fd, kick_ready)) {
			softq_broken(sq, i, "the host has no memory to watch its doorbell");
			continue;
		}
		/* Requests may have been queued before the doorbell was wired. */
		serve(sqq);
	}
}

static void drain(struct softq *sq, bool tell_transport)
{
	sq->phase = SOFTQ_DRAINING;
	sq->tell_transport = tell_transport;
	for (unsigned int i = 0; i < sq->vdev->nqueues; i++)
		loop_del(&sq->queues[i].kick);
	if (sq->drain)
		sq->drain(sq);
	if (!sq->inflight)
		loop_defer(sq->loop, &sq->drained_work);
}

static void stop_work(struct loop_work *w)
{
	drain(container_of(w, struct softq, stop_work), true);
}

static void close_work(struct loop_work *w)
{
	drain(container_of(w, struct softq, close_work), false);
}

static void sync_tail(struct loop_work *w)
{
	wake_waiter(container_of(w, struct softq, sync_work));
}

/* Deferred once more: this turn's publish works are behind us then. */
static void sync_work(struct loop_work *w)
{
	struct softq *sq = container_of(w, struct softq, sync_work);

	w->fn = sync_tail;
	loop_defer(sq->loop, w);
}

/* Has w run on the loop's thread and waits for its wake_waiter(). */
static int call_and_wait(struct softq *sq, struct loop_work *w)
{
	struct timespec until;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += SYNC_TIMEOUT_S;
	pthread_mutex_lock(&sq->lock);
	sq->waiting = true;
	loop_call(sq->loop, w);
	while (sq->waiting && !err)
		err = -pthread_cond_timedwait(&sq->done, &sq->lock, &until);
	if (!sq->waiting)
		err = 0;
	sq->waiting = false;
	pthread_mutex_unlock(&sq->lock);
	return err;
}

static void close_queues(struct softq *sq)
{
	for (unsigned int i = 0; i < sq->vdev->nqueues; i++)
		if (sq->queues[i].kick_fd >= 0)
			close(sq->queues[i].kick_fd);
	free(sq->queues);
	sq->queues = NULL;
}

int softq_init(struct softq *sq, struct vdev *v, struct loop *loop,
	       void (*handle)(struct softq *sq, unsigned int q), struct diag *d)
{
	pthread_condattr_t attr;
	int err = 0;

	memset(sq, 0, sizeof(*sq));
	sq->vdev = v;
	sq->loop = loop;
	sq->handle = handle;
	sq->start_work.fn = start_work;
	sq->stop_work.fn = stop_work;
	sq->close_work.fn = close_work;
	sq->drained_work.fn = drained_work;
	sq->sync_work.fn = sync_work;
	sq->queues = calloc(v->nqueues, sizeof(*sq->queues));
	if (!sq->queues)
		return diag_errno(d, -ENOMEM, "%s: no memory for %u queues", v->id, v->nqueues);
	for (unsigned int i = 0; i < v->nqueues; i++) {
		struct softq_queue *sqq = &sq->queues[i];

		sqq->sq = sq;
		sqq->index = i;
		sqq->publish.fn = publish_work;
		sqq->again.fn = again_work;
		sqq->kick_fd = err ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (sqq->kick_fd < 0 && !err)
			err = diag_errno(d, -errno, "%s: cannot create a doorbell eventfd", v->id);
	}
	if (err) {
		close_queues(sq);
		return err;
	}
	pthread_mutex_init(&sq->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&sq->done, &attr);
	pthread_condattr_destroy(&attr);
	return 0;
}

void softq_fini(struct softq *sq)
{
	int err = 0;

	if (sq->started)
		err = call_and_wait(sq, &sq->close_work);
	if (!err)
		err = call_and_wait(sq, &sq->sync_work);
	if (err)
		log_error("%s: its event loop gives no answer", sq->vdev->id);
	close_queues(sq);
	pthread_cond_destroy(&sq->done);
	pthread_mutex_destroy(&sq->lock);
}

int softq_start(struct softq *sq)
{
	int err;

	if (sq->started)
		return 0;
	err = start_queues(sq); /* nobody serves them yet, so this thread may */
	if (err)
		return err;
	sq->started = true;
	loop_call(sq->loop, &sq->start_work);
	return 0;
}

void softq_stop(struct softq *sq)
{
	if (!sq->started) {
		vdev_stopped(sq->vdev);
		return;
	}
	sq->started = false;
	loop_call(sq->loop, &sq->stop_work);
}

void softq_doorbell(struct softq *sq, unsigned int q, struct vdev_doorbell *db)
{
	*db = (struct vdev_doorbell){ .kind = DOORBELL_EVENTFD, .fd = sq->queues[q].kick_fd };
}

void softq_kick(struct softq *sq, unsigned int q)
{
	uint64_t one = 1;

	/* EAGAIN: the counter, which nobody reads, is full; the loop has been told often enough. */
	if (write(sq->queues[q].kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error("%s: cannot kick queue %u: %s", sq->vdev->id, q, strerror(errno));
}

void softq_hold(struct softq *sq, unsigned int q)
{
	sq->queues[q].held = true;
}

void softq_serve(struct softq *sq, unsigned int q)
{
	serve(&sq->queues[q]);
}

void softq_begin(struct softq *sq)
{
	sq->inflight++;
}

void softq_complete(struct softq *sq, unsigned int q, uint16_t head, uint32_t len)
{
	struct softq_queue *sqq = &sq->queues[q];

	vq_push(&sqq->vq, head, len);
	vdev_count(&sq->vdev->counters[q].requests);
	sq->inflight--;
	loop_defer(sq->loop, &sqq->publish);
}

void softq_broken(struct softq *sq, unsigned int q, const char *why)
{
	struct softq_queue *sqq = &sq->queues[q];

	sqq->broken = true;
	loop_del(&sqq->kick);
	log_limited(&sq->limit, LOG_WARN, "%s: queue %u is broken: %s", sq->vdev->id, q, why);
	vdev_needs_reset(sq->vdev, why);
}
