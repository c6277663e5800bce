/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c - a polled virtio-net driver (virtio 1.2, 5.1.6).
 */
#include "guest.h"

#include "io.h"
#include "net.h"

static const struct {
	const char *name;
	unsigned int bit;
} known[] = {
	{ "indirect", VIRTIO_RING_F_INDIRECT_DESC },
	{ "event_idx", VIRTIO_RING_F_EVENT_IDX },
	{ "csum", VIRTIO_NET_F_CSUM },
	{ "host_tso4", VIRTIO_NET_F_HOST_TSO4 },
	{ "guest_csum", VIRTIO_NET_F_GUEST_CSUM },
	{ "guest_tso4", VIRTIO_NET_F_GUEST_TSO4 },
	{ "mrg_rxbuf", VIRTIO_NET_F_MRG_RXBUF },
	{ "status", VIRTIO_NET_F_STATUS },
	{ "mtu", VIRTIO_NET_F_MTU },
	{ "mq", VIRTIO_NET_F_MQ },
	{ "ctrl", VIRTIO_NET_F_CTRL_VQ },
	{ "ctrl_rx", VIRTIO_NET_F_CTRL_RX },
	{ "ctrl_vlan", VIRTIO_NET_F_CTRL_VLAN },
	{ "ctrl_mac", VIRTIO_NET_F_CTRL_MAC_ADDR },
};

uint64_t net_wanted(void)
{
	bool all = !opt_has("features", "none") && !opt_string("features", (char[2]){ 0 }, 2);
	uint64_t bits = VIO_BIT(VIRTIO_NET_F_MAC);

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (all || opt_has("features", known[i].name))
			bits |= VIO_BIT(known[i].bit);
	}
	return bits;
}

bool net_feature(const struct net *n, unsigned int bit)
{
	return n->vio.features & VIO_BIT(bit);
}

uint16_t net_config16(const struct net *n, size_t offset)
{
	if (!test_check(offset + 2 <= n->vio.device.length, "device configuration has %u bytes",
			n->vio.device.length))
		return 0;
	return mmio_read16(n->vio.device.addr + offset);
}

bool net_link_up(const struct net *n)
{
	uint64_t start = 0;

	if (!net_feature(n, VIRTIO_NET_F_STATUS))
		return true;
	while (!(net_config16(n, offsetof(struct virtio_net_config, status)) &
		 VIRTIO_NET_S_LINK_UP)) {
		if (!vio_within(&start, 30))
			return false;
	}
	return true;
}

static bool give(struct net *n, struct net_pair *p, uint8_t *buf)
{
	struct vq_seg seg = { (uintptr_t)buf, n->bufsize, true };
	int head = vq_add(&p->rx, &seg, 1);

	if (head >= 0)
		p->buf_of[head] = buf;
	return head >= 0;
}

static bool start_pair(struct net *n, unsigned int i, uint16_t qsize)
{
	struct net_pair *p = &n->pair[i];

	if (!vq_setup(&p->rx, &n->vio, (uint16_t)(2 * i), qsize) ||
	    !vq_setup(&p->tx, &n->vio, (uint16_t)(2 * i + 1), qsize))
		return false;
	p->slot = mem_alloc(sizeof(*p->slot) * NET_SLOTS_MAX, 16);
	p->by_head = mem_alloc(sizeof(*p->by_head) * p->tx.size, 8);
	p->buf_of = mem_alloc(sizeof(*p->buf_of) * p->rx.size, 8);
	p->bufs = mem_alloc((size_t)n->bufsize * p->rx.size, 16);
	return true;
}

static bool set_pairs(struct net *n, uint16_t pairs)
{
	return pairs == 1 ||
	       test_check(net_command(n, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
				      &pairs, sizeof(pairs)) == VIRTIO_NET_OK,
			  "%u pairs are refused", pairs);
}

bool net_start(struct net *n, uint64_t features, unsigned int pairs, uint16_t qsize,
	       uint32_t bufsize)
{
	unsigned int max = 1;

	if (!vio_negotiate(&n->vio, features))
		return false;
	n->bufsize = bufsize;
	for (unsigned int i = 0; i < sizeof(n->mac); i++)
		n->mac[i] = mmio_read8(n->vio.device.addr + i);
	if (net_feature(n, VIRTIO_NET_F_MQ))
		max = net_config16(n, offsetof(struct virtio_net_config, max_virtqueue_pairs));
	if (!test_check(max && 2 * max + 1 <= n->vio.nqueues,
			"%u pairs in device config, %u queues in common config", max,
			n->vio.nqueues))
		return false;
	n->npairs = max < pairs ? max : pairs;
	if (n->npairs > NET_PAIRS_MAX)
		n->npairs = NET_PAIRS_MAX;
	for (unsigned int i = 0; i < n->npairs; i++) {
		if (!start_pair(n, i, qsize))
			return false;
	}
	/* 5.1.2: behind the last pair that there can be. */
	if (net_feature(n, VIRTIO_NET_F_CTRL_VQ) &&
	    !vq_setup(&n->ctrl, &n->vio, (uint16_t)(2 * max), 0))
		return false;
	vio_driver_ok(&n->vio);
	for (unsigned int i = 0; i < n->npairs; i++) {
		struct net_pair *p = &n->pair[i];

		for (uint16_t b = 0; b < p->rx.size; b++) {
			if (!give(n, p, p->bufs + (size_t)b * bufsize))
				return false;
		}
		vq_kick(&p->rx);
	}
	return set_pairs(n, (uint16_t)n->npairs);
}

