/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_tap.c - frames through a tap interface of the host, with the header that tells of checksums
 * and segments still to be made. One system call per frame; the link follows the interface.
 * Opened and closed by main, the rest runs on the loop's thread.
 */
#include "net_backend.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <unvmm/log.h>

struct tap_queue {
	struct net_tap *tap;
	struct loop_fd rx;
	int fd;
	bool attached;
};

struct net_tap {
	struct net_backend b;
	char name[IFNAMSIZ];
	int link_fd; /* rtnetlink: says when the interface changes */
	struct loop_fd link;
	bool gone; /* the interface has been deleted */
	unsigned int npairs;
	struct tap_queue queues[NET_PAIRS_MAX];
};

static struct net_tap *of_backend(struct net_backend *b)
{
	return container_of(b, struct net_tap, b);
}

/* --- frames ---------------------------------------------------------------------------------- */

static void tap_gone(struct net_tap *t)
{
	if (t->gone)
		return;
	t->gone = true;
	log_error("%s: the tap \"%s\" has been deleted; the guest's link is down", t->b.id,
		  t->name);
	if (!t->b.link)
		return;
	t->b.link = false;
	t->b.events->link_changed(&t->b);
}

static ssize_t tap_rx(struct net_backend *b, unsigned int q, const struct iovec *iov,
		      unsigned int n)
{
	ssize_t got;

	do
		got = readv(of_backend(b)->queues[q].fd, iov, (int)n);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

/*
 * The kernel checks the header once more (tun_get_user, virtio_net_hdr_to_skb): lengths against the
 * frame, types against the protocol. What it refuses is lost like on any wire.
 */
static int tap_tx(struct net_backend *b, unsigned int q, struct iovec *iov, unsigned int n)
{
	struct net_tap *t = of_backend(b);
	/* A queue that is detached takes nothing; which queue a frame uses makes no difference. */
	int fd = t->queues[t->queues[q].attached ? q : 0].fd;
	ssize_t put;

	do
		put = writev(fd, iov, (int)n);
	while (put < 0 && errno == EINTR);
	if (put >= 0)
		return 0;
	/* The send buffer of a tap is unlimited: EAGAIN is a lack of memory, and no POLLOUT ends
	 * it. */
	return errno == EAGAIN ? -ENOBUFS : -errno;
}

static void rx_ready(struct loop_fd *lf, uint32_t revents)
{
	struct tap_queue *tq = container_of(lf, struct tap_queue, rx);
	struct net_tap *t = tq->tap;

	if (revents & POLLERR) {
		loop_del(lf);
		tap_gone(t);
		return;
	}
	t->b.events->rx_ready(&t->b, (unsigned int)(tq - t->queues));
}

static void tap_want_rx(struct net_backend *b, unsigned int q, bool want)
{
	struct net_tap *t = of_backend(b);
	struct tap_queue *tq = &t->queues[q];

	if (!want)
		loop_del(&tq->rx);
	else if (!tq->rx.loop && !t->gone && loop_add(b->loop, &tq->rx, tq->fd, POLLIN, rx_ready))
		log_error("%s: no memory to watch the tap \"%s\"", b->id, t->name);
}

/* --- offloads and queues --------------------------------------------------------------------- */

static int tap_set_offload(struct net_backend *b, uint64_t features)
{
	static const struct {
		unsigned int feature, flag;
	} map[] = {
		{ VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM },
		{ VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4 },
		{ VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6 },
		{ VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN },
	};
	unsigned long flags = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(map); i++)
		if (features & 1ull << map[i].feature)
			flags |= map[i].flag;
	/* Segments that are not made always have a checksum that is not made (5.1.3.1). */
	if (!(flags & TUN_F_CSUM))
		flags = 0;
	return ioctl(of_backend(b)->queues[0].fd, TUNSETOFFLOAD, flags) < 0 ? -errno : 0;
}

