/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf.c - an assigned virtio function as a device: what the guest's control path does to it.
 *
 *   guest: register write -> journal (virtio_pci.c) -> op here -> work on the vf thread -> function
 *   guest: doorbell       -> the function's own page: nobody here hears of it
 *   function: interrupt   -> eventfd -> irqfd -> guest: likewise
 *
 * The ops run under the control lock and only leave a note; the works run on the vf thread, make
 * all calls to the function, and never hold the lock over one. Options and life are in vf_create.c.
 */
#include "net_command.h"
#include "vf_dev.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* --- what can go wrong ----------------------------------------------------------------------- */

#define LOST_MENDED "; the machine runs on without it, and has it again when it is started anew"

/* For those who wait in vf_track.c. */
static void settled(struct vf_dev *vd)
{
	uint64_t one = 1;

	/* Full: it has been said often enough. */
	if (write(vd->relays.settled_fd, &one, sizeof(one)) < 0)
		return;
}

void vf_failed(struct vf_dev *vd, const char *why)
{
	bool said = !strcmp(vd->fault.text, why); /* another driver meets the same */
	struct diag d = { "" };

	vd->trouble = true;
	if (!said) {
		vd->fault.text[0] = '\0';
		diag_set(&vd->fault, -EIO, "%s", why);
	}
	diag_set(&d, -EIO, "function %s: %s", vd->name, why);
	/* Of one that was lost in the middle of a call vf_lost(), which comes, says why. */
	if ((vd->lost || !vf_gone(vd->fn.vf)) && !vf_fallback_begin(vd, d.text))
		vdev_needs_reset(&vd->vdev, said ? NULL : d.text);
	settled(vd);
}

/* If it does not stop, bus mastering has been taken from it. */
static void stop_function(struct vf_dev *vd)
{
	struct diag d = { "" };
	int err = vf_program_stop(&vd->fn, &d);

	if (!err && d.text[0])
		log_warn("%s: function %s: %s; a reset of all of it has stopped it", vd->vdev.id,
			 vd->name, d.text);
	else if (err && err != -ENODEV && !vf_gone(vd->fn.vf))
		log_error("%s: function %s: %s", vd->vdev.id, vd->name, d.text);
	vd->phase = VF_DOWN;
}

static void keep_indexes(struct vf_dev *vd, bool ran, int ctrl, uint16_t ctrl_index)
{
	if (ctrl >= 0)
		vd->queues[ctrl].index = ctrl_index;
	vm_lock(vd->vdev.vm);
	vd->up = false;
	for (unsigned int q = 0; q < vd->vdev.nqueues && ran; q++)
		if (vd->queues[q].enabled)
			vd->vdev.queues[q].index = vd->queues[q].index;
	vm_unlock(vd->vdev.vm);
}

/* Stops it if it is `there` still. Doorbells come to the vf thread again, which drops them. */
static void go_down(struct vf_dev *vd, bool there)
{
	bool ran = vd->phase != VF_DOWN;
	int ctrl = vd->cvq.running ? (int)vd->cvq.q : -1;
	uint16_t ctrl_index = vf_cvq_stop(&vd->cvq);

	if (ran && there)
		stop_function(vd);
	vd->phase = VF_DOWN;
	vf_relays_stop(vd);
	keep_indexes(vd, ran, ctrl, ctrl_index);
	vm_lock(vd->vdev.vm);
	virtio_pci_rewire(&vd->vdev);
	vm_unlock(vd->vdev.vm);
}

void vf_lost(struct vf *vf, const char *why)
{
	struct vf_dev *vd = vf->owner;
	struct diag d = { "" };

	if (vd->lost)
		return;
	if (vd->phase != VF_DOWN || !vd->trouble)
		go_down(vd, false);
	vd->lost = true;
	diag_set(&d, -ENODEV, "it is gone: %s" LOST_MENDED, why);
	vf_failed(vd, d.text);
}

void vf_abandon(struct vf_dev *vd, const char *why)
{
	struct diag d = { "" };

	go_down(vd, true);
	vd->lost = true;
	diag_set(&d, -ENODEV, "%s" LOST_MENDED, why);
	vf_failed(vd, d.text);
}

