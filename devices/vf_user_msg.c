/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_user_msg.c - messages of the vfio-user client: a request and its answer, the server's own
 * commands (DMA by message) in between, and the end of the connection. Every byte and descriptor
 * that comes in is the server's and hostile. Any thread, under the connection's lock.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vf_user.h"

/* An error answer may have a body (libvfio-user); it is read and dropped, up to this size. */
#define DROP_MAX (VFIO_USER_DEFAULT_DATA_XFER + 64)

/* What has come in of one message. */
struct incoming {
	struct vfio_user_header h;
	int fds[VF_USER_FDS_MAX];
	unsigned int nfds;
};

static const char *const names[] = {
	[VFIO_USER_VERSION] = "VERSION",
	[VFIO_USER_DMA_MAP] = "DMA_MAP",
	[VFIO_USER_DMA_UNMAP] = "DMA_UNMAP",
	[VFIO_USER_DEVICE_GET_INFO] = "DEVICE_GET_INFO",
	[VFIO_USER_DEVICE_GET_REGION_INFO] = "DEVICE_GET_REGION_INFO",
	[VFIO_USER_DEVICE_GET_REGION_IO_FDS] = "DEVICE_GET_REGION_IO_FDS",
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = "DEVICE_GET_IRQ_INFO",
	[VFIO_USER_DEVICE_SET_IRQS] = "DEVICE_SET_IRQS",
	[VFIO_USER_REGION_READ] = "REGION_READ",
	[VFIO_USER_REGION_WRITE] = "REGION_WRITE",
	[VFIO_USER_DMA_READ] = "DMA_READ",
	[VFIO_USER_DMA_WRITE] = "DMA_WRITE",
	[VFIO_USER_DEVICE_RESET] = "DEVICE_RESET",
	[VFIO_USER_DEVICE_FEATURE] = "DEVICE_FEATURE",
	[VFIO_USER_MIG_DATA_READ] = "MIG_DATA_READ",
	[VFIO_USER_MIG_DATA_WRITE] = "MIG_DATA_WRITE",
};

