/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_state.c - what of an assigned function travels beside the transport's journal: what the guest
 * was offered and sees as device configuration, and what its network card was told by the control
 * queue. Nothing of it is the function's own, so the guest can go on with another one.
 */
#include "vf_dev.h"

#include <errno.h>
#include <string.h>

/*
 * While the function runs, only it knows where its queues are, and it writes to guest memory
 * without a trace. Its queues have to be relayed before the guest can be moved or saved.
 */
static int pre_save(void *obj)
{
	struct vf_dev *vd = obj;

	if (vd->standin)
		vf_standin_save(vd);
	return vd->up ? -EOPNOTSUPP : 0;
}

/* The guest goes on with the values that it knows; they must be possible here. */
static int validate(const void *scratch, const void *live, struct diag *d)
{
	const struct vf_dev *s = scratch, *l = live;
	union vf_config here = l->own;

	if (s->serial[0] && l->serial[0] && memcmp(s->serial, l->serial, sizeof(s->serial)) != 0)
		return diag_set(
			d, -EINVAL,
			"the guest's disk is \"%.*s\", the one here \"%.*s\" (GET_ID); if they "
			"are the same, say so by its serial in vfs",
			(int)sizeof(s->serial), s->serial, (int)sizeof(l->serial), l->serial);
	/* A card that can be given an address need not have it yet. */
	if (l->vdev.device_id == VIRTIO_ID_NET &&
	    l->offer.to_function & VIRTIO_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR))
		memcpy(here.net.mac, s->config.net.mac, ETH_ALEN);
	return vf_config_compatible(l->vdev.device_id, &s->config, &here, d);
}

static const struct state_field fields[] = {
	STATE_SCALAR_CHECK(STATE_U16, struct vf_dev, vdev.device_id),
	STATE_SCALAR_CHECK(STATE_U16, struct vf_dev, offer.npairs),
	STATE_SCALAR_CHECK(STATE_U16, struct vf_dev, offer.nqueues),
	STATE_FIELD_(STATE_BYTES, struct vf_dev, config.bytes, 1,
		     sizeof(((struct vf_dev *)0)->config.bytes), STATE_TOLD),
	{ .name = "serial",
	  .kind = STATE_BYTES,
	  .offset = offsetof(struct vf_dev, serial),
	  .size = VIRTIO_BLK_ID_BYTES,
	  .count = 1,
	  .flags = STATE_TOLD,
	  .since = 2 },
};

const struct state_desc vf_state = {
	.name = "vf",
	.version = 2,
	.obj_size = sizeof(struct vf_dev),
	.fields = fields,
	.nfields = ARRAY_SIZE(fields),
	.pre_save = pre_save,
	.validate = validate,
};

static int validate_net(const void *scratch, const void *live, struct diag *d)
{
	const struct net_ctrl *c = &((const struct vf_dev *)scratch)->cvq.ctrl;
	const struct vf_dev *l = live;

	if (c->uni.n > NET_MACS_MAX || c->multi.n > NET_MACS_MAX)
		return diag_set(d, -EINVAL, "%u and %u addresses in the filter, %u are possible",
				c->uni.n, c->multi.n, NET_MACS_MAX);
	if (!c->pairs || c->pairs > l->offer.npairs)
		return diag_set(d, -EINVAL, "%u pairs of queues in use of %u", c->pairs,
				l->offer.npairs);
	if (c->offloads & ~(l->offer.to_function & VF_NET_OFFLOADS))
		return diag_set(d, -EINVAL, "offloads 0x%llx are in use, this function lacks some",
				(unsigned long long)c->offloads);
	return 0;
}

static int post_load(void *obj, struct diag *d)
{
	struct vf_dev *vd = obj;

	(void)d;
	if (vd->standin)
		vf_standin_load(vd);
	return 0;
}

#define CTRL(kind, member) STATE_SCALAR(kind, struct vf_dev, cvq.ctrl.member)
#define CTRL_RAW(member)   STATE_RAW(struct vf_dev, cvq.ctrl.member)

static const struct state_field net_fields[] = {
	CTRL_RAW(mac),
	CTRL(STATE_BOOL, announce),
	CTRL(STATE_BOOL, promisc),
	CTRL(STATE_BOOL, allmulti),
	CTRL(STATE_BOOL, uni.overflow),
	CTRL(STATE_U16, uni.n),
	CTRL_RAW(uni.mac),
	CTRL(STATE_BOOL, multi.overflow),
	CTRL(STATE_U16, multi.n),
	CTRL_RAW(multi.mac),
	CTRL_RAW(vlans),
	CTRL(STATE_U16, pairs),
	CTRL(STATE_BOOL, offloads_changed),
	CTRL(STATE_U64, offloads),
};

const struct state_desc vf_net_state = {
	.name = "vf-net",
	.version = 1,
	.obj_size = sizeof(struct vf_dev),
	.fields = net_fields,
	.nfields = ARRAY_SIZE(net_fields),
	.validate = validate_net,
	.post_load = post_load,
};