void vf_give_up(struct vf_dev *vd, struct diag *d)
{
	go_down(vd, true);
	vf_failed(vd, d->text);
}

/* --- start ----------------------------------------------------------------------------------- */

static void copy_journal(struct vf_dev *vd)
{
	vm_lock(vd->vdev.vm);
	vd->negotiated = vd->vdev.negotiated;
	memcpy(vd->queues, vd->vdev.queues, sizeof(vd->queues));
	vm_unlock(vd->vdev.vm);
}

/* Rings that no software device would accept are not given to the function either. */
static int check_ring(const struct vf_dev *vd, unsigned int q, struct diag *d)
{
	const struct vdev_queue *queue = &vd->queues[q];
	const struct vq_layout layout = { .size = queue->size,
					  .desc = queue->desc,
					  .avail = queue->driver,
					  .used = queue->device };
	struct vq probe;
	int err = vq_start(&probe, &vd->vdev.vm->mem, &layout, vd->negotiated, 0);

	return err ? diag_errno(d, err, "the rings of queue %u cannot be used", q) : 0;
}

/*
 * A plain function begins at index 0, and nobody can tell it otherwise; so does a driver, after a
 * reset. A ring that has gone on (it came from another host, or the guest took bus mastering away
 * and gave it back) is driven through a relay.
 */
static int plan_data(struct vf_dev *vd, unsigned int q, struct vf_plan_queue *pq, struct diag *d)
{
	const struct vdev_queue *queue = &vd->queues[q];

	int err;

	*pq = (struct vf_plan_queue){ .index = (uint16_t)q,
				      .size = queue->size,
				      .vector = (uint16_t)(q + 1),
				      .desc = queue->desc,
				      .driver = queue->driver,
				      .device = queue->device };
	err = check_ring(vd, q, d);
	return err ? err : vf_relay_plan(vd, q, pq, d);
}

static int make_plan(struct vf_dev *vd, int ctrl, struct diag *d)
{
	struct vf_plan *p = &vd->plan;
	int err = 0;

	*p = (struct vf_plan){ .features =
				       (vd->negotiated & vd->offer.to_function) | vd->offer.ours,
			       .ring_words = vf_vendor_usable(vd) };
	for (unsigned int q = 0; q < vd->vdev.nqueues && !err; q++) {
		struct vf_plan_queue *pq = &p->queues[p->nqueues];

		if (!vd->queues[q].enabled)
			continue;
		vd->plan_of[q] = p->nqueues++;
		if ((int)q != ctrl) {
			err = plan_data(vd, q, pq, d);
			continue;
		}
		/* Its vector is the last one, whatever its number is. */
		*pq = (struct vf_plan_queue){ .index = vf_cvq_function_queue(vd, vd->negotiated),
					      .vector = vd->vdev.nqueues };
		vf_cvq_plan(&vd->cvq, pq);
	}
	return err;
}

static int prepare_doorbells(struct vf_dev *vd, int ctrl, struct diag *d)
{
	int err = 0;

	for (unsigned int q = 0; q < vd->vdev.nqueues && !err; q++) {
		const struct vf_plan_queue *pq = &vd->plan.queues[vd->plan_of[q]];

		if (!vd->queues[q].enabled)
			continue;
		if ((int)q == ctrl)
			vf_doorbell_relay(&vd->doorbells[q]);
		else
			err = vf_doorbell_prepare(&vd->doorbells[q], pq->index, pq->notify_off, d);
	}
	return err;
}

/* Which rung of the ladder this start is on, if it is no driver's that has just begun. */
static void note_rung(struct vf_dev *vd, bool knows)
{
	bool goes_on = knows;

	for (unsigned int q = 0; q < vd->vdev.nqueues; q++)
		goes_on |= vd->queues[q].enabled && vd->queues[q].index;
	if (!goes_on)
		return;
	vm_lock(vd->vdev.vm);
	vd->by = knows				    ? VF_RUNG_STATE
		 : vf_relays_any(vd, VF_PATH_RELAY) ? VF_RUNG_RELAY
						    : VF_RUNG_REGISTERS;
	vm_unlock(vd->vdev.vm);
}