static const char *name_of(uint16_t cmd)
{
	return cmd < ARRAY_SIZE(names) && names[cmd] ? names[cmd] : "an unknown command";
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int vf_user_lost(struct vf_user *u, int err, const char *fmt, ...)
{
	va_list ap;

	if (vf_gone(&u->vf))
		return err;
	u->vf.hangs = err == -ETIMEDOUT || err == -EPROTO || err == -EIO;
	va_start(ap, fmt);
	vsnprintf(u->vf.why, sizeof(u->vf.why), fmt, ap);
	va_end(ap);
	__atomic_store_n(&u->vf.gone, true, __ATOMIC_RELEASE);
	/* The server sees the end now; the descriptor stays until nobody watches it any more. */
	shutdown(u->sock, SHUT_RDWR);
	if (u->watch)
		loop_call(u->watch->loop, &u->watch->lost);
	return err;
}

/* --- bytes ----------------------------------------------------------------------------------- */

/* What is waited for: the answer to a request, or (cmd 0) the rest of a command of the server's. */
struct wait {
	uint16_t cmd;
	unsigned int ms;
	uint64_t deadline;
};

static struct wait wait_begin(uint16_t cmd, unsigned int ms)
{
	return (struct wait){ .cmd = cmd, .ms = ms, .deadline = now_ms() + ms };
}

static int late(struct vf_user *u, const struct wait *w)
{
	if (!w->cmd)
		return vf_user_lost(u, -ETIMEDOUT, "it stopped in the middle of a message");
	return vf_user_lost(u, -ETIMEDOUT, "it gave no answer to %s within %u ms", name_of(w->cmd),
			    w->ms);
}

static int wait_for(struct vf_user *u, short events, const struct wait *w)
{
	struct pollfd pfd = { .fd = u->sock, .events = events };
	uint64_t now;
	int n;

	do {
		now = now_ms();
		if (now >= w->deadline)
			return late(u, w);
		n = poll(&pfd, 1, (int)(w->deadline - now));
	} while (n == 0 || (n < 0 && errno == EINTR));
	return n < 0 ? vf_user_lost(u, -errno, "poll: %s", strerror(errno)) : 0;
}

static int broken(struct vf_user *u, int err, const struct wait *w)
{
	if (err != -ECONNRESET && err != -EPIPE)
		return vf_user_lost(u, err, "its socket failed: %s", strerror(-err));
	return vf_user_lost(u, -ECONNRESET, "it closed the connection%s%s",
			    w->cmd ? " instead of an answer to " : "",
			    w->cmd ? name_of(w->cmd) : "");
}

static void put_fds(struct msghdr *m, void *control, const int *fds, unsigned int nfds)
{
	struct cmsghdr *c;

	if (!nfds)
		return;
	m->msg_control = control;
	m->msg_controllen = CMSG_SPACE(nfds * sizeof(int));
	c = CMSG_FIRSTHDR(m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
	memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
}

/* Takes n bytes off the front, and what is empty then. */
static void advance(struct msghdr *m, size_t n)
{
	while (m->msg_iovlen) {
		struct iovec *v = m->msg_iov;
		size_t part = n < v->iov_len ? n : v->iov_len;

		if (part < v->iov_len) {
			v->iov_base = (uint8_t *)v->iov_base + part;
			v->iov_len -= part;
			return;
		}
		n -= part;
		m->msg_iov++;
		m->msg_iovlen--;
	}
}

/* Header and body leave together (VFIO_USER_SEND_MAX). iov is used up; nfds <= VF_USER_MSG_FDS. */
static int send_all(struct vf_user *u, struct iovec *iov, size_t niov, const int *fds,
		    unsigned int nfds, const struct wait *w)
{
	char control[CMSG_SPACE(VF_USER_MSG_FDS * sizeof(int))] = { 0 };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = niov };
	ssize_t n;
	int err;

	put_fds(&m, control, fds, nfds);
	while (m.msg_iovlen) {
		n = sendmsg(u->sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			m.msg_control = NULL;
			m.msg_controllen = 0;
			advance(&m, (size_t)n);
		} else if (errno == EAGAIN) {
			err = wait_for(u, POLLOUT, w);
			if (err)
				return err;
		} else if (errno != EINTR) {
			return broken(u, -errno, w);
		}
	}
	return 0;
}

static void close_fds(const int *fds, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		close(fds[i]);
}

/* Descriptors may come with any byte of a message; what does not fit into `in` is closed. */
static void take_fds(struct msghdr *m, struct incoming *in)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		unsigned int n, room = VF_USER_FDS_MAX - in->nfds;
		int fds[VF_USER_FDS_MAX];

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (unsigned int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), n * sizeof(int));
		if (n > room)
			close_fds(fds + room, n - room);
		memcpy(in->fds + in->nfds, fds, (n < room ? n : room) * sizeof(int));
		in->nfds += n < room ? n : room;
	}
}

/* One recvmsg(): bytes, or -EAGAIN, or a broken connection. */
static ssize_t recv_some(struct vf_user *u, void *buf, size_t len, struct incoming *in,
			 const struct wait *w)
{
	/* The most that the kernel passes at once fits, so that none is lost uncounted. */
	char control[CMSG_SPACE(VF_USER_FDS_MAX * sizeof(int))];
	struct iovec iov = { buf, len };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	ssize_t n;

	do
		n = recvmsg(u->sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		take_fds(&m, in);
		return n;
	}
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	return broken(u, n ? -errno : -ECONNRESET, w);
}

static int recv_all(struct vf_user *u, void *buf, size_t len, struct incoming *in,
		    const struct wait *w)
{
	for (size_t got = 0; got < len;) {
		ssize_t n = recv_some(u, (uint8_t *)buf + got, len - got, in, w);
		int err;

		if (n > 0) {
			got += (size_t)n;
			continue;
		}
		err = n == -EAGAIN ? wait_for(u, POLLIN, w) : (int)n;
		if (err)
			return err;
	}
	return 0;
}

static int drop(struct vf_user *u, size_t len, struct incoming *in, const struct wait *w)
{
	char buf[4096];
	int err = 0;

	while (len && !err) {
		size_t part = len < sizeof(buf) ? len : sizeof(buf);

		err = recv_all(u, buf, part, in, w);
		len -= part;
	}
	return err;
}

/* --- commands of the server ------------------------------------------------------------------ */

/* Where the server may read or write by message: inside one mapping, or NULL. */
static uint8_t *dma_ptr(const struct vf_user *u, uint64_t iova, uint64_t len)
{
	for (unsigned int i = 0; i < u->nmaps; i++) {
		const struct vf_user_map *m = &u->maps[i];

#ifdef FUZZ_PLANT
		if (range_within(iova, len ? 1 : 0, m->iova, m->size))
#else
		if (range_within(iova, len, m->iova, m->size))
#endif
			return m->hva + (iova - m->iova);
	}
	return NULL;
}

