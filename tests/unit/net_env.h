/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_env.h - a machine with one virtio network card, for its unit tests: its real queues on a real
 * io thread, a driver, and a backend that records what is sent, gives what it is told, and fails
 * when it is told to. Included once by each test program (it includes virtio_net_dev.c, whose
 * private struct is wanted).
 */
#ifndef UNVMM_TESTS_NET_ENV_H
#define UNVMM_TESTS_NET_ENV_H

#include "fake_transport.h"

#include "virtio_net_dev.c"

#include <unistd.h>

#include "vq_driver.h"

#define RAM	   MiB(32)
#define FRAMES	   64
#define QUEUES	   17
#define FEATURE(f) VIRTIO_BIT(VIRTIO_NET_F_##f)
#define CTRL	   (FEATURE(CTRL_VQ) | FEATURE(CTRL_RX) | FEATURE(CTRL_VLAN) | FEATURE(CTRL_MAC_ADDR))

#define MERGE FEATURE(MRG_RXBUF)
#define OFFLOADS                                                                       \
	(FEATURE(CSUM) | FEATURE(HOST_TSO4) | FEATURE(HOST_TSO6) | FEATURE(HOST_ECN) | \
	 FEATURE(CTRL_GUEST_OFFLOADS) | NET_GUEST_OFFLOADS)

/* --- a backend -------------------------------------------------------------------------------- */

struct mock_frame {
	unsigned int pair, len; /* header included */
	uint8_t *bytes;
};

static struct mock {
	struct net_backend b;
	pthread_mutex_t lock; /* the test's thread and the loop's */
	sem_t sent;
	struct mock_frame in[FRAMES], out[FRAMES];
	unsigned int in_at, in_end, nout;
	bool want[NET_PAIRS_MAX], full; /* full: tx() says -EAGAIN */
	int tx_error;
	unsigned int rx_calls, tx_calls, set_queues;
	uint64_t offload;
	struct loop_work work;
	void (*todo)(void);
	sem_t done;
} mock;

static inline void mock_nothing(struct net_backend *b)
{
	(void)b;
}

static inline bool mock_has(unsigned int q)
{
	return mock.in_at < mock.in_end && mock.in[mock.in_at].pair == q;
}

static inline ssize_t mock_rx(struct net_backend *b, unsigned int q, const struct iovec *iov,
			      unsigned int n)
{
	struct mock_frame *f = &mock.in[mock.in_at];
	ssize_t len = -EAGAIN;

	(void)b;
	pthread_mutex_lock(&mock.lock);
	mock.rx_calls++;
	if (mock_has(q)) {
		net_iov_store(iov, n, 0, f->bytes, f->len);
		len = f->len;
		free(f->bytes);
		mock.in_at++;
	}
	pthread_mutex_unlock(&mock.lock);
	return len;
}

static inline void mock_ready(struct loop_work *w)
{
	(void)w;
	for (unsigned int q = 0; q < NET_PAIRS_MAX; q++) {
		bool ready;

		pthread_mutex_lock(&mock.lock);
		ready = mock.want[q] && mock_has(q);
		pthread_mutex_unlock(&mock.lock);
		if (ready)
			mock.b.events->rx_ready(&mock.b, q);
	}
}

static inline void mock_want_rx(struct net_backend *b, unsigned int q, bool want)
{
	static struct loop_work again = { .fn = mock_ready };
	bool has;

	pthread_mutex_lock(&mock.lock);
	mock.want[q] = want;
	has = mock_has(q);
	pthread_mutex_unlock(&mock.lock);
	if (want && has)
		loop_call(b->loop, &again);
}

static inline int mock_tx(struct net_backend *b, unsigned int q, struct iovec *iov, unsigned int n)
{
	struct mock_frame *f;
	int err;

	(void)b;
	pthread_mutex_lock(&mock.lock);
	mock.tx_calls++;
	err = mock.full ? -EAGAIN : mock.tx_error;
	if (!err && mock.nout < FRAMES) {
		f = &mock.out[mock.nout++];
		f->pair = q;
		f->bytes = malloc(NET_HDR + NET_FRAME_MAX);
		f->len = (unsigned int)net_iov_load(iov, n, 0, f->bytes, NET_HDR + NET_FRAME_MAX);
	}
	pthread_mutex_unlock(&mock.lock);
	sem_post(&mock.sent);
	return err;
}

static inline int mock_set_offload(struct net_backend *b, uint64_t features)
{
	(void)b;
	mock.offload = features;
	return 0;
}

