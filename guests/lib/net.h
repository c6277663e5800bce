/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.h - a polled virtio-net driver (virtio 1.2, 5.1): frames out of and into memory, on several
 * pairs of queues, with merged receive buffers, and the control queue.
 */
#ifndef GUESTS_NET_H
#define GUESTS_NET_H

#include <linux/virtio_net.h>

#include "virtio.h"

#define NET_PAIRS_MAX 8
#define NET_HDR	      12u
#define NET_ETH	      14u
#define NET_FRAME_MAX 65549u /* an IP packet of 65535 bytes behind an Ethernet header */
#define NET_SLOTS_MAX 64     /* frames under way on one transmit queue */

struct net_slot {
	struct virtio_net_hdr_v1 hdr;
	uint8_t *frame;
	bool busy;
};

struct net_pair {
	struct vq rx, tx;
	struct net_slot *slot;	   /* NET_SLOTS_MAX */
	struct net_slot **by_head; /* of the transmit ring's size */
	uint8_t *bufs;		   /* of the receive ring: bufsize bytes for each head */
	uint8_t **buf_of;	   /* by head */
};

struct net {
	struct vio vio;
	struct net_pair pair[NET_PAIRS_MAX];
	struct vq ctrl;
	unsigned int npairs; /* in use */
	uint32_t bufsize;
	uint8_t mac[6];
	struct rnd *rnd; /* cuts frames into segments; NULL: header and frame */
	uint64_t sent, received;
	uint64_t unused; /* receive buffers that came back empty: a device may do that at a stop */
};

/* Feature bits that the command line wants (features=a,b; all that we know if not given). */
uint64_t net_wanted(void);
bool net_feature(const struct net *n, unsigned int bit);
uint16_t net_config16(const struct net *n, size_t offset);
/*
 * Negotiates, sets up the queues with at most qsize entries (0: what there is), DRIVER_OK, uses
 * min(pairs, what there is) pairs and gives all receive buffers, of bufsize bytes each.
 */
bool net_start(struct net *n, uint64_t features, unsigned int pairs, uint16_t qsize,
	       uint32_t bufsize);
/* Waits for the link; false after some seconds. */
bool net_link_up(const struct net *n);

/* Sends a copy. False: there is no room now. Does not kick. */
bool net_send(struct net *n, unsigned int pair, const struct virtio_net_hdr_v1 *hdr,
	      const void *frame, uint32_t len);
void net_kick(struct net *n, unsigned int pair);
/* The next frame of any pair, at most NET_FRAME_MAX bytes to `frame`: its length; 0: none yet. */
uint32_t net_receive(struct net *n, struct virtio_net_hdr_v1 *hdr, uint8_t *frame);

/* A command on the control queue: its ack, or -1 if none came. */
int net_command(struct net *n, uint8_t class, uint8_t cmd, const void *data, uint32_t len);

#endif
