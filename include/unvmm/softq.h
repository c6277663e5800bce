/* SPDX-License-Identifier: Apache-2.0 */
/*
 * softq.h - the common part of software vdevs: queues served on the io thread.
 *
 * It turns vdev_ops.start/stop/doorbell into work on the device's loop: an eventfd and a vq per
 * queue, a handler that is called when there is something to pop, a count of requests under way so
 * that a stop completes when the last one has come back. Completions of one turn of the loop are
 * published together, with one interrupt per queue.
 *
 * Thread: softq_init/fini by main; start/stop/doorbell/kick are fit to be vdev ops (control lock
 * held); handle() and everything it calls run on the loop's thread.
 */
#ifndef UNVMM_SOFTQ_H
#define UNVMM_SOFTQ_H

#include <pthread.h>

#include <unvmm/log.h>
#include <unvmm/loop.h>
#include <unvmm/virtio.h>

struct softq_queue {
	struct softq *sq;
	unsigned int index;
	int kick_fd;
	struct loop_fd kick;
	struct loop_work publish; /* deferred to the end of the turn */
	struct vq vq;
	bool broken;		/* no more popping until the next start */
	bool held;		/* softq_hold() */
	struct loop_work again; /* another pass in the next turn */
};

/* What every software device can offer of the transport's features. */
#define SOFTQ_FEATURES                                                              \
	(VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
	 VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX))

/* softq_start() -> SERVING; softq_stop() -> DRAINING; the last request has come back -> IDLE. */
enum softq_phase { SOFTQ_IDLE, SOFTQ_SERVING, SOFTQ_DRAINING };

struct softq {
	struct vdev *vdev;
	struct loop *loop;
	struct softq_queue *queues; /* vdev->nqueues of them; owned */
	/* Pops until vq_pop() gives no more, or softq_broken(). The loop's thread. */
	void (*handle)(struct softq *sq, unsigned int q);
	/*
	 * May be NULL. The device is being stopped: it ends what it watches besides the doorbells,
	 * and gives back requests that were taken without softq_begin(). The loop's thread.
	 */
	void (*drain)(struct softq *sq);
	bool started; /* the caller's side, by the control lock */

	/* The loop's thread. */
	enum softq_phase phase;
	bool tell_transport;   /* vdev_stopped() when drained; else softq_fini() waits */
	unsigned int inflight; /* requests taken and not completed */
	struct log_limit limit;

	struct loop_work start_work, stop_work, close_work, drained_work, sync_work;
	pthread_mutex_t lock; /* protects waiting */
	pthread_cond_t done;
	bool waiting; /* softq_fini() waits for the loop's thread */
};

int softq_init(struct softq *sq, struct vdev *v, struct loop *loop,
	       void (*handle)(struct softq *sq, unsigned int q), struct diag *d) must_check;
/*
 * Waits until the loop's thread is through with everything of it; queues that still run are drained
 * first. A loop that gives no sign for 10 s is taken for dead.
 */
void softq_fini(struct softq *sq);

int softq_start(struct softq *sq) must_check;
void softq_stop(struct softq *sq);
void softq_doorbell(struct softq *sq, unsigned int q, struct vdev_doorbell *db);
void softq_kick(struct softq *sq, unsigned int q);

/*
 * For queues that wait for something else than requests (a packet, room in a socket). hold(), said
 * by handle(): it returns with requests left in the ring and wants no doorbells until it is called
 * again. serve(): has handle() called now, if the queue is being served. The loop's thread.
 */
void softq_hold(struct softq *sq, unsigned int q);
void softq_serve(struct softq *sq, unsigned int q);

/* On the loop's thread: the request that vq_pop() gave begins; it ends: bytes written, head. */
void softq_begin(struct softq *sq);
void softq_complete(struct softq *sq, unsigned int q, uint16_t head, uint32_t len);
/* The ring is broken: stops the queue's handler and asks the guest for a reset. */
void softq_broken(struct softq *sq, unsigned int q, const char *why);

#endif
