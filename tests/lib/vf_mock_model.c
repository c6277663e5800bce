/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_mock_model.c - the virtio function behind the mock: common configuration, and the control
 * queue of a network card, which takes commands and answers them. The mock's lock is held.
 */
#include "vf_mock_model.h"

#include <endian.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#define NO_VECTOR   0xffff
#define QUEUE_RESET 58 /* of the common configuration (4.1.4.3) */

/* --- the control queue ----------------------------------------------------------------------- */

static unsigned int control_queue(const struct vf_mock *m)
{
	uint16_t pairs;

	memcpy(&pairs, m->config + offsetof(struct virtio_net_config, max_virtqueue_pairs), 2);
	return m->acknowledged & VIRTIO_BIT(VIRTIO_NET_F_MQ) ? 2u * pairs : 2;
}

static void serve_chain(struct vf_mock *m, struct vf_mock_queue *q, uint16_t head,
			enum vm_answer answer)
{
	struct vring_desc *desc = vf_mock_dma(m, q->desc, q->size * sizeof(*desc));
	struct vring_used *used =
		vf_mock_dma(m, q->device, 4 + q->size * sizeof(struct vring_used_elem));
	uint8_t *p;

	m->command_len = 0;
	m->commands++;
	for (uint16_t at = head;; at = desc[at].next) {
		p = vf_mock_dma(m, desc[at].addr, desc[at].len);
		if (!p)
			abort();
		if (desc[at].flags & VRING_DESC_F_WRITE) {
			*p = answer == VM_ANSWER_OK ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
		} else if (m->command_len + desc[at].len <= sizeof(m->command)) {
			memcpy(m->command + m->command_len, p, desc[at].len);
			m->command_len += desc[at].len;
		}
		if (!(desc[at].flags & VRING_DESC_F_NEXT))
			break;
	}
	used->ring[used->idx & (q->size - 1)] =
		(struct vring_used_elem){ .id = answer == VM_ANSWER_GARBAGE ? 0xdead : head,
					  .len = 1 };
	__atomic_store_n(&used->idx, used->idx + 1, __ATOMIC_RELEASE);
	vf_mock_signal(m, q->vector);
}

static void serve(struct vf_mock *m, enum vm_answer answer)
{
	struct vf_mock_queue *q = &m->queues[control_queue(m)];
	struct vring_avail *avail;

	if (!q->enable || !(m->status & VIRTIO_CONFIG_S_DRIVER_OK) || !vf_mock_runs(m))
		return;
	avail = vf_mock_dma(m, q->driver, 4 + q->size * 2u);
	if (!avail)
		abort();
	while (q->next != __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) &&
	       answer != VM_ANSWER_NONE)
		serve_chain(m, q, avail->ring[q->next++ & (q->size - 1)], answer);
}

void vf_mock_serve(struct vf_mock *m, enum vm_answer answer)
{
	pthread_mutex_lock(&m->lock);
	serve(m, answer);
	pthread_mutex_unlock(&m->lock);
}

/* --- registers of the model ------------------------------------------------------------------ */

