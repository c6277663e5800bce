/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_net.c - the virtio network card (virtio 1.2, section 5.1): frames between the rings and a
 * backend, without a copy. The io thread; the vdev's operations run under the control lock.
 *
 *   guest sends:    doorbell -> net_handle -> tx_serve -> tx_frame -> backend tx
 *   guest receives: backend rx_ready -> net_handle -> rx_serve -> rx_frame -> rx_deliver
 *
 * Where there is nothing to receive, the receive queue rests with its doorbell switched off and the
 * backend is watched; where the guest has given no buffers, the backend is not watched and the
 * doorbell is on. So neither side wakes us for what we cannot use.
 */
#include "net_command.h"

#include <errno.h>
#include <string.h>

#include <unvmm/vm.h>

/* What one queue may do before the others have their turn. */
#define TURN_FRAMES 128u
#define TURN_BYTES  KiB(512)

#define EXPECT_MIN 2048u /* bytes of buffers to have ready for a frame of unknown size */
#define LONE_MAX   8u

/* --- the guest receives ----------------------------------------------------------------------- */

enum rx_result {
	RX_DONE,    /* a frame was dealt with */
	RX_NOTHING, /* the backend has none */
	RX_STARVED, /* the guest must give buffers first */
};

static bool merges(const struct virtio_net *net)
{
	return vdev_has(&net->vdev, VIRTIO_NET_F_MRG_RXBUF);
}

/* Takes buffers until they hold `want` bytes; one, if frames are not spread. NULL or what is wrong.
 */
static const char *rx_gather(struct virtio_net *net, struct net_pair *p, struct vq *vq,
			     uint64_t want)
{
	unsigned int max = merges(net) ? NET_BUFS_MAX : 1;

	/* The rest of iov[] takes the longest chain that there can be: as long as the queue. */
	while (p->room < want && p->nbufs < max && p->niov + vq->layout.size <= NET_IOV_MAX) {
		struct vq_chain c = { .cap = NET_IOV_MAX - p->niov,
				      .iov = p->iov + p->niov,
				      .gpa = p->gpa + p->niov };
		int got = vq_pop(vq, &c);

		if (got <= 0)
			return got ? vq->why : NULL;
		if (c.nout || c.in_len < NET_HDR) {
			vq_unpop(vq, 1);
			return c.nout ? "receive buffer that is not for writing"
				      : "receive buffer too small for the header";
		}
		p->bufs[p->nbufs++] = (struct net_rx_buf){ .head = c.head,
							   .niov = (uint16_t)c.nin,
							   .len = (uint32_t)c.in_len };
		p->niov += c.nin;
		p->room += c.in_len;
	}
	return NULL;
}

/* The driver gets its buffers back, or the ring has been reset: none is ours any more. */
static void rx_forget(struct net_pair *p)
{
	p->nbufs = p->niov = 0;
	p->room = 0;
	p->len = 0;
	p->expect = EXPECT_MIN;
}

/* What is fixed in the header for this driver. Only its buffers' first NET_HDR bytes are written.
 */
static void rx_header(struct virtio_net *net, struct net_pair *p, uint16_t nbufs)
{
	static const struct virtio_net_hdr none;

	/* Without GUEST_CSUM the driver knows no flags and no types (5.1.6.4.1). */
	if (!vdev_has(&net->vdev, VIRTIO_NET_F_GUEST_CSUM))
		net_iov_store(p->iov, p->niov, 0, &none, sizeof(none));
	net_iov_store(p->iov, p->niov, offsetof(struct virtio_net_hdr_v1, num_buffers), &nbufs,
		      sizeof(nbufs));
}

