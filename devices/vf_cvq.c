/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_cvq.c - the control queue of an assigned network card. The guest's commands are taken from its
 * ring, copied, checked, put to the function on a ring of ours, written into the journal when the
 * function has accepted them, and only then acknowledged: so the journal is what the function does,
 * and can be replayed. One command at a time; the vf thread, which never waits for an answer.
 *
 *   vf_cvq_serve -> take -> post ... vf_cvq_answered -> commit -> acknowledge -> vf_cvq_serve
 *
 * This serves journaling; it is no filter. A guest can have the function write into the window, so
 * an answer there is believed no more than the function itself: OK, or not.
 */
#include "net_command.h"
#include "vf_dev.h"

#include <unvmm/timer.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* The window: rings, command, answer. */
#define RING_AT	   0
#define COMMAND_AT PAGE_SIZE_4K
#define ANSWER_AT  (COMMAND_AT + VF_CVQ_COMMAND_MAX)

#define IDLE_POLL_NS 50000

/* --- roles ----------------------------------------------------------------------------------- */

static bool multiqueue(uint64_t negotiated)
{
	return negotiated & VIRTIO_BIT(VIRTIO_NET_F_MQ);
}

/*
 * The control queue is behind all pairs, or is queue 2 for a driver that does not know of several
 * (5.1.2). "All" is what each side is told: the guest the pairs that it is offered, unvmm those of
 * the function. Data queues have the same number on both sides.
 */
int vf_cvq_queue(const struct vf_dev *vd, uint64_t negotiated)
{
	if (!(negotiated & VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ)) || vd->vdev.device_id != VIRTIO_ID_NET)
		return -1;
	return multiqueue(negotiated) ? 2 * vd->offer.npairs : 2;
}

uint16_t vf_cvq_function_queue(const struct vf_dev *vd, uint64_t negotiated)
{
	return multiqueue(negotiated) ? (uint16_t)(2 * vd->fn_pairs) : 2;
}

static struct net_limits limits(const struct vf_dev *vd)
{
	return (struct net_limits){ .negotiated = vd->negotiated,
				    .offloads = vd->offer.to_function & VF_NET_OFFLOADS,
				    .npairs = vd->offer.npairs };
}

int vf_cvq_map(struct vf_cvq *c, struct diag *d)
{
	return vf_window_map(c->vd, c->window, c->window_fd, VF_WINDOW_BYTES, &c->iova, d);
}

void vf_cvq_unmap(struct vf_cvq *c)
{
	vf_window_unmap(c->vd, VF_WINDOW_BYTES, &c->iova);
}

/* --- commands -------------------------------------------------------------------------------- */

/*
 * Nothing more is served until the guest has reset the device, or another device takes its place:
 * that one answers the command.
 */
static void broken(struct vf_cvq *c, const char *why)
{
	if (c->busy == VF_CVQ_COMMAND)
		vq_unpop(&c->vq, 1);
	c->busy = VF_CVQ_BROKEN;
	timer_arm(c->deadline_fd, 0);
	vf_failed(c->vd, why);
}

static void post(struct vf_cvq *c, enum vf_cvq_busy why, uint32_t len)
{
	memcpy(c->window + COMMAND_AT, c->command, len);
	__atomic_store_n(c->window + ANSWER_AT, VIRTIO_NET_ERR, __ATOMIC_RELAXED);
	c->busy = why;
	timer_arm(c->deadline_fd, VF_CVQ_MS);
	vf_ring_post(&c->ring, c->iova + COMMAND_AT, len, c->iova + ANSWER_AT,
		     sizeof(virtio_net_ctrl_ack));
	if (vf_function_kick(&c->vd->fn, c->index, c->notify_off))
		broken(c, "the doorbell of its control queue cannot be written");
}

static void acknowledge(struct vf_cvq *c, uint8_t ack)
{
	struct vdev *v = &c->vd->vdev;
	struct vq_bytes in = vq_in(&c->chain);

	vq_push(&c->vq, c->chain.head, vq_write(&c->vq, &in, &ack, sizeof(ack)) ? sizeof(ack) : 0);
	vdev_count(&v->counters[c->q].requests);
	if (vq_publish(&c->vq)) {
		vdev_count(&v->counters[c->q].interrupts);
		vdev_interrupt(v, c->q);
	}
}

/* Into the journal; the guest may be reading its MAC address at this moment. */
static void commit(struct vf_cvq *c)
{
	vm_lock(c->vd->vdev.vm);
	net_ctrl_commit(&c->ctrl, &c->next, c->class);
	memcpy(c->vd->config.net.mac, c->ctrl.mac, ETH_ALEN);
	vm_unlock(c->vd->vdev.vm);
}

