/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_loopback.c - a cable that ends where it begins: every frame that the guest sends comes back
 * on the same pair of queues. For tests, and for measuring the card without a network behind it.
 * Opened and closed by main, the rest runs on the loop's thread.
 */
#include "net_backend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIFO_BYTES KiB(256) /* a power of two; a frame that finds no room is lost */

/* Frames with their headers, each behind its length. */
struct fifo {
	uint32_t head, tail; /* bytes ever taken and put */
	bool want;
	struct net_loopback *lb;
	struct loop_work ready;
	uint8_t *bytes;
};

struct net_loopback {
	struct net_backend b;
	unsigned int npairs;
	struct fifo fifos[NET_PAIRS_MAX];
};

static struct fifo *fifo_of(struct net_backend *b, unsigned int q)
{
	return &container_of(b, struct net_loopback, b)->fifos[q];
}

/* [at, at + len) of the ring as one or two pieces. */
static unsigned int pieces(const struct fifo *f, uint32_t at, uint32_t len, struct iovec v[2])
{
	uint32_t start = at & (FIFO_BYTES - 1);
	uint32_t first = len < FIFO_BYTES - start ? len : (uint32_t)(FIFO_BYTES - start);

	v[0] = (struct iovec){ .iov_base = f->bytes + start, .iov_len = first };
	v[1] = (struct iovec){ .iov_base = f->bytes, .iov_len = len - first };
	return len > first ? 2 : 1;
}

static void ready_work(struct loop_work *w)
{
	struct fifo *f = container_of(w, struct fifo, ready);
	struct net_backend *b = &f->lb->b;

	if (f->want && f->head != f->tail)
		b->events->rx_ready(b, (unsigned int)(f - f->lb->fifos));
}

static int loopback_tx(struct net_backend *b, unsigned int q, struct iovec *iov, unsigned int n)
{
	struct fifo *f = fifo_of(b, q);
	uint32_t len = 0, at = f->tail + (uint32_t)sizeof(len);
	struct iovec v[2];
	unsigned int nv;

	for (unsigned int i = 0; i < n; i++)
		len += (uint32_t)iov[i].iov_len;
	if (FIFO_BYTES - (f->tail - f->head) < len + sizeof(len))
		return -ENOBUFS;
	nv = pieces(f, f->tail, sizeof(len), v);
	net_iov_store(v, nv, 0, &len, sizeof(len));
	for (unsigned int i = 0; i < n; i++) {
		nv = pieces(f, at, (uint32_t)iov[i].iov_len, v);
		net_iov_store(v, nv, 0, iov[i].iov_base, iov[i].iov_len);
		at += (uint32_t)iov[i].iov_len;
	}
	f->tail = at;
	if (f->want)
		loop_call(b->loop, &f->ready);
	return 0;
}

static ssize_t loopback_rx(struct net_backend *b, unsigned int q, const struct iovec *iov,
			   unsigned int n)
{
	struct fifo *f = fifo_of(b, q);
	struct iovec v[2];
	size_t off = 0;
	unsigned int nv;
	uint32_t len;

	if (f->head == f->tail)
		return -EAGAIN;
	nv = pieces(f, f->head, sizeof(len), v);
	net_iov_load(v, nv, 0, &len, sizeof(len));
	nv = pieces(f, f->head + (uint32_t)sizeof(len), len, v);
	for (unsigned int i = 0; i < nv; i++) {
		net_iov_store(iov, n, off, v[i].iov_base, v[i].iov_len);
		off += v[i].iov_len;
	}
	f->head += (uint32_t)sizeof(len) + len;
	return (ssize_t)len;
}

static void loopback_want_rx(struct net_backend *b, unsigned int q, bool want)
{
	struct fifo *f = fifo_of(b, q);

	f->want = want;
	if (want && f->head != f->tail)
		loop_call(b->loop, &f->ready);
}

static void loopback_nothing(struct net_backend *b)
{
	(void)b;
}

static int loopback_set_queues(struct net_backend *b, unsigned int n)
{
	(void)b;
	(void)n;
	return 0;
}

static void loopback_close(struct net_backend *b)
{
	struct net_loopback *lb = container_of(b, struct net_loopback, b);

	for (unsigned int i = 0; i < lb->npairs; i++)
		free(lb->fifos[i].bytes);
	free(lb);
}

static const struct net_backend_ops loopback_ops = {
	.name = "loopback",
	.attach = loopback_nothing,
	.detach = loopback_nothing,
	.rx = loopback_rx,
	.want_rx = loopback_want_rx,
	.tx = loopback_tx,
	.set_queues = loopback_set_queues,
	.close = loopback_close,
};

int net_loopback_open(struct net_backend **b, const char *id, unsigned int pairs, struct diag *d)
{
	struct net_loopback *lb = calloc(1, sizeof(*lb));

	if (!lb)
		return diag_errno(d, -ENOMEM, "%s", id);
	lb->b.ops = &loopback_ops;
	lb->b.id = id;
	lb->b.link = true;
	for (unsigned int i = 0; i < pairs; i++) {
		struct fifo *f = &lb->fifos[i];

		f->lb = lb;
		f->ready.fn = ready_work;
		f->bytes = malloc(FIFO_BYTES);
		if (!f->bytes) {
			loopback_close(&lb->b);
			return diag_errno(d, -ENOMEM, "%s", id);
		}
		lb->npairs++;
	}
	*b = &lb->b;
	return 0;
}
