/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_doorbell.c - how the doorbell of each queue reaches the function: by a page of the function
 * that the guest stores into, by an eventfd that the backend forwards, or by the vf thread.
 *
 * A page is mapped only if it holds nothing but doorbells and the guest rings at the same place in
 * it. Doorbells of other queues, the control queue's included, may share it: a guest may always
 * ring for nothing, and that is harmless. One that differed in offset would ring another queue
 * instead.
 *
 * Decisions and calls on the vf thread; ops->doorbell and ops->kick read what came of them, under
 * the control lock.
 */
#include "vf_dev.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_MASK_4K ((uint64_t)PAGE_SIZE_4K - 1)

/* --- the decision ---------------------------------------------------------------------------- */

/* Why the page may not be the guest's; NULL: it may. */
static const char *page_obstacle(const struct vf_caps *caps, const struct vf_region *bar,
				 uint64_t page)
{
	static const char *const lies_in_it[] = {
		[VF_PAGE_PARTLY] = "its page is not all doorbells",
		[VF_PAGE_REGISTERS] = "another structure of the function lies in its page",
		[VF_PAGE_MSIX] = "MSI-X lies in its page",
	};
	enum vf_page kind = vf_caps_page(caps, page);

	if (kind != VF_PAGE_DOORBELLS)
		return lies_in_it[kind];
	for (unsigned int i = 0; i < bar->nareas; i++)
		if (range_within(page, PAGE_SIZE_4K, bar->areas[i].offset, bar->areas[i].size))
			return NULL;
	return bar->nareas ? "the backend does not let its page be mapped"
			   : "the backend lets nothing of its BAR be mapped";
}

int vf_doorbell_plan(const struct vf_caps *caps, const struct vf_region *bar, uint16_t notify_off,
		     uint16_t guest_offset, struct vf_way_plan *plan)
{
	*plan = (struct vf_way_plan){ .way = VF_WAY_REGISTER };
	if (vf_caps_doorbell(caps, notify_off, &plan->offset))
		return -EINVAL;
	if ((plan->offset & PAGE_MASK_4K) != guest_offset)
		plan->why = "the guest rings at another offset in the page";
	else
		plan->why = page_obstacle(caps, bar, plan->offset & ~PAGE_MASK_4K);
	if (!plan->why)
		plan->way = VF_WAY_MAPPED;
	return 0;
}

uint16_t vf_doorbell_guest_offset(const struct vf_caps *caps, uint16_t notify_off, bool native)
{
	uint64_t at;

	if (!native || vf_caps_doorbell(caps, notify_off, &at))
		return 0;
	/* The guest's multiplier is 4: what lies in between it cannot express. */
	return at % 4 ? 0 : (uint16_t)(at & PAGE_MASK_4K);
}

/* --- making it so ---------------------------------------------------------------------------- */

void vf_doorbell_unmap(struct vf_doorbell *db)
{
	bool shown;

	if (!db->page)
		return;
	vm_lock(db->vd->vdev.vm);
	shown = virtio_pci_shows(&db->vd->vdev, db->q, db->page);
	vm_unlock(db->vd->vdev.vm);
	/* KVM has kept it: better a page too many than one that the guest has of something else. */
	if (!shown)
		munmap(db->page, PAGE_SIZE_4K);
	db->page = NULL;
}

static int map(struct vf_doorbell *db)
{
	struct vf_function *fn = &db->vd->fn;
	uint64_t at = db->plan.offset & ~PAGE_MASK_4K;
	void *page;
	int err;

	if (db->page && db->page_at == at)
		return 0;
	err = fn->vf->ops->region_mmap(fn->vf, fn->caps.notify.bar, at, PAGE_SIZE_4K, &page);
	if (err)
		return err;
	vf_doorbell_unmap(db);
	db->page = page;
	db->page_at = at;
	return 0;
}

static void watch_ready(struct loop_fd *lf, uint32_t revents)
{
	struct vf_doorbell *db = container_of(lf, struct vf_doorbell, watch);
	struct vf_dev *vd = db->vd;

	(void)revents;
	if (vd->phase != VF_UP)
		return; /* every queue is kicked when it is up */
	vdev_count(&vd->vdev.counters[db->q].kicks);
	if (vd->cvq.running && vd->cvq.q == db->q)
		vf_cvq_serve(&vd->cvq);
	else if (vd->relays.queues[db->q].path == VF_PATH_RELAY)
		vf_relay_serve(vd, db->q);
	else if (vd->queues[db->q].enabled && vf_function_kick(&vd->fn, db->index, db->notify_off))
		vf_failed(vd, "its doorbell cannot be written");
}

