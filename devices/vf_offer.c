/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_offer.c - what a guest is offered of a function, what the function is told, and what makes it
 * unacceptable. Pure functions; any thread.
 *
 * "portable-1" is the list of offer.c: the guest finds what a software device would show, so it can
 * move to any host. "native" is what the function has, but for what unvmm cannot relay or replay.
 */
#include "vf_dev.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <unvmm/offer.h>

/* Bits newer than the oldest kernel headers that unvmm is built with. */
#define F_ADMIN_VQ	    41
#define F_NOTIF_CONFIG_DATA 39
#define F_SUSPEND	    43
#define NET_F_VQ_NOTF_COAL  52
#define NET_F_DEVICE_STATS  50

/* Never a guest's, of any device: between unvmm and the function, or not to be relayed. */
#define NEVER                                                                           \
	(VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM) | VIRTIO_BIT(VIRTIO_F_RING_PACKED) |      \
	 VIRTIO_BIT(VIRTIO_F_IN_ORDER) | VIRTIO_BIT(VIRTIO_F_SR_IOV) | VIRTIO_BIT(38) | \
	 VIRTIO_BIT(F_NOTIF_CONFIG_DATA) | VIRTIO_BIT(VIRTIO_F_RING_RESET) |            \
	 VIRTIO_BIT(F_ADMIN_VQ) | VIRTIO_BIT(F_SUSPEND))

/*
 * Nor these: commands that the journal of the control queue does not have, or fields behind the
 * device configuration that our devices show.
 */
#define NEVER_NET                                                                   \
	(VIRTIO_BIT(VIRTIO_NET_F_RSS) | VIRTIO_BIT(VIRTIO_NET_F_HASH_REPORT) |      \
	 VIRTIO_BIT(VIRTIO_NET_F_NOTF_COAL) | VIRTIO_BIT(NET_F_VQ_NOTF_COAL) |      \
	 VIRTIO_BIT(NET_F_DEVICE_STATS) | VIRTIO_BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) |  \
	 VIRTIO_BIT(VIRTIO_NET_F_STANDBY) | VIRTIO_BIT(VIRTIO_NET_F_SPEED_DUPLEX) | \
	 VIRTIO_BIT(VIRTIO_NET_F_GSO))
#define NEVER_BLK                                                                      \
	(VIRTIO_BIT(VIRTIO_BLK_F_BARRIER) | VIRTIO_BIT(VIRTIO_BLK_F_SCSI) |            \
	 VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE) | VIRTIO_BIT(VIRTIO_BLK_F_SECURE_ERASE) | \
	 VIRTIO_BIT(17) /* ZONED */)

/* What our software devices offer as they are configured by default. */
#define WANTED_NET                                                                                 \
	(NET_GUEST_OFFLOADS | VIRTIO_BIT(VIRTIO_NET_F_CSUM) | VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO4) | \
	 VIRTIO_BIT(VIRTIO_NET_F_HOST_TSO6) | VIRTIO_BIT(VIRTIO_NET_F_HOST_ECN) |                  \
	 VIRTIO_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
#define WANTED_BLK (VIRTIO_BIT(VIRTIO_BLK_F_DISCARD) | VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES))

/* Answered by unvmm itself: the function need not have them, and never hears of them. */
static uint64_t emulated(uint16_t device_id)
{
	return device_id == VIRTIO_ID_NET ? VIRTIO_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) : 0;
}

/* Real barriers of the guest are right for any function: those that do not ask get them too. */
#define HARMLESS VIRTIO_BIT(VIRTIO_F_ORDER_PLATFORM)

static int refuse_lacking(uint16_t device_id, uint64_t lacks, struct diag *d)
{
	char names[256] = "";

	for (unsigned int bit = 0; bit < 64; bit++) {
		const char *name = lacks & VIRTIO_BIT(bit) ? offer_name(device_id, bit) : NULL;
		size_t at = strlen(names);

		if (name)
			snprintf(names + at, sizeof(names) - at, "%s%s", at ? ", " : "", name);
	}
	return diag_set(d, -ENOTSUP,
			"it lacks %s, which %s promises to the guest; offer = \"native\" takes it "
			"as it is",
			names, OFFER_NAME);
}

static int offer_portable(struct vf_offer *o, const struct vf_function *fn, struct diag *d)
{
	uint16_t id = fn->caps.device_id;
	uint64_t has = fn->features | HARMLESS | emulated(id);
	uint64_t wanted = id == VIRTIO_ID_NET ? WANTED_NET : WANTED_BLK;
	uint64_t lacks = offer_lacks(id, has);

	if (lacks)
		return refuse_lacking(id, lacks, d);
	/* A disk that cannot be written is offered as one: that is no choice of ours. */
	if (id == VIRTIO_ID_BLOCK && has & VIRTIO_BIT(VIRTIO_BLK_F_RO))
		wanted = VIRTIO_BIT(VIRTIO_BLK_F_RO);
	o->guest = offer_features(id, wanted & has);
	return 0;
}