static int start_function(struct vf_dev *vd, struct diag *d)
{
	bool knows = vf_opaque_usable(vd);
	int ctrl = vf_cvq_queue(vd, vd->negotiated), err;

	vd->fresh = true;
	err = make_plan(vd, ctrl, d);

	if (ctrl >= 0 && !vd->queues[ctrl].enabled)
		ctrl = -1;
	if (!err)
		err = vf_relays_wire(vd, d);
	if (!err)
		err = knows ? vf_opaque_start(vd, d) : vf_program_start(&vd->fn, &vd->plan, d);
	if (err)
		return err;
	note_rung(vd, knows);
	vf_lap(vd, &vd->relays.pause.program);
	vd->phase = VF_STARTING;
	err = prepare_doorbells(vd, ctrl, d);
	if (!err && ctrl >= 0)
		return vf_cvq_start(&vd->cvq, (unsigned int)ctrl, &vd->queues[ctrl],
				    &vd->plan.queues[vd->plan_of[ctrl]], knows, d);
	if (!err)
		vf_up(vd);
	return err;
}

static void try_start(struct vf_dev *vd)
{
	struct diag d = { "" };
	int err;

	if (!vf_opaque_usable(vd) && vd->opaque.data && !vd->tracking)
		vf_opaque_drop(vd); /* of a driver that is no more */
	err = vd->lost ? diag_set(&d, -ENODEV, "%s", vd->fault.text) : start_function(vd, &d);
	if (err && err != -ECANCELED && !vd->lost && vf_opaque_usable(vd)) {
		log_warn("%s: function %s goes on by its journal: %s", vd->vdev.id, vd->name,
			 d.text);
		vf_opaque_drop(vd);
		vd->phase = VF_DOWN;
		err = start_function(vd, &d);
	}
	if (!err)
		return;
	go_down(vd, true);
	/* Not wanted any more: the stop that says so is the next work. */
	if (err != -ECANCELED)
		vf_failed(vd, d.text);
}

static void start_work(struct loop_work *w)
{
	struct vf_dev *vd = container_of(w, struct vf_dev, start_work);

	vd->trouble = false;
	if (vd->relays.mark)
		vd->relays.mark = loop_now();
	/* For a guest that has come from elsewhere all but this has been done. */
	if (vd->phase == VF_ARMED) {
		__atomic_store_n(&vd->arming, false, __ATOMIC_RELAXED);
		vf_up(vd);
		return;
	}
	copy_journal(vd);
	try_start(vd);
}

int vf_arm(struct vf_dev *vd, struct diag *d)
{
	int err;

	/* Those who know where their queues stand are told to go on when the guest does. */
	if (vf_opaque_usable(vd) || vf_vendor_usable(vd))
		return 0;
	__atomic_store_n(&vd->fn.cancel, false, __ATOMIC_RELAXED);
	vd->trouble = false;
	__atomic_store_n(&vd->arming, true, __ATOMIC_RELAXED);
	copy_journal(vd);
	err = vd->lost ? diag_set(d, -ENODEV, "it is gone") : start_function(vd, d);
	if (err)
		vf_disarm(vd);
	return err;
}

void vf_disarm(struct vf_dev *vd)
{
	if (!vd->arming)
		return;
	__atomic_store_n(&vd->arming, false, __ATOMIC_RELAXED);
	(void)vf_cvq_stop(&vd->cvq);
	if (vd->phase != VF_DOWN)
		stop_function(vd);
	vf_relays_stop(vd);
}

void vf_restart(struct vf_dev *vd)
{
	go_down(vd, true);
	try_start(vd);
}

void vf_lap(struct vf_dev *vd, uint64_t *part)
{
	uint64_t now = loop_now();

	if (!vd->relays.mark)
		return;
	vm_lock(vd->vdev.vm);
	*part = now - vd->relays.mark;
	vm_unlock(vd->vdev.vm);
	vd->relays.mark = now;
}