static const struct {
	uint8_t off, len;
	const char *name;
} registers[] = {
	{ VIRTIO_PCI_COMMON_DFSELECT, 4, "device_feature_select" },
	{ VIRTIO_PCI_COMMON_DF, 4, "device_feature" },
	{ VIRTIO_PCI_COMMON_GFSELECT, 4, "driver_feature_select" },
	{ VIRTIO_PCI_COMMON_GF, 4, "driver_feature" },
	{ VIRTIO_PCI_COMMON_MSIX, 2, "config_vector" },
	{ VIRTIO_PCI_COMMON_NUMQ, 2, "num_queues" },
	{ VIRTIO_PCI_COMMON_STATUS, 1, "status" },
	{ VIRTIO_PCI_COMMON_CFGGENERATION, 1, "config_generation" },
	{ VIRTIO_PCI_COMMON_Q_SELECT, 2, "queue_select" },
	{ VIRTIO_PCI_COMMON_Q_SIZE, 2, "queue_size" },
	{ VIRTIO_PCI_COMMON_Q_MSIX, 2, "queue_vector" },
	{ VIRTIO_PCI_COMMON_Q_ENABLE, 2, "queue_enable" },
	{ VIRTIO_PCI_COMMON_Q_NOFF, 2, "queue_notify_off" },
	{ VIRTIO_PCI_COMMON_Q_DESCLO, 4, "queue_desc_lo" },
	{ VIRTIO_PCI_COMMON_Q_DESCHI, 4, "queue_desc_hi" },
	{ VIRTIO_PCI_COMMON_Q_AVAILLO, 4, "queue_driver_lo" },
	{ VIRTIO_PCI_COMMON_Q_AVAILHI, 4, "queue_driver_hi" },
	{ VIRTIO_PCI_COMMON_Q_USEDLO, 4, "queue_device_lo" },
	{ VIRTIO_PCI_COMMON_Q_USEDHI, 4, "queue_device_hi" },
	{ QUEUE_RESET, 2, "queue_reset" },
};

const char *vf_model_register(uint64_t off, unsigned int len)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(registers); i++)
		if (registers[i].off == off && registers[i].len == len)
			return registers[i].name;
	return NULL;
}

static void queue_default(struct vf_mock_queue *q)
{
	q->size = q->size_max;
	q->vector = NO_VECTOR;
	q->enable = q->next = 0;
	q->word = 0;
	q->desc = q->driver = q->device = 0;
	q->resetting = false;
}

void vf_model_reset(struct vf_mock *m)
{
	if (m->never_resets && m->status)
		return;
	m->status = 0;
	m->acknowledged = 0;
	m->select = 0;
	m->config_vector = NO_VECTOR;
	for (unsigned int i = 0; i < VM_QUEUES; i++)
		queue_default(&m->queues[i]);
}

static struct vf_mock_queue *selected(struct vf_mock *m)
{
	static struct vf_mock_queue none;

	none = (struct vf_mock_queue){ .vector = NO_VECTOR };
	return m->select < m->nqueues && m->select < VM_QUEUES ? &m->queues[m->select] : &none;
}

static uint64_t *address_of(struct vf_mock_queue *q, uint64_t off)
{
	return off < VIRTIO_PCI_COMMON_Q_AVAILLO  ? &q->desc
	       : off < VIRTIO_PCI_COMMON_Q_USEDLO ? &q->driver
						  : &q->device;
}

uint32_t vf_model_read(struct vf_mock *m, uint64_t off)
{
	const struct vf_mock_queue *q = selected(m);

	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return m->feature_select[0];
	case VIRTIO_PCI_COMMON_DF:
		return m->feature_select[0] < 2
			       ? (uint32_t)(m->features >> (32 * m->feature_select[0]))
			       : 0;
	case VIRTIO_PCI_COMMON_GFSELECT:
		return m->feature_select[1];
	case VIRTIO_PCI_COMMON_GF:
		return m->feature_select[1] < 2
			       ? (uint32_t)(m->acknowledged >> (32 * m->feature_select[1]))
			       : 0;
	case VIRTIO_PCI_COMMON_MSIX:
		return m->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return m->nqueues;
	case VIRTIO_PCI_COMMON_STATUS:
		return m->status;
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return m->generation_runs ? m->generation++ : m->generation;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return m->select;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return q->size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return q->vector;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return q->enable;
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return q->notify_off;
	case QUEUE_RESET:
		return q->resetting;
	default:
		return (uint32_t)(*address_of(selected(m), off) >> (off % 8 == 4 ? 32 : 0));
	}
}

static void set_status(struct vf_mock *m, uint8_t v)
{
	if (!v) {
		vf_model_reset(m);
		return;
	}
	if (v & VIRTIO_CONFIG_S_FEATURES_OK && m->acknowledged & ~m->features)
		v &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	m->status = v;
}

