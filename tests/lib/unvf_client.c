/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unvf_client.c - see unvf_client.h. Nothing in here is shared with the server but the structs of
 * the protocol. The test's thread.
 */
#include "unvf_client.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RING_BASE 0x100000
#define RING_STEP (CLIENT_HEAP + KiB(64))

static void die(const char *why)
{
	fprintf(stderr, "unvf_client: %s\n", why);
	abort();
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --- messages --------------------------------------------------------------------------------- */

void unvf_client_init(struct client *c, int fd)
{
	struct diag d = { 0 };

	memset(c, 0, sizeof(*c));
	c->fd = fd;
	c->bar = CLIENT_BAR;
	for (unsigned int i = 0; i < CLIENT_QUEUES; i++)
		c->irq[i] = -1;
	if (gmem_create(&c->mem, CLIENT_RAM, GMEM_SHARED, &d))
		die(d.text);
}

void unvf_client_connect(struct client *c, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die("cannot connect");
	unvf_client_init(c, fd);
}

static void drop_fds(struct client *c)
{
	for (unsigned int i = 0; i < c->nfds; i++)
		close(c->fds[i]);
	c->nfds = 0;
}

void unvf_client_close(struct client *c)
{
	drop_fds(c);
	for (unsigned int i = 0; i < CLIENT_QUEUES; i++)
		if (c->irq[i] >= 0)
			close(c->irq[i]);
	if (c->doorbells)
		munmap(c->doorbells, c->doorbells_size);
	if (c->fd >= 0)
		close(c->fd);
	gmem_destroy(&c->mem);
}

void unvf_client_send(struct client *c, uint16_t cmd, const void *body, size_t len, const int *fds,
		      unsigned int nfds)
{
	struct vfio_user_header h = { .id = ++c->id,
				      .cmd = cmd,
				      .size = (uint32_t)(sizeof(h) + len) };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)body, len } };
	union {
		char buf[CMSG_SPACE(sizeof(c->fds))];
		struct cmsghdr align;
	} control = { 0 };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (nfds) {
		struct cmsghdr *cm;

		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		cm = CMSG_FIRSTHDR(&msg);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, nfds * sizeof(int));
	}
	if (sendmsg(c->fd, &msg, MSG_NOSIGNAL) != (ssize_t)h.size && errno != EPIPE)
		die("cannot send");
}

/* Exactly len bytes; false if the server hung up. */
static bool recv_all(struct client *c, void *buf, size_t len)
{
	union {
		char buf[CMSG_SPACE(sizeof(c->fds))];
		struct cmsghdr align;
	} control;
	uint8_t *at = buf;

	while (len) {
		struct pollfd p = { .fd = c->fd, .events = POLLIN };
		struct iovec iov = { at, len };
		struct msghdr msg = { .msg_iov = &iov,
				      .msg_iovlen = 1,
				      .msg_control = control.buf,
				      .msg_controllen = sizeof(control.buf) };
		ssize_t n;

		if (poll(&p, 1, CLIENT_MS) != 1)
			die("no answer in time");
		n = recvmsg(c->fd, &msg, MSG_CMSG_CLOEXEC);
		if (n <= 0)
			return false;
		for (struct cmsghdr *cm = CMSG_FIRSTHDR(&msg); cm; cm = CMSG_NXTHDR(&msg, cm)) {
			size_t count = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			if (c->nfds + count > CLIENT_QUEUES)
				die("too many descriptors");
			memcpy(c->fds + c->nfds, CMSG_DATA(cm), count * sizeof(int));
			c->nfds += (unsigned int)count;
		}
		at += n;
		len -= (size_t)n;
	}
	return true;
}

int unvf_client_recv(struct client *c)
{
	struct vfio_user_header h;

	drop_fds(c);
	if (!recv_all(c, &h, sizeof(h)))
		return 1;
	if ((h.flags & VFIO_USER_TYPE_MASK) != VFIO_USER_TYPE_REPLY || h.size < sizeof(h) ||
	    h.size - sizeof(h) > sizeof(c->body) || h.id != c->id)
		die("a header that makes no sense");
	c->len = h.size - sizeof(h);
	if (!recv_all(c, c->body, c->len))
		return 1;
	if (!(h.flags & VFIO_USER_ERROR))
		return 0;
	if (!h.error || c->len)
		die("an error reply with a body, or without an error");
	return -(int)h.error;
}