/*
 * From here on the guest's stores go past us. What it rang since DRIVER_OK was not passed on, so
 * every queue is kicked once.
 */
void vf_up(struct vf_dev *vd)
{
	struct diag d = { "" };
	bool stopping;

	if (vd->arming) {
		vd->phase = VF_ARMED;
		settled(vd);
		return;
	}
	vd->phase = VF_UP;
	vd->fault.text[0] = '\0';
	vm_lock(vd->vdev.vm);
	vd->up = true;
	virtio_pci_rewire(&vd->vdev);
	stopping = __atomic_load_n(&vd->fn.cancel, __ATOMIC_RELAXED);
	vm_unlock(vd->vdev.vm);
	/* Without bus mastering: what the guest makes available from now on is not to be served. */
	for (unsigned int q = 0; q < vd->vdev.nqueues && !stopping; q++) {
		if (!vd->queues[q].enabled)
			continue;
		if (vd->cvq.running && vd->cvq.q == q)
			vf_cvq_serve(&vd->cvq);
		else if (vd->relays.queues[q].path == VF_PATH_RELAY)
			vf_relay_serve(vd, q);
		else if (vf_doorbell_hand_over(&vd->doorbells[q]))
			diag_set(&d, -EIO, "doorbell %u cannot be written", q);
		if (d.text[0])
			vf_give_up(vd, &d);
		if (vd->phase != VF_UP)
			break; /* that, or what was found in a ring, was the end of it */
	}
	vd->fresh = false;
	/*
	 * What was signalled to whoever served the queues before may not have come along. A driver
	 * that has just begun finds nothing to do.
	 */
	for (unsigned int q = 0; q < vd->vdev.nqueues; q++)
		if (vd->relays.queues[q].path != VF_PATH_OFF)
			vdev_interrupt(&vd->vdev, q);
	vf_lap(vd, &vd->relays.pause.start);
	vd->relays.mark = 0;
	vm_lock(vd->vdev.vm);
	vd->relays.pause.end = loop_now();
	vm_unlock(vd->vdev.vm);
	settled(vd);
}

/* --- stop ------------------------------------------------------------------------------------ */

static void stop_work(struct loop_work *w)
{
	struct vf_dev *vd = container_of(w, struct vf_dev, stop_work);
	bool ran = vd->phase != VF_DOWN;
	int ctrl = vd->cvq.running ? (int)vd->cvq.q : -1;
	uint16_t ctrl_index = vf_cvq_stop(&vd->cvq);

	/* Taken for the switch it stands already. */
	if (vd->opaque.held)
		vd->phase = VF_DOWN;
	else if (ran)
		stop_function(vd);
	vf_relays_stop(vd);
	vf_lap(vd, &vd->relays.pause.stop);
	keep_indexes(vd, ran, ctrl, ctrl_index);
	vdev_stopped(&vd->vdev);
}

/* --- while it runs --------------------------------------------------------------------------- */