/* --- frames ----------------------------------------------------------------------------------- */

static struct net_slot *free_slot(struct net_pair *p)
{
	uint32_t len;
	int head;

	while ((head = vq_poll(&p->tx, &len)) >= 0) {
		test_check(!len, "transmitted with %u bytes written", len);
		p->by_head[head]->busy = false;
	}
	for (unsigned int i = 0; i < NET_SLOTS_MAX; i++) {
		if (!p->slot[i].busy)
			return &p->slot[i];
	}
	return NULL;
}

/* Header and frame, or pieces of random length, the header's included (2.7.4.1). */
static unsigned int cut(struct net *n, struct net_slot *s, uint32_t len, unsigned int max,
			struct vq_seg *segs)
{
	unsigned int nsegs = 0;

	segs[nsegs++] = (struct vq_seg){ (uintptr_t)&s->hdr, NET_HDR, false };
	if (n->rnd && max >= 4 && rnd_below(n->rnd, 2)) {
		uint32_t part = 1 + (uint32_t)rnd_below(n->rnd, NET_HDR - 1);

		segs[0].len = part;
		segs[nsegs++] = (struct vq_seg){ (uintptr_t)&s->hdr + part, NET_HDR - part, false };
		part = 1 + (uint32_t)rnd_below(n->rnd, len - 1);
		segs[nsegs++] = (struct vq_seg){ (uintptr_t)s->frame, part, false };
		segs[nsegs++] = (struct vq_seg){ (uintptr_t)s->frame + part, len - part, false };
		return nsegs;
	}
	segs[nsegs++] = (struct vq_seg){ (uintptr_t)s->frame, len, false };
	return nsegs;
}

bool net_send(struct net *n, unsigned int pair, const struct virtio_net_hdr_v1 *hdr,
	      const void *frame, uint32_t len)
{
	struct net_pair *p = &n->pair[pair];
	struct net_slot *s = free_slot(p);
	struct vq_seg segs[4];
	int head;

	if (!s || p->tx.nfree < ARRAY_SIZE(segs))
		return false;
	if (!s->frame)
		s->frame = mem_alloc(NET_FRAME_MAX, 16);
	s->hdr = *hdr;
	memcpy(s->frame, frame, len);
	head = vq_add(&p->tx, segs, cut(n, s, len, p->tx.size, segs));
	if (head < 0)
		return false;
	s->busy = true;
	p->by_head[head] = s;
	n->sent++;
	return true;
}

void net_kick(struct net *n, unsigned int pair)
{
	vq_kick(&n->pair[pair].tx);
}

/* One buffer of a frame: its bytes behind what is there already; the buffer goes back. */
static uint32_t take(struct net *n, struct net_pair *p, int head, uint32_t len, uint32_t at,
		     struct virtio_net_hdr_v1 *hdr, uint8_t *frame)
{
	const uint8_t *buf = p->buf_of[head];
	uint32_t skip = at ? 0 : NET_HDR;

	if (!test_check(len > skip && len <= n->bufsize && at + len - skip <= NET_FRAME_MAX,
			"%u bytes behind %u in a buffer of %u", len, at, n->bufsize))
		test_abort("no frame");
	if (!at)
		memcpy(hdr, buf, NET_HDR);
	memcpy(frame + at, buf + skip, len - skip);
	if (!give(n, p, p->buf_of[head]))
		test_abort("a receive buffer cannot be given back");
	return len - skip;
}

uint32_t net_receive(struct net *n, struct virtio_net_hdr_v1 *hdr, uint8_t *frame)
{
	for (unsigned int i = 0; i < n->npairs; i++) {
		struct net_pair *p = &n->pair[i];
		uint32_t len, at;
		int head = vq_poll(&p->rx, &len);

		if (head < 0)
			continue;
		/* Nothing came into it: real drivers drop such a frame as too short. */
		if (!len) {
			if (!give(n, p, p->buf_of[head]))
				test_abort("a receive buffer cannot be given back");
			vq_kick(&p->rx);
			n->unused++;
			continue;
		}
		at = take(n, p, head, len, 0, hdr, frame);
		/* 5.1.6.4: all buffers of a frame are there when the first one is. */
		for (unsigned int b = 1; b < hdr->num_buffers; b++) {
			head = vq_poll(&p->rx, &len);
			if (head < 0)
				test_abort("buffer %u of %u is missing", b, hdr->num_buffers);
			at += take(n, p, head, len, at, hdr, frame);
		}
		test_check(hdr->num_buffers == 1 || net_feature(n, VIRTIO_NET_F_MRG_RXBUF),
			   "%u buffers without MRG_RXBUF", hdr->num_buffers);
		vq_kick(&p->rx);
		n->received++;
		return at;
	}
	return 0;
}

int net_command(struct net *n, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
	static struct {
		uint8_t hdr[2], ack, data[1024];
	} c;
	struct vq_seg segs[] = { { (uintptr_t)c.hdr, 2, false },
				 { (uintptr_t)c.data, len, false },
				 { (uintptr_t)&c.ack, 1, true } };
	uint32_t used;

	if (len > sizeof(c.data))
		return -1;
	c.hdr[0] = class;
	c.hdr[1] = cmd;
	c.ack = 0xee;
	if (len)
		memcpy(c.data, data, len);
	else
		segs[1] = segs[2];
	if (vq_add(&n->ctrl, segs, len ? 3 : 2) < 0)
		return -1;
	vq_kick(&n->ctrl);
	if (vq_wait(&n->ctrl, &used) < 0)
		return -1;
	return *(volatile uint8_t *)&c.ack;
}
