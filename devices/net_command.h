/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_command.h - what the commands of a network card's control queue mean for its state, whoever
 * carries them out: the software card or a function. Private to devices/. Pure functions.
 */
#ifndef UNVMM_DEVICES_NET_COMMAND_H
#define UNVMM_DEVICES_NET_COMMAND_H

#include <linux/virtio_net.h>

#include "virtio_net.h"

/* What commands may ask for. */
struct net_limits {
	uint64_t negotiated; /* features */
	uint64_t offloads;   /* features that GUEST_OFFLOADS_SET may switch, if negotiated */
	uint16_t npairs;
};

/* Longest command that net_command_replay() makes: both address tables. */
#define NET_COMMAND_MAX (2 + 2 * (4 + NET_MACS_MAX * ETH_ALEN))

/*
 * Applies one command, header first. VIRTIO_NET_OK and the state after it, or VIRTIO_NET_ERR and
 * *c as it was. *class: of the header, if there is a whole one.
 */
uint8_t net_command(struct net_ctrl *c, const struct net_limits *l, struct vq_bytes *out,
		    uint8_t *class) must_check;

/*
 * *c becomes `next`, which is *c as it was with a command of that class applied. Others may ask for
 * an announcement meanwhile: only the driver's answer to that takes it back.
 */
void net_ctrl_commit(struct net_ctrl *c, const struct net_ctrl *next, uint8_t class);

/* 5.1.3.1: does each feature have one of those that it needs? */
bool net_features_acceptable(uint64_t features);

/* The state that a reset leaves: every frame is received until the driver says otherwise. */
void net_ctrl_blank(struct net_ctrl *c, const uint8_t mac[ETH_ALEN]);

/*
 * The commands that lead from `from` to `c`, one per call: its length, 0 when there are no more.
 * *at is 0 at first and counts on.
 */
uint32_t net_command_replay(const struct net_ctrl *c, const struct net_ctrl *from,
			    const struct net_limits *l, unsigned int *at,
			    uint8_t buf[NET_COMMAND_MAX]) must_check;

#endif