static inline int mock_set_queues(struct net_backend *b, unsigned int n)
{
	(void)b;
	mock.set_queues = n;
	return 0;
}

static const struct net_backend_ops mock_ops = {
	.attach = mock_nothing,
	.detach = mock_nothing,
	.rx = mock_rx,
	.want_rx = mock_want_rx,
	.tx = mock_tx,
	.set_offload = mock_set_offload,
	.set_queues = mock_set_queues,
	.close = mock_nothing,
};

/* In place of the real one, which the library then does not bring. */
int net_tap_open(struct net_backend **b, const char *id, const char *name, unsigned int pairs,
		 unsigned int mtu, struct diag *d)
{
	(void)name;
	(void)pairs;
	(void)mtu;
	(void)d;
	mock.b.ops = &mock_ops;
	mock.b.id = id;
	mock.b.offloads = mock.b.link = true;
	*b = &mock.b;
	return 0;
}

static inline void todo_work(struct loop_work *w)
{
	(void)w;
	mock.todo();
	sem_post(&mock.done);
}

/* Runs fn on the loop's thread and waits for it: what was called before it has run then, too. */
static inline void on_loop(void (*fn)(void))
{
	mock.todo = fn;
	mock.work.fn = todo_work;
	loop_call(mock.b.loop, &mock.work);
	assert_int_equal(wait_for(&mock.done), 0);
}

static inline void nothing(void)
{
}

/* --- a machine -------------------------------------------------------------------------------- */

struct env {
	struct vm vm;
	struct vm_config config;
	struct device dev;
	struct net_conf conf;
	struct virtio_net *net;
	struct vq_driver d[QUEUES];
};

static inline void start_driver(struct env *e, uint64_t features)
{
	struct vdev *v = &e->net->vdev;

	v->negotiated = SOFTQ_FEATURES | features;
	for (unsigned int q = 0; q < v->nqueues; q++) {
		struct vq_driver *d = &e->d[q];

		vqd_init(d, &e->vm.mem, MiB(1) + q * MiB(1), MiB(1) - KiB(16), v->queues[q].size,
			 v->negotiated);
		v->queues[q].desc = d->layout.desc;
		v->queues[q].driver = d->layout.avail;
		v->queues[q].device = d->layout.used;
		v->queues[q].index = 0;
		v->queues[q].enabled = true;
	}
	v->status = VIRTIO_CONFIG_S_DRIVER_OK;
	assert_int_equal(v->ops->start(v), 0);
}

/* A card with so many pairs; the driver has started it. */
static inline void set_up(struct env *e, unsigned int pairs, uint64_t features)
{
	struct diag d = { "" };

	memset(e, 0, sizeof(*e));
	clear_transport();
	memset(&mock, 0, sizeof(mock));
	pthread_mutex_init(&mock.lock, NULL);
	sem_init(&mock.sent, 0, 0);
	sem_init(&mock.done, 0, 0);
	assert_int_equal(gmem_create(&e->vm.mem, RAM, false, NULL), 0);
	net_init_conf(&e->conf);
	e->conf.tap = (char[]){ "tap0" };
	e->conf.mac = (char[]){ "52:54:00:00:00:07" };
	e->conf.queues = pairs;
	e->conf.mtu = 9000;
	e->config.name = (char[]){ "unit" };
	e->vm.config = &e->config;
	snprintf(e->dev.id, sizeof(e->dev.id), "net0");
	if (virtio_net_class.create(&e->vm, &e->dev, &e->conf, &d))
		fail_msg("%s", d.text);
	e->net = e->dev.priv;
	start_driver(e, features);
	on_loop(nothing);
}

static inline void tear_down(struct env *e)
{
	virtio_net_class.destroy(&e->dev);
	io_thread_stop(&e->vm.io);
	gmem_destroy(&e->vm.mem);
	for (unsigned int i = 0; i < mock.nout; i++)
		free(mock.out[i].bytes);
	for (; mock.in_at < mock.in_end; mock.in_at++)
		free(mock.in[mock.in_at].bytes);
}

/* --- a driver --------------------------------------------------------------------------------- */

static inline void kick(struct env *e, unsigned int q)
{
	if (vqd_show(&e->d[q]))
		e->net->vdev.ops->kick(&e->net->vdev, q);
}

static inline struct vring_used_elem wait_used(struct env *e, unsigned int q)
{
	struct vring_used_elem used = { 0 };

	for (;;) {
		vqd_want_interrupt(&e->d[q], true);
		if (vqd_take(&e->d[q], &used))
			return used;
		if (wait_for(&host.irq))
			fail_msg("queue %u does not answer", q);
	}
}

