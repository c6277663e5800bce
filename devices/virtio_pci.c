/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_pci.c - the one virtio-PCI function that guests see (virtio 1.2, section 4.1), whatever
 * serves its rings: its BAR, and when the vdev runs. Its configuration space is in
 * virtio_pci_config.c, the registers in virtio_regs.c, doorbells in virtio_doorbell.c, saved state
 * in virtio_pci_state.c. Control lock held, the note functions aside.
 */
#include <unvmm/log.h>

#include "virtio_pci.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define VIRTIO_VENDOR	   0x1af4
#define VIRTIO_DEVICE_BASE 0x1040 /* plus the device type (4.1.2) */
#define VIRTIO_SUBSYSTEM   0x1100
#define STOP_TIMEOUT_S	   10

/* --- when the vdev runs ---------------------------------------------------------------------- */

void vp_connect_queue(struct virtio_pci *t, unsigned int q)
{
	struct vdev_queue *vq = &t->v->queues[q];

	if (msix_connect(&t->msix, t->irq_sources[q], vq->vector))
		vq->vector = VIRTIO_MSI_NO_VECTOR;
	/*
	 * The owner of the queue reads it while we write: a queue nobody listens to costs nothing.
	 */
	__atomic_store_n(&vq->irq_fd, vq->vector == VIRTIO_MSI_NO_VECTOR ? -1 : t->irq_fds[q],
			 __ATOMIC_RELEASE);
}

void vp_connect_config(struct virtio_pci *t)
{
	if (msix_connect(&t->msix, t->config_source, t->config_vector))
		t->config_vector = VIRTIO_MSI_NO_VECTOR;
}

/*
 * An interrupt of the old life must not reach the new one. A vfio-user server shares the eventfd,
 * and so its O_NONBLOCK, which it can take away, and its counter, which it can empty behind a
 * poll(): only RWF_NOWAIT never waits. Nothing to read is as good.
 */
static void drain_fd(int fd)
{
	uint64_t count;
	struct iovec iov = { &count, sizeof(count) };

	if (preadv2(fd, &iov, 1, -1, RWF_NOWAIT) < 0)
		return;
}

/* What a reset leaves (2.4.2): the journal as it was before any driver came. */
static void clear_journal(struct virtio_pci *t)
{
	struct vdev *v = t->v;

	vp_doorbells_unwire(t);
	v->negotiated = 0;
	v->status = 0;
	for (unsigned int i = 0; i < v->nqueues; i++) {
		struct vdev_queue *q = &v->queues[i];

		q->size = q->size_max;
		q->vector = VIRTIO_MSI_NO_VECTOR;
		q->enabled = false;
		q->desc = q->driver = q->device = 0;
		q->index = 0;
		vp_connect_queue(t, i);
		drain_fd(t->irq_fds[i]);
	}
	t->device_feature_select = t->driver_feature_select = 0;
	t->driver_features = 0;
	t->queue_select = 0;
	t->config_vector = VIRTIO_MSI_NO_VECTOR;
	vp_connect_config(t);
	drain_fd(t->config_fd);
	t->isr = 0;
	__atomic_fetch_and(&t->notes, ~(VP_NOTE_NEEDS_RESET | VP_NOTE_CONFIG), __ATOMIC_ACQ_REL);
	t->reset_pending = false;
	if (v->ops->reset)
		v->ops->reset(v);
}

void vp_settle(struct virtio_pci *t)
{
	uint32_t notes = __atomic_exchange_n(&t->notes, 0, __ATOMIC_ACQ_REL);

	if (notes & VP_NOTE_CONFIG) {
		t->config_generation++;
		t->isr |= VIRTIO_PCI_ISR_CONFIG;
	}
	if (notes & VP_NOTE_NEEDS_RESET && t->v->status) {
		t->v->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
		t->isr |= VIRTIO_PCI_ISR_CONFIG;
	}
	if (notes & VP_NOTE_STOPPED && t->run == VP_STOPPING) {
		t->run = VP_STOPPED;
		if (t->reset_pending)
			clear_journal(t);
	}
	if (notes)
		vp_update_run(t);
}

/* The guest may wait for what it asked while the vdev stopped, and touch no register any more. */
static void settle_work(struct loop_work *w)
{
	struct virtio_pci *t = container_of(w, struct virtio_pci, settle);

	pthread_mutex_lock(&t->stop_lock);
	pthread_mutex_unlock(&t->stop_lock);
	vm_lock(t->v->vm);
	vp_settle(t);
	vm_unlock(t->v->vm);
}

