/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_pci_state.c - what of the transport travels: the PCI function, MSI-X, its registers and
 * the journal. The vdev is stopped while this runs. Control lock held.
 */
#include "virtio_pci.h"

#include <unvmm/offer.h>

#include <errno.h>
#include <linux/virtio_blk.h>

#define STATUS_ALL                                                                          \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)

static bool vector_valid(const struct virtio_pci *live, uint16_t vector)
{
	return vector == VIRTIO_MSI_NO_VECTOR || vector < live->msix.nvectors;
}

/* --- registers of the transport -------------------------------------------------------------- */

static int regs_pre_save(void *obj)
{
	vp_settle(obj);
	return 0;
}

static int regs_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct virtio_pci *s = scratch, *l = live;

	if (!vector_valid(l, s->config_vector))
		return diag_set(d, -EINVAL, "configuration vector %u of %u", s->config_vector,
				l->msix.nvectors);
	return 0;
}

static int regs_post_load(void *obj, struct diag *d)
{
	(void)d;
	vp_connect_config(obj);
	return 0;
}

static const struct state_field regs_fields[] = {
	STATE_SCALAR(STATE_U32, struct virtio_pci, device_feature_select),
	STATE_SCALAR(STATE_U32, struct virtio_pci, driver_feature_select),
	STATE_SCALAR(STATE_U64, struct virtio_pci, driver_features),
	STATE_SCALAR(STATE_U16, struct virtio_pci, queue_select),
	STATE_SCALAR(STATE_U16, struct virtio_pci, config_vector),
	STATE_SCALAR(STATE_U8, struct virtio_pci, config_generation),
	STATE_SCALAR(STATE_U8, struct virtio_pci, isr),
};

static const struct state_desc regs_state = {
	.name = "virtio-pci",
	.version = 1,
	.obj_size = sizeof(struct virtio_pci),
	.fields = regs_fields,
	.nfields = ARRAY_SIZE(regs_fields),
	.pre_save = regs_pre_save,
	.validate = regs_validate,
	.post_load = regs_post_load,
};

/* --- the journal ----------------------------------------------------------------------------- */

static const struct state_field queue_fields[] = {
	STATE_SCALAR_CHECK(STATE_U16, struct vdev_queue, size_max),
	STATE_SCALAR(STATE_U16, struct vdev_queue, size),
	STATE_SCALAR(STATE_U16, struct vdev_queue, vector),
	STATE_SCALAR(STATE_U16, struct vdev_queue, doorbell_offset),
	STATE_SCALAR(STATE_BOOL, struct vdev_queue, enabled),
	STATE_SCALAR(STATE_U64, struct vdev_queue, desc),
	STATE_SCALAR(STATE_U64, struct vdev_queue, driver),
	STATE_SCALAR(STATE_U64, struct vdev_queue, device),
	STATE_SCALAR(STATE_U16, struct vdev_queue, index),
};

static const struct state_desc queue_state = {
	.name = "queue",
	.version = 1,
	.obj_size = sizeof(struct vdev_queue),
	.fields = queue_fields,
	.nfields = ARRAY_SIZE(queue_fields),
};

/* A driver that comes later would find less than the one before it did. */
static int lacks(uint64_t features, uint16_t device_id, struct diag *d)
{
	const char *name = offer_name(device_id, (unsigned int)__builtin_ctzll(features));

	return diag_set(d, -EINVAL,
			"the guest is offered features that this device lacks: 0x%llx%s%s",
			(unsigned long long)features, name ? ", such as " : "", name ? name : "");
}

/* Ring addresses are checked when the rings are taken over, as after any driver's programming. */
static int journal_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct vdev *s = scratch, *l = live;

	/*
	 * More features than the guest knows of do no harm, but for one that takes something away.
	 */
	if (l->device_id == VIRTIO_ID_BLOCK && l->offered & ~s->shown & VIRTIO_BIT(VIRTIO_BLK_F_RO))
		return diag_set(d, -EINVAL, "the guest writes to this disk, here it is read-only");
	if (s->shown & ~l->offered)
		return lacks(s->shown & ~l->offered, l->device_id, d);
	if (s->negotiated & ~l->offered)
		return diag_set(d, -EINVAL,
				"features 0x%llx were negotiated, this device lacks 0x%llx",
				(unsigned long long)s->negotiated,
				(unsigned long long)(s->negotiated & ~l->offered));
	if (s->status & ~STATUS_ALL)
		return diag_set(d, -EINVAL, "status 0x%02x has unknown bits", s->status);
	if (s->status & VIRTIO_CONFIG_S_FEATURES_OK && !vp_features_acceptable(l, s->negotiated))
		return diag_set(d, -EINVAL,
				"features 0x%llx are not a set that this device accepts",
				(unsigned long long)s->negotiated);
	if (s->status & VIRTIO_CONFIG_S_DRIVER_OK && !(s->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return diag_set(d, -EINVAL, "status 0x%02x has DRIVER_OK without FEATURES_OK",
				s->status);
	for (unsigned int i = 0; i < l->nqueues; i++) {
		const struct vdev_queue *q = &s->queues[i];

		if (!is_power_of_2(q->size) || q->size > l->queues[i].size_max)
			return diag_set(d, -EINVAL, "queue %u has size %u of at most %u", i,
					q->size, l->queues[i].size_max);
		if (!vector_valid(l->transport, q->vector))
			return diag_set(d, -EINVAL, "queue %u uses vector %u of %u", i, q->vector,
					l->transport->msix.nvectors);
		if (!vp_doorbell_offset_valid(q->doorbell_offset))
			return diag_set(d, -EINVAL,
					"queue %u has its doorbell at in-page offset %u", i,
					q->doorbell_offset);
	}
	return 0;
}

static int journal_post_load(void *obj, struct diag *d)
{
	struct vdev *v = obj;

	(void)d;
	vp_doorbells_unwire(v->transport); /* those of a guest before it, at their old places */
	v->transport->loaded = true;
	for (unsigned int q = 0; q < v->nqueues; q++)
		vp_connect_queue(v->transport, q);
	return 0;
}

static uint32_t queues_used(const void *obj)
{
	return ((const struct vdev *)obj)->nqueues;
}

static const struct state_field journal_fields[] = {
	STATE_SCALAR_CHECK(STATE_U16, struct vdev, device_id),
	STATE_SCALAR_CHECK(STATE_U16, struct vdev, nqueues),
	STATE_FIELD_(STATE_U64, struct vdev, shown, 1, 8, STATE_TOLD),
	STATE_SCALAR(STATE_U64, struct vdev, negotiated),
	STATE_SCALAR(STATE_U8, struct vdev, status),
	STATE_ARRAY_USED(struct vdev, queues, queue_state, queues_used),
};

static const struct state_desc journal_state = {
	.name = "virtio",
	.version = 1,
	.obj_size = sizeof(struct vdev),
	.fields = journal_fields,
	.nfields = ARRAY_SIZE(journal_fields),
	.validate = journal_validate,
	.post_load = journal_post_load,
};

void virtio_pci_state(struct vdev *v, struct state_ref *refs)
{
	struct virtio_pci *t = v->transport;

	refs[0] = (struct state_ref){ &pci_dev_state, &t->pci };
	refs[1] = (struct state_ref){ &regs_state, t };
	refs[2] = (struct state_ref){ &journal_state, v };
	/* Behind those that say which vector each interrupt has: it hands out the pending ones. */
	refs[3] = (struct state_ref){ &msix_state, &t->msix };
}
