/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_regs.c - the registers of the common configuration (virtio 1.2, 4.1.4.3), one row and
 * one or two small hooks each. Everything that a guest can do to a virtio function by its control
 * path, doorbells aside, is in this table. Control lock held.
 */
#include <unvmm/log.h>

#include "virtio_pci.h"

#define STATUS_DRIVER_BITS                                                                  \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

/* The queue that queue_select names, or NULL: then its fields read 0 (4.1.4.3.1). */
static struct vdev_queue *selected(struct virtio_pci *t)
{
#ifdef FUZZ_PLANT
	return &t->v->queues[t->queue_select];
#endif
	return t->queue_select < t->v->nqueues ? &t->v->queues[t->queue_select] : NULL;
}

/* The selected queue while the driver may still program it. */
static struct vdev_queue *programmable(struct virtio_pci *t)
{
	struct vdev_queue *q = selected(t);

	return q && !q->enabled && !t->reset_pending ? q : NULL;
}

/* --- features ------------------------------------------------------------------------------- */

static uint32_t r_device_feature_select(struct virtio_pci *t)
{
	return t->device_feature_select;
}

static void w_device_feature_select(struct virtio_pci *t, uint32_t v)
{
	t->device_feature_select = v;
}

static uint32_t r_device_feature(struct virtio_pci *t)
{
	return t->device_feature_select < 2
		       ? (uint32_t)(t->v->shown >> (32 * t->device_feature_select))
		       : 0;
}

static uint32_t r_driver_feature_select(struct virtio_pci *t)
{
	return t->driver_feature_select;
}

static void w_driver_feature_select(struct virtio_pci *t, uint32_t v)
{
	t->driver_feature_select = v;
}

static uint32_t r_driver_feature(struct virtio_pci *t)
{
	return t->driver_feature_select < 2
		       ? (uint32_t)(t->driver_features >> (32 * t->driver_feature_select))
		       : 0;
}