/* Gives the first buffers back with `len` bytes in them; the others stay for the next frame. */
static void rx_deliver(struct virtio_net *net, unsigned int pair, uint32_t len)
{
	struct net_pair *p = &net->pairs[pair];
	struct vq *vq = &net->sq.queues[2 * pair].vq;
	struct vq_bytes bytes = { .iov = p->iov, .gpa = p->gpa, .n = p->niov, .len = len };
	unsigned int used = 0, niov = 0;
	uint64_t room = 0;

	while (room < len) {
		room += p->bufs[used].len;
		niov += p->bufs[used++].niov;
	}
	rx_header(net, p, (uint16_t)used);
	vq_mark(vq, &bytes, len);
	net_count(&net->count.rx_packets, 1);
	net_count(&net->count.rx_bytes, len - NET_HDR);
	for (unsigned int i = 0; i < used; i++) {
		uint32_t part = len < p->bufs[i].len ? len : p->bufs[i].len;

		softq_begin(&net->sq);
		softq_complete(&net->sq, 2 * pair, p->bufs[i].head, part);
		len -= part;
	}
	p->room -= room;
	p->nbufs -= used;
	p->niov -= niov;
	memmove(p->bufs, p->bufs + used, p->nbufs * sizeof(*p->bufs));
	memmove(p->iov, p->iov + niov, p->niov * sizeof(*p->iov));
	memmove(p->gpa, p->gpa + niov, p->niov * sizeof(*p->gpa));
}

/* Is the frame that lies in the buffers one that the guest gets? It may be changing it meanwhile.
 */
static bool rx_wanted(struct virtio_net *net, const struct net_pair *p, ssize_t len)
{
	uint8_t start[ETH_HLEN + 4];
	size_t n = sizeof(start);

	if (len < (ssize_t)(NET_HDR + ETH_HLEN) || len > (ssize_t)(NET_HDR + NET_FRAME_MAX)) {
		net_count(&net->count.rx_dropped, 1);
		return false;
	}
	if (net->ctrl.promisc)
		return true;
	if ((size_t)len - NET_HDR < n)
		n = (size_t)len - NET_HDR;
	if (net_iov_load(p->iov, p->niov, NET_HDR, start, n) == n && net_ctrl_wants(net, start, n))
		return true;
	net_count(&net->count.rx_filtered, 1);
	return false;
}

/* Buffers for about the largest of the last frames: a long run of small ones makes it small. */
static void rx_learn(struct net_pair *p, uint32_t len)
{
	if (len > p->expect)
		p->expect = len;
	else if (p->expect > EXPECT_MIN)
		p->expect -= (p->expect - len) / 16;
}

/* A frame waits for the driver to add buffers; without hope of them it is lost. */
static enum rx_result rx_retry(struct virtio_net *net, unsigned int pair)
{
	struct net_pair *p = &net->pairs[pair];
	struct vq *vq = &net->sq.queues[2 * pair].vq;

	if (p->room >= p->len) {
		net_iov_store(p->iov, p->niov, p->room_then, p->spill, p->len - p->room_then);
		rx_deliver(net, pair, p->len);
	} else if (merges(net) && vq->outstanding < vq->layout.size &&
		   p->niov + vq->layout.size <= NET_IOV_MAX) {
		return RX_STARVED;
	} else {
		net_count(&net->count.rx_dropped, 1);
	}
	p->len = 0;
	return RX_DONE;
}

/* One frame, from the backend straight into the driver's buffers. */
static enum rx_result rx_frame(struct virtio_net *net, unsigned int pair, uint64_t *bytes)
{
	struct net_pair *p = &net->pairs[pair];
	ssize_t len;

	if (p->len)
		return rx_retry(net, pair);
	if (!p->nbufs)
		return RX_STARVED;
	/* Behind the buffers something for the rest of a frame that is longer than expected. */
	p->iov[p->niov] = (struct iovec){ .iov_base = p->spill, .iov_len = sizeof(p->spill) };
	len = net->backend->ops->rx(net->backend, pair, p->iov, p->niov + 1);
	if (len < 0)
		return RX_NOTHING;
	*bytes += (uint64_t)len;
	if (!rx_wanted(net, p, len))
		return RX_DONE;
	rx_learn(p, (uint32_t)len);
	if ((uint64_t)len <= p->room) {
		rx_deliver(net, pair, (uint32_t)len);
		return RX_DONE;
	}
	p->room_then = p->room;
	p->len = (uint32_t)len;
	return RX_DONE; /* the next round takes more buffers and goes on with rx_retry() */
}