/*
 * A guest that has moved here does not wait for this: KVM takes its time with each doorbell, and
 * those that are rung before trap.
 */
static void wire_work(struct loop_work *w)
{
	struct virtio_pci *t = container_of(w, struct virtio_pci, wire);

	vm_lock(t->v->vm);
	vp_doorbells_wire(t);
	vm_unlock(t->v->vm);
}

static bool can_run(const struct virtio_pci *t)
{
	/*
	 * A guest that takes bus mastering away (kexec relies on it) stops the device; the journal
	 * stays, and with bus mastering given back the device goes on where it was.
	 */
	return (t->v->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	       !(t->v->status & VIRTIO_CONFIG_S_NEEDS_RESET) && !t->reset_pending &&
	       pci_bus_master(&t->pci);
}

bool virtio_pci_will_start(const struct vdev *v)
{
	return can_run(v->transport) && v->transport->run == VP_STOPPED;
}

void vp_update_run(struct virtio_pci *t)
{
	bool want = can_run(t) && !t->quiesced;
	int begun;

	if (t->run == VP_STOPPED && want) {
		t->run = VP_RUNNING;
		begun = t->v->ops->start(t->v);
		if (begun < 0)
			vdev_needs_reset(t->v, "its queues cannot be used as they are programmed");
		else if (!begun && t->loaded)
			loop_call(&t->v->vm->main_loop, &t->wire);
		else if (!begun)
			vp_doorbells_wire(t);
		t->loaded = false;
	} else if (t->run == VP_RUNNING && !want) {
		t->run = VP_STOPPING;
		/*
		 * Nobody rings while the vcpus stand, and KVM waits for a grace period with each
		 * doorbell that it gives up: when they go on, only those that change have to go.
		 */
		if (!t->quiesced)
			vp_doorbells_unwire(t);
		t->v->ops->stop(t->v);
	} else if (t->run != VP_RUNNING && !t->quiesced) {
		vp_doorbells_unwire(t);
	}
}

void vp_begin_reset(struct virtio_pci *t)
{
	t->reset_pending = true;
	vp_update_run(t);
	if (t->run == VP_STOPPED)
		clear_journal(t);
	else
		vp_settle(t); /* the vdev may have stopped at once */
}

int vp_wait_stopped(struct virtio_pci *t, unsigned int seconds)
{
	struct timespec deadline;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += seconds;
	vp_settle(t);
	while (t->run == VP_STOPPING && !err) {
		vm_unlock(t->v->vm);
		pthread_mutex_lock(&t->stop_lock);
		while (!(__atomic_load_n(&t->notes, __ATOMIC_ACQUIRE) & VP_NOTE_STOPPED) && !err)
			err = -pthread_cond_timedwait(&t->stop_cond, &t->stop_lock, &deadline);
		pthread_mutex_unlock(&t->stop_lock);
		vm_lock(t->v->vm);
		vp_settle(t);
	}
	/* The note may have been found while vdev_stopped() was not quite through with us. */
	pthread_mutex_lock(&t->stop_lock);
	pthread_mutex_unlock(&t->stop_lock);
	return t->run == VP_STOPPING ? -ETIMEDOUT : 0;
}

/* --- BAR accesses ---------------------------------------------------------------------------- */

static uint64_t device_config_read(struct virtio_pci *t, uint64_t off, unsigned int len)
{
	uint64_t v = 0;

	if (!range_within(off, len, 0, t->v->config_size))
		return UINT64_MAX;
	t->v->ops->config_read(t->v, (unsigned int)off, &v, len);
	return v;
}

uint64_t vp_bar_read(void *dev, uint64_t off, unsigned int len)
{
	struct virtio_pci *t = dev;

	vp_settle(t);
	if (off < VP_ISR) {
		const struct vp_reg *r = vp_reg_find(off - VP_COMMON, len);

		return r ? r->read(t) : UINT64_MAX;
	}
	if (off == VP_ISR && len == 1) {
		uint8_t isr = t->isr;

		t->isr = 0; /* reading acknowledges (4.1.4.5) */
		return isr;
	}
	if (off >= VP_DEVICE && off < VP_DOORBELLS)
		return device_config_read(t, off - VP_DEVICE, len);
	return UINT64_MAX;
}

void vp_bar_write(void *dev, uint64_t off, unsigned int len, uint64_t value)
{
	struct virtio_pci *t = dev;

	if (off >= VP_DOORBELLS) {
		vp_doorbell_trapped(t, off - VP_DOORBELLS);
		return;
	}
	vp_settle(t);
	if (off < VP_ISR) {
		const struct vp_reg *r = vp_reg_find(off - VP_COMMON, len);

		if (r && r->policy != REG_READONLY)
			r->write(t, (uint32_t)value);
	} else if (off >= VP_DEVICE && t->v->ops->config_write &&
		   range_within(off - VP_DEVICE, len, 0, t->v->config_size)) {
		t->v->ops->config_write(t->v, (unsigned int)(off - VP_DEVICE), &value, len);
	}
}

static const struct bus_ops vp_bar_ops = { .read = vp_bar_read, .write = vp_bar_write };

/* --- life ------------------------------------------------------------------------------------ */

static int make_sources(struct virtio_pci *t)
{
	int source;

	t->config_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->config_fd < 0)
		return -errno;
	source = msix_add_source(&t->msix, t->config_fd);
	if (source < 0)
		return source;
	t->config_source = (unsigned int)source;
	for (unsigned int q = 0; q < t->v->nqueues; q++) {
		t->irq_fds[q] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (t->irq_fds[q] < 0)
			return -errno;
		source = msix_add_source(&t->msix, t->irq_fds[q]);
		if (source < 0)
			return source;
		t->irq_sources[q] = (unsigned int)source;
	}
	return 0;
}