static void w_driver_feature(struct virtio_pci *t, uint32_t v)
{
	unsigned int shift = 32 * t->driver_feature_select;

	/* After FEATURES_OK the set is closed (3.1.1). */
	if (t->driver_feature_select >= 2 || (t->v->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	t->driver_features &= ~(0xffffffffull << shift);
	t->driver_features |= (uint64_t)v << shift;
}

/* --- vectors, counts ------------------------------------------------------------------------ */

static uint32_t r_config_vector(struct virtio_pci *t)
{
	return t->config_vector;
}

/*
 * A vector that cannot be had reads back as NO_VECTOR: that is how the driver learns (4.1.5.1.2).
 */
static void w_config_vector(struct virtio_pci *t, uint32_t v)
{
	t->config_vector = (uint16_t)v;
	vp_connect_config(t);
}

static uint32_t r_num_queues(struct virtio_pci *t)
{
	return t->v->nqueues;
}

static uint32_t r_config_generation(struct virtio_pci *t)
{
	return t->config_generation;
}

/* --- status --------------------------------------------------------------------------------- */

static uint32_t r_status(struct virtio_pci *t)
{
	return t->v->status;
}

bool vp_features_acceptable(const struct vdev *v, uint64_t f)
{
	if (f & ~v->offered || !(f & VIRTIO_BIT(VIRTIO_F_VERSION_1)))
		return false;
	return !v->ops->accept_features || v->ops->accept_features(v, f);
}

static void w_status(struct virtio_pci *t, uint32_t value)
{
	struct vdev *v = t->v;
	uint8_t added = (uint8_t)value & STATUS_DRIVER_BITS & ~v->status;

	if (!(value & 0xff)) {
		vp_begin_reset(t);
		return;
	}
	/* Until a reset is complete nothing else is heard; bits are never taken back one by one. */
	if (t->reset_pending)
		return;
	if (added & VIRTIO_CONFIG_S_FEATURES_OK) {
		if (vp_features_acceptable(v, t->driver_features))
			v->negotiated = t->driver_features;
		else
			added &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	}
	if (!((v->status | added) & VIRTIO_CONFIG_S_FEATURES_OK))
		added &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	v->status |= added;
	vp_update_run(t);
}

/* --- queues --------------------------------------------------------------------------------- */

static uint32_t r_queue_select(struct virtio_pci *t)
{
	return t->queue_select;
}

static void w_queue_select(struct virtio_pci *t, uint32_t v)
{
	t->queue_select = (uint16_t)v;
}

static uint32_t r_queue_size(struct virtio_pci *t)
{
	const struct vdev_queue *q = selected(t);

	return q ? q->size : 0;
}

static void w_queue_size(struct virtio_pci *t, uint32_t v)
{
	struct vdev_queue *q = programmable(t);

	if (q && v <= q->size_max && is_power_of_2(v))
		q->size = (uint16_t)v;
}

static uint32_t r_queue_vector(struct virtio_pci *t)
{
	const struct vdev_queue *q = selected(t);

	return q ? q->vector : VIRTIO_MSI_NO_VECTOR;
}

static void w_queue_vector(struct virtio_pci *t, uint32_t v)
{
	struct vdev_queue *q = selected(t);

	if (!q)
		return;
	q->vector = (uint16_t)v;
	vp_connect_queue(t, t->queue_select);
}

static uint32_t r_queue_enable(struct virtio_pci *t)
{
	const struct vdev_queue *q = selected(t);

	return q && q->enabled;
}

/* Only 1 may be written (4.1.4.3.2), and only before DRIVER_OK: rings do not come one by one. */
static void w_queue_enable(struct virtio_pci *t, uint32_t v)
{
	struct vdev_queue *q = programmable(t);

	if (q && v == 1 && (t->v->status & VIRTIO_CONFIG_S_FEATURES_OK) &&
	    !(t->v->status & VIRTIO_CONFIG_S_DRIVER_OK))
		q->enabled = true;
}

/* In units of the multiplier: queue q's doorbell is at page q, plus the in-page offset. */
static uint32_t r_queue_notify_off(struct virtio_pci *t)
{
	const struct vdev_queue *q = selected(t);

	return q ? (t->queue_select * VP_DOORBELL_PAGE + q->doorbell_offset) / VP_NOTIFY_MULT : 0;
}

/* A 64-bit address is two 32-bit registers (4.1.3.1). */
static void set_half(uint64_t *field, bool high, uint32_t v)
{
	if (high)
		*field = (*field & 0xffffffffull) | (uint64_t)v << 32;
	else
		*field = (*field & ~0xffffffffull) | v;
}

#define QUEUE_ADDRESS(field)                                         \
	static uint32_t r_##field##_lo(struct virtio_pci *t)         \
	{                                                            \
		const struct vdev_queue *q = selected(t);            \
		return q ? (uint32_t)q->field : 0;                   \
	}                                                            \
	static uint32_t r_##field##_hi(struct virtio_pci *t)         \
	{                                                            \
		const struct vdev_queue *q = selected(t);            \
		return q ? (uint32_t)(q->field >> 32) : 0;           \
	}                                                            \
	static void w_##field##_lo(struct virtio_pci *t, uint32_t v) \
	{                                                            \
		struct vdev_queue *q = programmable(t);              \
		if (q)                                               \
			set_half(&q->field, false, v);               \
	}                                                            \
	static void w_##field##_hi(struct virtio_pci *t, uint32_t v) \
	{                                                            \
		struct vdev_queue *q = programmable(t);              \
		if (q)                                               \
			set_half(&q->field, true, v);                \
	}

QUEUE_ADDRESS(desc)
QUEUE_ADDRESS(driver)
QUEUE_ADDRESS(device)

/* --- the table ------------------------------------------------------------------------------- */

#define ROW_RO(nm, off, sz)                                                                        \
	{                                                                                          \
		.name = #nm, .offset = (off), .size = (sz), .policy = REG_READONLY, .read = r_##nm \
	}
#define ROW(nm, off, sz, pol)                                                                \
	{                                                                                    \
		.name = #nm, .offset = (off), .size = (sz), .policy = (pol), .read = r_##nm, \
		.write = w_##nm                                                              \
	}

const struct vp_reg vp_regs[] = {
	ROW(device_feature_select, VIRTIO_PCI_COMMON_DFSELECT, 4, REG_SHADOW),
	ROW_RO(device_feature, VIRTIO_PCI_COMMON_DF, 4),
	ROW(driver_feature_select, VIRTIO_PCI_COMMON_GFSELECT, 4, REG_SHADOW),
	ROW(driver_feature, VIRTIO_PCI_COMMON_GF, 4, REG_SHADOW),
	ROW(config_vector, VIRTIO_PCI_COMMON_MSIX, 2, REG_SHADOW),
	ROW_RO(num_queues, VIRTIO_PCI_COMMON_NUMQ, 2),
	ROW(status, VIRTIO_PCI_COMMON_STATUS, 1, REG_BOTH),
	ROW_RO(config_generation, VIRTIO_PCI_COMMON_CFGGENERATION, 1),
	ROW(queue_select, VIRTIO_PCI_COMMON_Q_SELECT, 2, REG_SHADOW),
	ROW(queue_size, VIRTIO_PCI_COMMON_Q_SIZE, 2, REG_SHADOW),
	ROW(queue_vector, VIRTIO_PCI_COMMON_Q_MSIX, 2, REG_BOTH),
	ROW(queue_enable, VIRTIO_PCI_COMMON_Q_ENABLE, 2, REG_BOTH),
	ROW_RO(queue_notify_off, VIRTIO_PCI_COMMON_Q_NOFF, 2),
	ROW(desc_lo, VIRTIO_PCI_COMMON_Q_DESCLO, 4, REG_SHADOW),
	ROW(desc_hi, VIRTIO_PCI_COMMON_Q_DESCHI, 4, REG_SHADOW),
	ROW(driver_lo, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, REG_SHADOW),
	ROW(driver_hi, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, REG_SHADOW),
	ROW(device_lo, VIRTIO_PCI_COMMON_Q_USEDLO, 4, REG_SHADOW),
	ROW(device_hi, VIRTIO_PCI_COMMON_Q_USEDHI, 4, REG_SHADOW),
};
const unsigned int vp_nregs = ARRAY_SIZE(vp_regs);

const struct vp_reg *vp_reg_find(uint64_t offset, unsigned int len)
{
	for (unsigned int i = 0; i < vp_nregs; i++)
		if (vp_regs[i].offset == offset)
			return vp_regs[i].size == len ? &vp_regs[i] : NULL;
	return NULL;
}
