/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_doorbell.c - how the guest's doorbells reach the vdev: by a page of the device in the
 * guest's address space, by an eventfd that KVM signals, or by a trap (virtio 1.2, 4.1.5.2). The
 * vdev says which; this file makes it so, and takes it back when the BAR moves, the vdev stops or
 * the page's memory goes away. Control lock held.
 */
#include <unvmm/log.h>

#include "virtio_pci.h"

#include <string.h>

static const struct vdev_doorbell trapped = { .kind = DOORBELL_TRAP, .fd = -1 };

static uint64_t page_of(const struct vp_wire *w)
{
	return align_down(w->at, (uint64_t)VP_DOORBELL_PAGE);
}

/* --- one queue ------------------------------------------------------------------------------- */

static void remove_eventfd(struct virtio_pci *t, unsigned int q)
{
	struct vp_wire *w = &t->wires[q];

	/* Fails only if it is not there, and then there is nothing to do. */
	if (kvm_ioeventfd(&t->v->vm->kvm, w->fd, w->at, 0, false, false))
		log_debug("%s: the doorbell of queue %u was not registered", t->v->id, q);
	w->fd = -1;
}

static void want_eventfd(struct virtio_pci *t, unsigned int q, int fd)
{
	struct vp_wire *w = &t->wires[q];
	int err;

	if (fd < 0 || w->fd >= 0)
		return;
	err = kvm_ioeventfd(&t->v->vm->kvm, fd, w->at, 0, false, true);
	/* Refused: the doorbell traps, which is slower and as good. */
	if (err)
		log_debug("%s: KVM refuses an ioeventfd for queue %u: %s", t->v->id, q,
			  strerror(-err));
	else
		w->fd = fd;
}

/* False: KVM keeps it, and the next change of the doorbells tries again. */
static bool remove_page(struct virtio_pci *t, unsigned int q)
{
	struct vp_wire *w = &t->wires[q];

	if (slots_unmap(&t->v->vm->slots, w->slot, page_of(w)))
		return false;
	w->slot = -1;
	w->page = NULL;
	return true;
}

static void add_page(struct virtio_pci *t, unsigned int q, void *page)
{
	struct vp_wire *w = &t->wires[q];
	int slot = slots_map(&t->v->vm->slots, page_of(w), page);

	if (slot < 0) {
		log_debug("%s: the doorbell page of queue %u cannot be mapped: %s", t->v->id, q,
			  strerror(-slot));
		w->why = "KVM refuses a memory slot for its page";
		return;
	}
	w->slot = slot;
	w->page = page;
	w->why = NULL;
}

/* --- all queues ------------------------------------------------------------------------------ */

/*
 * Makes KVM do what the vdev wants. A doorbell that is rung meanwhile meets the old way, the new
 * way or none, and then it traps: none is lost. An eventfd below a page is not heard: it is put
 * there first and takes over when the page goes. All pages go before the first one comes, one after
 * the other: removing them makes KVM drop the shadow entries of the whole VM (slots.h). The other
 * eventfds come last: with each of them KVM begins a grace period without hurry, and a slot that is
 * changed then waits for its end, for milliseconds.
 */
static void wire(struct virtio_pci *t, const struct vdev_doorbell *want)
{
	unsigned int n = t->v->nqueues;

	for (unsigned int q = 0; q < n; q++) {
		if (t->wires[q].fd >= 0 && t->wires[q].fd != want[q].fd)
			remove_eventfd(t, q);
		if (t->wires[q].page && t->wires[q].page != want[q].page)
			want_eventfd(t, q, want[q].fd);
	}
	for (unsigned int q = 0; q < n; q++)
		if (t->wires[q].page && t->wires[q].page != want[q].page)
			(void)remove_page(t, q);
	for (unsigned int q = 0; q < n; q++) {
		t->wires[q].why = want[q].why;
		if (want[q].page && !t->wires[q].page)
			add_page(t, q, want[q].page);
	}
	for (unsigned int q = 0; q < n; q++)
		want_eventfd(t, q, want[q].fd);
}