static void transport_free(struct virtio_pci *t)
{
	for (unsigned int q = 0; q < t->v->nqueues; q++)
		if (t->irq_fds[q] >= 0)
			close(t->irq_fds[q]);
	if (t->config_fd >= 0)
		close(t->config_fd);
	pthread_mutex_destroy(&t->stop_lock);
	pthread_cond_destroy(&t->stop_cond);
	t->v->transport = NULL;
	free(t);
}

static struct virtio_pci *transport_alloc(struct vdev *v)
{
	struct virtio_pci *t = calloc(1, sizeof(*t));
	pthread_condattr_t attr;

	if (!t)
		return NULL;
	t->v = v;
	v->transport = t;
	t->config_fd = -1;
	t->settle.fn = settle_work;
	t->wire.fn = wire_work;
	for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++)
		t->irq_fds[q] = v->queues[q].irq_fd = -1;
	pthread_mutex_init(&t->stop_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->stop_cond, &attr);
	pthread_condattr_destroy(&attr);
	vp_doorbells_init(t);
	t->pci.vm = v->vm;
	t->pci.id = v->id;
	return t;
}

int virtio_pci_create(struct vdev *v, struct diag *d)
{
	const struct pci_ids ids = {
		.vendor = VIRTIO_VENDOR,
		.device = (uint16_t)(VIRTIO_DEVICE_BASE + v->device_id),
		.subvendor = VIRTIO_VENDOR,
		.subdevice = VIRTIO_SUBSYSTEM,
		.revision = 1,
		.class_code = v->class_code,
	};
	struct virtio_pci *t;
	int err;

	if (!v->nqueues || v->nqueues > VDEV_QUEUES_MAX)
		return diag_set(d, -EINVAL, "%s: %u queues; 1 to %u are possible", v->id,
				v->nqueues, VDEV_QUEUES_MAX);
	for (unsigned int q = 0; q < v->nqueues; q++)
		if (!vp_doorbell_offset_valid(v->queues[q].doorbell_offset))
			return diag_set(d, -EINVAL,
					"%s: the doorbell of queue %u is at in-page offset %u; it "
					"must be a multiple of %u below %u",
					v->id, q, v->queues[q].doorbell_offset, VP_NOTIFY_MULT,
					VP_DOORBELL_PAGE);
	t = transport_alloc(v);
	if (!t)
		return diag_set(d, -ENOMEM, "%s: out of memory", v->id);
	v->shown = v->offered;
	pci_dev_init(&t->pci, &ids);
	pci_add_bar(&t->pci, VP_BAR, VP_BAR_SIZE, &vp_bar_ops, t, "virtio-pci");
	err = vp_config_init(t);
	if (!err)
		err = msix_init(&t->msix, &t->pci, VP_MSIX_BAR, v->nqueues + 1);
	if (!err)
		err = make_sources(t);
	if (!err) {
		clear_journal(t);
		err = pci_plug(v->vm, &t->pci, d);
	}
	if (err) {
		vp_doorbells_fini(t);
		transport_free(t);
		return diag_errno(d, err, "%s: cannot make its PCI function", v->id);
	}
	return 0;
}