static int offer_native(struct vf_offer *o, const struct vf_function *fn, struct diag *d)
{
	uint16_t id = fn->caps.device_id;
	uint64_t never = NEVER | (id == VIRTIO_ID_NET ? NEVER_NET : NEVER_BLK);

	if (!(fn->features & VIRTIO_BIT(VIRTIO_F_VERSION_1)))
		return diag_set(d, -ENOTSUP,
				"it lacks VERSION_1: it is a device of before virtio 1.0");
	o->guest = (fn->features | HARMLESS) & ~never;
	if (o->guest & VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ))
		o->guest |= emulated(id);
	return 0;
}

/* --- queues ---------------------------------------------------------------------------------- */

static uint16_t min16(uint16_t a, uint16_t b)
{
	return a < b ? a : b;
}

static bool has_ctrl(const struct vf_offer *o)
{
	return o->guest & VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ);
}

/* Pairs, or queues of a disk, that can be given vectors (one is for the configuration) and pages.
 */
static uint16_t queues_possible(const struct vf_function *fn, const struct vf_offer *o)
{
	uint16_t most = min16((uint16_t)(fn->caps.nvectors - 1), VDEV_QUEUES_MAX);

	if (fn->caps.device_id != VIRTIO_ID_NET)
		return min16(most, fn->nqueues);
	most = min16(most, fn->nqueues);
	return has_ctrl(o) ? (most ? (uint16_t)((most - 1) / 2) : 0) : most / 2;
}

static int count_queues(struct vf_offer *o, const struct vf_function *fn, uint16_t queues_has,
			const struct vf_wish *wish, struct diag *d)
{
	bool net = fn->caps.device_id == VIRTIO_ID_NET;
	const char *what = net ? "pairs of queues" : "queues";
	uint16_t most = min16(queues_possible(fn, o), queues_has);
	uint16_t n = wish->queues;

	if (!most)
		return diag_set(
			d, -ENOTSUP,
			"its %u queues and %u vectors are too few: a %s needs %s, and a vector "
			"for each and for the configuration",
			fn->nqueues, fn->caps.nvectors, net ? "network card" : "disk",
			net ? "three queues" : "one queue");
	if (n > most)
		return diag_set(d, -ENOTSUP,
				"it can give the guest %u %s (it has %u queues, %u vectors), and "
				"queues = %u asks for more",
				most, what, fn->nqueues, fn->caps.nvectors, n);
	if (!n)
		n = wish->kind == VF_OFFER_NATIVE ? most : 1;
	o->npairs = net ? n : 0;
	o->nqueues = net ? (uint16_t)(2 * n + has_ctrl(o)) : n;
	return 0;
}

static int size_queues(struct vf_offer *o, const struct vf_function *fn, struct diag *d)
{
	uint16_t ndata = o->npairs ? 2 * o->npairs : o->nqueues;
	uint16_t size = offer_queue_size(fn->caps.device_id);

	for (uint16_t q = 0; q < ndata; q++)
		if (fn->queues[q].size_max < size)
			return diag_set(
				d, -ENOTSUP,
				"its queue %u has at most %u entries; the guest is promised %u", q,
				fn->queues[q].size_max, size);
	o->queue_size = size;
	return 0;
}

/* With several queues only if the guest may use them; with one queue not offered, as by ours. */
static void offer_multiqueue(struct vf_offer *o, const struct vf_function *fn)
{
	uint64_t mq =
		VIRTIO_BIT(fn->caps.device_id == VIRTIO_ID_NET ? VIRTIO_NET_F_MQ : VIRTIO_BLK_F_MQ);

	o->guest &= ~mq;
	if ((o->npairs ? o->npairs : o->nqueues) > 1)
		o->guest |= mq;
}

/* --- all of it ------------------------------------------------------------------------------- */

int vf_offer_make(struct vf_offer *o, const struct vf_function *fn, uint16_t queues_has,
		  const struct vf_wish *wish, struct diag *d)
{
	uint16_t id = fn->caps.device_id;
	uint64_t platform = VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);
	int err;

	memset(o, 0, sizeof(*o));
	if (id != VIRTIO_ID_NET && id != VIRTIO_ID_BLOCK)
		return diag_set(
			d, -ENOTSUP,
			"it is a virtio device of type %u; unvmm assigns network cards (1) and "
			"disks (2)",
			id);
	if (!(fn->features & platform) && !wish->physical_addresses)
		return diag_set(
			d, -ENOTSUP,
			"it lacks ACCESS_PLATFORM, so it may bypass the IOMMU and reach the "
			"host's memory; unsafe_no_access_platform = true takes it all the same");
	err = wish->kind == VF_OFFER_NATIVE ? offer_native(o, fn, d) : offer_portable(o, fn, d);
	if (!err)
		err = count_queues(o, fn, queues_has, wish, d);
	if (!err)
		err = size_queues(o, fn, d);
	if (err)
		return err;
	offer_multiqueue(o, fn);
	o->to_function = o->guest & fn->features & ~emulated(id);
	o->ours = fn->features & platform;
	/* By it a relayed queue returns to the guest's rings; it needs queue_reset, behind the
	 * rest. */
	if (fn->caps.common.length >= VF_COMMON_QUEUE_RESET + 2)
		o->ours |= fn->features & VIRTIO_BIT(VIRTIO_F_RING_RESET);
	return 0;
}
