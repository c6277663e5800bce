/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk_backend.c - the file side of a virtio disk: opens, locks and sizes a raw image, and carries
 * out whole transfers on the io thread's ring. Opened by main; transfers on the loop's thread.
 */
#include "blk_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What O_DIRECT asks for where the kernel does not tell (before 6.1, some file systems). */
#define DIRECT_ALIGN_DEFAULT 4096u

/* --- opening --------------------------------------------------------------------------------- */

static int open_error(const char *path, bool readonly, bool direct, int err, struct diag *d)
{
	int fd;

	if (direct && err == -EINVAL)
		return diag_set(
			d, err,
			"disk %s: its file system has no direct I/O; leave out direct = true",
			path);
	if (!readonly && (err == -EACCES || err == -EROFS || err == -EPERM)) {
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0) {
			close(fd);
			return diag_errno(d, err,
					  "disk %s: cannot be opened for writing (readonly = true "
					  "would open it for reading)",
					  path);
		}
	}
	return diag_errno(d, err, "disk %s: cannot be opened", path);
}

int blk_lock(struct blk_backend *b, struct diag *d)
{
	struct flock lock = { .l_type = b->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(b->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return diag_set(
			d, -EBUSY,
			"disk %s: the image is in use by another process or disk; stop that, or "
			"use readonly = true on both sides",
			b->path);
	return diag_errno(d, -errno, "disk %s: cannot lock the image", b->path);
}

int blk_unlock(struct blk_backend *b, struct diag *d)
{
	struct flock lock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	if (fcntl(b->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	return diag_errno(d, -errno, "disk %s: cannot unlock the image", b->path);
}

/* Fills in block_size and memory_align for O_DIRECT. */
static int probe_direct(struct blk_backend *b, bool block_device, struct diag *d)
{
	uint32_t offset_align = DIRECT_ALIGN_DEFAULT;
	struct statx stx = { 0 };
	int logical;

	b->memory_align = DIRECT_ALIGN_DEFAULT;
	if (statx(b->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    (stx.stx_mask & STATX_DIOALIGN)) {
		if (!stx.stx_dio_offset_align)
			return open_error(b->path, b->readonly, true, -EINVAL, d);
		offset_align = stx.stx_dio_offset_align;
		b->memory_align = stx.stx_dio_mem_align;
	} else if (block_device && ioctl(b->fd, BLKSSZGET, &logical) == 0 && logical > 0) {
		offset_align = (uint32_t)logical;
	}
	b->block_size = offset_align > BLK_SECTOR ? offset_align : BLK_SECTOR;
	if (!is_power_of_2(b->block_size) || !is_power_of_2(b->memory_align))
		return diag_set(
			d, -EINVAL,
			"disk %s: direct I/O with a block size of %u is not supported; leave "
			"out direct = true",
			b->path, b->block_size);
	return 0;
}

static int measure(struct blk_backend *b, struct diag *d)
{
	struct stat st;
	int err;

	if (fstat(b->fd, &st) < 0)
		return diag_errno(d, -errno, "disk %s: cannot be examined", b->path);
	if (S_ISREG(st.st_mode))
		b->size = (uint64_t)st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return diag_set(d, -EINVAL, "disk %s: is neither a regular file nor a block device",
				b->path);
	else if (ioctl(b->fd, BLKGETSIZE64, &b->size) < 0)
		return diag_errno(d, -errno, "disk %s: its size cannot be read", b->path);

	b->block_size = BLK_SECTOR;
	b->memory_align = 1;
	if (b->direct) {
		err = probe_direct(b, S_ISBLK(st.st_mode), d);
		if (err)
			return err;
	}
	if (!b->size)
		return diag_set(d, -EINVAL,
				"disk %s: is empty; give it a size with "
				"'truncate -s 1G'",
				b->path);
	if (b->size % b->block_size)
		return diag_set(d, -EINVAL,
				"disk %s: its size, %" PRIu64 " bytes, is not a multiple of %u; "
				"lengthen it with 'truncate -s %%%u'",
				b->path, b->size, b->block_size, b->block_size);
	return 0;
}

int blk_open(struct blk_backend *b, const char *path, bool readonly, bool direct, struct loop *loop,
	     struct diag *d)
{
	int flags = (readonly ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0);
	int err;

	*b = (struct blk_backend){ .path = path,
				   .readonly = readonly,
				   .direct = direct,
				   .loop = loop,
				   .ops = &blk_uring_ops };
	/* Not to hang on a FIFO; the ring takes O_NONBLOCK as "never wait", so it is removed. */
	b->fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
	if (b->fd < 0)
		return open_error(path, readonly, direct, -errno, d);
	err = measure(b, d);
	if (!err && fcntl(b->fd, F_SETFL, flags) < 0)
		err = diag_errno(d, -errno, "disk %s: its flags cannot be set", path);
	if (err)
		close(b->fd);
	return err;
}

void blk_close(struct blk_backend *b)
{
	if (b->zeroes)
		munmap(b->zeroes, BLK_ZERO_PIECE);
	close(b->fd);
}

/* --- the operations on the ring -------------------------------------------------------------- */

static int uring_readv(struct blk_backend *b, struct loop_op *op, const struct iovec *iov,
		       unsigned int n, uint64_t offset)
{
	struct io_uring_sqe *sqe = loop_sqe(b->loop, op);

	if (!sqe)
		return -EIO;
	if (n == 1) /* spares the kernel the copy of the vector */
		io_uring_prep_read(sqe, b->fd, iov->iov_base, (unsigned int)iov->iov_len, offset);
	else
		io_uring_prep_readv(sqe, b->fd, iov, n, offset);
	return 0;
}

static int uring_writev(struct blk_backend *b, struct loop_op *op, const struct iovec *iov,
			unsigned int n, uint64_t offset, bool durable)
{
	struct io_uring_sqe *sqe = loop_sqe(b->loop, op);

	if (!sqe)
		return -EIO;
	if (n == 1)
		io_uring_prep_write(sqe, b->fd, iov->iov_base, (unsigned int)iov->iov_len, offset);
	else
		io_uring_prep_writev(sqe, b->fd, iov, n, offset);
	sqe->rw_flags = durable ? RWF_DSYNC : 0;
	return 0;
}

static int uring_sync(struct blk_backend *b, struct loop_op *op)
{
	struct io_uring_sqe *sqe = loop_sqe(b->loop, op);

	if (!sqe)
		return -EIO;
	io_uring_prep_fsync(sqe, b->fd, IORING_FSYNC_DATASYNC);
	return 0;
}

static int uring_fallocate(struct blk_backend *b, struct loop_op *op, int mode, uint64_t offset,
			   uint64_t len)
{
	struct io_uring_sqe *sqe = loop_sqe(b->loop, op);

	if (!sqe)
		return -EIO;
	io_uring_prep_fallocate(sqe, b->fd, mode, (off_t)offset, (off_t)len);
	return 0;
}

const struct blk_ops blk_uring_ops = {
	.readv = uring_readv,
	.writev = uring_writev,
	.sync = uring_sync,
	.fallocate = uring_fallocate,
};

/* --- transfers ------------------------------------------------------------------------------- */

static const char *const kind_names[] = {
	[BLK_READ] = "read",	   [BLK_WRITE] = "write",	   [BLK_SYNC] = "sync",
	[BLK_DISCARD] = "discard", [BLK_ZERO] = "write of zeroes",
};

static void finish(struct blk_io *io, int err)
{
	struct blk_backend *b = io->backend;

	if (err && err != -ECANCELED)
		log_limited(&b->limit, LOG_WARN, "disk %s: %s at byte %" PRIu64 " failed: %s",
			    b->path, kind_names[io->kind], io->offset,
			    err == -ENODATA ? "the image ends before it" : strerror(-err));
	free(io->bounce);
	free(io->zero_iov);
	io->bounce = NULL;
	io->zero_iov = NULL;
	io->done(io, err);
}

static bool aligned_for_direct(const struct blk_backend *b, const struct blk_io *io)
{
	uint64_t bits = io->offset;

	for (unsigned int i = 0; i < io->data.n; i++) {
		if ((uintptr_t)io->data.iov[i].iov_base % b->memory_align)
			return false;
		bits |= io->data.iov[i].iov_len;
	}
	return bits % b->block_size == 0;
}

/*
 * Prepares the next piece of a transfer that O_DIRECT would refuse: the aligned bytes around it, as
 * far as the buffer goes. Only reads may start or end inside a block: to write a part of one would
 * take a read first, and that races with writes beside it.
 */
static int bounce_next(struct blk_backend *b, struct blk_io *io)
{
	uint64_t start = align_down(io->offset, b->block_size);
	uint64_t end = align_up(io->offset + io->data.len, b->block_size);

	if (io->kind == BLK_WRITE && (start != io->offset || end != io->offset + io->data.len))
		return -EINVAL;
	if (!io->bounce) {
		uint64_t room = end - start < BLK_BOUNCE_MAX ? end - start : BLK_BOUNCE_MAX;
		uint32_t align =
			b->memory_align > sizeof(void *) ? b->memory_align : sizeof(void *);
		void *p;

		if (posix_memalign(&p, align, room))
			return -ENOMEM;
		io->bounce = p;
	}
	io->bounce_skip = io->offset - start;
	io->bounce_len = end - start < BLK_BOUNCE_MAX ? end - start : BLK_BOUNCE_MAX;
	io->bounce_done = 0;
	if (io->kind == BLK_WRITE && !vq_read(&io->data, io->bounce, io->bounce_len))
		return -EINVAL;
	return 0;
}

static int submit_bounced(struct blk_backend *b, struct blk_io *io)
{
	uint64_t start = align_down(io->offset, b->block_size) + io->bounce_done;
	struct iovec iov = { .iov_base = io->bounce + io->bounce_done,
			     .iov_len = io->bounce_len - io->bounce_done };

	return io->kind == BLK_READ ? b->ops->readv(b, &io->op, &iov, 1, start)
				    : b->ops->writev(b, &io->op, &iov, 1, start, io->durable);
}

static int submit_data(struct blk_backend *b, struct blk_io *io)
{
	int err;

	if (b->direct && (io->bounce || !aligned_for_direct(b, io))) {
		err = io->bounce_len ? 0 : bounce_next(b, io);
		return err ? err : submit_bounced(b, io);
	}
	return io->kind == BLK_READ
		       ? b->ops->readv(b, &io->op, io->data.iov, io->data.n, io->offset)
		       : b->ops->writev(b, &io->op, io->data.iov, io->data.n, io->offset,
					io->durable);
}

/* Zeroes by writing them: one page of zeroes, mapped read-only and shared by all pieces. */
static int submit_zero_writes(struct blk_backend *b, struct blk_io *io)
{
	uint64_t left = io->len;
	unsigned int n = 0;

	if (!b->zeroes) {
		void *p = mmap(NULL, BLK_ZERO_PIECE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return -errno;
		b->zeroes = p;
	}
	if (!io->zero_iov)
		io->zero_iov = calloc(BLK_ZERO_IOVS, sizeof(*io->zero_iov));
	if (!io->zero_iov)
		return -ENOMEM;
	for (; n < BLK_ZERO_IOVS && left; n++) {
		uint64_t part = left < BLK_ZERO_PIECE ? left : BLK_ZERO_PIECE;

		io->zero_iov[n] = (struct iovec){ .iov_base = b->zeroes, .iov_len = part };
		left -= part;
	}
	return b->ops->writev(b, &io->op, io->zero_iov, n, io->offset, io->durable);
}

/* Best first: free the space (if allowed), have the file system zero it, write zeroes. */
static int submit_zero(struct blk_backend *b, struct blk_io *io)
{
	io->punching = io->kind == BLK_DISCARD || (io->unmap && !b->no_punch);
	io->zeroing = !io->punching && !b->no_zero_range;
	if (io->punching)
		return b->ops->fallocate(b, &io->op, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					 io->offset, io->len);
	if (io->zeroing)
		return b->ops->fallocate(b, &io->op, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
					 io->offset, io->len);
	return submit_zero_writes(b, io);
}

static void submit_step(struct blk_io *io)
{
	struct blk_backend *b = io->backend;
	int err = 0;

	switch (io->kind) {
	case BLK_READ:
	case BLK_WRITE:
		err = submit_data(b, io);
		break;
	case BLK_SYNC:
		err = b->ops->sync(b, &io->op);
		break;
	case BLK_DISCARD:
	case BLK_ZERO:
		err = io->syncing ? b->ops->sync(b, &io->op) : submit_zero(b, io);
		break;
	}
	if (err)
		finish(io, err);
}

static void advance(struct blk_io *io, uint64_t n)
{
	io->offset += n;
	io->len -= n;
	if (io->len)
		submit_step(io);
	else
		finish(io, 0);
}

/* n more bytes of the bounce buffer have been transferred. */
static void bounced(struct blk_io *io, uint64_t n)
{
	uint64_t wanted;
	int err;

	io->bounce_done += n;
	wanted = io->bounce_len - io->bounce_skip;
	if (wanted > io->len)
		wanted = io->len;
	/* A read of blocks at the end may be short as long as what was asked for is there. */
	if (io->bounce_done < io->bounce_skip + wanted) {
		if (io->bounce_done % io->backend->block_size)
			err = -ENODATA;
		else
			err = submit_bounced(io->backend, io);
		if (err)
			finish(io, err);
		return;
	}
	if (io->kind == BLK_READ &&
	    !vq_write(io->vq, &io->data, io->bounce + io->bounce_skip, wanted)) {
		finish(io, -EINVAL);
		return;
	}
	io->bounce_len = 0;
	advance(io, wanted);
}

static void data_done(struct blk_io *io, uint64_t n)
{
	if (!n) { /* at the end of the image, which was inside its size when it was opened */
		finish(io, io->kind == BLK_READ ? -ENODATA : -EIO);
		return;
	}
	if (io->bounce) {
		bounced(io, n);
		return;
	}
	if (io->kind == BLK_READ)
		vq_mark(io->vq, &io->data, n);
	vq_skip(&io->data, n);
	advance(io, n);
}

/*
 * A discard is a hint, so it succeeds where it is not supported; zeroes must become zeroes, so the
 * next best way is taken. True if the step was dealt with.
 */
static bool refused(struct blk_io *io, int res)
{
	if (res != -EOPNOTSUPP || io->syncing || (!io->punching && !io->zeroing))
		return false;
	if (io->punching)
		io->backend->no_punch = true;
	else
		io->backend->no_zero_range = true;
	if (io->kind == BLK_DISCARD)
		finish(io, 0);
	else
		submit_step(io);
	return true;
}

static void range_done(struct blk_io *io, uint64_t n)
{
	if (!io->syncing && !io->punching && !io->zeroing) {
		if (n)
			advance(io, n);
		else
			finish(io, -EIO);
		return;
	}
	if (io->durable && !io->syncing) {
		io->syncing = true;
		submit_step(io);
		return;
	}
	finish(io, 0);
}

static void step_done(struct loop_op *op, int res, uint32_t cqe_flags)
{
	struct blk_io *io = container_of(op, struct blk_io, op);

	(void)cqe_flags;
	if (res == -EINTR || res == -EAGAIN) {
		submit_step(io);
		return;
	}
	if (res < 0) {
		if (!refused(io, res))
			finish(io, res);
		return;
	}
	switch (io->kind) {
	case BLK_READ:
	case BLK_WRITE:
		data_done(io, (uint64_t)res);
		break;
	case BLK_SYNC:
		finish(io, 0);
		break;
	case BLK_DISCARD:
	case BLK_ZERO:
		range_done(io, (uint64_t)res);
		break;
	}
}

void blk_submit(struct blk_backend *b, struct blk_io *io)
{
	io->op.done = step_done;
	io->backend = b;
	io->syncing = io->punching = io->zeroing = false;
	io->bounce_len = 0;
	if (io->kind == BLK_READ || io->kind == BLK_WRITE)
		io->len = io->data.len;
	if (io->kind == BLK_DISCARD && b->no_punch) {
		finish(io, 0);
		return;
	}
	submit_step(io);
}