int unvf_client_call(struct client *c, uint16_t cmd, const void *body, size_t len, const int *fds,
		     unsigned int nfds)
{
	unvf_client_send(c, cmd, body, len, fds, nfds);
	return unvf_client_recv(c);
}

int unvf_client_version(struct client *c)
{
	static const char caps[] = "{\"capabilities\":{\"max_msg_fds\":16}}";
	struct {
		struct vfio_user_version v;
		char text[sizeof(caps)];
	} msg = { .v = { .major = VFIO_USER_MAJOR, .minor = VFIO_USER_MINOR } };

	memcpy(msg.text, caps, sizeof(caps));
	return unvf_client_call(c, VFIO_USER_VERSION, &msg, sizeof(msg), NULL, 0);
}

int unvf_client_map(struct client *c, uint64_t iova, uint64_t size, int fd, uint64_t offset)
{
	struct vfio_user_dma_map m = { .argsz = sizeof(m),
				       .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
				       .offset = offset,
				       .iova = iova,
				       .size = size };

	return unvf_client_call(c, VFIO_USER_DMA_MAP, &m, sizeof(m), &fd, fd >= 0);
}

int unvf_client_unmap(struct client *c, uint64_t iova, uint64_t size)
{
	struct vfio_user_dma_unmap u = { .argsz = sizeof(u), .iova = iova, .size = size };

	return unvf_client_call(c, VFIO_USER_DMA_UNMAP, &u, sizeof(u), NULL, 0);
}

uint64_t unvf_client_read(struct client *c, unsigned int region, uint64_t off, unsigned int len)
{
	struct vfio_user_region_access a = { .offset = off, .region = region, .count = len };
	uint64_t v = 0;

	if (unvf_client_call(c, VFIO_USER_REGION_READ, &a, sizeof(a), NULL, 0) ||
	    c->len != sizeof(a) + len)
		die("a register cannot be read");
	memcpy(&v, c->body + sizeof(a), len < 8 ? len : 8);
	return v;
}

void unvf_client_write(struct client *c, unsigned int region, uint64_t off, unsigned int len,
		       uint64_t value)
{
	struct {
		struct vfio_user_region_access a;
		uint64_t value;
	} msg = { .a = { .offset = off, .region = region, .count = len }, .value = value };

	if (unvf_client_call(c, VFIO_USER_REGION_WRITE, &msg, sizeof(msg.a) + len, NULL, 0))
		die("a register cannot be written");
}

int unvf_client_set_irqs(struct client *c, unsigned int start, unsigned int count, const int *fds)
{
	struct vfio_irq_set set = { .argsz = sizeof(set),
				    .flags = VFIO_IRQ_SET_ACTION_TRIGGER |
					     (fds ? VFIO_IRQ_SET_DATA_EVENTFD
						  : VFIO_IRQ_SET_DATA_NONE),
				    .index = VFIO_PCI_MSIX_IRQ_INDEX,
				    .start = start,
				    .count = count };

	return unvf_client_call(c, VFIO_USER_DEVICE_SET_IRQS, &set, sizeof(set), fds,
				fds ? count : 0);
}

int unvf_client_feature(struct client *c, uint32_t flags, const void *data, size_t len)
{
	uint8_t msg[4096] = { 0 };
	struct vfio_device_feature head = { .argsz = sizeof(c->body), .flags = flags };

	memcpy(msg, &head, sizeof(head));
	if (len)
		memcpy(msg + sizeof(head), data, len);
	return unvf_client_call(c, VFIO_USER_DEVICE_FEATURE, msg, sizeof(head) + len, NULL, 0);
}

int unvf_client_state(struct client *c, uint32_t state)
{
	struct vfio_device_feature_mig_state s = { .device_state = state };

	return unvf_client_feature(c,
				   VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
				   &s, sizeof(s));
}

/* --- the driver ------------------------------------------------------------------------------- */

uint32_t unvf_client_reg(struct client *c, unsigned int off, unsigned int len)
{
	return (uint32_t)unvf_client_read(c, c->bar, off, len);
}