/* What the vdev wants for q, in a form in which what does not apply is -1 or NULL. */
static void ask(struct virtio_pci *t, unsigned int q, struct vdev_doorbell *want)
{
	*want = trapped;
	if (!t->v->queues[q].enabled || !t->v->ops->doorbell)
		return;
	t->v->ops->doorbell(t->v, q, want);
	if (want->kind == DOORBELL_MAPPED && t->doorbell_faults >= VDEV_DOORBELL_FAULTS)
		*want = (struct vdev_doorbell){ .kind = DOORBELL_EVENTFD,
						.fd = want->fd,
						.why = "its page's memory went away too often" };
	if (want->kind != DOORBELL_MAPPED)
		want->page = NULL;
	if (want->kind == DOORBELL_TRAP)
		want->fd = -1;
}

void vp_doorbells_wire(struct virtio_pci *t)
{
	const struct pci_bar *bar = &t->pci.bars[VP_BAR];
	struct vdev_doorbell want[VDEV_QUEUES_MAX];

	if (t->run != VP_RUNNING || !bar->mapped)
		return;
	for (unsigned int q = 0; q < t->v->nqueues; q++) {
		/* The BAR does not move, nor the offset change, while anything is wired. */
		t->wires[q].at = bar->base + VP_DOORBELLS + (uint64_t)q * VP_DOORBELL_PAGE +
				 t->v->queues[q].doorbell_offset;
		ask(t, q, &want[q]);
	}
	wire(t, want);
}

void vp_doorbells_unwire(struct virtio_pci *t)
{
	struct vdev_doorbell want[VDEV_QUEUES_MAX];

	for (unsigned int q = 0; q < t->v->nqueues; q++)
		want[q] = trapped;
	wire(t, want);
}

void virtio_pci_rewire(struct vdev *v)
{
	vp_doorbells_wire(v->transport);
}

bool virtio_pci_shows(const struct vdev *v, unsigned int q, const void *page)
{
	return page && v->transport->wires[q].page == page;
}

/* --- what the guest does --------------------------------------------------------------------- */

void vp_doorbell_trapped(struct virtio_pci *t, uint64_t off)
{
	unsigned int q = (unsigned int)(off / VP_DOORBELL_PAGE);

	if (t->run == VP_RUNNING && q < t->v->nqueues && t->v->queues[q].enabled &&
	    off % VP_DOORBELL_PAGE == t->v->queues[q].doorbell_offset && t->v->ops->kick) {
		vdev_count(&t->v->counters[q].traps);
		t->v->ops->kick(t->v, q);
	}
}

/* A vcpu cannot reach a page of somebody's: all are unmapped, and the eventfds below them stay. */
static bool doorbells_fault(struct vm_mapper *m)
{
	struct virtio_pci *t = container_of(m, struct virtio_pci, mapper);
	bool mapped = false;

	for (unsigned int q = 0; q < t->v->nqueues; q++) {
		if (!t->wires[q].page || !remove_page(t, q))
			continue;
		mapped = true;
		t->wires[q].why = "the memory behind a mapped doorbell page went away";
	}
	if (!mapped)
		return false;
	if (t->doorbell_faults < VDEV_DOORBELL_FAULTS)
		t->doorbell_faults++;
	log_limited(&t->doorbell_limit, LOG_WARN,
		    "%s: a vcpu found no memory behind a mapped doorbell page", t->v->id);
	if (t->v->ops->doorbell_fault)
		t->v->ops->doorbell_fault(t->v);
	return true;
}

void vp_doorbells_init(struct virtio_pci *t)
{
	for (unsigned int q = 0; q < VDEV_QUEUES_MAX; q++)
		t->wires[q] = (struct vp_wire){ .fd = -1, .slot = -1 };
	t->mapper.fault = doorbells_fault;
	vm_add_mapper(t->v->vm, &t->mapper);
}

void vp_doorbells_fini(struct virtio_pci *t)
{
	vp_doorbells_unwire(t);
	vm_remove_mapper(t->v->vm, &t->mapper);
}