/* One command of the guest that was popped: answered here, or posted to the function. */
static void take(struct vf_cvq *c)
{
	struct net_limits l = limits(c->vd);
	struct vq_bytes out = vq_out(&c->chain), bytes;
	struct iovec iov = { .iov_base = c->command, .iov_len = out.len };
	uint32_t len = (uint32_t)out.len;
	gpa_t none = 0;

#ifdef FUZZ_PLANT /* a bug for the fuzzer to find: any length is copied */
	if (!vq_read(&out, c->command, len)) {
#else
	if (len > VF_CVQ_COMMAND_MAX || !vq_read(&out, c->command, len)) {
#endif
		acknowledge(c, VIRTIO_NET_ERR);
		return;
	}
	/* From here on the copy counts, which nobody else can change. */
	bytes = (struct vq_bytes){ .iov = &iov, .gpa = &none, .n = len ? 1 : 0, .len = len };
	c->next = c->ctrl;
	if (net_command(&c->next, &l, &bytes, &c->class) != VIRTIO_NET_OK) {
		acknowledge(c, VIRTIO_NET_ERR);
	} else if (c->class == VIRTIO_NET_CTRL_ANNOUNCE) {
		commit(c); /* a function knows nothing of announcing: it is asked by unvmm */
		acknowledge(c, VIRTIO_NET_OK);
	} else {
		post(c, VF_CVQ_COMMAND, len);
	}
}

void vf_cvq_serve(struct vf_cvq *c)
{
	int got;

	if (!c->running || c->busy != VF_CVQ_IDLE)
		return;
	vq_begin(&c->vq);
	vq_disable_kicks(&c->vq);
	do {
		c->chain = (struct vq_chain){ .cap = VF_CVQ_IOV, .iov = c->iov, .gpa = c->gpa };
		got = vq_pop(&c->vq, &c->chain);
		if (got > 0 && c->chain.in_len < sizeof(virtio_net_ctrl_ack))
			broken(c, "a command on the control queue has no room for its answer");
		else if (got > 0)
			take(c);
		else if (got < 0)
			broken(c, c->vq.why);
	} while (got > 0 && c->busy == VF_CVQ_IDLE);
	/* What came meanwhile, or was too much for one turn, comes back as a kick. */
	if (c->busy == VF_CVQ_IDLE && !vq_enable_kicks(&c->vq))
		vf_doorbell_signal(&c->vd->doorbells[c->q]);
}

/* --- replay ---------------------------------------------------------------------------------- */

static void replay_next(struct vf_cvq *c)
{
	struct net_limits l = limits(c->vd);
	struct net_ctrl blank;
	uint32_t len;

	net_ctrl_blank(&blank, c->vd->own.net.mac);
	len = net_command_replay(&c->ctrl, &blank, &l, &c->replay, c->command);
	if (len) {
		post(c, VF_CVQ_REPLAY, len);
	} else {
		c->busy = VF_CVQ_IDLE;
		vf_up(c->vd);
	}
}

/* --- the function's answers ------------------------------------------------------------------ */

void vf_cvq_answered(struct vf_cvq *c)
{
	enum vf_cvq_busy was = c->busy;
	int got = c->running && was != VF_CVQ_BROKEN ? vf_ring_take(&c->ring) : 0;
	uint8_t ack;

	if (got < 0)
		broken(c, "its control queue gives back what it was not given");
	if (got <= 0)
		return;
	timer_arm(c->deadline_fd, 0);
	ack = __atomic_load_n(c->window + ANSWER_AT, __ATOMIC_RELAXED);
	c->busy = VF_CVQ_IDLE;
	if (was == VF_CVQ_REPLAY && ack != VIRTIO_NET_OK) {
		broken(c, "its function refuses a command that it had accepted before");
	} else if (was == VF_CVQ_REPLAY) {
		replay_next(c);
	} else {
		if (ack == VIRTIO_NET_OK)
			commit(c);
		acknowledge(c, ack == VIRTIO_NET_OK ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
		vf_cvq_serve(c);
	}
}

static void answer_ready(struct loop_fd *lf, uint32_t revents)
{
	(void)revents;
	vf_cvq_answered(container_of(lf, struct vf_cvq, answer));
}

static void deadline_ready(struct loop_fd *lf, uint32_t revents)
{
	struct vf_cvq *c = container_of(lf, struct vf_cvq, deadline);

	(void)revents;
	if (!timer_rang(c->deadline_fd)) /* it was set anew meanwhile */
		return;
	vf_cvq_answered(c); /* an interrupt may have been lost */
	if (c->running && (c->busy == VF_CVQ_COMMAND || c->busy == VF_CVQ_REPLAY))
		broken(c, "its control queue gives no answer");
}

/* --- from start to stop ---------------------------------------------------------------------- */

void vf_cvq_plan(struct vf_cvq *c, struct vf_plan_queue *pq)
{
	uint16_t size = c->vd->fn_ctrl_size;

	vf_ring_init(&c->ring, c->window + RING_AT, c->iova + RING_AT,
		     size < VF_RING_SIZE_MAX ? size : VF_RING_SIZE_MAX);
	pq->size = c->ring.size;
	pq->desc = c->ring.iova;
	pq->driver = c->ring.avail_iova;
	pq->device = c->ring.used_iova;
}

int vf_cvq_start(struct vf_cvq *c, unsigned int q, const struct vdev_queue *guest,
		 const struct vf_plan_queue *pq, bool knows, struct diag *d)
{
	const struct vq_layout layout = { .size = guest->size,
					  .desc = guest->desc,
					  .avail = guest->driver,
					  .used = guest->device };
	int err = vq_start(&c->vq, &c->vd->vdev.vm->mem, &layout, c->vd->negotiated, guest->index);

	if (err)
		return diag_errno(d, err, "its control queue cannot be used as it is programmed");
	c->q = q;
	c->index = pq->index;
	c->notify_off = pq->notify_off;
	c->replay = 0;
	c->running = true;
	if (knows)
		vf_up(c->vd);
	else
		replay_next(c);
	return 0;
}

bool vf_cvq_idle(struct vf_cvq *c, unsigned int ms)
{
	const struct timespec pause = { .tv_nsec = IDLE_POLL_NS };
	uint64_t until = loop_now() + ms * 1000000ull;

	while (c->busy == VF_CVQ_COMMAND && loop_now() < until) {
		nanosleep(&pause, NULL);
		vf_cvq_answered(c);
	}
	return c->busy == VF_CVQ_IDLE;
}

uint16_t vf_cvq_stop(struct vf_cvq *c)
{
	if (!c->running)
		return 0;
	timer_arm(c->deadline_fd, 0);
	/* Carried out or not: the guest gets no answer, and the command comes again. */
	if (c->busy == VF_CVQ_COMMAND)
		vq_unpop(&c->vq, 1);
	c->busy = VF_CVQ_IDLE;
	c->running = false;
	vq_stop(&c->vq);
	return c->vq.next_avail;
}

void vf_cvq_forget(struct vf_cvq *c)
{
	net_ctrl_blank(&c->ctrl, c->vd->own.net.mac);
}

/* --- life ------------------------------------------------------------------------------------ */

int vf_cvq_init(struct vf_cvq *c, struct diag *d)
{
	void *p;
	int err;

	c->command = malloc(VF_CVQ_COMMAND_MAX);
	c->window_fd = memfd_create("unvmm-cvq", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	c->answer_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->deadline_fd = timer_open();
	if (!c->command || c->window_fd < 0 || c->answer_fd < 0 || c->deadline_fd < 0 ||
	    ftruncate(c->window_fd, VF_WINDOW_BYTES) ||
	    /* A server that is handed the descriptor must not be able to pull the pages away. */
	    fcntl(c->window_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return diag_errno(d, -errno, "no memory for its control queue");
	p = mmap(NULL, VF_WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, c->window_fd, 0);
	if (p == MAP_FAILED)
		return diag_errno(d, -errno, "no memory for its control queue");
	c->window = p;
	err = loop_add_eventfd(c->vd->loop, &c->answer, c->answer_fd, answer_ready);
	if (!err)
		err = loop_add(c->vd->loop, &c->deadline, c->deadline_fd, POLLIN, deadline_ready);
	return err ? diag_errno(d, err, "its control queue cannot be watched") : 0;
}

void vf_cvq_fini(struct vf_cvq *c)
{
	const int fds[] = { c->window_fd, c->answer_fd, c->deadline_fd };

	loop_del(&c->answer);
	loop_del(&c->deadline);
	if (c->window)
		munmap(c->window, VF_WINDOW_BYTES);
	for (unsigned int i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(c->command);
	c->window = c->command = NULL;
	c->window_fd = c->answer_fd = c->deadline_fd = -1;
}
