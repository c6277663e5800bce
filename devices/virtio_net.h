/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_net.h - what the files of the virtio network card share. Private to devices/.
 *
 * Thread: struct net_pair and the counters belong to the loop's thread. struct net_ctrl is written
 * by it too, or while the card is stopped by whoever resets or loads it; the fields that the guest
 * reads as device configuration are under net->lock.
 */
#ifndef UNVMM_DEVICES_VIRTIO_NET_H
#define UNVMM_DEVICES_VIRTIO_NET_H

#include <pthread.h>

#include <unvmm/device.h>
#include <unvmm/softq.h>

#include "net_backend.h"

#define NET_MACS_MAX 64 /* of each table; more make the filter let all of the kind pass */
#define NET_VLANS    4096

/* Addresses of one kind that the driver wants to receive. */
struct net_macs {
	bool overflow; /* it had more than the table holds */
	uint16_t n;
	uint8_t mac[NET_MACS_MAX * ETH_ALEN];
};

/* What the driver told us by the control queue (virtio 1.2, 5.1.6.5). */
struct net_ctrl {
	uint8_t mac[ETH_ALEN];
	bool announce; /* the driver is asked to announce itself and has not done so */
	bool promisc, allmulti;
	struct net_macs uni, multi;
	uint8_t vlans[NET_VLANS / 8];
	uint16_t pairs;	       /* in use */
	bool offloads_changed; /* `offloads` counts; else what was negotiated */
	uint64_t offloads;     /* GUEST_* features switched on now */
};

/* A receive buffer: a chain that was taken from the ring and not given back yet. */
struct net_rx_buf {
	uint16_t head, niov;
	uint32_t len;
};

/* Room for the longest legal chain behind as many vectors as one system call takes well. */
#define NET_IOV_MAX  512u
#define NET_BUFS_MAX 256u

/* One receive and one transmit queue. */
struct net_pair {
	/* Buffers that the next frames go to, and their bytes as one vector. */
	struct net_rx_buf bufs[NET_BUFS_MAX];
	struct iovec iov[NET_IOV_MAX + 1]; /* one more for `spill` */
	gpa_t gpa[NET_IOV_MAX];
	unsigned int nbufs, niov;
	uint64_t room;	 /* bytes of bufs[] */
	uint32_t expect; /* bytes of the next frame, guessed from the last ones */
	/* So many times a frame is taken to be the only one, without asking for another. */
	unsigned int lone;
	/*
	 * A frame that is longer than the buffers that were taken: `room_then` bytes of its `len`
	 * lie in them, the rest in spill[] until the driver has given more.
	 */
	uint32_t len;
	uint64_t room_then;
	uint8_t spill[NET_FRAME_MAX];
};

struct net_counters {
	uint64_t rx_packets, rx_bytes, rx_filtered, rx_dropped;
	uint64_t tx_packets, tx_bytes, tx_dropped;
};

struct virtio_net {
	struct vdev vdev;
	struct softq sq;
	struct net_backend *backend;
	struct loop_work attach_work, detach_work, announce_work;

	/* The card as it was bought. */
	uint8_t mac[ETH_ALEN];
	uint16_t npairs, mtu; /* mtu 0: not offered */

	pthread_mutex_t lock; /* protects ctrl.mac, ctrl.announce and link */
	bool link;
	struct net_ctrl ctrl;

	struct net_pair *pairs; /* npairs of them; owned */
	struct net_counters count;
	/* The transmitted or control chain that is being looked at. */
	struct iovec iov[NET_IOV_MAX + 1];
	gpa_t gpa[NET_IOV_MAX + 1];
	struct state_ref state[VIRTIO_PCI_STATES + 1];
};

#define NET_GUEST_OFFLOADS                                                           \
	(VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO4) | \
	 VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_ECN))

/* The owner's way to count, so that others may read meanwhile. */
static inline void net_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline struct virtio_net *net_of_vdev(struct vdev *v)
{
	return container_of(v, struct virtio_net, vdev);
}

/* --- virtio_net_ctrl.c ------------------------------------------------------------------------ */

/* As a reset leaves it: every frame is received until the driver says otherwise. */
void net_ctrl_reset(struct virtio_net *net);
/* The number of the control queue, which depends on what was negotiated (5.1.2). -1: none. */
int net_ctrl_queue(const struct virtio_net *net);
/* Serves it. */
void net_ctrl_handle(struct virtio_net *net, unsigned int q);
/* GUEST_* features that received frames may use at this moment. */
uint64_t net_ctrl_offloads(const struct virtio_net *net);
/* Does the driver want this frame? `start`: its first bytes, ETH_HLEN + 4 or all there are. */
bool net_ctrl_wants(const struct virtio_net *net, const uint8_t *start, size_t len);

extern const struct state_desc net_state; /* of struct virtio_net */

/* --- virtio_net.c ----------------------------------------------------------------------------- */

/* What virtio_net_dev.c puts the card together of. */
extern const struct vdev_ops net_vdev_ops;
extern const struct net_events net_events;
void net_handle(struct softq *sq, unsigned int q);
void net_drain(struct softq *sq);
void net_announce_work(struct loop_work *w);

/* From now on pairs 0 to n - 1 are used. -errno: as many as before. The loop's thread. */
int net_set_pairs(struct virtio_net *net, uint16_t n) must_check;

/*
 * After a move: tells the switches on the way where the guest is now (a RARP frame), and asks the
 * guest to announce itself if it can. Main, control lock held; the guest need not run yet.
 */
void virtio_net_announce(struct device *dev);

#endif