void vf_model_write(struct vf_mock *m, uint64_t off, uint32_t v)
{
	struct vf_mock_queue *q = selected(m);
	uint64_t *address, mask;

	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		m->feature_select[0] = v;
		return;
	case VIRTIO_PCI_COMMON_GFSELECT:
		m->feature_select[1] = v;
		return;
	case VIRTIO_PCI_COMMON_GF:
		if (m->feature_select[1] < 2) {
			mask = 0xffffffffull << (32 * m->feature_select[1]);
			m->acknowledged = (m->acknowledged & ~mask) |
					  (uint64_t)v << (32 * m->feature_select[1]);
		}
		return;
	case VIRTIO_PCI_COMMON_MSIX:
		m->config_vector = v < m->vf.info.nvectors ? (uint16_t)v : NO_VECTOR;
		return;
	case VIRTIO_PCI_COMMON_STATUS:
		set_status(m, (uint8_t)v);
		return;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		m->select = (uint16_t)v;
		return;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (v <= q->size_max)
			q->size = (uint16_t)v;
		return;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		q->vector = v < m->vf.info.nvectors ? (uint16_t)v : NO_VECTOR;
		return;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		/* Two halves that differ are no place to begin at. */
		q->enable = v == 1 && (!m->ring_index || q->word >> 16 == (q->word & 0xffff));
		if (m->ring_index && q->enable)
			q->next = (uint16_t)q->word;
		else if (m->ring_index && !v)
			q->word = q->next | (uint32_t)q->next << 16;
		return;
	case QUEUE_RESET:
		if (v != 1 || !(m->acknowledged & VIRTIO_BIT(40)))
			return;
		if (m->queue_never_resets)
			q->resetting = true;
		else
			queue_default(q);
		return;
	default:
		if (off < VIRTIO_PCI_COMMON_Q_DESCLO)
			return;
		address = address_of(q, off);
		mask = off % 8 == 4 ? 0xffffffffull << 32 : 0xffffffffull;
		*address = (*address & ~mask) | (off % 8 == 4 ? (uint64_t)v << 32 : v);
	}
}

/* If the only request of the queue is one for its serial number (virtio 1.2, 5.2.6). */
static void answer_id(struct vf_mock *m, struct vf_mock_queue *q)
{
	struct vring_avail *avail = vf_mock_dma(m, q->driver, 4 + q->size * 2u);
	struct vring_used *used = vf_mock_dma(m, q->device, 4 + q->size * 8u);
	struct vring_desc *desc = vf_mock_dma(m, q->desc, 2 * sizeof(*desc));
	uint32_t *type = NULL;
	uint8_t *answer = NULL;

	if (q->enable && avail && used && desc && avail->idx == 1 && !used->idx) {
		type = vf_mock_dma(m, desc[0].addr, sizeof(struct virtio_blk_outhdr));
		answer = vf_mock_dma(m, desc[1].addr, sizeof(m->serial) + 1);
	}
	if (!type || !answer || *type != htole32(VIRTIO_BLK_T_GET_ID))
		return;
	memcpy(answer, m->serial, sizeof(m->serial));
	answer[sizeof(m->serial)] = m->serial[0] ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_UNSUPP;
	used->ring[0] = (struct vring_used_elem){ .id = 0, .len = sizeof(m->serial) + 1 };
	__atomic_store_n(&used->idx, 1, __ATOMIC_RELEASE);
}

void vf_model_notify(struct vf_mock *m, uint64_t off, uint32_t v)
{
	struct vf_mock_queue *q = v < VM_QUEUES ? &m->queues[v] : NULL;

	vf_mock_note(m, "kick %u at 0x%llx", v, (unsigned long long)off);
	if (!q || (uint64_t)q->notify_off * m->multiplier != off)
		return;
	q->kicks++;
	if (m->device_id == VIRTIO_ID_NET && v == control_queue(m))
		serve(m, m->answer);
	if (m->device_id == VIRTIO_ID_BLOCK && !v && !m->nameless)
		answer_id(m, q);
}
