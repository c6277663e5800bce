/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_command.c - the commands of a network card's control queue (virtio 1.2, 5.1.6.5) as functions
 * of its state: what a command makes of it, and which commands make it again. No state of its own;
 * any thread.
 */
#include "net_command.h"

#include <string.h>

bool net_features_acceptable(uint64_t features)
{
#define BIT(f) VIRTIO_BIT(VIRTIO_NET_F_##f)
	static const struct {
		uint64_t feature, needs;
	} rules[] = {
		{ BIT(GUEST_TSO4), BIT(GUEST_CSUM) },
		{ BIT(GUEST_TSO6), BIT(GUEST_CSUM) },
		{ BIT(GUEST_ECN), BIT(GUEST_TSO4) | BIT(GUEST_TSO6) },
		{ BIT(HOST_TSO4), BIT(CSUM) },
		{ BIT(HOST_TSO6), BIT(CSUM) },
		{ BIT(HOST_ECN), BIT(HOST_TSO4) | BIT(HOST_TSO6) },
		{ BIT(CTRL_RX), BIT(CTRL_VQ) },
		{ BIT(CTRL_VLAN), BIT(CTRL_VQ) },
		{ BIT(GUEST_ANNOUNCE), BIT(CTRL_VQ) },
		{ BIT(MQ), BIT(CTRL_VQ) },
		{ BIT(CTRL_MAC_ADDR), BIT(CTRL_VQ) },
	};
#undef BIT

	for (unsigned int i = 0; i < ARRAY_SIZE(rules); i++)
		if (features & rules[i].feature && !(features & rules[i].needs))
			return false;
	return true;
}

/* --- commands: each reads its data, and changes the state only if it is good -------------------
 */

static bool has(const struct net_limits *l, unsigned int feature)
{
	return l->negotiated & VIRTIO_BIT(feature);
}

static uint8_t read_flag(struct vq_bytes *data, bool *flag)
{
	uint8_t v;

	if (data->len != 1 || !vq_read(data, &v, 1) || v > 1)
		return VIRTIO_NET_ERR;
	*flag = v;
	return VIRTIO_NET_OK;
}

static uint8_t cmd_rx(struct net_ctrl *c, const struct net_limits *l, uint8_t cmd,
		      struct vq_bytes *data)
{
	if (!has(l, VIRTIO_NET_F_CTRL_RX))
		return VIRTIO_NET_ERR;
	if (cmd == VIRTIO_NET_CTRL_RX_PROMISC)
		return read_flag(data, &c->promisc);
	if (cmd == VIRTIO_NET_CTRL_RX_ALLMULTI)
		return read_flag(data, &c->allmulti);
	return VIRTIO_NET_ERR; /* the others are CTRL_RX_EXTRA */
}

/* One of the two tables of MAC_TABLE_SET: a count, then as many addresses. */
static bool read_macs(struct vq_bytes *data, struct net_macs *t)
{
	uint32_t entries;
	uint64_t len;

	memset(t, 0, sizeof(*t));
	if (!vq_read(data, &entries, sizeof(entries)))
		return false;
	len = (uint64_t)entries * ETH_ALEN;
	if (len > data->len)
		return false;
#ifndef FUZZ_PLANT /* a bug for the fuzzer to find: any number of addresses is stored */
	if (entries > NET_MACS_MAX) {
		t->overflow = true;
		vq_skip(data, len);
		return true;
	}
#endif
	t->n = (uint16_t)entries;
	return vq_read(data, t->mac, len);
}

static uint8_t cmd_mac(struct net_ctrl *c, const struct net_limits *l, uint8_t cmd,
		       struct vq_bytes *data)
{
	struct net_macs uni, multi;

