/* SPDX-License-Identifier: Apache-2.0 */
/*
 * relay.c - the path of each data queue of an assigned function, OFF, DIRECT or RELAY: how a queue
 * becomes relayed when the function is started, what serves it, and how it returns to bare metal.
 * relay_ring.c copies the rings. The vf thread.
 *
 *   OFF -> DIRECT   started with the guest's rings at index 0
 *   OFF -> RELAY    started anywhere else, or while a migration has to see what is written
 *   any -> OFF      the function was stopped; the journal has the index
 *   RELAY -> DIRECT the guest's index is a multiple of 65536: that is 0 to a ring of a power of two
 */
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

#define NS_PER_MS 1000000ull
#define POLL_NS	  50000
/* Times round both rings before the others of the thread have their turn. */
#define SERVE_ROUNDS 8

static struct vf_relay *relay_of(struct vf_dev *vd, unsigned int q)
{
	return &vd->relays.queues[q];
}

static void set_path(struct vf_dev *vd, unsigned int q, enum vf_path path)
{
	vm_lock(vd->vdev.vm);
	relay_of(vd, q)->path = path;
	vm_unlock(vd->vdev.vm);
}

static bool is_rx(const struct vf_dev *vd, unsigned int q)
{
	return vd->vdev.device_id == VIRTIO_ID_NET && q % 2 == 0;
}

static struct vf_plan_queue *plan_of(struct vf_dev *vd, unsigned int q)
{
	return &vd->plan.queues[vd->plan_of[q]];
}

bool vf_relays_any(const struct vf_dev *vd, enum vf_path path)
{
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++)
		if (vd->relays.queues[q].path == path)
			return true;
	return false;
}

static void pause_briefly(void)
{
	const struct timespec t = { .tv_nsec = POLL_NS };

	nanosleep(&t, NULL);
}

static uint16_t guest_index(const struct vf_dev *vd, uint64_t ring)
{
	uint16_t index = 0;

	/* idx is behind flags in both rings, which were inside of memory when they were started. */
	if (gmem_read(&vd->vdev.vm->mem, ring + sizeof(uint16_t), &index, sizeof(index)))
		return 0;
	return index;
}

/* --- start ----------------------------------------------------------------------------------- */

/* What it writes is seen, and it begins where the guest is. */
static bool may_be_direct(const struct vf_dev *vd, const struct vdev_queue *queue)
{
	if (vd->tracking && !vd->logging)
		return false;
	/* Nothing of a guest that is not here yet is to be served: the function sees none of it. */
	if (vd->arming)
		return !queue->index && !guest_index(vd, queue->driver);
	return !queue->index || vf_opaque_usable(vd) || vf_vendor_usable(vd);
}

int vf_relay_plan(struct vf_dev *vd, unsigned int q, struct vf_plan_queue *pq, struct diag *d)
{
	const struct vdev_queue *queue = &vd->queues[q];
	const struct vq_layout layout = { .size = queue->size,
					  .desc = queue->desc,
					  .avail = queue->driver,
					  .used = queue->device };
	struct vf_relay *rq = relay_of(vd, q);
	uint64_t at;
	int err;

	rq->deadline = 0;
	if (may_be_direct(vd, queue)) {
		pq->begin = queue->index;
		set_path(vd, q, VF_PATH_DIRECT);
		return 0;
	}
	err = vf_relays_map(vd, d);
	if (err)
		return err;
	err = relay_start(&rq->r, &vd->vdev.vm->mem, &layout, vd->negotiated,
			  vd->negotiated & VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX), queue->index,
			  vd->relays.window + (uint64_t)q * RELAY_BYTES);
	if (err)
		return diag_errno(d, err, "the rings of queue %u cannot be used", q);
	if (!vd->tracking)
		relay_aim(&rq->r, !vd->arming);
	at = vd->relays.iova + (uint64_t)q * RELAY_BYTES;
	pq->driver = at;
	pq->device = at + RELAY_USED_AT;
	set_path(vd, q, VF_PATH_RELAY);
	return 0;
}