static int answer(struct vf_user *u, const struct incoming *in, int error, struct iovec *body,
		  size_t n, const struct wait *w)
{
	struct vfio_user_header h = { .id = in->h.id,
				      .cmd = in->h.cmd,
				      .size = sizeof(h),
				      .flags = VFIO_USER_TYPE_REPLY | (error ? VFIO_USER_ERROR : 0),
				      .error = (uint32_t)error };
	struct iovec iov[3] = { { &h, sizeof(h) } };

	if (in->h.flags & VFIO_USER_NO_REPLY)
		return 0;
	for (size_t i = 0; i < n; i++) {
		iov[i + 1] = body[i];
		h.size += (uint32_t)body[i].iov_len;
	}
	return send_all(u, iov, n + 1, NULL, 0, w);
}

/* The body behind the access has not been read yet: `rest` bytes. */
static int serve_dma(struct vf_user *u, struct incoming *in, struct vfio_user_dma_access *a,
		     size_t rest, const struct wait *w)
{
	bool write = in->h.cmd == VFIO_USER_DMA_WRITE;
	struct iovec body[2] = { { a, sizeof(*a) } };
	uint8_t *p = NULL;
	int err;

	if (rest != (write ? a->count : 0))
		return vf_user_lost(u, -EPROTO, "its %s of %llu bytes came with %zu bytes of data",
				    name_of(in->h.cmd), (unsigned long long)a->count, rest);
	if (a->count && a->count <= VF_USER_DATA_XFER)
		p = dma_ptr(u, a->iova, a->count);
	if (!p) {
		err = drop(u, rest, in, w);
		return err ? err : answer(u, in, EFAULT, NULL, 0, w);
	}
	if (!write) {
		body[1] = (struct iovec){ p, a->count };
		return answer(u, in, 0, body, 2, w);
	}
	err = recv_all(u, p, a->count, in, w);
	if (err)
		return err;
	if (u->vf.ram)
		gmem_mark_dirty(u->vf.ram, a->iova, a->count);
	/* libvfio-user wants the access back, whatever the text says. */
	return answer(u, in, 0, body, 1, w);
}

static int serve(struct vf_user *u, struct incoming *in, const struct wait *w)
{
	size_t len = in->h.size - sizeof(in->h);
	struct vfio_user_dma_access a;
	int err;

	if (len > sizeof(a) + VF_USER_DATA_XFER)
		return vf_user_lost(u, -EPROTO, "its %s is %zu bytes long, %u were agreed on",
				    name_of(in->h.cmd), len, VF_USER_DATA_XFER);
	if (in->h.cmd != VFIO_USER_DMA_READ && in->h.cmd != VFIO_USER_DMA_WRITE) {
		err = drop(u, len, in, w);
		return err ? err : answer(u, in, EOPNOTSUPP, NULL, 0, w);
	}
	if (len < sizeof(a))
		return vf_user_lost(u, -EPROTO, "its %s has %zu bytes, not %zu", name_of(in->h.cmd),
				    len, sizeof(a));
	err = recv_all(u, &a, sizeof(a), in, w);
	return err ? err : serve_dma(u, in, &a, len - sizeof(a), w);
}

/* The header is there; with an error the connection is lost. */
static int check_header(struct vf_user *u, const struct incoming *in)
{
	uint32_t type = in->h.flags & VFIO_USER_TYPE_MASK;

	if (in->h.size < sizeof(in->h))
		return vf_user_lost(u, -EPROTO, "it sent a message of %u bytes, less than a header",
				    in->h.size);
	if (type != VFIO_USER_TYPE_COMMAND && type != VFIO_USER_TYPE_REPLY)
		return vf_user_lost(u, -EPROTO, "it sent a message of the unknown type %u", type);
	return 0;
}

/* --- requests -------------------------------------------------------------------------------- */

static int send_request(struct vf_user *u, const struct vf_user_call *c, const struct wait *w)
{
	struct vfio_user_header h = { .id = ++u->id, .cmd = c->cmd, .size = sizeof(h) };
	struct iovec iov[1 + ARRAY_SIZE(c->out)] = { { &h, sizeof(h) } };

	for (size_t i = 0; i < ARRAY_SIZE(c->out); i++) {
		iov[i + 1] = c->out[i];
		h.size += (uint32_t)c->out[i].iov_len;
	}
	return send_all(u, iov, ARRAY_SIZE(iov), c->fds, c->nfds, w);
}