	if (cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET && has(l, VIRTIO_NET_F_CTRL_RX)) {
		if (!read_macs(data, &uni) || !read_macs(data, &multi) || data->len)
			return VIRTIO_NET_ERR;
		c->uni = uni;
		c->multi = multi;
		return VIRTIO_NET_OK;
	}
	if (cmd == VIRTIO_NET_CTRL_MAC_ADDR_SET && has(l, VIRTIO_NET_F_CTRL_MAC_ADDR) &&
	    data->len == ETH_ALEN && vq_read(data, c->mac, ETH_ALEN))
		return VIRTIO_NET_OK;
	return VIRTIO_NET_ERR;
}

static uint8_t cmd_vlan(struct net_ctrl *c, const struct net_limits *l, uint8_t cmd,
			struct vq_bytes *data)
{
	uint8_t *byte, bit;
	uint16_t vid;

	if (!has(l, VIRTIO_NET_F_CTRL_VLAN) || data->len != sizeof(vid) ||
	    !vq_read(data, &vid, sizeof(vid)) || vid >= NET_VLANS)
		return VIRTIO_NET_ERR;
	byte = &c->vlans[vid / 8];
	bit = (uint8_t)(1u << vid % 8);
	if (cmd == VIRTIO_NET_CTRL_VLAN_ADD)
		*byte |= bit;
	else if (cmd == VIRTIO_NET_CTRL_VLAN_DEL)
		*byte &= (uint8_t)~bit;
	else
		return VIRTIO_NET_ERR;
	return VIRTIO_NET_OK;
}

static uint8_t cmd_announce(struct net_ctrl *c, const struct net_limits *l, uint8_t cmd)
{
	if (cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK || !has(l, VIRTIO_NET_F_GUEST_ANNOUNCE))
		return VIRTIO_NET_ERR;
	c->announce = false;
	return VIRTIO_NET_OK;
}

static uint8_t cmd_mq(struct net_ctrl *c, const struct net_limits *l, uint8_t cmd,
		      struct vq_bytes *data)
{
	uint16_t pairs;

	if (cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !has(l, VIRTIO_NET_F_MQ) ||
	    data->len != sizeof(pairs) || !vq_read(data, &pairs, sizeof(pairs)) ||
	    pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN || pairs > l->npairs)
		return VIRTIO_NET_ERR;
	c->pairs = pairs;
	return VIRTIO_NET_OK;
}

static uint8_t cmd_offloads(struct net_ctrl *c, const struct net_limits *l, uint8_t cmd,
			    struct vq_bytes *data)
{
	uint64_t offloads, allowed = l->negotiated & l->offloads;