int vf_doorbell_prepare(struct vf_doorbell *db, uint16_t index, uint16_t notify_off, struct diag *d)
{
	const struct vf_function *fn = &db->vd->fn;
	const struct vf_region *bar = &fn->vf->info.regions[fn->caps.notify.bar];
	struct vf *vf = fn->vf;
	int fd = -1;
	enum vf_way way;
	const char *why;

	if (vf_doorbell_plan(&fn->caps, bar, notify_off, db->vd->vdev.queues[db->q].doorbell_offset,
			     &db->plan))
		return diag_set(d, -EINVAL,
				"the doorbell of its queue %u lies behind its notify structure",
				index);
	db->index = index;
	db->notify_off = notify_off;
	way = db->plan.way;
	why = db->plan.why;
	if (way == VF_WAY_MAPPED && map(db)) {
		way = VF_WAY_REGISTER;
		why = "the backend refused to map its page";
	}
	if (way == VF_WAY_REGISTER &&
	    !vf->ops->doorbell_fd(vf, fn->caps.notify.bar, db->plan.offset, 2, index, &fd))
		way = VF_WAY_FORWARD;
	vm_lock(db->vd->vdev.vm);
	db->way = way;
	db->why = why;
	db->forward_fd = fd;
	vm_unlock(db->vd->vdev.vm);
	return 0;
}

/* As the guest rings where it may. No message, and so nothing that is waited for. */
static bool ring_by_store(const struct vf_doorbell *db)
{
	const struct vf_function *fn = &db->vd->fn;

	if (db->way != VF_WAY_MAPPED || !fn->vf->info.regions[fn->caps.notify.bar].lasts)
		return false;
	__atomic_store_n((uint16_t *)((uint8_t *)db->page + (db->plan.offset - db->page_at)),
			 db->index, __ATOMIC_RELEASE);
	return true;
}

int vf_doorbell_ring(const struct vf_doorbell *db)
{
	uint64_t one = 1;

	if (db->way == VF_WAY_FORWARD)
		return write(db->forward_fd, &one, sizeof(one)) == sizeof(one) ? 0 : -EIO;
	return ring_by_store(db) ? 0 : vf_function_kick(&db->vd->fn, db->index, db->notify_off);
}

/*
 * Whoever served the queue before, a relay or a software device, may have been stopped at work,
 * when the driver need not ring. A function may never write that word (2.7.10.1): the driver would
 * be silent for ever.
 */
int vf_doorbell_hand_over(struct vf_doorbell *db)
{
	struct vf_dev *vd = db->vd;
	const uint16_t flags = 0; /* the first word of the used ring */
	int err = gmem_write(&vd->vdev.vm->mem, vd->queues[db->q].device, &flags, sizeof(flags));

	return err ? err : vf_function_kick(&vd->fn, db->index, db->notify_off);
}

void vf_doorbell_relay(struct vf_doorbell *db)
{
	vm_lock(db->vd->vdev.vm);
	db->way = VF_WAY_REGISTER;
	db->why = "the control queue is relayed";
	vm_unlock(db->vd->vdev.vm);
}

int vf_doorbell_init(struct vf_doorbell *db, struct vf_dev *vd, unsigned int q)
{
	int err;

	*db = (struct vf_doorbell){ .vd = vd, .q = q, .forward_fd = -1, .kick_fd = -1 };
	db->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (db->kick_fd < 0)
		return -errno;
	err = loop_add_eventfd(vd->loop, &db->watch, db->kick_fd, watch_ready);
	if (err) {
		close(db->kick_fd);
		db->kick_fd = -1;
	}
	return err;
}

void vf_doorbell_fini(struct vf_doorbell *db)
{
	loop_del(&db->watch);
	if (db->kick_fd >= 0)
		close(db->kick_fd);
	db->kick_fd = -1;
	vf_doorbell_unmap(db);
}

/* --- under the control lock ------------------------------------------------------------------ */

void vf_doorbell_answer(const struct vf_doorbell *db, struct vdev_doorbell *out)
{
	out->kind = db->way == VF_WAY_MAPPED ? DOORBELL_MAPPED : DOORBELL_EVENTFD;
	out->fd = db->way == VF_WAY_FORWARD ? db->forward_fd : db->kick_fd;
	out->page = db->way == VF_WAY_MAPPED ? db->page : NULL;
	out->why = db->why;
}

void vf_doorbell_signal(const struct vf_doorbell *db)
{
	uint64_t one = 1;

	/* Full, and nobody reads it: the loop has been told often enough. */
	if (write(db->kick_fd, &one, sizeof(one)) < 0)
		return;
}
