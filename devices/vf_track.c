/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_track.c - an assigned function in a migration: from when its writes to guest memory are seen,
 * how it stands still for the switch, and how it goes on. Main, or the migration thread for
 * vf_track_sync(); neither holds the control lock. What is done to the function is done by the vf
 * thread.
 *
 * The ladder: a function that logs its DMA goes on as it is; the queues of any other are relayed,
 * for which it is stopped once and begins anew (device.h: track_begin).
 */
#include "vf_dev.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* Of one report: 8 KiB of bitmap. */
#define REPORT_BYTES MiB(256)

/* --- on the vf thread ------------------------------------------------------------------------ */

static int start_log(struct vf_dev *vd, struct diag *d)
{
	const struct gmem *g = &vd->vdev.vm->mem;
	struct vf_range ranges[GMEM_REGIONS_MAX];
	int err;

	for (unsigned int i = 0; i < g->nregions; i++)
		ranges[i] = (struct vf_range){ g->regions[i].gpa, g->regions[i].size };
	err = vd->fn.vf->ops->log_start(vd->fn.vf, ranges, g->nregions);
	if (err)
		return diag_errno(d, err, "its DMA log does not start");
	vd->logging = true;
	return 0;
}

/* 1: it has to be stopped once; 0: its writes are seen from now on. */
static int begin(struct vf_dev *vd, struct diag *d)
{
	struct vf_mig_caps caps = { 0 };
	int err;

	if (vd->lost)
		return diag_set(d, -ENODEV, "it is gone");
	if (vd->tracking)
		return 0;
	vf_disarm(vd); /* it came here paused, and has not run since: it begins anew */
	if (!vd->fn.vf->ops->mig_caps(vd->fn.vf, &caps) && caps.dma_log) {
		err = start_log(vd, d);
		if (err)
			return err;
		vd->tracking = true;
		vf_opaque_begin(vd);
		return 0;
	}
	err = vf_relays_map(vd, d);
	if (err)
		return err;
	vd->tracking = true;
	/* Relayed still, from a migration before. */
	vf_relays_return(vd, false);
	return vd->phase != VF_DOWN && vf_relays_any(vd, VF_PATH_DIRECT);
}

/* 1: not yet. */
static int begun(struct vf_dev *vd, struct diag *d)
{
	if (vd->lost || vd->trouble)
		return diag_set(d, -EIO, "it failed while its queues became relayed: %s",
				vd->fault.text);
	if (vd->phase == VF_STARTING)
		return 1;
	if (!vd->logging && vd->phase == VF_UP && vf_relays_any(vd, VF_PATH_DIRECT))
		return diag_set(d, -EIO, "its queues are not relayed");
	vd->tracked = true;
	return 0;
}

static int end(struct vf_dev *vd, struct diag *d)
{
	(void)d;
	if (vd->logging && !vd->lost && vd->fn.vf->ops->log_stop(vd->fn.vf))
		log_warn("%s: function %s: its DMA log does not stop", vd->vdev.id, vd->name);
	vf_opaque_end(vd);
	vd->logging = vd->tracking = vd->tracked = false;
	vf_relays_return(vd, true);
	return 0;
}

static int report_part(struct vf_dev *vd, uint64_t gpa, uint64_t size, struct diag *d)
{
	uint64_t bits[REPORT_BYTES / PAGE_SIZE_4K / 64];
	int err;

	memset(bits, 0, sizeof(bits));
	err = vd->fn.vf->ops->log_report(vd->fn.vf, gpa, size, bits);
	if (err)
		return diag_errno(d, err, "its DMA log cannot be read");
	for (uint64_t page = 0; page < size / PAGE_SIZE_4K; page++)
		if (bits[page / 64] >> (page % 64) & 1)
			gmem_mark_dirty(&vd->vdev.vm->mem, gpa + page * PAGE_SIZE_4K, PAGE_SIZE_4K);
	return 0;
}

static int report(struct vf_dev *vd, struct diag *d)
{
	const struct gmem *g = &vd->vdev.vm->mem;
	int err = 0;

	if (!vd->logging)
		return 0;
	vf_opaque_collect(vd);
	for (unsigned int i = 0; i < g->nregions; i++)
		for (uint64_t at = 0; at < g->regions[i].size && !err; at += REPORT_BYTES) {
			uint64_t rest = g->regions[i].size - at;

			err = report_part(vd, g->regions[i].gpa + at,
					  rest < REPORT_BYTES ? rest : REPORT_BYTES, d);
		}
	return err;
}

/*
 * The vcpus are parked. 1: the function is ready to be stopped. 0: nothing needs that: a plain
 * pause leaves it alone, for while nobody gives it anything it has soon nothing to do.
 */
static int still(struct vf_dev *vd, struct diag *d)
{
	bool enters = vd->tracking && !vd->logging;
	int err;

	if (vd->phase == VF_DOWN || vd->phase == VF_ARMED)
		return 1;
	if (!enters && !vd->tracked && !vf_relays_any(vd, VF_PATH_RELAY))
		return 0;
	if (vd->phase != VF_UP)
		return 1;
	vd->relays.mark = loop_now();
	err = vf_relays_drain(vd, d);
	vf_lap(vd, &vd->relays.pause.drain);
	if (err) {
		vd->relays.mark = 0;
		return err;
	}
	if (!vf_opaque_take(vd))
		vf_vendor_take(vd);
	return 1;
}