/* The function's vector of a relayed queue is ours, of any other the guest's. */
int vf_relays_wire(struct vf_dev *vd, struct diag *d)
{
	unsigned int n = vd->vdev.nqueues + 1u;
	int fds[VDEV_QUEUES_MAX + 1], err;
	uint64_t wired = 0;

	fds[0] = vd->config_fd;
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++) {
		bool ours = relay_of(vd, q)->path == VF_PATH_RELAY;

		wired |= (uint64_t)ours << q;
		fds[q + 1] = ours ? relay_of(vd, q)->answer_fd : vdev_irq_fd(&vd->vdev, q);
	}
	if (vd->relays.is_wired && wired == vd->relays.wired)
		return 0;
	/* Whatever number the guest's control queue has, its function's vector is the last one. */
	if (vd->cvq.window)
		fds[n - 1] = vd->cvq.answer_fd;
	/* All at once: older kernels cannot add vectors later. */
	err = vd->fn.vf->ops->irq_set(vd->fn.vf, fds, n);
	if (err)
		return diag_errno(d, err, "its %u interrupt vectors cannot be wired", n);
	vd->relays.is_wired = true;
	vd->relays.wired = wired;
	return 0;
}

/* --- while it runs --------------------------------------------------------------------------- */

static void broken(struct vf_dev *vd, unsigned int q, const char *why)
{
	struct diag d = { "" };

	diag_set(&d, -EPROTO, "queue %u cannot be relayed any more: %s", q, why);
	vf_give_up(vd, &d);
}

static void ring(struct vf_dev *vd, unsigned int q)
{
	if (vf_doorbell_ring(&vd->doorbells[q]))
		broken(vd, q, "its doorbell cannot be written");
}

/* Once round both rings. 1: there was something, 0, -EPROTO. */
static int turn(struct vf_dev *vd, unsigned int q)
{
	struct relay *r = &relay_of(vd, q)->r;
	struct vdev_counters *c = &vd->vdev.counters[q];
	int given = relay_forward(r), back;

	if (given < 0)
		return given;
	if (relay_wants_kick(r))
		ring(vd, q);
	back = relay_complete(r);
	if (back < 0)
		return back;
	__atomic_store_n(&c->requests, c->requests + (unsigned int)back, __ATOMIC_RELAXED);
	if (relay_wants_interrupt(r)) {
		vdev_count(&c->interrupts);
		vdev_interrupt(&vd->vdev, q);
	}
	return given || back;
}

static void look_at_boundary(struct vf_dev *vd, unsigned int q);

void vf_relay_serve(struct vf_dev *vd, unsigned int q)
{
	struct vf_relay *rq = relay_of(vd, q);
	int more = 1;

	relay_wake(&rq->r);
	for (unsigned int i = 0; i < SERVE_ROUNDS && more > 0; i++) {
		more = turn(vd, q);
		if (vd->phase != VF_UP)
			return; /* its doorbell was the end of it */
		if (!more)
			more = relay_sleep(&rq->r);
	}
	if (more < 0) {
		broken(vd, q, rq->r.why);
		return;
	}
	if (more)
		loop_call(vd->loop, &rq->again);
	if (relay_at_boundary(&rq->r))
		look_at_boundary(vd, q);
}

static void serve_if_relayed(struct vf_relay *rq)
{
	if (rq->vd->phase == VF_UP && rq->path == VF_PATH_RELAY)
		vf_relay_serve(rq->vd, rq->q);
}

static void answer_ready(struct loop_fd *lf, uint32_t revents)
{
	(void)revents;
	serve_if_relayed(container_of(lf, struct vf_relay, answer));
}

static void again_work(struct loop_work *w)
{
	serve_if_relayed(container_of(w, struct vf_relay, again));
}

/* --- the boundary ---------------------------------------------------------------------------- */