/*
 * Asking until there is no more costs a system call that brings nothing. A link on which frames
 * come one by one is known by that, and then the poll, which is due anyway, does the asking.
 */
static void rx_serve(struct virtio_net *net, unsigned int pair)
{
	struct net_pair *p = &net->pairs[pair];
	struct vq *vq = &net->sq.queues[2 * pair].vq;
	enum rx_result result = RX_DONE;
	const char *why = NULL;
	uint64_t bytes = 0;

	for (unsigned int i = 0; i < TURN_FRAMES && bytes < TURN_BYTES; i++) {
		uint64_t want = p->len ? p->len : p->expect;

		why = rx_gather(net, p, vq, merges(net) ? want : 1);
		if (why)
			break;
		result = rx_frame(net, pair, &bytes);
		if (i == 0 && result == RX_DONE && !p->len && p->lone) {
			p->lone--;
			break;
		}
		if (result == RX_NOTHING)
			p->lone = i == 1 ? LONE_MAX : 0;
		if (result != RX_DONE)
			break;
	}
	if (why || result == RX_STARVED) {
		net->backend->ops->want_rx(net->backend, pair, false);
		if (why)
			softq_broken(&net->sq, 2 * pair, why);
		return;
	}
	net->backend->ops->want_rx(net->backend, pair, true);
	softq_hold(&net->sq, 2 * pair);
}

/* --- the guest sends -------------------------------------------------------------------------- */

