/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vq.h - the device side of a split virtqueue (virtio 1.2, section 2.7), for software devices.
 *
 * The rings lie in guest memory and the guest writes them while we read: every index, descriptor
 * and length is loaded once, checked, and the checked copy is used. A ring that breaks the rules
 * makes vq_pop() return -EPROTO; the caller then stops the queue and the device asks the guest for
 * a reset (NEEDS_RESET). The VM lives.
 *
 *   vq_pop() -> a chain: checked iovecs     vq_push() ... vq_push(), then one vq_publish()
 *   vq_out(), vq_in() -> cursors over its bytes, because a driver may cut a request into
 *   descriptors as it likes (section 2.7.4)
 *
 * Thread: a queue has one owner at a time, the thread of the device's loop. No locks, never blocks.
 */
#ifndef UNVMM_VQ_H
#define UNVMM_VQ_H

#include <sys/uio.h>

#include <unvmm/gmem.h>

#define VQ_SIZE_MAX 1024 /* largest queue that a software device of ours offers */

struct vring_desc;
struct vring_avail;
struct vring_used;

/* Ring addresses and size as the driver programmed them. */
struct vq_layout {
	uint16_t size; /* power of two, 1..VQ_SIZE_MAX */
	gpa_t desc, avail, used;
};

struct vq {
	struct gmem *mem;
	struct vq_layout layout;
	bool event_idx; /* VIRTIO_F_EVENT_IDX negotiated */
	bool indirect;	/* VIRTIO_F_INDIRECT_DESC negotiated */
	bool running;
	/* Host addresses of the rings: checked once at vq_start(), valid until vq_stop(). */
	const struct vring_desc *desc_ring;
	struct vring_avail *avail_ring; /* only read; perhaps mapped so */
	struct vring_used *used_ring;
	uint16_t next_avail; /* index of the next entry to take */
	uint16_t next_used;  /* index of the next entry to give back */
	uint16_t published;  /* next_used as the driver sees it */
	bool interrupted;    /* published says something: an interrupt was decided on since start */
	unsigned int outstanding; /* taken and not given back: at most the queue's size */
	unsigned int budget;	  /* pops left until the owner looks after something else */
	const char *why;	  /* after -EPROTO: which rule was broken */
};

/* A request: a copy of its chain as checked iovecs, device-readable ones first. */
struct vq_chain {
	uint16_t head;
	unsigned int nout, nin;	  /* iovecs that the device reads / writes; none is empty */
	uint64_t out_len, in_len; /* bytes of each part; together below 4 GiB */
	unsigned int cap;	  /* room in iov[] and gpa[]: set by the caller */
	struct iovec *iov;	  /* nout, then nin entries; storage belongs to the caller */
	gpa_t *gpa;		  /* guest address of each, for gmem_mark_dirty() */
};

/*
 * Takes over a queue whose rings start at `index` (0 after a reset, else from the journal).
 * -EFAULT if a ring is not inside RAM, -EINVAL for a size or alignment the spec forbids (desc 16,
 * avail 2, used 4).
 */
int vq_start(struct vq *q, struct gmem *mem, const struct vq_layout *layout, uint64_t features,
	     uint16_t index) must_check;
void vq_stop(struct vq *q);

/*
 * Allows as many pops as the ring has entries. A guest that adds requests as fast as they are taken
 * must not keep the owner from everything else: when they are used up vq_pop() says 0, and
 * vq_enable_kicks() says that there is more. vq_start() begins, too.
 */
void vq_begin(struct vq *q);

/*
 * The next request. 1: *c is filled; 0: the ring is empty, or the budget is used up; -EPROTO: the
 * driver broke the ring (loop, index out of range, descriptor outside RAM, readable after writable,
 * longer than the queue or c->cap, empty chain, 4 GiB or more, avail index too far ahead), nothing
 * is taken and q->why names it. Descriptors of length 0 are legal and skipped; adjacent buffers
 * become one iovec.
 */
int vq_pop(struct vq *q, struct vq_chain *c) must_check;
/* Takes back the last n pops, none of which has been pushed: vq_pop() gives them again. */
void vq_unpop(struct vq *q, unsigned int n);

/*
 * Gives `head` back with `len` bytes written. Marks the used element and index dirty; payload is
 * marked by whoever wrote it (vq_mark_written()) before this call. The driver sees it only after
 * vq_publish(), so that several completions cost one barrier.
 */
void vq_push(struct vq *q, uint16_t head, uint32_t len);
/* Makes pushes visible; returns true if the driver wants an interrupt for them. */
bool vq_publish(struct vq *q) must_check;

/* Marks the first `len` written bytes of the chain's device-writable part dirty. */
void vq_mark_written(struct vq *q, const struct vq_chain *c, uint64_t len);

/*
 * Doorbell suppression. vq_disable_kicks() when starting to work through the ring;
 * vq_enable_kicks() before going idle: false means that more requests arrived meanwhile and the
 * caller must go on popping.
 */
void vq_disable_kicks(struct vq *q);
bool vq_enable_kicks(struct vq *q) must_check;

/*
 * The other way, of a device that hears every doorbell and looks at the ring only then. Allows
 * vq_pop() exactly what is in the ring now, and asks for a kick with the next request. True: more
 * came just then, perhaps without a kick, so it must be called again.
 */
bool vq_look(struct vq *q) must_check;

/* After memory was taken away or added: are the rings still where they were at vq_start()? */
bool vq_rings_stand(const struct vq *q) must_check;

/* A cursor over the bytes of one part of a chain. It changes the chain's iovecs in place. */
struct vq_bytes {
	struct iovec *iov;
	gpa_t *gpa;
	unsigned int n;
	uint64_t len; /* bytes left */
};

struct vq_bytes vq_out(const struct vq_chain *c);
struct vq_bytes vq_in(const struct vq_chain *c);

/* Drops the first / the last `len` bytes, at most b->len. */
void vq_skip(struct vq_bytes *b, uint64_t len);
void vq_trim(struct vq_bytes *b, uint64_t len);
/* Copies the next `len` bytes out and passes them; false (and nothing done) if there are fewer. */
bool vq_read(struct vq_bytes *b, void *buf, size_t len) must_check;
/* The same for writing; marks what it wrote dirty. */
bool vq_write(struct vq *q, struct vq_bytes *b, const void *buf, size_t len) must_check;
/* Says that the next `len` bytes were written by somebody else (a read from disk). */
void vq_mark(struct vq *q, const struct vq_bytes *b, uint64_t len);

#endif