/* Steps 1 and 2: the function lets go of our rings, and what it had is given back. */
static int take_queue(struct vf_dev *vd, struct vf_relay *rq, struct diag *d)
{
	struct vf_function *fn = &vd->fn;
	uint64_t until = loop_now() + VF_QUEUE_RESET_MS * NS_PER_MS;
	uint32_t resetting, enabled;
	int err = vf_reg_write(fn, VIRTIO_PCI_COMMON_Q_SELECT, 2, rq->q, d);

	if (!err)
		err = vf_reg_write(fn, VF_COMMON_QUEUE_RESET, 2, 1, d);
	while (!err) {
		err = vf_reg_read(fn, VF_COMMON_QUEUE_RESET, 2, &resetting, d);
		if (!err)
			err = vf_reg_read(fn, VIRTIO_PCI_COMMON_Q_ENABLE, 2, &enabled, d);
		if (err || (!resetting && !enabled))
			break;
		if (loop_now() >= until)
			return diag_set(d, -ETIMEDOUT,
					"it does not confirm the reset of queue %u within %u ms",
					rq->q, VF_QUEUE_RESET_MS);
		if (__atomic_load_n(&fn->cancel, __ATOMIC_RELAXED))
			return diag_set(d, -ECANCELED, "it is not wanted any more");
		pause_briefly();
	}
	if (err)
		return err;
	if (relay_complete(&rq->r) < 0)
		return diag_set(d, -EPROTO, "queue %u: %s", rq->q, rq->r.why);
	relay_return(&rq->r);
	return 0;
}

/* Steps 3 to 6: the guest's rings become the function's. */
static int give_queue(struct vf_dev *vd, struct vf_relay *rq, struct diag *d)
{
	struct vf_plan_queue *pq = plan_of(vd, rq->q);
	int err;

	relay_leave(&rq->r);
	pq->driver = vd->queues[rq->q].driver;
	pq->device = vd->queues[rq->q].device;
	err = vf_program_queue(&vd->fn, &vd->plan, pq, false, d);
	if (err)
		return err;
	set_path(vd, rq->q, VF_PATH_DIRECT);
	err = vf_relays_wire(vd, d);
	if (!err)
		err = vf_program_queue(&vd->fn, &vd->plan, pq, true, d);
	if (!err)
		err = vf_doorbell_prepare(&vd->doorbells[rq->q], pq->index, pq->notify_off, d);
	if (err)
		return err;
	vm_lock(vd->vdev.vm);
	virtio_pci_rewire(&vd->vdev);
	vm_unlock(vd->vdev.vm);
	if (vf_function_kick(&vd->fn, pq->index, pq->notify_off))
		return diag_set(d, -EIO, "a doorbell of its function cannot be written");
	vdev_interrupt(&vd->vdev, rq->q);
	return 0;
}

static bool can_return(const struct vf_dev *vd)
{
	return vd->plan.nqueues == 1 || vd->plan.features & VIRTIO_BIT(VIRTIO_F_RING_RESET);
}

static void return_queue(struct vf_dev *vd, struct vf_relay *rq)
{
	struct diag d = { "" };
	int err;

	rq->deadline = 0;
	rq->returns++;
	/* A function with one queue is reset as a whole: it begins at 0, and so does the guest. */
	if (!(vd->plan.features & VIRTIO_BIT(VIRTIO_F_RING_RESET))) {
		vf_restart(vd);
		return;
	}
	err = take_queue(vd, rq, &d);
	if (!err)
		err = give_queue(vd, rq, &d);
	/* Not wanted any more: the stop that says so is the next work. */
	if (err && err != -ECANCELED)
		vf_give_up(vd, &d);
}

/* All that may be forwarded has been. */
static void look_at_boundary(struct vf_dev *vd, unsigned int q)
{
	struct vf_relay *rq = relay_of(vd, q);
	uint64_t now = loop_now();

	if (vd->tracking || !can_return(vd)) {
		relay_aim(&rq->r, true);
		loop_call(vd->loop, &rq->again);
		return;
	}
	if (!rq->r.nout) {
		return_queue(vd, rq);
		return;
	}
	if (!rq->deadline) {
		rq->deadline =
			now + (is_rx(vd, q) ? VF_RX_BOUNDARY_MS : VF_BOUNDARY_MS) * NS_PER_MS;
		timer_arm(vd->relays.timer_fd, VF_RX_BOUNDARY_MS);
		return;
	}
	if (now < rq->deadline)
		return;
	if (is_rx(vd, q)) {
		return_queue(vd, rq);
		return;
	}
	/* Something takes its time, and the rest of the queue must not wait for it. */
	rq->deadline = 0;
	relay_aim(&rq->r, true);
	loop_call(vd->loop, &rq->again);
}

