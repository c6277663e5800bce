/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_opaque.c - the upper rung of the way back: a function that can say what it knows of itself
 * (VFIO's migration protocol v2, linux/vfio.h), and another of its model that goes on from there at
 * once, its queues where they were and direct. The vf thread, but for vf_opaque_get() and _put().
 *
 *   source:  RUNNING -> [PRE_COPY] -> RUNNING_P2P -> STOP_COPY -> STOP    and, given up, -> RUNNING
 *   target:  RUNNING -> RESUMING -> STOP    and, committed, -> RUNNING
 *
 * Nothing depends on it. The journal travels whatever becomes of these bytes: a disk has been
 * drained and a card begins at its used index, so where a queue stands is one number. A function
 * that fails at any step is reset and programmed by the journal, as one that never could.
 */
#include "vf_dev.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CTRL_MS 1000 /* a command under way at the switch has so long to be answered */
#define PART	KiB(64)

/* --- the head -------------------------------------------------------------------------------- */

/* In the order of the bytes; little-endian. Private to the two functions below. */
struct head {
	char kind[16];
	uint16_t vendor, device, subvendor, subdevice;
	uint64_t features, window;
	uint16_t npairs, nqueues, ctrl_size, ctrl_index;
	uint64_t bytes;
};

_Static_assert(sizeof(struct head) == VF_OPAQUE_HEAD, "the head has no gaps");

void vf_mark_put(const struct vf_mark *m, uint8_t head[VF_OPAQUE_HEAD])
{
	struct head h = { .vendor = htole16(m->vendor),
			  .device = htole16(m->device),
			  .subvendor = htole16(m->subvendor),
			  .subdevice = htole16(m->subdevice),
			  .features = htole64(m->features),
			  .window = htole64(m->window),
			  .npairs = htole16(m->npairs),
			  .nqueues = htole16(m->nqueues),
			  .ctrl_size = htole16(m->ctrl_size),
			  .ctrl_index = htole16(m->ctrl_index),
			  .bytes = htole64(m->bytes) };

	memcpy(h.kind, m->kind, sizeof(h.kind));
	memcpy(head, &h, sizeof(h));
}

int vf_mark_get(struct vf_mark *m, const uint8_t *data, size_t len)
{
	struct head h;

	if (len < sizeof(h))
		return -EINVAL;
	memcpy(&h, data, sizeof(h));
	*m = (struct vf_mark){ .vendor = le16toh(h.vendor),
			       .device = le16toh(h.device),
			       .subvendor = le16toh(h.subvendor),
			       .subdevice = le16toh(h.subdevice),
			       .features = le64toh(h.features),
			       .window = le64toh(h.window),
			       .npairs = le16toh(h.npairs),
			       .nqueues = le16toh(h.nqueues),
			       .ctrl_size = le16toh(h.ctrl_size),
			       .ctrl_index = le16toh(h.ctrl_index),
			       .bytes = le64toh(h.bytes) };
	memcpy(m->kind, h.kind, sizeof(m->kind));
	return m->bytes && m->bytes == len - sizeof(h) ? 0 : -EINVAL;
}

static struct vf_mark own_mark(const struct vf_dev *vd, uint64_t negotiated)
{
	const struct vf_caps *c = &vd->fn.caps;
	bool ctrl = vf_cvq_queue(vd, negotiated) >= 0;
	struct vf_mark m = { .vendor = c->vendor,
			     .device = c->device,
			     .subvendor = c->subvendor,
			     .subdevice = c->subdevice,
			     .features = (negotiated & vd->offer.to_function) | vd->offer.ours,
			     .window = ctrl ? vd->cvq.iova : 0,
			     .npairs = vd->fn_pairs,
			     .nqueues = vd->vdev.nqueues,
			     .ctrl_size = ctrl ? vd->fn_ctrl_size : 0 };

	strncpy(m.kind, vd->kind, sizeof(m.kind) - 1);
	return m;
}

/*
 * The vectors are the function's own numbers, which unvmm gives by the queues' (vf_dev.h), so they
 * agree when the queues do.
 */
static const char *difference(const struct vf_mark *a, const struct vf_mark *b)
{
	if (memcmp(a->kind, b->kind, sizeof(a->kind)) || a->vendor != b->vendor ||
	    a->device != b->device || a->subvendor != b->subvendor || a->subdevice != b->subdevice)
		return "is of another model";
	if (a->npairs != b->npairs || a->nqueues != b->nqueues || a->ctrl_size != b->ctrl_size)
		return "has other queues";
	if (a->features != b->features)
		return "was told other features";
	return a->window != b->window ? "had its control queue at another address" : NULL;
}

/* --- states ---------------------------------------------------------------------------------- */

static int go_to(struct vf_dev *vd, uint32_t state, const char *name, struct diag *d)
{
	struct vf *vf = vd->fn.vf;
	int err = vf->ops->mig_state(vf, state);

	return err ? diag_errno(d, err, "it does not go to %s", name) : 0;
}

static void forget_data(struct vf_opaque *o)
{
	free(o->data);
	o->data = NULL;
	o->len = 0;
	o->whole = o->copying = false;
}

/* From where it stands; without bus mastering, so that nothing comes of it. */
static int to_running(struct vf_dev *vd, uint32_t state, struct diag *d)
{
	int err = 0;

	/* In STOP_COPY a function answers nothing else. */
	if (state == VFIO_DEVICE_STATE_STOP_COPY)
		err = go_to(vd, VFIO_DEVICE_STATE_STOP, "STOP", d);
	if (!err)
		err = vf_bus_master(&vd->fn, false, d);
	return err ? err : go_to(vd, VFIO_DEVICE_STATE_RUNNING, "RUNNING", d);
}

/* Out of every state into RUNNING, and reset. Out of ERROR only a reset of the function leads. */
static int to_reset(struct vf_dev *vd, struct diag *d)
{
	struct vf *vf = vd->fn.vf;
	uint32_t state;
	int err = vf->ops->mig_state_get(vf, &state);

	if (!err && state != VFIO_DEVICE_STATE_RUNNING && state != VFIO_DEVICE_STATE_ERROR) {
		err = to_running(vd, state, d);
		if (err && !vf->ops->mig_state_get(vf, &state) && state == VFIO_DEVICE_STATE_ERROR)
			err = 0;
	}
	if (!err && state == VFIO_DEVICE_STATE_ERROR)
		err = vf->ops->reset(vf);
	return err ? diag_errno(d, err, "it does not come out of its migration")
		   : vf_program_stop(&vd->fn, d);
}

/* Whatever state it is in: after a failure it is asked for. */
static void reset(struct vf_dev *vd)
{
	struct vf_opaque *o = &vd->opaque;
	struct diag d = { "" };

	o->held = o->peers = false;
	if (o->flags && !vd->lost && to_reset(vd, &d))
		vf_abandon(vd, d.text);
}

void vf_opaque_let_go(struct vf_dev *vd)
{
	if (vd->opaque.held)
		reset(vd);
	vd->opaque.peers = false;
}

void vf_opaque_drop(struct vf_dev *vd)
{
	reset(vd);
	forget_data(&vd->opaque);
}

void vf_opaque_fini(struct vf_dev *vd)
{
	forget_data(&vd->opaque);
}

void vf_opaque_find(struct vf_dev *vd)
{
	struct vf_mig_caps caps = { 0 };

	if (vd->fn.vf->ops->mig_caps(vd->fn.vf, &caps))
		return;
	vd->opaque.dma_log = caps.dma_log;
	if (caps.flags & VFIO_MIGRATION_STOP_COPY)
		vd->opaque.flags = caps.flags;
}

/* --- taking it ------------------------------------------------------------------------------- */

/* What there is now. */
static int read_some(struct vf_dev *vd, struct diag *d)
{
	struct vf_opaque *o = &vd->opaque;
	struct vf *vf = vd->fn.vf;
	size_t got = 1;
	int err = 0;

	while (!err && got) {
		uint8_t *more;

		if (o->len + PART > VF_OPAQUE_HEAD + VF_OPAQUE_MAX)
			return diag_set(d, -E2BIG, "its state has more than %llu MiB",
					(unsigned long long)(VF_OPAQUE_MAX >> 20));
		more = realloc(o->data, o->len + PART);
		if (!more)
			return diag_set(d, -ENOMEM, "no memory for its state");
		o->data = more;
		err = vf->ops->mig_read(vf, o->data + o->len, PART, &got);
		if (!err && got > PART)
			err = -EPROTO;
		o->len += err ? 0 : got;
	}
	return err ? diag_errno(d, err, "its state cannot be read") : 0;
}

static int begin_data(struct vf_opaque *o)
{
	forget_data(o);
	o->data = calloc(1, VF_OPAQUE_HEAD);
	o->len = o->data ? VF_OPAQUE_HEAD : 0;
	return o->data ? 0 : -ENOMEM;
}

/* It cannot be read ahead: all of it is read at the switch, then. */
static void give_up_copying(struct vf_dev *vd, const struct diag *d)
{
	struct diag ignored = { "" };

	log_info("%s: function %s: %s", vd->vdev.id, vd->name, d->text);
	if (go_to(vd, VFIO_DEVICE_STATE_RUNNING, "RUNNING", &ignored))
		log_warn("%s: function %s: %s", vd->vdev.id, vd->name, ignored.text);
	forget_data(&vd->opaque);
}

void vf_opaque_begin(struct vf_dev *vd)
{
	struct vf_opaque *o = &vd->opaque;
	struct diag d = { "" };

	if (!(o->flags & VF_MIGRATION_PRE_COPY) || !vd->logging || begin_data(o))
		return;
	o->copying = true;
	if (go_to(vd, VF_STATE_PRE_COPY, "PRE_COPY", &d))
		give_up_copying(vd, &d);
}

void vf_opaque_collect(struct vf_dev *vd)
{
	struct diag d = { "" };

	if (vd->opaque.copying && !vd->opaque.held && read_some(vd, &d))
		give_up_copying(vd, &d);
}

static bool possible(const struct vf_dev *vd)
{
	return vd->opaque.flags && vd->tracked && vd->phase == VF_UP &&
	       !vf_relays_any(vd, VF_PATH_RELAY);
}

void vf_opaque_peers(struct vf_dev *vd)
{
	struct vf_opaque *o = &vd->opaque;
	uint32_t state = o->copying ? VF_STATE_PRE_COPY_P2P : VFIO_DEVICE_STATE_RUNNING_P2P;
	struct diag d = { "" };

	if (o->peers || !(o->flags & VFIO_MIGRATION_P2P) || !possible(vd))
		return;
	o->peers = !go_to(vd, state, "P2P", &d);
	/* Its own way to STOP leads by there, too. */
	if (!o->peers)
		log_info("%s: function %s: %s", vd->vdev.id, vd->name, d.text);
}

/* A reset of the whole function would have ended what it was copying. */
static bool still_copying(const struct vf_dev *vd)
{
	uint32_t state;

	return vd->opaque.copying && !vd->fn.vf->ops->mig_state_get(vd->fn.vf, &state) &&
	       (state == VF_STATE_PRE_COPY || state == VF_STATE_PRE_COPY_P2P);
}

static int take(struct vf_dev *vd, struct diag *d)
{
	struct vf_opaque *o = &vd->opaque;
	struct vf_mark mark = own_mark(vd, vd->negotiated);
	int err = still_copying(vd) ? 0 : begin_data(o);

	if (err)
		return diag_errno(d, err, "its state");
	if (vd->cvq.running && !vf_cvq_idle(&vd->cvq, CTRL_MS))
		err = diag_set(d, -EBUSY, "a command on its control queue has no answer");
	if (!err)
		err = go_to(vd, VFIO_DEVICE_STATE_STOP_COPY, "STOP_COPY", d);
	if (!err)
		err = read_some(vd, d);
	if (!err)
		err = go_to(vd, VFIO_DEVICE_STATE_STOP, "STOP", d);
	if (err)
		return err;
	mark.bytes = o->len - VF_OPAQUE_HEAD;
	mark.ctrl_index = vd->cvq.running ? vd->cvq.ring.next : 0;
	vf_mark_put(&mark, o->data);
	return mark.bytes ? 0 : diag_set(d, -ENODATA, "it has no state");
}

bool vf_opaque_take(struct vf_dev *vd)
{
	struct vf_opaque *o = &vd->opaque;
	struct diag d = { "" };

	if (!possible(vd))
		return false;
	if (take(vd, &d)) {
		log_warn("%s: function %s goes by its journal: %s", vd->vdev.id, vd->name, d.text);
		vf_opaque_drop(vd);
		return false;
	}
	o->copying = o->peers = false;
	o->held = o->whole = true;
	__atomic_store_n(&o->forget, false, __ATOMIC_RELAXED);
	return true;
}

void vf_opaque_end(struct vf_dev *vd)
{
	struct vf_opaque *o = &vd->opaque;
	struct diag d = { "" };

	if (vd->lost || o->held || !(o->copying || o->peers))
		return;
	if (go_to(vd, VFIO_DEVICE_STATE_RUNNING, "RUNNING", &d))
		log_warn("%s: function %s: %s", vd->vdev.id, vd->name, d.text);
	o->peers = false;
	forget_data(o);
}

/* --- putting it back ------------------------------------------------------------------------- */

static int put(struct vf_dev *vd, struct diag *d)
{
	struct vf_opaque *o = &vd->opaque;
	struct vf *vf = vd->fn.vf;
	int err = vf_bus_master(&vd->fn, true, d);

	if (!err)
		err = go_to(vd, VFIO_DEVICE_STATE_RESUMING, "RESUMING", d);
	if (err)
		return err;
	err = vf->ops->mig_write(vf, o->data + VF_OPAQUE_HEAD, o->len - VF_OPAQUE_HEAD);
	if (err)
		return diag_errno(d, err, "its state cannot be written");
	err = go_to(vd, VFIO_DEVICE_STATE_STOP, "STOP", d);
	o->held = !err;
	return err;
}

bool vf_opaque_usable(const struct vf_dev *vd)
{
	return vd->opaque.whole && !__atomic_load_n(&vd->opaque.forget, __ATOMIC_RELAXED);
}

int vf_opaque_start(struct vf_dev *vd, struct diag *d)
{
	struct vf_opaque *o = &vd->opaque;
	int ctrl = vf_cvq_queue(vd, vd->negotiated);
	struct vf_mark mark;
	int err = vf_mark_get(&mark, o->data, o->len);

	if (err || mark.features != vd->plan.features)
		return diag_set(d, -EINVAL, "its state is of another driver");
	for (unsigned int q = 0; q < vd->plan.nqueues; q++) {
		struct vf_plan_queue *pq = &vd->plan.queues[q];

		/* Its registers are not to be touched now: what they said at first must do. */
		if (pq->index >= VDEV_QUEUES_MAX)
			return diag_set(d, -ENOTSUP, "its queue %u is too far behind", pq->index);
		pq->notify_off = vd->fn.queues[pq->index].notify_off;
	}
	/* Its ring is empty, and stands where the function thinks that it does. */
	if (ctrl >= 0 && vd->queues[ctrl].enabled)
		vf_ring_stands_at(&vd->cvq.ring, mark.ctrl_index);
	err = o->held ? vf_bus_master(&vd->fn, true, d) : put(vd, d);
	if (!err)
		err = go_to(vd, VFIO_DEVICE_STATE_RUNNING, "RUNNING", d);
	if (err)
		return err;
	o->held = false;
	forget_data(o);
	return 0;
}

/* --- main: the bytes come and go ------------------------------------------------------------- */

/* The device is quiesced and has said so: nobody else looks at them. */
void vf_opaque_get(struct device *dev, const void **data, size_t *len)
{
	const struct vf_opaque *o = &((const struct vf_dev *)dev->priv)->opaque;

	*data = o->whole ? o->data : NULL;
	*len = o->whole ? o->len : 0;
}

/* The journal that has come is the one that is to be started. */
static int take_over(struct vf_dev *vd, struct diag *d)
{
	struct vf_opaque *o = &vd->opaque;
	uint64_t negotiated;
	struct vf_mark mark, mine;
	const char *why;
	int err;

	vm_lock(vd->vdev.vm);
	negotiated = vd->vdev.negotiated;
	vm_unlock(vd->vdev.vm);
	mine = own_mark(vd, negotiated);
	if (!o->flags || vd->lost)
		return diag_set(d, -EOPNOTSUPP, "it cannot be given any");
	if (vf_mark_get(&mark, o->data, o->len))
		return diag_set(d, -EINVAL, "it is cut short");
	why = difference(&mark, &mine);
	if (why)
		return diag_set(d, -EINVAL, "the function that it comes from %s", why);
	err = put(vd, d);
	if (err)
		return err;
	o->whole = true;
	__atomic_store_n(&o->forget, false, __ATOMIC_RELAXED);
	return 0;
}

static int put_or_drop(struct vf_dev *vd, struct diag *d)
{
	int err = take_over(vd, d);

	if (err)
		vf_opaque_drop(vd);
	return err;
}

void vf_opaque_put(struct device *dev, const void *data, size_t len)
{
	struct vf_dev *vd = dev->priv;
	struct diag d = { "" };

	forget_data(&vd->opaque);
	vd->opaque.data = malloc(len ? len : 1);
	if (!vd->opaque.data)
		return;
	memcpy(vd->opaque.data, data, len);
	vd->opaque.len = len;
	if (vf_call(vd, put_or_drop, &d))
		log_info("%s: function %s goes on by its journal: the state that came with the "
			 "guest "
			 "is of no use here: %s",
			 dev->id, vd->name, d.text);
}
