/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_net_ctrl.c - the control queue of the virtio network card (virtio 1.2, 5.1.6.5): what the
 * driver wants to receive and on how many queues; the receive filter that follows from it; its
 * state. Runs on the loop's thread; reset and state with the card stopped.
 *
 *   net_ctrl_handle -> run -> net_command -> ack byte
 */
#include "net_command.h"

#include <errno.h>
#include <string.h>

/* What a command asks of the host happens before it counts; if the host cannot, it does not. */
static bool carry_out(struct virtio_net *net, const struct net_ctrl *next, uint8_t class)
{
	if (class == VIRTIO_NET_CTRL_MQ)
		return !net_set_pairs(net, next->pairs);
	if (class == VIRTIO_NET_CTRL_GUEST_OFFLOADS)
		return !net->backend->ops->set_offload(net->backend, next->offloads);
	return true;
}

static uint8_t run(struct virtio_net *net, struct vq_bytes *out)
{
	const struct net_limits limits = { .negotiated = net->vdev.negotiated,
					   .offloads = NET_GUEST_OFFLOADS,
					   .npairs = net->npairs };
	struct net_ctrl next = net->ctrl;
	uint8_t class;

	if (net_command(&next, &limits, out, &class) != VIRTIO_NET_OK ||
	    !carry_out(net, &next, class))
		return VIRTIO_NET_ERR;
	pthread_mutex_lock(&net->lock);
	net_ctrl_commit(&net->ctrl, &next, class);
	pthread_mutex_unlock(&net->lock);
	return VIRTIO_NET_OK;
}

int net_ctrl_queue(const struct virtio_net *net)
{
	if (!vdev_has(&net->vdev, VIRTIO_NET_F_CTRL_VQ))
		return -1;
	return vdev_has(&net->vdev, VIRTIO_NET_F_MQ) ? 2 * net->npairs : 2;
}

void net_ctrl_handle(struct virtio_net *net, unsigned int q)
{
	struct vq *vq = &net->sq.queues[q].vq;
	const char *why = NULL;
	int got = 0;

	while (!why) {
		struct vq_chain c = { .cap = NET_IOV_MAX, .iov = net->iov, .gpa = net->gpa };
		struct vq_bytes out, in;
		virtio_net_ctrl_ack ack;

		got = vq_pop(vq, &c);
		if (got <= 0)
			break;
		out = vq_out(&c);
		in = vq_in(&c);
		if (in.len < sizeof(ack)) {
			why = "command without room for its answer";
			break;
		}
		softq_begin(&net->sq);
		ack = run(net, &out);
		softq_complete(&net->sq, q, c.head,
			       vq_write(vq, &in, &ack, sizeof(ack)) ? sizeof(ack) : 0);
	}
	if (got < 0)
		why = vq->why;
	if (why)
		softq_broken(&net->sq, q, why);
}

/* --- what follows from them ------------------------------------------------------------------- */

uint64_t net_ctrl_offloads(const struct virtio_net *net)
{
	uint64_t negotiated = net->vdev.negotiated & NET_GUEST_OFFLOADS;

	return net->ctrl.offloads_changed ? net->ctrl.offloads & negotiated : negotiated;
}

static bool in_table(const struct net_macs *t, const uint8_t *mac)
{
	for (unsigned int i = 0; i < t->n; i++)
		if (!memcmp(t->mac + i * ETH_ALEN, mac, ETH_ALEN))
			return true;
	return t->overflow;
}

/* A tag of VLAN 0 only carries a priority: the frame belongs to no VLAN (802.1Q). */
static bool vlan_wanted(const struct virtio_net *net, const uint8_t *start, size_t len)
{
	unsigned int type = (unsigned int)start[12] << 8 | start[13], vid;

	if (type != ETH_P_8021Q || len < ETH_HLEN + 4 ||
	    !vdev_has(&net->vdev, VIRTIO_NET_F_CTRL_VLAN))
		return true;
	vid = ((unsigned int)start[14] << 8 | start[15]) & (NET_VLANS - 1);
	return !vid || net->ctrl.vlans[vid / 8] & 1u << vid % 8;
}

bool net_ctrl_wants(const struct virtio_net *net, const uint8_t *start, size_t len)
{
	static const uint8_t broadcast[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const struct net_ctrl *c = &net->ctrl;

	if (c->promisc)
		return true;
	if (!vlan_wanted(net, start, len))
		return false;
	if (!memcmp(start, broadcast, ETH_ALEN))
		return true;
	if (start[0] & 1)
		return c->allmulti || in_table(&c->multi, start);
	return !memcmp(start, c->mac, ETH_ALEN) || in_table(&c->uni, start);
}

void net_ctrl_reset(struct virtio_net *net)
{
	pthread_mutex_lock(&net->lock);
	net_ctrl_blank(&net->ctrl, net->mac);
	pthread_mutex_unlock(&net->lock);
}

/* --- state ------------------------------------------------------------------------------------ */

static int net_validate(const void *scratch, const void *live, struct diag *d)
{
	const struct virtio_net *s = scratch, *l = live;

	if (s->ctrl.uni.n > NET_MACS_MAX || s->ctrl.multi.n > NET_MACS_MAX)
		return diag_set(d, -EINVAL, "%u and %u addresses in the filter, %u are possible",
				s->ctrl.uni.n, s->ctrl.multi.n, NET_MACS_MAX);
	if (!s->ctrl.pairs || s->ctrl.pairs > l->npairs)
		return diag_set(d, -EINVAL, "%u pairs of queues in use of %u", s->ctrl.pairs,
				l->npairs);
	if (s->ctrl.offloads & ~(l->vdev.offered & NET_GUEST_OFFLOADS))
		return diag_set(d, -EINVAL, "offloads 0x%llx are in use, this card lacks some",
				(unsigned long long)s->ctrl.offloads);
	return 0;
}

#define NET_FIELD(kind, member) STATE_SCALAR(kind, struct virtio_net, member)
#define NET_CHECK(kind, member) STATE_SCALAR_CHECK(kind, struct virtio_net, member)

static const struct state_field net_fields[] = {
	NET_CHECK(STATE_U16, npairs),
	NET_CHECK(STATE_U16, mtu),
	STATE_RAW(struct virtio_net, mac),
	STATE_RAW(struct virtio_net, ctrl.mac),
	NET_FIELD(STATE_BOOL, ctrl.announce),
	NET_FIELD(STATE_BOOL, ctrl.promisc),
	NET_FIELD(STATE_BOOL, ctrl.allmulti),
	NET_FIELD(STATE_BOOL, ctrl.uni.overflow),
	NET_FIELD(STATE_U16, ctrl.uni.n),
	STATE_RAW(struct virtio_net, ctrl.uni.mac),
	NET_FIELD(STATE_BOOL, ctrl.multi.overflow),
	NET_FIELD(STATE_U16, ctrl.multi.n),
	STATE_RAW(struct virtio_net, ctrl.multi.mac),
	STATE_RAW(struct virtio_net, ctrl.vlans),
	NET_FIELD(STATE_U16, ctrl.pairs),
	NET_FIELD(STATE_BOOL, ctrl.offloads_changed),
	NET_FIELD(STATE_U64, ctrl.offloads),
};

const struct state_desc net_state = {
	.name = "virtio-net",
	.version = 1,
	.obj_size = sizeof(struct virtio_net),
	.fields = net_fields,
	.nfields = ARRAY_SIZE(net_fields),
	.validate = net_validate,
};