static bool gso_acceptable(const struct virtio_net *net, const struct virtio_net_hdr_v1 *h)
{
	const struct vdev *v = &net->vdev;

	if (!h->gso_size || !(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return false;
	if (h->gso_type & VIRTIO_NET_HDR_GSO_ECN && !vdev_has(v, VIRTIO_NET_F_HOST_ECN))
		return false;
	switch (h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return vdev_has(v, VIRTIO_NET_F_HOST_TSO4);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return vdev_has(v, VIRTIO_NET_F_HOST_TSO6);
	default:
		return false;
	}
}

/*
 * Makes of the driver's header one that says nothing wrong about a frame of `len` bytes, or refuses
 * the frame (5.1.6.2). What the types mean for the packet inside is left to the kernel.
 */
static bool tx_header(const struct virtio_net *net, struct virtio_net_hdr_v1 *h, uint64_t len)
{
	if (len < ETH_HLEN || len > NET_FRAME_MAX)
		return false;
	/* The only flag of this direction; the others a device must ignore (5.1.6.2.2). */
	h->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	h->num_buffers = 0;
	if (!vdev_has(&net->vdev, VIRTIO_NET_F_CSUM) && (h->flags || h->gso_type))
		return false;
	if (h->flags && (uint64_t)h->csum_start + h->csum_offset + sizeof(uint16_t) > len)
		return false;
	if (!h->flags)
		h->csum_start = h->csum_offset = 0;
	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		h->gso_size = h->hdr_len = 0;
		return true;
	}
	/* A hint, not to be relied upon (5.1.6.2.2): the kernel wants one inside of the frame. */
	if (h->hdr_len > len)
		h->hdr_len = (uint16_t)len;
	return gso_acceptable(net, h);
}

/* -EAGAIN: the backend has no room now. Else the frame is sent or lost, and counted. */
static int tx_frame(struct virtio_net *net, unsigned int pair, const struct vq_chain *c,
		    uint64_t *bytes)
{
	struct vq_bytes out = vq_out(c);
	struct virtio_net_hdr_v1 hdr;
	int err = -EINVAL;

	if (vq_read(&out, &hdr, sizeof(hdr)) && tx_header(net, &hdr, out.len)) {
		/* One entry is free before the data: c->iov begins at net->iov + 1. */
		out.iov[-1] = (struct iovec){ .iov_base = &hdr, .iov_len = sizeof(hdr) };
		err = net->backend->ops->tx(net->backend, pair, out.iov - 1, out.n + 1);
	}
	if (err == -EAGAIN)
		return err;
	if (err) {
		net_count(&net->count.tx_dropped, 1);
	} else {
		net_count(&net->count.tx_packets, 1);
		net_count(&net->count.tx_bytes, out.len);
	}
	*bytes += out.len;
	return 0;
}

static void tx_serve(struct virtio_net *net, unsigned int pair)
{
	unsigned int q = 2 * pair + 1;
	struct vq *vq = &net->sq.queues[q].vq;
	const char *why = NULL;
	uint64_t bytes = 0;

	/* What is left after a turn: softq sees it and comes again. */
	for (unsigned int i = 0; i < TURN_FRAMES && bytes < TURN_BYTES; i++) {
		struct vq_chain c = { .cap = NET_IOV_MAX,
				      .iov = net->iov + 1,
				      .gpa = net->gpa + 1 };
		int got = vq_pop(vq, &c);

		if (got < 0)
			why = vq->why;
		else if (got && c.out_len < NET_HDR)
			why = "packet without a whole header";
		if (got <= 0 || why)
			break;
		if (tx_frame(net, pair, &c, &bytes)) {
			vq_unpop(vq, 1);
			softq_hold(&net->sq, q);
			break;
		}
		softq_begin(&net->sq);
		softq_complete(&net->sq, q, c.head, 0);
	}
	if (why)
		softq_broken(&net->sq, q, why);
}

/* --- both ------------------------------------------------------------------------------------- */

void net_handle(struct softq *sq, unsigned int q)
{
	struct virtio_net *net = container_of(sq, struct virtio_net, sq);

	if ((int)q == net_ctrl_queue(net))
		net_ctrl_handle(net, q);
	else if (q / 2 >= net->npairs)
		softq_hold(sq, q); /* the driver has not negotiated what would make it a queue */
	else if (q % 2)
		tx_serve(net, q / 2);
	else if (q / 2 < net->ctrl.pairs)
		rx_serve(net, q / 2);
	else
		softq_hold(sq, q);
}

static void on_rx_ready(struct net_backend *b, unsigned int pair)
{
	struct virtio_net *net = b->card;

	softq_serve(&net->sq, 2 * pair);
}

static void on_tx_ready(struct net_backend *b)
{
	struct virtio_net *net = b->card;

	for (unsigned int pair = 0; pair < net->npairs; pair++)
		if (net->sq.queues[2 * pair + 1].held)
			softq_serve(&net->sq, 2 * pair + 1);
}

static void on_link_changed(struct net_backend *b)
{
	struct virtio_net *net = b->card;

	pthread_mutex_lock(&net->lock);
	net->link = b->link;
	pthread_mutex_unlock(&net->lock);
	vdev_config_changed(&net->vdev);
}

const struct net_events net_events = {
	.rx_ready = on_rx_ready,
	.tx_ready = on_tx_ready,
	.link_changed = on_link_changed,
};

/* Takes the receive buffers of a pair back into its ring. */
static void rx_rest(struct virtio_net *net, unsigned int pair)
{
	struct net_pair *p = &net->pairs[pair];
	struct vq *vq = &net->sq.queues[2 * pair].vq;

	net->backend->ops->want_rx(net->backend, pair, false);
	if (vq->running)
		vq_unpop(vq, p->nbufs);
	rx_forget(p);
}

int net_set_pairs(struct virtio_net *net, uint16_t n)
{
	uint16_t old = net->ctrl.pairs;
	int err;

	for (unsigned int i = n; i < old; i++)
		rx_rest(net, i);
	err = net->backend->ops->set_queues(net->backend, n);
	net->ctrl.pairs = err ? old : n;
	for (unsigned int i = err ? n : old; i < net->ctrl.pairs; i++)
		softq_serve(&net->sq, 2 * i);
	return err;
}

/* --- the vdev --------------------------------------------------------------------------------- */

void net_drain(struct softq *sq)
{
	struct virtio_net *net = container_of(sq, struct virtio_net, sq);

	for (unsigned int i = 0; i < net->npairs; i++)
		rx_rest(net, i);
}

static bool net_accept_features(const struct vdev *v, uint64_t features)
{
	(void)v;
	return net_features_acceptable(features);
}

static void net_vdev_reset(struct vdev *v)
{
	net_ctrl_reset(net_of_vdev(v));
}

static int net_start(struct vdev *v)
{
	struct virtio_net *net = net_of_vdev(v);
	struct net_backend *b = net->backend;
	int err = 0;

	if (b->offloads)
		err = b->ops->set_offload(b, net_ctrl_offloads(net));
	if (!err)
		err = b->ops->set_queues(b, net->ctrl.pairs);
	if (err)
		return err;
	for (unsigned int i = 0; i < net->npairs; i++)
		rx_forget(&net->pairs[i]);
	return softq_start(&net->sq);
}

static void net_stop(struct vdev *v)
{
	softq_stop(&net_of_vdev(v)->sq);
}

static void net_doorbell(struct vdev *v, unsigned int q, struct vdev_doorbell *db)
{
	softq_doorbell(&net_of_vdev(v)->sq, q, db);
}

static void net_kick(struct vdev *v, unsigned int q)
{
	softq_kick(&net_of_vdev(v)->sq, q);
}

static void net_config_read(struct vdev *v, unsigned int off, void *buf, unsigned int len)
{
	struct virtio_net *net = net_of_vdev(v);
	struct virtio_net_config c = { .max_virtqueue_pairs = net->npairs, .mtu = net->mtu };

	pthread_mutex_lock(&net->lock);
	memcpy(c.mac, net->ctrl.mac, sizeof(c.mac));
	c.status = (uint16_t)((net->link ? VIRTIO_NET_S_LINK_UP : 0) |
			      (net->ctrl.announce ? VIRTIO_NET_S_ANNOUNCE : 0));
	pthread_mutex_unlock(&net->lock);
	memcpy(buf, (const uint8_t *)&c + off, len);
}

const struct vdev_ops net_vdev_ops = {
	.accept_features = net_accept_features,
	.reset = net_vdev_reset,
	.start = net_start,
	.stop = net_stop,
	.doorbell = net_doorbell,
	.kick = net_kick,
	.config_read = net_config_read,
};

/* --- after a move ----------------------------------------------------------------------------- */

void net_announce_work(struct loop_work *w)
{
	struct virtio_net *net = container_of(w, struct virtio_net, announce_work);
	/* "Who am I?", RFC 903: nobody answers, but every switch learns where the sender is. */
	uint8_t frame[ETH_ZLEN] = { [0 ... 5] = 0xff, [12] = 0x80, [13] = 0x35, [15] = 1,
				    [16] = 0x08,      [18] = 6,	   [19] = 4,	[21] = 3 };
	struct virtio_net_hdr_v1 none = { 0 };
	struct iovec iov[] = { { .iov_base = &none, .iov_len = sizeof(none) },
			       { .iov_base = frame, .iov_len = sizeof(frame) } };

	memcpy(frame + 6, net->ctrl.mac, ETH_ALEN);
	memcpy(frame + 22, net->ctrl.mac, ETH_ALEN);
	memcpy(frame + 32, net->ctrl.mac, ETH_ALEN);
	if (net->backend->ops->tx(net->backend, 0, iov, ARRAY_SIZE(iov)))
		log_warn("%s: the guest's new place could not be announced", net->vdev.id);
}

void virtio_net_announce(struct device *dev)
{
	struct virtio_net *net = dev->priv;

	loop_call(net->sq.loop, &net->announce_work);
	if (!vdev_has(&net->vdev, VIRTIO_NET_F_GUEST_ANNOUNCE))
		return;
	pthread_mutex_lock(&net->lock);
	net->ctrl.announce = true;
	pthread_mutex_unlock(&net->lock);
	vdev_config_changed(&net->vdev);
}