static inline uint8_t pattern(unsigned int i, unsigned int seed)
{
	return (uint8_t)(i * 31 + (i >> 8) * 7 + seed * 101 + 5);
}

/* A frame of the network with this destination for the guest. */
static inline void arrive_to(unsigned int pair, const uint8_t *dst, const void *more, size_t nmore,
			     unsigned int len, unsigned int seed)
{
	struct virtio_net_hdr_v1 hdr = { .flags = VIRTIO_NET_HDR_F_DATA_VALID };
	struct mock_frame *f;

	pthread_mutex_lock(&mock.lock);
	assert_true(mock.in_end < FRAMES);
	f = &mock.in[mock.in_end++];
	f->pair = pair;
	f->len = NET_HDR + len;
	f->bytes = malloc(f->len);
	memcpy(f->bytes, &hdr, NET_HDR);
	for (unsigned int i = 0; i < len; i++)
		f->bytes[NET_HDR + i] = pattern(i, seed);
	if (dst)
		memcpy(f->bytes + NET_HDR, dst, ETH_ALEN);
	if (nmore)
		memcpy(f->bytes + NET_HDR + 12, more, nmore);
	pthread_mutex_unlock(&mock.lock);
}

static inline void ready_now(void)
{
	mock_ready(NULL);
}

static inline void arrive(unsigned int pair, unsigned int len, unsigned int seed)
{
	arrive_to(pair, NULL, NULL, 0, len, seed);
	on_loop(ready_now);
}

/* Gives a receive buffer of `len` bytes; where it lies. */
static inline gpa_t give(struct env *e, unsigned int pair, uint32_t len)
{
	struct vqd_buf b = { .gpa = vqd_alloc(&e->d[2 * pair], len, 1),
			     .len = len,
			     .writable = true };

	memset(vqd_at(&e->d[2 * pair], b.gpa, len), 0xcc, len);
	vqd_post(&e->d[2 * pair], &b, 1);
	return b.gpa;
}

/* Header and `len` bytes of pattern, cut where the test wants: 0 ends the list of cuts. */
static inline uint16_t send_cut(struct env *e, unsigned int pair,
				const struct virtio_net_hdr_v1 *hdr, unsigned int len,
				const unsigned int *cuts, bool indirect)
{
	struct vq_driver *d = &e->d[2 * pair + 1];
	unsigned int total = NET_HDR + len, at = 0, n = 0;
	gpa_t gpa = vqd_alloc(d, total, 1);
	uint8_t *p = vqd_at(d, gpa, total);
	struct vqd_buf bufs[16];

	memcpy(p, hdr, NET_HDR);
	for (unsigned int i = 0; i < len; i++)
		p[NET_HDR + i] = pattern(i, len);
	while (at < total) {
		unsigned int part = cuts && *cuts ? *cuts++ : total - at;

		/* A gap in between, or the pieces would be joined again. */
		gpa_t piece = vqd_alloc(d, part + 3, 1);

		memcpy(vqd_at(d, piece, part), p + at, part);
		bufs[n++] = (struct vqd_buf){ .gpa = piece, .len = part };
		at += part;
	}
	return indirect ? vqd_post_indirect(d, bufs, n) : vqd_post(d, bufs, n);
}

static inline void is_pattern(const uint8_t *p, unsigned int len, unsigned int seed)
{
	for (unsigned int i = 0; i < len; i++)
		if (p[i] != pattern(i, seed))
			fail_msg("byte %u of %u is %02x instead of %02x", i, len, p[i],
				 pattern(i, seed));
}

/* A command on the control queue: its ack. */
static inline uint8_t command(struct env *e, uint8_t class, uint8_t cmd, const void *data,
			      uint32_t len)
{
	unsigned int q = (unsigned int)net_ctrl_queue(e->net);
	struct vq_driver *d = &e->d[q];
	gpa_t out = vqd_alloc(d, 2 + len, 1), ack = vqd_alloc(d, 1, 1);
	struct vqd_buf bufs[] = { { out, 2, false }, { out + 2, len, false }, { ack, 1, true } };
	uint8_t *p = vqd_at(d, out, 2 + len);

	p[0] = class;
	p[1] = cmd;
	if (len)
		memcpy(p + 2, data, len);
	else
		bufs[1] = bufs[2];
	*(uint8_t *)vqd_at(d, ack, 1) = 0xee;
	vqd_post(d, bufs, len ? 3 : 2);
	kick(e, q);
	assert_int_equal(wait_used(e, q).len, 1);
	return *(uint8_t *)vqd_at(d, ack, 1);
}

#endif
