/* SPDX-License-Identifier: Apache-2.0 */
/*
 * regs.c - the common configuration of a function (virtio 1.2, 4.1.4.3): a row and a small hook or
 * two for each register. Main thread.
 */
#include "function.h"

#include <string.h>

#include <unvmm/log.h>

#define STATUS_BITS                                                                         \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

/* Behind queue_device: virtio 1.2, 4.1.4.3; linux/virtio_pci.h of Debian 12 does not have them. */
#define COMMON_Q_NDATA 56
#define COMMON_Q_RESET 58

#define RING_RESET 40 /* VIRTIO_F_RING_RESET */

/* NULL: no such queue, then its fields read 0. */
static struct vdev_queue *selected(struct function *f)
{
	return f->queue_select < f->v->nqueues ? &f->v->queues[f->queue_select] : NULL;
}

static bool resetting(const struct function *f)
{
	return f->ring_resets & 1ull << f->queue_select % 64;
}

/* The selected queue while the driver may still program it. */
static struct vdev_queue *programmable(struct function *f)
{
	struct vdev_queue *q = selected(f);

	return q && !q->enabled && !f->reset_pending && !resetting(f) ? q : NULL;
}

void fn_queue_default(struct vdev_queue *q)
{
	q->size = q->size_max;
	q->enabled = false;
	q->desc = q->driver = q->device = 0;
	q->index = 0;
	__atomic_store_n(&q->vector, VIRTIO_MSI_NO_VECTOR, __ATOMIC_RELAXED);
}

void fn_regs_reset(struct function *f)
{
	f->device_feature_select = f->driver_feature_select = 0;
	f->driver_features = f->v->negotiated = 0;
	f->queue_select = 0;
	f->config_vector = VIRTIO_MSI_NO_VECTOR;
	f->isr = 0;
	f->rung = 0;
	memset(f->ring_words, 0, sizeof(f->ring_words));
	f->v->status = 0;
	for (unsigned int q = 0; q < f->v->nqueues; q++)
		fn_queue_default(&f->v->queues[q]);
}

/* --- features --------------------------------------------------------------------------------- */

