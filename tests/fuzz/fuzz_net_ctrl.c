/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_net_ctrl.c - the control queue of the network card and the receive filter that it sets: a
 * stream of commands as a guest may lay them out, each followed by frames that pass the filter.
 *
 * Input: one byte of features, then commands: class, command, cut (where the data is cut in two),
 * length (2 bytes, little endian), data. Class 0xff is a frame for the filter instead.
 */
#include <stdlib.h>
#include <string.h>

#include <unvmm/vm.h>

#include "virtio_net.h"
#include "vq_driver.h"

#define DATA	   KiB(256)
#define FRAME	   0xff
#define COMMANDS   64
#define LENGTH_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int accept_queues(struct net_backend *b, unsigned int n)
{
	(void)b;
	return n > 4 ? -1 : 0;
}

static int accept_offload(struct net_backend *b, uint64_t features)
{
	(void)b;
	if (features & ~NET_GUEST_OFFLOADS)
		abort(); /* what was never negotiated */
	return 0;
}

static void ignore_want(struct net_backend *b, unsigned int q, bool want)
{
	(void)b;
	(void)q;
	(void)want;
}

static const struct net_backend_ops backend_ops = {
	.set_queues = accept_queues,
	.set_offload = accept_offload,
	.want_rx = ignore_want,
};

struct machine {
	struct vm vm;
	struct loop loop;
	struct net_backend backend;
	struct softq_queue queues[9];
	struct vq_driver d;
	struct virtio_net net;
};

static void start(struct machine *m, uint8_t features)
{
	static const uint8_t mac[] = { 2, 0, 0, 0, 0, 1 };
	struct virtio_net *net = &m->net;

	memset(m, 0, sizeof(*m));
	if (gmem_create(&m->vm.mem, MiB(16), false, NULL))
		abort();
	/* Nothing is published: the loop is only there to take the deferred work. */
	m->loop.tail.tail = &m->loop.tail.head;
	m->backend.ops = &backend_ops;
	net->vdev.vm = &m->vm;
	net->vdev.id = "net0";
	net->vdev.nqueues = ARRAY_SIZE(m->queues);
	net->vdev.offered = net->vdev.negotiated =
		NET_GUEST_OFFLOADS | VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) |
		(features & 1 ? VIRTIO_BIT(VIRTIO_NET_F_CTRL_RX) : 0) |
		(features & 2 ? VIRTIO_BIT(VIRTIO_NET_F_CTRL_VLAN) : 0) |
		(features & 4 ? VIRTIO_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) : 0) |
		(features & 8 ? VIRTIO_BIT(VIRTIO_NET_F_MQ) : 0) |
		(features & 16 ? VIRTIO_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) : 0) |
		(features & 32 ? VIRTIO_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) : 0);
	net->npairs = 4;
	net->backend = &m->backend;
	net->pairs = calloc(net->npairs, sizeof(*net->pairs));
	pthread_mutex_init(&net->lock, NULL);
	memcpy(net->mac, mac, sizeof(mac));
	net->sq.vdev = &net->vdev;
	net->sq.loop = &m->loop;
	net->sq.queues = m->queues;
	for (unsigned int i = 0; i < ARRAY_SIZE(m->queues); i++)
		m->queues[i].sq = &net->sq; /* which is not started: receive queues stay still */
	net_ctrl_reset(net);
}

static void stop(struct machine *m)
{
	pthread_mutex_destroy(&m->net.lock);
	free(m->net.pairs);
	gmem_destroy(&m->vm.mem);
}

/* One command through the ring: its ack. */
static uint8_t command(struct machine *m, unsigned int q, uint8_t cut, const uint8_t *bytes,
		       size_t len)
{
	gpa_t at = DATA, ack = DATA + KiB(64);
	size_t first = cut < len ? cut : len;
	/* A gap between the pieces, or they would be joined again. */
	struct vqd_buf bufs[3] = { { at, (uint32_t)first, false },
				   { at + KiB(16), (uint32_t)(len - first), false },
				   { ack, 1, true } };
	struct vq *vq = &m->queues[q].vq;
	struct vring_used_elem e;

	if (first)
		memcpy(vqd_at(&m->d, at, first), bytes, first);
	if (len - first)
		memcpy(vqd_at(&m->d, at + KiB(16), len - first), bytes + first, len - first);
	*(uint8_t *)vqd_at(&m->d, ack, 1) = 0xee;
	vqd_post(&m->d, bufs, 3);
	(void)vqd_show(&m->d);
	vq_begin(vq);
	net_ctrl_handle(&m->net, q);
	if (vq_publish(vq) && vq->outstanding)
		abort();
	if (!vqd_take(&m->d, &e) || e.len != 1)
		abort(); /* every command gets its answer */
	return *(uint8_t *)vqd_at(&m->d, ack, 1);
}

static void check_invariants(const struct virtio_net *net)
{
	const struct net_ctrl *c = &net->ctrl;

	if (c->uni.n > NET_MACS_MAX || c->multi.n > NET_MACS_MAX || !c->pairs ||
	    c->pairs > net->npairs || c->offloads & ~NET_GUEST_OFFLOADS)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine m;
	struct vq_layout *l = &m.d.layout;
	unsigned int q;

	if (!size)
		return 0;
	start(&m, data[0]);
	data++;
	size--;
	q = (unsigned int)net_ctrl_queue(&m.net);
	vqd_init(&m.d, &m.vm.mem, 0, KiB(64), 16, 0);
	if (vq_start(&m.queues[q].vq, &m.vm.mem, l, 0, 0))
		abort();
	for (unsigned int i = 0; i < COMMANDS && size >= 5; i++) {
		uint8_t bytes[2 + LENGTH_MAX] = { data[0], data[1] }, cut = data[2];
		size_t len = (size_t)data[3] | (size_t)data[4] << 8;

		data += 5;
		size -= 5;
		if (len > size)
			len = size;
		if (len > LENGTH_MAX)
			len = LENGTH_MAX;
		memcpy(bytes + 2, data, len);
		data += len;
		size -= len;
		if (bytes[0] != FRAME) {
			uint8_t ack = command(&m, q, cut, bytes, 2 + len);

			if (ack != VIRTIO_NET_OK && ack != VIRTIO_NET_ERR)
				abort();
		} else if (len >= ETH_HLEN) {
			/* On the heap, so that a byte too far is seen. */
			uint8_t *frame = malloc(len);

			memcpy(frame, bytes + 2, len);
			(void)net_ctrl_wants(&m.net, frame, len < 18 ? len : 18);
			free(frame);
		}
		check_invariants(&m.net);
	}
	stop(&m);
	return 0;
}
