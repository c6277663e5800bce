/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_caps.h - where a virtio function keeps its registers: the virtio and MSI-X capabilities of its
 * configuration space, found and checked (virtio 1.2, 4.1.4; PCI 3.0, 6.7 and 6.8.2).
 *
 * The bytes are hostile: a list may loop, structures may overlap, leave their BAR or lie in one
 * that does not exist. What vf_caps_find() has accepted can be used without further checks: every
 * place lies inside a memory BAR, those that are programmed do not share a byte, and everything is
 * as long as its registers need.
 *
 * Thread: any; no state.
 */
#ifndef UNVMM_VF_CAPS_H
#define UNVMM_VF_CAPS_H

#include <unvmm/diag.h>

#define VF_BARS	       6
#define VF_CAPS_PLACES 12 /* virtio capabilities that 192 bytes can hold side by side */

/* [offset, offset + length) of a BAR. */
struct vf_place {
	uint8_t type; /* VIRTIO_PCI_CAP_*; 0: of MSI-X */
	uint8_t bar;
	uint64_t offset, length; /* length 0: not there */
};

struct vf_caps {
	uint16_t vendor, device, subvendor, subdevice;
	uint16_t device_id; /* VIRTIO_ID_* */
	struct vf_place common, notify, isr, config;
	uint32_t notify_multiplier; /* 0: all queues share one doorbell */
	uint16_t nvectors;	    /* of MSI-X */
	struct vf_place msix_table, msix_pba;
	/* Everything that virtio capabilities name, what is not used included. */
	struct vf_place places[VF_CAPS_PLACES];
	unsigned int nplaces;
};

/* How to get at a function. */
struct vf_caps_source {
	/*
	 * Reads [off, off + len) of the first 256 bytes of configuration space. -errno passes
	 * through. A VF's own vendor and device ID read 0xffff in hardware (SR-IOV 1.1, 3.4.1.1):
	 * who reads it raw (sysfs) puts in what the kernel knows.
	 */
	int (*read)(void *opaque, unsigned int off, void *buf, unsigned int len);
	void *opaque;
	uint64_t bar_size[VF_BARS]; /* 0: not there, or the upper half of a 64-bit BAR */
};

/* -EINVAL, or -ENOTSUP for a sound function that unvmm does not drive, with one sentence. */
int vf_caps_find(struct vf_caps *caps, const struct vf_caps_source *src, struct diag *d) must_check;

/* What lies in a page of the BAR that holds the doorbells. Only the first kind may be a guest's. */
enum vf_page {
	VF_PAGE_DOORBELLS, /* doorbells, and nothing else */
	VF_PAGE_PARTLY,	   /* the notify structure does not fill it */
	VF_PAGE_REGISTERS, /* another structure lies in it, be it a second notify structure */
	VF_PAGE_MSIX,	   /* so does MSI-X */
};

/* page: offset of its first byte, a multiple of 4096. */
enum vf_page vf_caps_page(const struct vf_caps *caps, uint64_t page) must_check;

/* Offset of a queue's doorbell in the notify BAR; -EINVAL if it leaves the notify structure. */
int vf_caps_doorbell(const struct vf_caps *caps, uint16_t queue_notify_off,
		     uint64_t *offset) must_check;

#endif