void virtio_pci_destroy(struct vdev *v)
{
	struct virtio_pci *t = v->transport;

	loop_uncall(&v->vm->main_loop, &t->settle);
	loop_uncall(&v->vm->main_loop, &t->wire);
	vm_lock(v->vm);
	vp_doorbells_fini(t);
	msix_fini(&t->msix);
	pci_unplug(&t->pci);
	vm_unlock(v->vm);
	transport_free(t);
}

void virtio_pci_hide(struct vdev *v, const struct vdev *front)
{
	vm_lock(v->vm);
	pci_hide(&v->transport->pci, &front->transport->pci);
	vm_unlock(v->vm);
}

void virtio_pci_step_in(struct vdev *v, struct vdev *front)
{
	vm_lock(v->vm);
	vp_doorbells_unwire(front->transport);
	pci_step_in(&v->transport->pci, &front->transport->pci);
	vm_unlock(v->vm);
}

int virtio_pci_reset(struct vdev *v)
{
	struct virtio_pci *t = v->transport;
	int err;

	vm_lock(v->vm);
	vp_begin_reset(t);
	err = vp_wait_stopped(t, STOP_TIMEOUT_S);
	if (!err) {
		msix_reset(&t->msix);
		pci_reset(&t->pci);
		t->config_generation = 0;
	}
	vm_unlock(v->vm);
	return err;
}

int virtio_pci_quiesce(struct vdev *v)
{
	struct virtio_pci *t = v->transport;
	int err;

	vm_lock(v->vm);
	t->quiesced = true;
	vp_update_run(t);
	err = vp_wait_stopped(t, STOP_TIMEOUT_S);
	vm_unlock(v->vm);
	return err;
}

void virtio_pci_resume(struct vdev *v)
{
	struct virtio_pci *t = v->transport;

	vm_lock(v->vm);
	t->quiesced = false;
	vp_settle(t);
	vp_update_run(t);
	vm_unlock(v->vm);
}

void virtio_pci_moved(struct vdev *v)
{
	for (unsigned int q = 0; q < v->nqueues; q++)
		if (v->status & VIRTIO_CONFIG_S_DRIVER_OK && v->queues[q].enabled)
			vdev_interrupt(v, q);
}

/* --- notes from the vdev: any thread --------------------------------------------------------- */

static void signal_fd(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	uint64_t one = 1;

	/* Full, it is signalled; asked first, because a vfio-user server can make it block. */
	if (poll(&p, 1, 0) == 1 && write(fd, &one, sizeof(one)) < 0)
		return;
}

void vdev_interrupt(struct vdev *v, unsigned int q)
{
	int fd = __atomic_load_n(&v->queues[q].irq_fd, __ATOMIC_ACQUIRE);

	if (fd >= 0)
		signal_fd(fd);
}

int vdev_irq_fd(const struct vdev *v, unsigned int q)
{
	return v->transport->irq_fds[q];
}

void vdev_needs_reset(struct vdev *v, const char *why)
{
	struct virtio_pci *t = v->transport;

	vdev_count(&v->resets_asked);
	pthread_mutex_lock(&t->stop_lock);
	if (why)
		log_limited(&t->limit, LOG_WARN, "%s: asks the guest for a reset: %s", v->id, why);
	pthread_mutex_unlock(&t->stop_lock);
	__atomic_fetch_or(&t->notes, VP_NOTE_NEEDS_RESET, __ATOMIC_ACQ_REL);
	signal_fd(t->config_fd);
}

void vdev_config_changed(struct vdev *v)
{
	__atomic_fetch_or(&v->transport->notes, VP_NOTE_CONFIG, __ATOMIC_ACQ_REL);
	signal_fd(v->transport->config_fd);
}

void vdev_stopped(struct vdev *v)
{
	struct virtio_pci *t = v->transport;

	pthread_mutex_lock(&t->stop_lock);
	loop_call(&v->vm->main_loop, &t->settle); /* it waits for the lock, and so for the note */
	__atomic_fetch_or(&t->notes, VP_NOTE_STOPPED, __ATOMIC_ACQ_REL);
	pthread_cond_broadcast(&t->stop_cond);
	pthread_mutex_unlock(&t->stop_lock);
}