static int attach_queue(struct tap_queue *tq, bool attach)
{
	struct ifreq ifr = { .ifr_flags = attach ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	if (tq->attached == attach)
		return 0;
	if (ioctl(tq->fd, TUNSETQUEUE, &ifr) < 0)
		return -errno;
	tq->attached = attach;
	return 0;
}

/* The kernel spreads flows over the attached queues: one that nobody reads would swallow its. */
static int tap_set_queues(struct net_backend *b, unsigned int n)
{
	struct net_tap *t = of_backend(b);
	int err = 0;

	for (unsigned int i = 1; i < t->npairs && !err; i++)
		err = attach_queue(&t->queues[i], i < n);
	return err;
}

/* --- the link -------------------------------------------------------------------------------- */

/* False also when there is no such interface. Any socket takes these requests. */
static bool if_request(const struct net_tap *t, unsigned long request, struct ifreq *ifr)
{
	memset(ifr->ifr_name, 0, sizeof(ifr->ifr_name));
	memcpy(ifr->ifr_name, t->name, strlen(t->name));
	return ioctl(t->link_fd, request, ifr) == 0;
}

/* Running: up and with a carrier, which `ip link set tap0 carrier off` takes away. */
static bool query_link(const struct net_tap *t)
{
	struct ifreq ifr = { 0 };

	return !t->gone && if_request(t, SIOCGIFFLAGS, &ifr) && (ifr.ifr_flags & IFF_UP) &&
	       (ifr.ifr_flags & IFF_RUNNING);
}

static void update_link(struct net_tap *t)
{
	bool link = query_link(t);

	if (link == t->b.link)
		return;
	t->b.link = link;
	t->b.events->link_changed(&t->b);
}

/* The messages only say that it is time to look: so a lost one (ENOBUFS) does no harm. */
static void link_ready(struct loop_fd *lf, uint32_t revents)
{
	struct net_tap *t = container_of(lf, struct net_tap, link);
	char buf[4096];

	(void)revents;
	while (read(t->link_fd, buf, sizeof(buf)) > 0 || errno == ENOBUFS)
		;
	update_link(t);
}

/* Only this interface's messages wake us up: other guests come and go. */
static int filter_link(const struct net_tap *t, int ifindex)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 NLMSG_HDRLEN + offsetof(struct ifinfomsg, ifi_index)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl((uint32_t)ifindex), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };

	return setsockopt(t->link_fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}

