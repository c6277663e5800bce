/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk_backend.h - a raw disk image (regular file or block device) behind a virtio disk: opening,
 * locking and sizing it, and whole transfers on the io thread's ring.
 *
 * A transfer (struct blk_io) is done when every byte of it is, or one failed: short reads and
 * writes are continued, misaligned ones go through a bounce buffer where the image is opened with
 * O_DIRECT, and zeroes are written where the file system cannot make them. A read that meets the
 * end of the image (somebody truncated it) is an error, never zeroes; a write there makes the image
 * longer again.
 *
 * Thread: blk_open/close by main; blk_submit and done() on the loop's thread.
 */
#ifndef UNVMM_BLK_BACKEND_H
#define UNVMM_BLK_BACKEND_H

#include <unvmm/log.h>
#include <unvmm/loop.h>
#include <unvmm/vq.h>

#define BLK_SECTOR     512u
#define BLK_ZERO_IOVS  16u
#define BLK_ZERO_PIECE KiB(64) /* zeroes are written by BLK_ZERO_IOVS of these at a time */
#define BLK_BOUNCE_MAX KiB(256)

struct blk_backend;

/*
 * The operations that reach the kernel. Each queues one, whose completion runs op->done with bytes
 * or -errno; an error returned here means that it was not queued. Tests put their own table there
 * to fail, delay and record.
 */
struct blk_ops {
	int (*readv)(struct blk_backend *b, struct loop_op *op, const struct iovec *iov,
		     unsigned int n, uint64_t offset);
	/* durable: on stable storage before it completes */
	int (*writev)(struct blk_backend *b, struct loop_op *op, const struct iovec *iov,
		      unsigned int n, uint64_t offset, bool durable);
	int (*sync)(struct blk_backend *b, struct loop_op *op);
	int (*fallocate)(struct blk_backend *b, struct loop_op *op, int mode, uint64_t offset,
			 uint64_t len);
};

extern const struct blk_ops blk_uring_ops;

struct blk_backend {
	const char *path; /* kept by the caller */
	int fd;
	bool readonly, direct;
	uint64_t size;		      /* bytes, a multiple of the block size */
	uint32_t block_size;	      /* smallest write: 512, or what O_DIRECT asks for */
	uint32_t memory_align;	      /* of buffers; 1 without O_DIRECT */
	bool no_punch, no_zero_range; /* learnt: the file system refused them */
	struct loop *loop;
	const struct blk_ops *ops;
	void *zeroes; /* BLK_ZERO_PIECE bytes, mapped on first use */
	struct log_limit limit;
};

/* Opens the image. Everything unfit is refused with a sentence. */
int blk_open(struct blk_backend *b, const char *path, bool readonly, bool direct, struct loop *loop,
	     struct diag *d) must_check;
void blk_close(struct blk_backend *b);
/*
 * Locks it, at most for as long as it is open: one writer or many readers, over all processes that
 * ask (OFD locks). -EBUSY.
 */
int blk_lock(struct blk_backend *b, struct diag *d) must_check;
int blk_unlock(struct blk_backend *b, struct diag *d) must_check;

enum blk_kind { BLK_READ, BLK_WRITE, BLK_SYNC, BLK_DISCARD, BLK_ZERO };

struct blk_io {
	/* By the caller, before blk_submit(). */
	enum blk_kind kind;
	bool durable; /* BLK_WRITE, BLK_DISCARD, BLK_ZERO: on stable storage before done() */
	bool unmap;   /* BLK_ZERO: may free the space */
	uint64_t offset, len;			  /* bytes; len of reads and writes is data.len */
	struct vq_bytes data;			  /* the guest's buffers; consumed */
	struct vq *vq;				  /* in which written bytes are marked dirty */
	void (*done)(struct blk_io *io, int err); /* may free io */

	/* Private. */
	struct loop_op op;
	struct blk_backend *backend;
	bool syncing; /* the second half of a durable discard or zero */
	bool punching, zeroing;
	uint8_t *bounce;
	uint64_t bounce_skip,
		bounce_len;   /* unwanted bytes in front, all bytes; 0: no piece is filled */
	uint64_t bounce_done; /* transferred */
	struct iovec *zero_iov;
};

/* Starts a transfer inside [0, size). done() runs later, or at once if nothing can be queued. */
void blk_submit(struct blk_backend *b, struct blk_io *io);

#endif