static uint32_t half(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static uint32_t r_device_feature_select(struct function *f)
{
	return f->device_feature_select;
}

static void w_device_feature_select(struct function *f, uint32_t v)
{
	f->device_feature_select = v;
}

static uint32_t r_device_feature(struct function *f)
{
	return half(f->offered, f->device_feature_select);
}

static uint32_t r_driver_feature_select(struct function *f)
{
	return f->driver_feature_select;
}

static void w_driver_feature_select(struct function *f, uint32_t v)
{
	f->driver_feature_select = v;
}

static uint32_t r_driver_feature(struct function *f)
{
	return half(f->driver_features, f->driver_feature_select);
}

static void w_driver_feature(struct function *f, uint32_t v)
{
	unsigned int shift = 32 * f->driver_feature_select;

	/* After FEATURES_OK the set is closed (3.1.1). */
	if (f->driver_feature_select >= 2 || (f->v->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	f->driver_features &= ~(0xffffffffull << shift);
	f->driver_features |= (uint64_t)v << shift;
}

/* A function behind an IOMMU insists on being told so (6.2). */
static bool acceptable(const struct function *f)
{
	uint64_t wanted = f->driver_features, must = VIRTIO_BIT(VIRTIO_F_VERSION_1);

	must |= f->offered & VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM);
	return !(wanted & ~f->offered) && (wanted & must) == must &&
	       (!f->v->ops->accept_features ||
		f->v->ops->accept_features(f->v, wanted & f->v->offered));
}

/* --- status ----------------------------------------------------------------------------------- */

static uint32_t r_status(struct function *f)
{
	return f->v->status;
}

static void w_status(struct function *f, uint32_t value)
{
	uint8_t added = (uint8_t)value & STATUS_BITS & ~f->v->status;

	/* Until a reset is complete nothing else is heard; bits are never taken back one by one. */
	if (f->reset_pending)
		return;
	if (!(value & 0xff)) {
		f->reset_pending = true;
		function_update(f);
		return;
	}
	if (added & VIRTIO_CONFIG_S_FEATURES_OK) {
		if (acceptable(f))
			f->v->negotiated = f->driver_features & f->v->offered;
		else
			added &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	}
	if (!((f->v->status | added) & VIRTIO_CONFIG_S_FEATURES_OK))
		added &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	f->v->status |= added;
	function_update(f);
}

static uint32_t r_config_vector(struct function *f)
{
	return f->config_vector;
}

/* A vector that cannot be had reads back as NO_VECTOR (4.1.5.1.2). */
static uint16_t vector_of(const struct function *f, uint32_t v)
{
	return v < f->nvectors ? (uint16_t)v : VIRTIO_MSI_NO_VECTOR;
}

static void w_config_vector(struct function *f, uint32_t v)
{
	f->config_vector = vector_of(f, v);
}

static uint32_t r_num_queues(struct function *f)
{
	return f->v->nqueues;
}

static uint32_t r_generation(struct function *f)
{
	return f->generation;
}

/* --- queues ----------------------------------------------------------------------------------- */

static uint32_t r_queue_select(struct function *f)
{
	return f->queue_select;
}

static void w_queue_select(struct function *f, uint32_t v)
{
	f->queue_select = (uint16_t)v;
}

static uint32_t r_queue_size(struct function *f)
{
	const struct vdev_queue *q = selected(f);

	return q ? q->size : 0;
}

static void w_queue_size(struct function *f, uint32_t v)
{
	struct vdev_queue *q = programmable(f);

	if (q && v <= q->size_max && is_power_of_2(v))
		q->size = (uint16_t)v;
}

static uint32_t r_queue_vector(struct function *f)
{
	const struct vdev_queue *q = selected(f);

	return q ? q->vector : VIRTIO_MSI_NO_VECTOR;
}

static void w_queue_vector(struct function *f, uint32_t v)
{
	struct vdev_queue *q = selected(f);

	if (q)
		__atomic_store_n(&q->vector, vector_of(f, v), __ATOMIC_RELAXED);
}

static uint32_t r_queue_enable(struct function *f)
{
	const struct vdev_queue *q = selected(f);

	return q && q->enabled;
}

/* No driver of virtio's may clear queue_enable (4.1.4.3.2); it is how ring indexes become valid. */
static void disable(struct function *f)
{
	struct vdev_queue *q = selected(f);

	if (!q || !q->enabled || f->reset_pending || resetting(f))
		return;
	if (f->run == FN_OFF) {
		fn_index_stopped(f, f->queue_select);
		return;
	}
	f->disables |= 1ull << f->queue_select;
	f->ring_resets |= 1ull << f->queue_select;
	fn_engine_queue_reset(f, f->queue_select);
}

static void w_queue_enable(struct function *f, uint32_t v)
{
	struct vdev_queue *q = programmable(f);
	bool live = f->v->status & VIRTIO_CONFIG_S_DRIVER_OK;

	if (!v && f->opt.ring_index)
		disable(f);
	if (!q || v != 1 || !(f->v->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	/* Once the driver is there a queue comes back only after a reset of its own (2.6.1). */
	if ((live && !fn_has(f, RING_RESET)) || !fn_index_start(f, f->queue_select))
		return;
	q->enabled = true;
	if (!live || f->run == FN_OFF)
		return;
	fn_engine_forget(f, f->queue_select);
	fn_engine_queue_start(f, f->queue_select);
}

static uint32_t r_queue_notify_off(struct function *f)
{
	return selected(f) ? f->queue_select : 0;
}

static uint32_t r_queue_ndata(struct function *f)
{
	return selected(f) ? f->queue_select : 0;
}

static uint32_t r_queue_reset(struct function *f)
{
	return selected(f) && resetting(f) && !(f->disables & 1ull << f->queue_select % 64);
}

static void w_queue_reset(struct function *f, uint32_t v)
{
	struct vdev_queue *q = selected(f);

	if (!q || v != 1 || !fn_has(f, RING_RESET) || f->reset_pending || resetting(f) ||
	    !(f->v->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	if (!q->enabled || f->run == FN_OFF) {
		fn_queue_default(q);
		f->ring_words[f->queue_select] = 0;
		return;
	}
	f->ring_resets |= 1ull << f->queue_select;
	fn_engine_queue_reset(f, f->queue_select);
}

#define QUEUE_ADDRESS(field)                                                       \
	static uint32_t r_##field##_lo(struct function *f)                         \
	{                                                                          \
		const struct vdev_queue *q = selected(f);                          \
		return q ? (uint32_t)q->field : 0;                                 \
	}                                                                          \
	static uint32_t r_##field##_hi(struct function *f)                         \
	{                                                                          \
		const struct vdev_queue *q = selected(f);                          \
		return q ? (uint32_t)(q->field >> 32) : 0;                         \
	}                                                                          \
	static void w_##field##_lo(struct function *f, uint32_t v)                 \
	{                                                                          \
		struct vdev_queue *q = programmable(f);                            \
		if (q)                                                             \
			q->field = (q->field & ~0xffffffffull) | v;                \
	}                                                                          \
	static void w_##field##_hi(struct function *f, uint32_t v)                 \
	{                                                                          \
		struct vdev_queue *q = programmable(f);                            \
		if (q)                                                             \
			q->field = (q->field & 0xffffffffull) | (uint64_t)v << 32; \
	}

QUEUE_ADDRESS(desc)
QUEUE_ADDRESS(driver)
QUEUE_ADDRESS(device)

/* --- the table -------------------------------------------------------------------------------- */

struct fn_reg {
	uint16_t offset;
	uint8_t size;
	uint32_t (*read)(struct function *f);
	void (*write)(struct function *f, uint32_t value); /* NULL: read-only */
};

static const struct fn_reg regs[] = {
	{ VIRTIO_PCI_COMMON_DFSELECT, 4, r_device_feature_select, w_device_feature_select },
	{ VIRTIO_PCI_COMMON_DF, 4, r_device_feature, NULL },
	{ VIRTIO_PCI_COMMON_GFSELECT, 4, r_driver_feature_select, w_driver_feature_select },
	{ VIRTIO_PCI_COMMON_GF, 4, r_driver_feature, w_driver_feature },
	{ VIRTIO_PCI_COMMON_MSIX, 2, r_config_vector, w_config_vector },
	{ VIRTIO_PCI_COMMON_NUMQ, 2, r_num_queues, NULL },
	{ VIRTIO_PCI_COMMON_STATUS, 1, r_status, w_status },
	{ VIRTIO_PCI_COMMON_CFGGENERATION, 1, r_generation, NULL },
	{ VIRTIO_PCI_COMMON_Q_SELECT, 2, r_queue_select, w_queue_select },
	{ VIRTIO_PCI_COMMON_Q_SIZE, 2, r_queue_size, w_queue_size },
	{ VIRTIO_PCI_COMMON_Q_MSIX, 2, r_queue_vector, w_queue_vector },
	{ VIRTIO_PCI_COMMON_Q_ENABLE, 2, r_queue_enable, w_queue_enable },
	{ VIRTIO_PCI_COMMON_Q_NOFF, 2, r_queue_notify_off, NULL },
	{ VIRTIO_PCI_COMMON_Q_DESCLO, 4, r_desc_lo, w_desc_lo },
	{ VIRTIO_PCI_COMMON_Q_DESCHI, 4, r_desc_hi, w_desc_hi },
	{ VIRTIO_PCI_COMMON_Q_AVAILLO, 4, r_driver_lo, w_driver_lo },
	{ VIRTIO_PCI_COMMON_Q_AVAILHI, 4, r_driver_hi, w_driver_hi },
	{ VIRTIO_PCI_COMMON_Q_USEDLO, 4, r_device_lo, w_device_lo },
	{ VIRTIO_PCI_COMMON_Q_USEDHI, 4, r_device_hi, w_device_hi },
	{ COMMON_Q_NDATA, 2, r_queue_ndata, NULL },
	{ COMMON_Q_RESET, 2, r_queue_reset, w_queue_reset },
};

static const struct fn_reg *find(unsigned int off, unsigned int len)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(regs); i++)
		if (regs[i].offset == off && regs[i].size == len)
			return &regs[i];
	return NULL;
}

bool fn_reg_read(struct function *f, unsigned int off, unsigned int len, uint32_t *value)
{
	const struct fn_reg *r = find(off, len);

	if (r)
		*value = r->read(f);
	return r;
}

bool fn_reg_write(struct function *f, unsigned int off, unsigned int len, uint32_t value)
{
	const struct fn_reg *r = find(off, len);

	if (r && r->write)
		r->write(f, len == 2 ? (uint16_t)value : value);
	return r;
}