static int open_link(struct net_tap *t, struct diag *d)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };

	t->link_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (t->link_fd < 0 || bind(t->link_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return diag_errno(d, -errno, "cannot watch the host's network interfaces");
	return 0;
}

static void tap_attach(struct net_backend *b)
{
	struct net_tap *t = of_backend(b);

	if (loop_add(b->loop, &t->link, t->link_fd, POLLIN, link_ready))
		log_error("%s: no memory to watch the link of \"%s\"", b->id, t->name);
	update_link(t);
}

static void tap_detach(struct net_backend *b)
{
	loop_del(&of_backend(b)->link);
}

/* --- opening --------------------------------------------------------------------------------- */

/* 1: a tap, 0: another kind of interface, -1: there is none of that name. */
static int kind_of(const struct net_tap *t)
{
	struct ethtool_drvinfo info = { .cmd = ETHTOOL_GDRVINFO };
	struct ifreq ifr = { 0 };

	if (!if_request(t, SIOCGIFINDEX, &ifr))
		return -1;
	ifr.ifr_data = (void *)&info;
	return if_request(t, SIOCETHTOOL, &ifr) && !strcmp(info.driver, "tun") &&
	       !strcmp(info.bus_info, "tap");
}

static int refuse(const struct net_tap *t, int err, struct diag *d)
{
	const char *multi = t->npairs > 1 ? " multi_queue" : "";
	int kind = kind_of(t);

	if (kind == 0)
		return diag_set(d, err, "\"%s\" is a network interface, but no tap", t->name);
	if (err == -EBUSY)
		return diag_set(d, err, "the tap \"%s\" is in use by another process", t->name);
	if (err == -EPERM && kind < 0)
		return diag_set(d, err,
				"there is no tap \"%s\" and no permission to make one; as root: ip "
				"tuntap add dev %s mode tap user $USER%s && ip link set %s up",
				t->name, t->name, multi, t->name);
	if (err == -EPERM)
		return diag_set(d, err,
				"the tap \"%s\" belongs to another user; as root: ip tuntap del "
				"dev %s mode tap && ip tuntap add dev %s mode tap user $USER%s && "
				"ip link set %s up",
				t->name, t->name, t->name, multi, t->name);
	if (err == -EINVAL && kind > 0 && t->npairs > 1)
		return diag_set(
			d, err,
			"the tap \"%s\" was made for one queue and %u are wanted; as root: "
			"ip tuntap add dev %s mode tap multi_queue user $USER, or queues = 1",
			t->name, t->npairs, t->name);
	return diag_errno(d, err, "cannot open the tap \"%s\"", t->name);
}

static int open_queue(struct net_tap *t, struct tap_queue *tq, struct diag *d)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int hdr = (int)NET_HDR, err;

	tq->tap = t;
	tq->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (tq->fd < 0 && (errno == ENOENT || errno == ENXIO || errno == ENODEV))
		return diag_set(d, -errno,
				"there is no /dev/net/tun; load the driver as root: modprobe tun");
	if (tq->fd < 0)
		return diag_errno(d, -errno, "cannot open /dev/net/tun");
	memcpy(ifr.ifr_name, t->name, sizeof(ifr.ifr_name));
	if (t->npairs > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	err = ioctl(tq->fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
	if (err == -EINVAL && t->npairs == 1) {
		/* One queue of a tap that was made for several is as good. */
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
		err = ioctl(tq->fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
	}
	if (err)
		return refuse(t, err, d);
	tq->attached = true;
	if (ioctl(tq->fd, TUNSETVNETHDRSZ, &hdr) < 0 || ioctl(tq->fd, TUNSETOFFLOAD, 0ul) < 0)
		return diag_errno(d, -errno, "cannot set up the tap \"%s\"", t->name);
	return 0;
}

/* A tap that we made ends with us; nobody else could have brought it up. */
static int bring_up(struct net_tap *t, unsigned int mtu, struct diag *d)
{
	struct ifreq ifr = { 0 };

	if (mtu) {
		ifr.ifr_mtu = (int)mtu;
		if (!if_request(t, SIOCSIFMTU, &ifr))
			return diag_errno(d, -errno, "cannot give the tap \"%s\" an MTU of %u",
					  t->name, mtu);
	}
	if (!if_request(t, SIOCGIFFLAGS, &ifr))
		return diag_errno(d, -errno, "cannot read the flags of \"%s\"", t->name);
	ifr.ifr_flags |= IFF_UP;
	if (!if_request(t, SIOCSIFFLAGS, &ifr))
		return diag_errno(d, -errno, "cannot bring up the tap \"%s\"", t->name);
	return 0;
}

static int check_mtu(struct net_tap *t, unsigned int mtu, struct diag *d)
{
	struct ifreq ifr = { 0 };

	if (!mtu || !if_request(t, SIOCGIFMTU, &ifr) || ifr.ifr_mtu >= (int)mtu)
		return 0;
	return diag_set(d, -EINVAL,
			"the tap \"%s\" has an MTU of %d, below the guest's %u; as root: ip link "
			"set %s mtu %u",
			t->name, ifr.ifr_mtu, mtu, t->name, mtu);
}

static void tap_close(struct net_backend *b)
{
	struct net_tap *t = of_backend(b);

	for (unsigned int i = 0; i < t->npairs; i++)
		if (t->queues[i].fd >= 0)
			close(t->queues[i].fd);
	if (t->link_fd >= 0)
		close(t->link_fd);
	free(t);
}

static const struct net_backend_ops tap_ops = {
	.name = "tap",
	.attach = tap_attach,
	.detach = tap_detach,
	.rx = tap_rx,
	.want_rx = tap_want_rx,
	.tx = tap_tx,
	.set_offload = tap_set_offload,
	.set_queues = tap_set_queues,
	.close = tap_close,
};

int net_tap_open(struct net_backend **b, const char *id, const char *name, unsigned int pairs,
		 unsigned int mtu, struct diag *d)
{
	struct net_tap *t = calloc(1, sizeof(*t));
	struct ifreq ifr = { 0 };
	bool ours;
	int err;

	if (!t)
		return diag_errno(d, -ENOMEM, "tap \"%s\"", name);
	t->b.ops = &tap_ops;
	t->b.id = id;
	t->b.offloads = true;
	t->npairs = pairs;
	t->link_fd = -1;
	for (unsigned int i = 0; i < pairs; i++)
		t->queues[i].fd = -1;
	strncpy(t->name, name, sizeof(t->name) - 1); /* the option's limit is IFNAMSIZ - 1 */
	err = open_link(t, d);
	ours = !err && kind_of(t) < 0;
	for (unsigned int i = 0; i < pairs && !err; i++)
		err = open_queue(t, &t->queues[i], d);
	if (!err && (!if_request(t, SIOCGIFINDEX, &ifr) || filter_link(t, ifr.ifr_ifindex) < 0))
		err = diag_errno(d, -errno, "cannot watch the tap \"%s\"", name);
	if (!err)
		err = ours ? bring_up(t, mtu, d) : check_mtu(t, mtu, d);
	if (!err)
		err = tap_set_queues(&t->b, 1);
	if (err) {
		tap_close(&t->b);
		return diag_errno(d, err, "cannot set up the tap \"%s\"", name);
	}
	t->b.link = query_link(t);
	*b = &t->b;
	return 0;
}