/* No function is to reach for the memory of another that has stopped. */
static int peers(struct vf_dev *vd, struct diag *d)
{
	(void)d;
	vf_opaque_peers(vd);
	return 0;
}

/* What a start would have to do for queues that were elsewhere before. */
static int prepare(struct vf_dev *vd, struct diag *d)
{
	return vd->lost ? diag_set(d, -ENODEV, "it is gone") : vf_relays_map(vd, d);
}

/* 1: not yet. */
static int armed(struct vf_dev *vd, struct diag *d)
{
	if (vd->lost || vd->trouble)
		return diag_set(d, -EIO, "it cannot be started: %s", vd->fault.text);
	return vd->phase == VF_STARTING;
}

/* 1: not yet. It was told to start before this was asked. */
static int up(struct vf_dev *vd, struct diag *d)
{
	(void)d;
	return vd->phase == VF_STARTING;
}

static int disarm(struct vf_dev *vd, struct diag *d)
{
	(void)d;
	vf_disarm(vd);
	return 0;
}

/* --- main ------------------------------------------------------------------------------------ */

static int call(struct vf_dev *vd, int (*fn)(struct vf_dev *vd, struct diag *d), struct diag *d)
{
	int err = vf_call(vd, fn, d);

	if (err < 0)
		diag_prefix(d, "%s: function %s", vd->vdev.id, vd->name);
	return err;
}

int vf_track_begin(struct device *dev, struct diag *d)
{
	return call(dev->priv, begin, d);
}

/* Until `fn` is content: a function's commands are answered in their own time. */
static int wait_for(struct vf_dev *vd, int (*fn)(struct vf_dev *vd, struct diag *d), uint64_t ms,
		    struct diag *d)
{
	struct pollfd p = { .fd = vd->relays.settled_fd, .events = POLLIN };
	uint64_t until = loop_now() + ms * 1000000, count;
	int err;

	while ((err = call(vd, fn, d)) > 0) {
		if (loop_now() >= until)
			return diag_set(d, -ETIMEDOUT, "%s: function %s does not start",
					vd->vdev.id, vd->name);
		if (poll(&p, 1, 100) > 0 && read(p.fd, &count, sizeof(count)) < 0)
			continue;
	}
	return err;
}

int vf_track_wait(struct device *dev, struct diag *d)
{
	return wait_for(dev->priv, begun, VF_CVQ_MS, d);
}

int vf_track_sync(struct device *dev, struct diag *d)
{
	return call(dev->priv, report, d);
}

void vf_track_end(struct device *dev)
{
	struct diag d = { "" };

	if (call(dev->priv, end, &d))
		log_error("%s", d.text);
}

void vf_track_pause(const struct device *dev, struct track_pause *p)
{
	const struct vf_dev *vd = dev->priv;
	const struct track_pause *own = &vd->relays.pause;

	vm_lock(vd->vdev.vm);
	p->drain += own->drain;
	p->stop += own->stop;
	p->program += own->program;
	p->start += own->start;
	if (own->end > p->end)
		p->end = own->end;
	vm_unlock(vd->vdev.vm);
}

int vf_track_prepare(struct device *dev, struct diag *d)
{
	return call(dev->priv, prepare, d);
}

int vf_track_arm(struct device *dev, struct diag *d)
{
	struct vf_dev *vd = dev->priv;
	bool starts;
	int err;

	vm_lock(vd->vdev.vm);
	starts = virtio_pci_will_start(&vd->vdev);
	vm_unlock(vd->vdev.vm);
	if (!starts)
		return 0;
	err = call(vd, vf_arm, d);
	if (!err)
		err = wait_for(vd, armed, VF_CVQ_MS, d);
	if (err)
		vf_track_disarm(dev);
	return err;
}

void vf_track_disarm(struct device *dev)
{
	struct vf_dev *vd = dev->priv;

	if (__atomic_load_n(&vd->arming, __ATOMIC_RELAXED) && vf_call(vd, disarm, NULL))
		log_warn("%s: its function may run still", dev->id);
}

int vf_quiesce(struct device *dev)
{
	struct vf_dev *vd = dev->priv;
	struct diag d = { "" };
	int err = 0;

	for (struct device *o = vd->vdev.vm->devices; o && !err; o = o->next)
		if (o->cls == dev->cls)
			err = call(o->priv, peers, &d);
	if (!err)
		err = call(vd, still, &d);
	if (err < 0)
		log_warn("%s", d.text);
	return err > 0 ? virtio_pci_quiesce(&vd->vdev) : err;
}

void vf_resume(struct device *dev)
{
	struct vf_dev *vd = dev->priv;
	struct diag d = { "" };

	virtio_pci_resume(&vd->vdev);
	vf_fallback_resume(vd);
	/*
	 * The vcpus would wait for its first answer anyway, and take CPUs meanwhile from those that
	 * it waits for. One that takes longer has to do without.
	 */
	if (wait_for(vd, up, VF_RESUME_MS, &d))
		log_info("%s", d.text);
}

void vf_moved(struct device *dev)
{
	struct vf_dev *vd = dev->priv;

	virtio_pci_moved(&vd->vdev);
	if (vdev_has(&vd->vdev, VIRTIO_NET_F_GUEST_ANNOUNCE) &&
	    vd->vdev.device_id == VIRTIO_ID_NET) {
		vd->cvq.ctrl.announce = true;
		vdev_config_changed(&vd->vdev);
	}
}