	if (cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
	    !has(l, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || data->len != sizeof(offloads) ||
	    !vq_read(data, &offloads, sizeof(offloads)) || offloads & ~allowed)
		return VIRTIO_NET_ERR;
	c->offloads = offloads;
	c->offloads_changed = true;
	return VIRTIO_NET_OK;
}

uint8_t net_command(struct net_ctrl *c, const struct net_limits *l, struct vq_bytes *out,
		    uint8_t *class)
{
	struct virtio_net_ctrl_hdr hdr;

	if (!vq_read(out, &hdr, sizeof(hdr)))
		return VIRTIO_NET_ERR;
	*class = hdr.class;
	switch (hdr.class) {
	case VIRTIO_NET_CTRL_RX:
		return cmd_rx(c, l, hdr.cmd, out);
	case VIRTIO_NET_CTRL_MAC:
		return cmd_mac(c, l, hdr.cmd, out);
	case VIRTIO_NET_CTRL_VLAN:
		return cmd_vlan(c, l, hdr.cmd, out);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return cmd_announce(c, l, hdr.cmd);
	case VIRTIO_NET_CTRL_MQ:
		return cmd_mq(c, l, hdr.cmd, out);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return cmd_offloads(c, l, hdr.cmd, out);
	default:
		return VIRTIO_NET_ERR;
	}
}

void net_ctrl_commit(struct net_ctrl *c, const struct net_ctrl *next, uint8_t class)
{
	bool announce = class != VIRTIO_NET_CTRL_ANNOUNCE && c->announce;

	*c = *next;
	c->announce = announce;
}

/* --- the way back: commands that make a state ------------------------------------------------- */

void net_ctrl_blank(struct net_ctrl *c, const uint8_t mac[ETH_ALEN])
{
	memset(c, 0, sizeof(*c));
	memcpy(c->mac, mac, ETH_ALEN);
	c->promisc = true;
	c->pairs = 1;
}

static uint32_t put(uint8_t *buf, uint8_t class, uint8_t cmd, const void *data, size_t len)
{
	buf[0] = class;
	buf[1] = cmd;
	memcpy(buf + 2, data, len);
	return (uint32_t)(2 + len);
}

static uint32_t put_flag(uint8_t *buf, uint8_t cmd, bool on)
{
	uint8_t v = on;

	return put(buf, VIRTIO_NET_CTRL_RX, cmd, &v, 1);
}

static uint32_t put_macs(uint8_t *buf, const struct net_macs *t)
{
	uint32_t n = t->n;

	memcpy(buf, &n, sizeof(n));
	memcpy(buf + sizeof(n), t->mac, n * ETH_ALEN);
	return (uint32_t)sizeof(n) + n * ETH_ALEN;
}

static uint32_t put_tables(uint8_t *buf, const struct net_ctrl *c)
{
	uint32_t len = put(buf, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, "", 0);

	len += put_macs(buf + len, &c->uni);
	return len + put_macs(buf + len, &c->multi);
}

enum { AT_MAC, AT_PROMISC, AT_ALLMULTI, AT_TABLES, AT_PAIRS, AT_OFFLOADS, AT_VLANS };

/* The command at one place of the order; 0: nothing has to be said there. */
static uint32_t command_at(unsigned int at, const struct net_ctrl *c, const struct net_ctrl *from,
			   const struct net_limits *l, uint8_t *buf)
{
	bool rx = has(l, VIRTIO_NET_F_CTRL_RX);
	uint16_t vid = (uint16_t)(at - AT_VLANS);

	switch (at) {
	case AT_MAC:
		return memcmp(c->mac, from->mac, ETH_ALEN)
			       ? put(buf, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, c->mac,
				     ETH_ALEN)
			       : 0;
	/* A table that was too long for us is replaced by more than it asked for. */
	case AT_PROMISC:
		return rx ? put_flag(buf, VIRTIO_NET_CTRL_RX_PROMISC, c->promisc || c->uni.overflow)
			  : 0;
	case AT_ALLMULTI:
		return rx ? put_flag(buf, VIRTIO_NET_CTRL_RX_ALLMULTI,
				     c->allmulti || c->multi.overflow)
			  : 0;
	case AT_TABLES:
		return rx ? put_tables(buf, c) : 0;
	case AT_PAIRS:
		return c->pairs != from->pairs
			       ? put(buf, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
				     &c->pairs, sizeof(c->pairs))
			       : 0;
	case AT_OFFLOADS:
		return c->offloads_changed ? put(buf, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
						 VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &c->offloads,
						 sizeof(c->offloads))
					   : 0;
	default:
		return c->vlans[vid / 8] & 1u << vid % 8
			       ? put(buf, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &vid,
				     sizeof(vid))
			       : 0;
	}
}

/* As far as the function is concerned: whether the driver shall announce itself is not. */
static bool says_the_same(const struct net_ctrl *a, const struct net_ctrl *b)
{
	struct net_ctrl copy = *a;

	copy.announce = b->announce;
	return !memcmp(&copy, b, sizeof(copy));
}

uint32_t net_command_replay(const struct net_ctrl *c, const struct net_ctrl *from,
			    const struct net_limits *l, unsigned int *at,
			    uint8_t buf[NET_COMMAND_MAX])
{
	uint32_t len = 0;

	if (says_the_same(c, from))
		return 0;
	while (*at < AT_VLANS + NET_VLANS && !len)
		len = command_at((*at)++, c, from, l, buf);
	return len;
}