static void timer_ready(struct loop_fd *lf, uint32_t revents)
{
	struct vf_relays *rs = container_of(lf, struct vf_relays, timer);
	struct vf_dev *vd = container_of(rs, struct vf_dev, relays);
	bool waits = false;

	(void)revents;
	if (!timer_rang(rs->timer_fd))
		return;
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++) {
		struct vf_relay *rq = relay_of(vd, q);

		if (!rq->deadline)
			continue;
		serve_if_relayed(rq);
		waits |= rq->deadline != 0;
	}
	if (waits && vd->phase == VF_UP)
		timer_arm(vd->relays.timer_fd, VF_RX_BOUNDARY_MS);
}

void vf_relays_return(struct vf_dev *vd, bool on)
{
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++) {
		struct vf_relay *rq = relay_of(vd, q);

		if (rq->path != VF_PATH_RELAY)
			continue;
		rq->deadline = 0;
		if (on)
			relay_aim(&rq->r, false);
		else
			__atomic_store_n(&rq->r.left, RELAY_NO_LIMIT, __ATOMIC_RELAXED);
		serve_if_relayed(rq);
	}
}

uint32_t vf_relay_left(const struct vf_dev *vd, unsigned int q)
{
	const struct relay *r = &vd->relays.queues[q].r;
	uint32_t left = __atomic_load_n(&r->left, __ATOMIC_RELAXED);

	return left == RELAY_NO_LIMIT ? left : left + __atomic_load_n(&r->nout, __ATOMIC_RELAXED);
}

/* --- stop ------------------------------------------------------------------------------------ */

/*
 * Can another device go on where a direct queue is? A disk completes in any order, so only if it
 * has given everything back, or nothing since its start, which is not over; a card: as at a switch.
 */
static bool is_exact(const struct vf_dev *vd, unsigned int q)
{
	uint16_t used = guest_index(vd, vd->queues[q].device);

	return vd->vdev.device_id != VIRTIO_ID_BLOCK ||
	       used == guest_index(vd, vd->queues[q].driver) ||
	       (vd->fresh && used == vd->queues[q].index);
}

void vf_relays_stop(struct vf_dev *vd)
{
	vd->exact = true;
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++) {
		struct vf_relay *rq = relay_of(vd, q);

		if (rq->path == VF_PATH_RELAY) {
			if (relay_complete(&rq->r) < 0)
				log_warn("%s: function %s: queue %u: %s", vd->vdev.id, vd->name, q,
					 rq->r.why);
			relay_settle(&rq->r);
			vd->queues[q].index = rq->r.completed;
		} else if (rq->path == VF_PATH_DIRECT) {
			vd->exact &= is_exact(vd, q);
			/* How far the function has come: up to there the driver has it all back. */
			vd->queues[q].index = vd->known >> q & 1
						      ? vd->stands[q]
						      : guest_index(vd, vd->queues[q].device);
		}
		rq->deadline = 0;
		set_path(vd, q, VF_PATH_OFF);
	}
	vd->known = 0;
}

static bool drained(struct vf_dev *vd)
{
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++) {
		struct vf_relay *rq = relay_of(vd, q);

		if (rq->path == VF_PATH_DIRECT &&
		    guest_index(vd, vd->queues[q].driver) != guest_index(vd, vd->queues[q].device))
			return false;
		if (rq->path != VF_PATH_RELAY)
			continue;
		rq->r.closed = true;
		if (turn(vd, q) < 0)
			return true; /* it is for the stop to say so */
		if (rq->r.nout)
			return false;
	}
	return true;
}

/* The vcpus stand: where their doorbells go is decided when they go on (virtio_pci.c). */
static void set_up(struct vf_dev *vd, bool up)
{
	vm_lock(vd->vdev.vm);
	vd->up = up;
	vm_unlock(vd->vdev.vm);
}

/* A vcpu may have been parked between its store to the ring and its doorbell. */
static void ring_direct(struct vf_dev *vd)
{
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++)
		if (relay_of(vd, q)->path == VF_PATH_DIRECT)
			ring(vd, q);
}

