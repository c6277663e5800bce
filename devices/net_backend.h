/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_backend.h - where the frames of a virtio network card come from and go to: a tap, passt, or
 * back to the guest. Private to devices/.
 *
 * A frame travels with the header of virtio 1.2, 5.1.6 in front (NET_HDR bytes, little endian) and
 * is scattered over iovecs that point into guest memory; nothing here blocks. A backend that ends
 * or loses its interface says so once, reports the link as down and lives on as a sink.
 *
 * Thread: open and close by main; set_offload() and set_queues() while the card is stopped by
 * whoever starts it, else, like everything else, on the loop's thread.
 */
#ifndef UNVMM_DEVICES_NET_BACKEND_H
#define UNVMM_DEVICES_NET_BACKEND_H

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <unvmm/diag.h>
#include <unvmm/loop.h>

#define NET_HDR	      ((uint32_t)sizeof(struct virtio_net_hdr_v1))
#define NET_PAIRS_MAX 8
/* Largest frame: an IP packet of 64 KiB - 1 with Ethernet header and VLAN tag. */
#define NET_FRAME_MAX (65535u + ETH_HLEN + 4u)

struct net_backend;

/* What a backend tells the card. The loop's thread. */
struct net_events {
	/* Frames for pair q can be fetched. Said again and again until want_rx(q, false). */
	void (*rx_ready)(struct net_backend *b, unsigned int q);
	/* After tx() returned -EAGAIN: try again, on any queue. */
	void (*tx_ready)(struct net_backend *b);
	void (*link_changed)(struct net_backend *b); /* b->link has a new value */
};

struct net_backend_ops {
	const char *name; /* "tap": for `unvmm info` */
	/* Between them the backend watches what it has to watch by itself (link, death). */
	void (*attach)(struct net_backend *b);
	void (*detach)(struct net_backend *b);
	/*
	 * The next frame of pair q, header first. Returns its bytes, header included; -EAGAIN:
	 * there is none; another error: there will be none. What does not fit is cut off.
	 */
	ssize_t (*rx)(struct net_backend *b, unsigned int q, const struct iovec *iov,
		      unsigned int n);
	/* Has rx_ready() called for pair q as soon as, and as long as, there is a frame; or not. */
	void (*want_rx)(struct net_backend *b, unsigned int q, bool want);
	/*
	 * Sends a frame: iov[0] is exactly the header, which has been checked; the vector may be
	 * changed. 0: it is gone or kept; -EAGAIN: no room, ask again after tx_ready(); another
	 * error: it is lost.
	 */
	int (*tx)(struct net_backend *b, unsigned int q, struct iovec *iov, unsigned int n);
	/* Which VIRTIO_NET_F_GUEST_* offloads received frames may use. Only if b->offloads. */
	int (*set_offload)(struct net_backend *b, uint64_t features);
	/* Pairs 0 to n - 1 are used from now on. */
	int (*set_queues)(struct net_backend *b, unsigned int n);
	void (*close)(struct net_backend *b);
};

struct net_backend {
	const struct net_backend_ops *ops;
	const struct net_events *events;
	void *card; /* of the events' receiver */
	struct loop *loop;
	const char *id; /* of the card, for messages */
	bool offloads;	/* headers mean something: checksums and segmentation can be left to it */
	bool link;	/* the cable is plugged in */
};

/* Each fills *b on success; its id stays valid until close. mtu 0: not configured. */
int net_tap_open(struct net_backend **b, const char *id, const char *name, unsigned int pairs,
		 unsigned int mtu, struct diag *d) must_check;
int net_passt_open(struct net_backend **b, const char *id, unsigned int mtu,
		   struct diag *d) must_check;
/* Every frame comes back to the pair that sent it. */
int net_loopback_open(struct net_backend **b, const char *id, unsigned int pairs,
		      struct diag *d) must_check;

/* Copies into the vector at `off` bytes from its start; what lies behind its end is dropped. */
static inline void net_iov_store(const struct iovec *iov, unsigned int n, size_t off,
				 const void *from, size_t len)
{
	const uint8_t *p = from;

	for (; n && len; iov++, n--) {
		size_t part;

		if (off >= iov->iov_len) {
			off -= iov->iov_len;
			continue;
		}
		part = iov->iov_len - off < len ? iov->iov_len - off : len;
		__builtin_memcpy((uint8_t *)iov->iov_base + off, p, part);
		p += part;
		len -= part;
		off = 0;
	}
}

/* Copies out of the vector from `off` on; returns how many bytes there were. */
static inline size_t net_iov_load(const struct iovec *iov, unsigned int n, size_t off, void *to,
				  size_t len)
{
	size_t got = 0;

	for (; n && got < len; iov++, n--) {
		size_t part;

		if (off >= iov->iov_len) {
			off -= iov->iov_len;
			continue;
		}
		part = iov->iov_len - off < len - got ? iov->iov_len - off : len - got;
		__builtin_memcpy((uint8_t *)to + got, (const uint8_t *)iov->iov_base + off, part);
		got += part;
		off = 0;
	}
	return got;
}

#endif
