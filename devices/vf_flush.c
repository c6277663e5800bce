/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_flush.c - before another host reads the storage behind an assigned disk, what the disk has in
 * a cache of its own goes there: a FLUSH from unvmm, on a ring of unvmm's in the window of the
 * relay, while the guest stands and its own rings are not the function's. The vf thread.
 */
#include "vf_dev.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#define VF_FLUSH_MS 10000
#define POLL_NS	    50000

/* The window, of which a relay does not need anything now: ring, request, its status. */
#define RING_AT	  0
#define HEADER_AT PAGE_SIZE_4K
#define STATUS_AT (HEADER_AT + 64)

#define STATUS_NONE 0xff

_Static_assert(STATUS_AT < RELAY_BYTES, "a FLUSH fits what a relayed queue has");

static int wait_for(struct vf_dev *vd, struct vf_ring *r, struct diag *d)
{
	const struct timespec pause = { .tv_nsec = POLL_NS };
	uint64_t until = loop_now() + VF_FLUSH_MS * 1000000ull;
	int got;

	while (!(got = vf_ring_take(r))) {
		if (loop_now() >= until)
			return diag_set(d, -ETIMEDOUT, "its FLUSH is not finished within %u s",
					VF_FLUSH_MS / 1000);
		if (vd->lost)
			return diag_set(d, -ENODEV, "it is gone");
		nanosleep(&pause, NULL);
	}
	if (got < 0)
		return diag_set(d, got, "it gives back what it was not given");
	if (__atomic_load_n(vd->relays.window + STATUS_AT, __ATOMIC_RELAXED) != VIRTIO_BLK_S_OK)
		return diag_set(d, -EIO, "it says that its FLUSH failed");
	return 0;
}

static int request(struct vf_dev *vd, struct vf_ring *r, const struct vf_plan_queue *pq,
		   struct diag *d)
{
	uint8_t *window = vd->relays.window;
	uint64_t iova = vd->relays.iova;
	struct virtio_blk_outhdr header = { .type = htole32(VIRTIO_BLK_T_FLUSH) };

	memcpy(window + HEADER_AT, &header, sizeof(header));
	window[STATUS_AT] = STATUS_NONE;
	vf_ring_post(r, iova + HEADER_AT, sizeof(header), iova + STATUS_AT, 1);
	if (vf_function_kick(&vd->fn, pq->index, pq->notify_off))
		return diag_set(d, -EIO, "its doorbell cannot be written");
	return wait_for(vd, r, d);
}

/* Its first queue, with nothing of the guest's. */
static int flush_alone(struct vf_dev *vd, struct diag *d)
{
	struct vf_plan plan = { .features =
					(vd->negotiated & vd->offer.to_function) | vd->offer.ours,
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
		err = request(vd, &ring, pq, d);
		stopped = vf_program_stop(&vd->fn, err ? NULL : d);
		err = err ? err : stopped;
	}
	__atomic_store_n(&vd->fn.cancel, cancel, __ATOMIC_RELAXED);
	return err;
}

/* Only in the switch: a function that runs is told by its own driver. */
static int flush(struct vf_dev *vd, struct diag *d)
{
	int err;

	if (!vd->tracked || vd->phase != VF_DOWN || vd->lost || vd->trouble ||
	    vd->vdev.device_id != VIRTIO_ID_BLOCK ||
	    !(vd->negotiated & VIRTIO_BIT(VIRTIO_BLK_F_FLUSH)))
		return 0;
	/* Holding its state it would take no mapping; given up, the guest's source puts it back. */
	vf_opaque_let_go(vd);
	err = vf_relays_map(vd, d);
	return err ? err : flush_alone(vd, d);
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