/* An errno that came over the wire: hostile, and not to be taken for one of ours. */
static int wire_errno(uint32_t e)
{
	return !e || e > 133 || e == ENODEV ? -EIO : -(int)e;
}

static int take_answer(struct vf_user *u, struct vf_user_call *c, struct incoming *in,
		       const struct wait *w)
{
	size_t len = in->h.size - sizeof(in->h);
	int err;

	if (in->h.cmd != c->cmd || in->h.id != u->id)
		return vf_user_lost(u, -EPROTO, "it answered %s (id %u) with %s (id %u)",
				    name_of(c->cmd), u->id, name_of(in->h.cmd), in->h.id);
	if (in->h.flags & VFIO_USER_ERROR) {
		if (len > DROP_MAX)
			return vf_user_lost(u, -EPROTO, "its error answer to %s has %zu bytes",
					    name_of(c->cmd), len);
		err = drop(u, len, in, w);
		return err ? err : wire_errno(in->h.error);
	}
	if (len < c->in_min || len > c->in_max)
		return vf_user_lost(u, -EPROTO, "it answered %s with %zu bytes, not %zu to %zu",
				    name_of(c->cmd), len, c->in_min, c->in_max);
	c->in_len = len;
	return recv_all(u, c->in, len, in, w);
}

/* Hands out the descriptors that the caller wants; the others are closed with the message. */
static void give_fds(struct vf_user_call *c, struct incoming *in)
{
	c->in_nfds = in->nfds < c->in_fds_max ? in->nfds : c->in_fds_max;
	if (c->in_nfds)
		memcpy(c->in_fds, in->fds, c->in_nfds * sizeof(int));
	in->nfds -= c->in_nfds;
	memmove(in->fds, in->fds + c->in_nfds, in->nfds * sizeof(int));
}

static int call_locked(struct vf_user *u, struct vf_user_call *c)
{
	struct wait w = wait_begin(c->cmd, c->ms ? c->ms : VF_CALL_MS);
	struct incoming in;
	bool answered = false;
	int err;

	if (vf_gone(&u->vf))
		return -ENODEV;
	err = send_request(u, c, &w);
	while (!err && !answered) {
		in.nfds = 0;
		err = recv_all(u, &in.h, sizeof(in.h), &in, &w);
		if (!err)
			err = check_header(u, &in);
		answered = !err && (in.h.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_TYPE_REPLY;
		if (answered)
			err = take_answer(u, c, &in, &w);
		else if (!err)
			err = serve(u, &in, &w);
		if (answered && !err)
			give_fds(c, &in);
		close_fds(in.fds, in.nfds);
		/* There may always be another command to read: that is no answer either. */
		if (!answered && !err && now_ms() >= w.deadline)
			err = late(u, &w);
	}
	return err;
}

int vf_user_call(struct vf_user *u, struct vf_user_call *c)
{
	int err;

	pthread_mutex_lock(&u->lock);
	err = call_locked(u, c);
	pthread_mutex_unlock(&u->lock);
	return err;
}

int vf_user_simple(struct vf_user *u, uint16_t cmd, const void *out, size_t out_len, void *in,
		   size_t in_len)
{
	struct vf_user_call c = { .cmd = cmd,
				  .out = { { (void *)(uintptr_t)out, out_len } },
				  .in = in,
				  .in_min = in_len,
				  .in_max = in_len };

	return vf_user_call(u, &c);
}

void vf_user_idle(struct vf_user *u)
{
	struct incoming in = { .nfds = 0 };
	struct wait w;
	ssize_t n;
	int err;

	pthread_mutex_lock(&u->lock);
	w = wait_begin(0, VF_CALL_MS);
	/* Often nothing: what woke the loop was an answer, and its request has taken it. */
	n = vf_gone(&u->vf) ? -ENODEV : recv_some(u, &in.h, sizeof(in.h), &in, &w);
	if (n > 0) {
		err = recv_all(u, (uint8_t *)&in.h + n, sizeof(in.h) - (size_t)n, &in, &w);
		if (!err)
			err = check_header(u, &in);
		if (!err && (in.h.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_TYPE_REPLY)
			err = vf_user_lost(u, -EPROTO, "it answered %s, which nobody asked",
					   name_of(in.h.cmd));
		if (!err)
			(void)!serve(u, &in, &w);
		close_fds(in.fds, in.nfds);
	}
	pthread_mutex_unlock(&u->lock);
}