void unvf_client_set_reg(struct client *c, unsigned int off, unsigned int len, uint32_t value)
{
	unvf_client_write(c, c->bar, off, len, value);
}

uint64_t unvf_client_offered(struct client *c)
{
	uint64_t f;

	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	f = unvf_client_reg(c, VIRTIO_PCI_COMMON_DF, 4);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	return f | (uint64_t)unvf_client_reg(c, VIRTIO_PCI_COMMON_DF, 4) << 32;
}

bool unvf_client_reset(struct client *c)
{
	uint64_t until = now_ms() + CLIENT_MS;

	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	while (unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1))
		if (now_ms() > until)
			return false;
	return true;
}

/* The virtio capability of a type in configuration space; 0: there is none. */
static unsigned int find_cap(struct client *c, uint8_t type)
{
	unsigned int at = (unsigned int)unvf_client_read(c, VFIO_PCI_CONFIG_REGION_INDEX,
							 PCI_CAPABILITY_LIST, 1);

	for (int i = 0; at && i < 48; i++) {
		uint64_t head = unvf_client_read(c, VFIO_PCI_CONFIG_REGION_INDEX, at, 4);

		if ((head & 0xff) == PCI_CAP_ID_VNDR && head >> 24 == type)
			return at;
		at = head >> 8 & 0xff;
	}
	return 0;
}

/* The doorbell page by the sparse area of its region, if there is one. */
static void map_doorbells(struct client *c)
{
	struct vfio_region_info info = { .argsz = 4096, .index = c->bar };
	const struct vfio_region_info_cap_sparse_mmap *cap;
	unsigned int notify = find_cap(c, VIRTIO_PCI_CAP_NOTIFY_CFG);

	if (!notify)
		die("no notify capability");
	c->multiplier = (uint32_t)unvf_client_read(c, VFIO_PCI_CONFIG_REGION_INDEX,
						   notify + offsetof(struct virtio_pci_notify_cap,
								     notify_off_multiplier),
						   4);
	if (unvf_client_call(c, VFIO_USER_DEVICE_GET_REGION_INFO, &info, sizeof(info), NULL, 0))
		die("no region info");
	memcpy(&info, c->body, sizeof(info));
	if (!(info.flags & VFIO_REGION_INFO_FLAG_MMAP))
		return;
	cap = (const void *)(c->body + info.cap_offset);
	if (!(info.flags & VFIO_REGION_INFO_FLAG_CAPS) || c->nfds != 1 || cap->nr_areas != 1)
		die("a region that can be mapped without a sparse area or a descriptor");
	c->doorbells_size = cap->areas[0].size;
	c->doorbells = mmap(NULL, c->doorbells_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fds[0],
			    (off_t)(info.offset + cap->areas[0].offset));
	if (c->doorbells == MAP_FAILED)
		die("the doorbells cannot be mapped");
}

void unvf_client_open(struct client *c)
{
	unsigned int n;

	if (unvf_client_version(c))
		die("VERSION was refused");
	if (unvf_client_map(c, c->mem.regions[0].gpa, c->mem.regions[0].size, c->mem.fd, 0))
		die("memory cannot be mapped");
	unvf_client_write(c, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, 2,
			  PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	map_doorbells(c);
	n = unvf_client_reg(c, VIRTIO_PCI_COMMON_NUMQ, 2) + 1;
	for (unsigned int i = 0; i < n && i < CLIENT_QUEUES; i++) {
		c->irq[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (unvf_client_set_irqs(c, i, 1, &c->irq[i]))
			die("a vector cannot be wired");
	}
}

bool unvf_client_negotiate(struct client *c, uint64_t features)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	if (!unvf_client_reset(c))
		die("the function cannot be reset");
	c->features = features;
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_STATUS, 1, status);
	for (uint32_t i = 0; i < 2; i++) {
		unvf_client_set_reg(c, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		unvf_client_set_reg(c, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> (32 * i)));
	}
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_STATUS, 1, status | VIRTIO_CONFIG_S_FEATURES_OK);
	return unvf_client_reg(c, VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_CONFIG_S_FEATURES_OK;
}

