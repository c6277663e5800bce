/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio.h - the driver's side of modern virtio-PCI (virtio 1.2, 4.1) and of split rings (2.7),
 * polled: no vector is ever assigned.
 */
#ifndef GUESTS_VIRTIO_H
#define GUESTS_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "pci.h"

#define VIO_VENDOR 0x1af4
#define VIO_DEVICE 0x1040 /* plus the device type */

#define VIO_BIT(n) (1ull << (n))

/* One structure of the capability list, mapped. */
struct vio_region {
	uintptr_t addr;
	uint32_t length;
	uint8_t bar;
	uint32_t offset;
};

struct vio {
	struct pci_fn fn;
	struct pci_bar bar[PCI_BARS];
	struct vio_region common, notify, isr, device;
	uint32_t notify_multiplier;
	unsigned int pci_cfg_cap; /* offset of VIRTIO_PCI_CAP_PCI_CFG */
	uint64_t offered, features;
	unsigned int nqueues;
};

/* Walks the capabilities, checks each, maps the BARs and resets. False: not usable. */
bool vio_open(struct vio *v, const struct pci_fn *fn);
/* After BARs have moved. */
void vio_map(struct vio *v);

/* Widths as the specification wants them (4.1.3.1); offset is VIRTIO_PCI_COMMON_x. */
uint8_t vio_get8(const struct vio *v, unsigned int offset);
uint16_t vio_get16(const struct vio *v, unsigned int offset);
uint32_t vio_get32(const struct vio *v, unsigned int offset);
void vio_set8(const struct vio *v, unsigned int offset, uint8_t val);
void vio_set16(const struct vio *v, unsigned int offset, uint16_t val);
void vio_set32(const struct vio *v, unsigned int offset, uint32_t val);

/* Status 0, polled until it reads 0. False after a second or so. */
bool vio_reset(struct vio *v);
uint64_t vio_device_features(const struct vio *v);
void vio_driver_features(const struct vio *v, uint64_t features);
/* Reset to FEATURES_OK with VERSION_1 and what is wanted of the rest. */
bool vio_negotiate(struct vio *v, uint64_t wanted);
void vio_driver_ok(struct vio *v);

/* Progress of time in loops: true while less than about `seconds` have passed since *start == 0. */
bool vio_within(uint64_t *start, unsigned int seconds);

/* --- split rings ------------------------------------------------------------------------------ */

struct vq_seg {
	uint64_t addr;
	uint32_t len;
	bool write; /* by the device */
};

#define VQ_SEGS_MAX 16

struct vq {
	struct vio *vio;
	uint16_t index, size;
	bool event_idx, indirect;
	volatile struct vring_desc *desc;
	volatile struct vring_avail *avail;
	volatile struct vring_used *used;
	volatile uint16_t *used_event, *avail_event;
	struct vring_desc *tables; /* VQ_SEGS_MAX per head, for indirect descriptors */
	uint16_t *next, *count;	   /* free list and chain lengths, out of the device's reach */
	uint16_t free, nfree;
	uint16_t avail_idx, used_idx, kicked_idx;
	uintptr_t doorbell;
	uint64_t kicks, kicks_saved;
};

/*
 * Allocates and enables queue `index` with at most `size` entries (0: what the device offers).
 * Uses the queue's memory again if vq was set up before, for any number of resets.
 */
bool vq_setup(struct vq *q, struct vio *v, uint16_t index, uint16_t size);
/*
 * Puts a chain into the avail ring; its head, or -1 if there are not enough descriptors. The device
 * may see it at once (add), or only after vq_publish (stage).
 */
int vq_add(struct vq *q, const struct vq_seg *segs, unsigned int n);
int vq_stage(struct vq *q, const struct vq_seg *segs, unsigned int n);
void vq_publish(struct vq *q);
/* Tells the device of what was added, if it wants to be told. */
void vq_kick(struct vq *q);
void vq_ring(const struct vq *q);
/* The next completion's head, or -1. */
int vq_poll(struct vq *q, uint32_t *len);
/* The same with patience: -1 after some 10 s. */
int vq_wait(struct vq *q, uint32_t *len);

#endif
