/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vq_driver.h - the driver's side of a split virtqueue, for tests and fuzzers: builds rings in
 * guest memory, posts chains, collects what comes back. Every field of the rings may also be
 * written by hand, to break them. The test's thread.
 */
#ifndef UNVMM_TESTS_VQ_DRIVER_H
#define UNVMM_TESTS_VQ_DRIVER_H

#include <linux/virtio_ring.h>

#include <unvmm/gmem.h>
#include <unvmm/vq.h>

struct vq_driver {
	struct gmem *mem;
	struct vq_layout layout;
	bool event_idx;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t free_head; /* list of free descriptors through their next fields */
	uint16_t nfree;
	uint16_t avail_idx; /* posted, visible after vqd_show() */
	uint16_t last_used;
	gpa_t heap, heap_end; /* guest memory for buffers */
};

struct vqd_buf {
	gpa_t gpa;
	uint32_t len;
	bool writable; /* by the device */
};

/* Rings at `base`, then `heap` bytes for vqd_alloc(); all inside RAM. */
void vqd_init(struct vq_driver *d, struct gmem *mem, gpa_t base, uint64_t heap, uint16_t size,
	      uint64_t features);

/* Guest memory for a buffer; aligned to `align`, a power of two. Never freed. */
gpa_t vqd_alloc(struct vq_driver *d, uint64_t len, uint64_t align);
/* Host view of guest memory that must be inside RAM. */
void *vqd_at(const struct vq_driver *d, gpa_t gpa, uint64_t len);

/* Posts a chain, as descriptors of the table or as one indirect table. Returns its head. */
uint16_t vqd_post(struct vq_driver *d, const struct vqd_buf *bufs, unsigned int n);
uint16_t vqd_post_indirect(struct vq_driver *d, const struct vqd_buf *bufs, unsigned int n);
/* Puts a head that was built by hand into the available ring. */
void vqd_post_head(struct vq_driver *d, uint16_t head);
/* Makes what was posted visible; true if the device asks for a kick. */
bool vqd_show(struct vq_driver *d);

/* The next used element, if there is one; frees its chain (not a head built by hand). */
bool vqd_take(struct vq_driver *d, struct vring_used_elem *e);
/* Asks for an interrupt (event index or flag) when an element after those taken is used. */
void vqd_want_interrupt(struct vq_driver *d, bool want);

#endif