int vf_relays_drain(struct vf_dev *vd, struct diag *d)
{
	uint64_t until = loop_now() + VF_DRAIN_MS * NS_PER_MS;

	set_up(vd, false);
	ring_direct(vd);
	/* A network card is not waited for: receive buffers are out for ever, and what is fetched
	 * and not used is fetched again. A frame may so go out twice. */
	if (vd->vdev.device_id == VIRTIO_ID_NET)
		return 0;
	while (vd->phase == VF_UP && !drained(vd)) {
		if (loop_now() < until) {
			pause_briefly();
			continue;
		}
		for (unsigned int q = 0; q < vd->vdev.nqueues; q++)
			relay_of(vd, q)->r.closed = false;
		set_up(vd, true);
		vf_relays_serve(vd);
		return diag_set(d, -ETIMEDOUT, "a request is not finished within %u ms",
				VF_DRAIN_MS);
	}
	return 0;
}

void vf_relays_serve(struct vf_dev *vd)
{
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++) {
		struct vf_relay *rq = relay_of(vd, q);

		if (rq->path == VF_PATH_DIRECT)
			ring(vd, q);
		else if (rq->path == VF_PATH_RELAY)
			serve_if_relayed(rq);
	}
}

/* --- life ------------------------------------------------------------------------------------ */

int vf_relays_map(struct vf_dev *vd, struct diag *d)
{
	struct vf_relays *rs = &vd->relays;
	int err;

	if (rs->iova)
		return 0;
	err = vf_window_map(vd, rs->window, rs->window_fd, rs->window_bytes, &rs->iova, d);
	if (err)
		diag_prefix(d, "its queues cannot be relayed");
	return err;
}

void vf_relays_unmap(struct vf_dev *vd)
{
	vf_window_unmap(vd, vd->relays.window_bytes, &vd->relays.iova);
}

static int init_queue(struct vf_dev *vd, unsigned int q)
{
	struct vf_relay *rq = relay_of(vd, q);

	rq->vd = vd;
	rq->q = q;
	rq->again.fn = again_work;
	rq->answer_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return rq->answer_fd < 0
		       ? -errno
		       : loop_add_eventfd(vd->loop, &rq->answer, rq->answer_fd, answer_ready);
}

int vf_relays_init(struct vf_dev *vd, struct diag *d)
{
	struct vf_relays *rs = &vd->relays;
	void *p;
	int err = 0;

	rs->window_bytes = (size_t)vd->vdev.nqueues * RELAY_BYTES;
	rs->window_fd = memfd_create("unvmm-relay", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	rs->timer_fd = timer_open();
	rs->settled_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (rs->window_fd < 0 || rs->timer_fd < 0 || rs->settled_fd < 0 ||
	    ftruncate(rs->window_fd, (off_t)rs->window_bytes) ||
	    /* A server that is handed the descriptor must not be able to pull the pages away. */
	    fcntl(rs->window_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return diag_errno(d, -errno, "no memory for its relay");
	p = mmap(NULL, rs->window_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, rs->window_fd, 0);
	if (p == MAP_FAILED)
		return diag_errno(d, -errno, "no memory for its relay");
	rs->window = p;
	for (unsigned int q = 0; q < vd->vdev.nqueues && !err; q++)
		err = init_queue(vd, q);
	if (!err)
		err = loop_add(vd->loop, &rs->timer, rs->timer_fd, POLLIN, timer_ready);
	return err ? diag_errno(d, err, "its relay cannot be watched") : 0;
}

void vf_relays_fini(struct vf_dev *vd)
{
	struct vf_relays *rs = &vd->relays;
	const int fds[] = { rs->window_fd, rs->timer_fd, rs->settled_fd };

	loop_del(&rs->timer);
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++) {
		struct vf_relay *rq = relay_of(vd, q);

		loop_uncall(vd->loop, &rq->again);
		loop_del(&rq->answer);
		if (rq->answer_fd >= 0)
			close(rq->answer_fd);
		rq->answer_fd = -1;
	}
	if (rs->window)
		munmap(rs->window, rs->window_bytes);
	rs->window = NULL;
	for (unsigned int i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	rs->window_fd = rs->timer_fd = rs->settled_fd = -1;
}