void unvf_client_program(struct client *c, uint16_t q)
{
	const struct vq_layout *l = &c->q[q].layout;
	const struct {
		unsigned int off;
		uint64_t addr;
	} rings[] = { { VIRTIO_PCI_COMMON_Q_DESCLO, l->desc },
		      { VIRTIO_PCI_COMMON_Q_AVAILLO, l->avail },
		      { VIRTIO_PCI_COMMON_Q_USEDLO, l->used } };

	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_SIZE, 2, l->size);
	for (unsigned int i = 0; i < ARRAY_SIZE(rings); i++) {
		unvf_client_set_reg(c, rings[i].off, 4, (uint32_t)rings[i].addr);
		unvf_client_set_reg(c, rings[i].off + 4, 4, (uint32_t)(rings[i].addr >> 32));
	}
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_MSIX, 2, q);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

void unvf_client_queue(struct client *c, uint16_t q, uint16_t size)
{
	vqd_init(&c->q[q], &c->mem, RING_BASE + q * RING_STEP, CLIENT_HEAP, size, c->features);
	unvf_client_program(c, q);
}

void unvf_client_drive(struct client *c, uint64_t features, unsigned int n, uint16_t size)
{
	if (!unvf_client_negotiate(c, features))
		die("the features were refused");
	for (uint16_t q = 0; q < n; q++)
		unvf_client_queue(c, q, size);
	unvf_client_set_reg(c, VIRTIO_PCI_COMMON_STATUS, 1,
			    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
				    VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

void unvf_client_kick(struct client *c, uint16_t q)
{
	uint16_t *cell = (uint16_t *)(c->doorbells + q * c->multiplier);

	if (c->doorbells)
		__atomic_store_n(cell, q, __ATOMIC_SEQ_CST);
	else
		unvf_client_write(c, c->bar, 0x3000 + q * c->multiplier, 2, q);
}

bool unvf_client_irq(struct client *c, unsigned int q, int ms)
{
	struct pollfd p = { .fd = c->irq[q], .events = POLLIN };
	uint64_t n;

	return poll(&p, 1, ms) == 1 && read(c->irq[q], &n, sizeof(n)) == sizeof(n);
}

bool unvf_client_take(struct client *c, unsigned int q, struct vring_used_elem *e, int ms)
{
	uint64_t until = now_ms() + (uint64_t)ms;

	while (!vqd_take(&c->q[q], e))
		if (now_ms() >= until)
			return false;
	return true;
}

/* --- a disk ----------------------------------------------------------------------------------- */

struct unvf_client_blk unvf_client_blk_post(struct client *c, unsigned int q, uint32_t type,
					    uint64_t sector, const void *out, uint32_t len)
{
	struct vq_driver *d = &c->q[q];
	struct virtio_blk_outhdr hdr = { .type = type, .sector = sector };
	gpa_t head = vqd_alloc(d, sizeof(hdr), 16), data = vqd_alloc(d, len ? len : 1, 512);
	gpa_t status = vqd_alloc(d, 1, 1);
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct vqd_buf bufs[3] = { { head, sizeof(hdr), false },
				   { data, len, in },
				   { 0, 0, false } };
	struct unvf_client_blk r = { .data = data, .status = vqd_at(d, status, 1) };
	unsigned int n = 1;

	memcpy(vqd_at(d, head, sizeof(hdr)), &hdr, sizeof(hdr));
	if (len && !in)
		memcpy(vqd_at(d, data, len), out, len);
	*r.status = 0xee;
	n += len != 0;
	bufs[n++] = (struct vqd_buf){ status, 1, true };
	r.head = vqd_post(d, bufs, n);
	return r;
}

int unvf_client_blk(struct client *c, unsigned int q, uint32_t type, uint64_t sector, void *data,
		    uint32_t len)
{
	gpa_t heap = c->q[q].heap;
	struct unvf_client_blk r = unvf_client_blk_post(c, q, type, sector, data, len);
	struct vring_used_elem e;

	if (vqd_show(&c->q[q]))
		unvf_client_kick(c, (uint16_t)q);
	if (!unvf_client_take(c, q, &e, CLIENT_MS) || e.id != r.head)
		return -1;
	if (len && (type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID))
		memcpy(data, vqd_at(&c->q[q], r.data, len), len);
	c->q[q].heap = heap;
	return *r.status;
}