/* Vector 0: something in the device configuration has changed, or the function is in trouble. */
static int look_at_config(struct vf_dev *vd, struct diag *d)
{
	union vf_config fresh;
	uint8_t status;
	bool changed;
	int err = vf_status(&vd->fn, &status, d);

	if (!err && status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return diag_set(d, -EIO, "it asks for a reset");
	if (!err)
		err = vf_config_read(&vd->fn, &fresh, d);
	if (!err)
		err = vf_config_adopt(&vd->fn, &vd->offer, &fresh, d);
	err = vf_function_blame(&vd->fn, err, d);
	if (err)
		return err;
	vm_lock(vd->vdev.vm);
	changed = vf_config_follow(vd->vdev.device_id, &vd->config, &fresh);
	vm_unlock(vd->vdev.vm);
	if (changed)
		vdev_config_changed(&vd->vdev);
	return 0;
}

void vf_config_ready(struct loop_fd *lf, uint32_t revents)
{
	struct vf_dev *vd = container_of(lf, struct vf_dev, config_watch);
	struct diag d = { "" };

	(void)revents;
	if (vd->phase != VF_DOWN && !vd->lost && look_at_config(vd, &d))
		vf_give_up(vd, &d);
}

/* A page of a function, ours or another's, was not there when a vcpu stored into it. */
static void fault_work(struct loop_work *w)
{
	struct vf_dev *vd = container_of(w, struct vf_dev, fault_work);
	struct diag d = { "" };
	uint8_t status;

	if (vd->phase != VF_UP || vd->lost)
		return;
	if (vf_status(&vd->fn, &status, &d)) {
		vf_give_up(vd, &d);
		return;
	}
	vm_lock(vd->vdev.vm);
	virtio_pci_rewire(&vd->vdev);
	vm_unlock(vd->vdev.vm);
}

/* --- the vdev's ops: control lock ------------------------------------------------------------ */

static void vf_reset(struct vdev *v)
{
	struct vf_dev *vd = vf_of_vdev(v);

	__atomic_store_n(&vd->opaque.forget, true, __ATOMIC_RELAXED);
	vd->by = NULL;
	if (v->device_id != VIRTIO_ID_NET)
		return;
	vf_cvq_forget(&vd->cvq);
	memcpy(vd->config.net.mac, vd->own.net.mac, ETH_ALEN);
}

static int vf_start(struct vdev *v)
{
	struct vf_dev *vd = vf_of_vdev(v);

	__atomic_store_n(&vd->fn.cancel, false, __ATOMIC_RELAXED);
	loop_call(vd->loop, &vd->start_work);
	return 1;
}

static void vf_stop(struct vdev *v)
{
	struct vf_dev *vd = vf_of_vdev(v);

	__atomic_store_n(&vd->fn.cancel, true, __ATOMIC_RELAXED);
	loop_call(vd->loop, &vd->stop_work);
}

/* Until the function is up, doorbells come to the vf thread; a trap would hold up the vcpu. */
static void vf_doorbell(struct vdev *v, unsigned int q, struct vdev_doorbell *out)
{
	const struct vf_dev *vd = vf_of_vdev(v);

	bool relayed = vd->relays.queues[q].path == VF_PATH_RELAY;

	if (vd->up && !relayed)
		vf_doorbell_answer(&vd->doorbells[q], out);
	else
		*out = (struct vdev_doorbell){
			.kind = DOORBELL_EVENTFD,
			.fd = vd->doorbells[q].kick_fd,
			.why = relayed ? "the queue is relayed" : "the function is being programmed"
		};
}

static void vf_kick(struct vdev *v, unsigned int q)
{
	vf_doorbell_signal(&vf_of_vdev(v)->doorbells[q]);
}

static void vf_doorbell_fault(struct vdev *v)
{
	struct vf_dev *vd = vf_of_vdev(v);

	loop_call(vd->loop, &vd->fault_work);
}

static void vf_config_read_op(struct vdev *v, unsigned int off, void *buf, unsigned int len)
{
	const struct vf_dev *vd = vf_of_vdev(v);
	union vf_config c = vd->config;

	if (v->device_id == VIRTIO_ID_NET && vd->cvq.ctrl.announce)
		c.net.status |= VIRTIO_NET_S_ANNOUNCE;
	memcpy(buf, c.bytes + off, len);
}

/* The function would refuse later, at FEATURES_OK of the program, when the guest cannot choose. */
static bool vf_accept_features(const struct vdev *v, uint64_t features)
{
	return v->device_id != VIRTIO_ID_NET || net_features_acceptable(features);
}

const struct vdev_ops vf_vdev_ops = {
	.accept_features = vf_accept_features,
	.reset = vf_reset,
	.start = vf_start,
	.stop = vf_stop,
	.doorbell = vf_doorbell,
	.kick = vf_kick,
	.doorbell_fault = vf_doorbell_fault,
	.config_read = vf_config_read_op,
};

void vf_init_works(struct vf_dev *vd)
{
	vd->start_work.fn = start_work;
	vd->stop_work.fn = stop_work;
	vd->fault_work.fn = fault_work;
}
