/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_disk.c - what unvmm itself asks of an assigned disk: its serial number, before there is a
 * guest, so that this does not go on with another disk elsewhere; and a FLUSH, before another host
 * reads the storage behind it. On a ring of unvmm's in the window of the relay, while the guest's
 * own rings are not the function's. The vf thread.
 */
#include "vf_dev.h"

#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#define VF_FLUSH_MS 10000
#define VF_ID_MS    1000
#define POLL_NS	    50000

/* The window, of which a relay does not need anything now: ring, request, what is written. */
#define RING_AT	  0
#define HEADER_AT PAGE_SIZE_4K
#define ANSWER_AT (HEADER_AT + 64)

#define STATUS_NONE 0xff

struct request {
	uint32_t type;
	const char *name;
	uint32_t len; /* bytes that are written before the status */
	unsigned int ms;
};

_Static_assert(ANSWER_AT + VIRTIO_BLK_ID_BYTES + 1 <= RELAY_BYTES,
	       "a request fits what a relayed queue has");

static int wait_for(struct vf_dev *vd, const struct request *rq, struct vf_ring *r, struct diag *d)
{
	const uint8_t *status = vd->relays.window + ANSWER_AT + rq->len;
	const struct timespec pause = { .tv_nsec = POLL_NS };
	uint64_t until = loop_now() + rq->ms * 1000000ull;
	int got;

	while (!(got = vf_ring_take(r))) {
		if (loop_now() >= until)
			return diag_set(d, -ETIMEDOUT, "its %s is not finished within %u s",
					rq->name, rq->ms / 1000);
		if (vd->lost)
			return diag_set(d, -ENODEV, "it is gone");
		nanosleep(&pause, NULL);
	}
	if (got < 0)
		return diag_set(d, got, "it gives back what it was not given");
	if (__atomic_load_n(status, __ATOMIC_RELAXED) != VIRTIO_BLK_S_OK)
		return diag_set(d, -EIO, "it says that its %s failed", rq->name);
	return 0;
}

/* Its data and its status are one buffer: how a request is cut is the driver's matter (2.7.4). */
static int ask(struct vf_dev *vd, const struct request *rq, struct vf_ring *r,
	       const struct vf_plan_queue *pq, struct diag *d)
{
	uint8_t *window = vd->relays.window;
	uint64_t iova = vd->relays.iova;
	struct virtio_blk_outhdr header = { .type = htole32(rq->type) };

	memcpy(window + HEADER_AT, &header, sizeof(header));
	memset(window + ANSWER_AT, 0, rq->len);
	window[ANSWER_AT + rq->len] = STATUS_NONE;
	vf_ring_post(r, iova + HEADER_AT, sizeof(header), iova + ANSWER_AT, rq->len + 1);
	if (vf_function_kick(&vd->fn, pq->index, pq->notify_off))
		return diag_set(d, -EIO, "its doorbell cannot be written");
	return wait_for(vd, rq, r, d);
}

/* Its first queue, with nothing of the guest's. */
static int ask_alone(struct vf_dev *vd, uint64_t negotiated, const struct request *rq,
		     struct diag *d)
{
	struct vf_plan plan = { .features = (negotiated & vd->offer.to_function) | vd->offer.ours,
				.ring_words = vf_vendor_usable(vd),
				.nqueues = 1 };
	struct vf_plan_queue *pq = &plan.queues[0];
	bool cancel = __atomic_exchange_n(&vd->fn.cancel, false, __ATOMIC_RELAXED);
	struct vf_ring ring;
	int err, stopped;

	vf_ring_init(&ring, vd->relays.window + RING_AT, vd->relays.iova + RING_AT,
		     VF_RING_SIZE_MAX);
	*pq = (struct vf_plan_queue){ .size = ring.size,
				      .vector = 1,
				      .desc = ring.iova,
				      .driver = ring.avail_iova,
				      .device = ring.used_iova };
	err = vf_program_start(&vd->fn, &plan, d);
	if (!err) {
		err = ask(vd, rq, &ring, pq, d);
		stopped = vf_program_stop(&vd->fn, err ? NULL : d);
		err = err ? err : stopped;
	}
	__atomic_store_n(&vd->fn.cancel, cancel, __ATOMIC_RELAXED);
	return err;
}

/* --- which one it is ---------------------------------------------------------------------------
 */

/* It is shown to people, and comes from the function. */
static void keep_serial(struct vf_dev *vd, const uint8_t *serial)
{
	for (unsigned int i = 0; i < sizeof(vd->serial) && serial[i]; i++)
		vd->serial[i] = isprint(serial[i]) ? (char)serial[i] : '?';
}

void vf_disk_identify(struct vf_dev *vd)
{
	static const struct request id = { VIRTIO_BLK_T_GET_ID, "GET_ID", VIRTIO_BLK_ID_BYTES,
					   VF_ID_MS };
	uint8_t serial[VIRTIO_BLK_ID_BYTES];
	struct diag d = { "" };
	int err;

	if (vd->vdev.device_id != VIRTIO_ID_BLOCK || vd->serial[0])
		return;
	err = vf_relays_map(vd, &d);
	if (!err)
		err = ask_alone(vd, vd->vdev.offered, &id, &d);
	if (err) {
		log_info("%s: function %s: which disk it is it does not say: %s", vd->vdev.id,
			 vd->name, d.text);
	} else {
		memcpy(serial, vd->relays.window + ANSWER_AT, sizeof(serial));
		keep_serial(vd, serial);
	}
}

/* --- what it has in a cache of its own ---------------------------------------------------------
 */

/* Only in the switch: a function that runs is told by its own driver. */
static int flush(struct vf_dev *vd, struct diag *d)
{
	static const struct request rq = { VIRTIO_BLK_T_FLUSH, "FLUSH", 0, VF_FLUSH_MS };
	int err;

	if (!vd->tracked || vd->phase != VF_DOWN || vd->lost || vd->trouble ||
	    vd->vdev.device_id != VIRTIO_ID_BLOCK ||
	    !(vd->negotiated & VIRTIO_BIT(VIRTIO_BLK_F_FLUSH)))
		return 0;
	/* Holding its state it would take no mapping; given up, the guest's source puts it back. */
	vf_opaque_let_go(vd);
	err = vf_relays_map(vd, d);
	return err ? err : ask_alone(vd, vd->negotiated, &rq, d);
}

int vf_sync(struct device *dev)
{
	struct vf_dev *vd = dev->priv;
	struct diag d = { "" };
	int err = vf_call(vd, flush, &d);

	if (err)
		log_warn("%s: function %s: %s", dev->id, vd->name, d.text);
	return err;
}
