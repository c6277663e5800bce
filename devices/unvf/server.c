/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.c - the socket of a function: takes a client, receives its messages, sends the replies,
 * and lets go of everything of the client's when it leaves. Main thread.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define HEADER	    sizeof(struct vfio_user_header)
#define TURN	    32 /* messages of a client before others have their turn */
#define SNDBUF_SIZE (SERVER_MSG_MAX + 65536)

static void conn_ready(struct loop_fd *lf, uint32_t revents);
static void listen_ready(struct loop_fd *lf, uint32_t revents);

static void close_fds(struct server *s)
{
	for (unsigned int i = 0; i < s->nfds; i++)
		if (s->fds[i] >= 0)
			close(s->fds[i]);
	s->nfds = 0;
}

/* --- the end of a connection ------------------------------------------------------------------ */

static int drained(struct server *s)
{
	struct function *f = s->f;

	if (!f->memory_changed)
		return -EINPROGRESS;
	gmem_destroy(&s->memory.all);
	f->lost = false;
	f->accesses = 0;
	__atomic_store_n(&f->e.gone, false, __ATOMIC_RELAXED);
	s->draining = false;
	return 0;
}

static int drain_memory(struct server *s)
{
	struct function *f = s->f;

	if (f->reset_pending || !function_rests(f))
		return -EINPROGRESS;
	f->memory_changed = false;
	s->memory.change = FN_MEMORY_CLEAR;
	fn_engine_memory(f, &s->memory);
	s->step = drained;
	return drained(s);
}

/*
 * The client is gone. The function is reset, and the next client is taken when the poll thread
 * touches nothing of this one any more.
 */
static void hang_up(struct server *s)
{
	struct function *f = s->f;

	loop_del(&s->conn);
	close(s->fd);
	s->fd = -1;
	close_fds(s);
	s->in_len = s->out_len = 0;
	s->agreed = false;
	s->messages = 0;
	s->draining = true;
	s->step = drain_memory;
	server_mig_reset(s);
	for (unsigned int v = 0; v < FN_VECTORS_MAX; v++) {
		function_wire(f, v, -1);
		function_mask(f, v, false);
	}
	f->paused = 0;
	function_reset(f);
}

static void drop(struct server *s, const char *why)
{
	log_limited(&s->limit, LOG_WARN, "%s: the client is dropped: %s", s->f->dev.id, why);
	/* A step waits for the poll thread, which may still write to what belongs to it. */
	if (s->step && !s->draining)
		s->draining = true;
	else
		hang_up(s);
}

/* --- sending ---------------------------------------------------------------------------------- */

/* 0, also when it could not be sent in full yet; -errno: the connection is no good. */
static int send_reply(struct server *s)
{
	union {
		char buf[CMSG_SPACE(sizeof(s->out_fds))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = s->out + s->out_sent,
			     .iov_len = s->out_len - s->out_sent };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (s->nout_fds && !s->out_sent) {
		size_t len = s->nout_fds * sizeof(int);
		struct cmsghdr *c;

		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(len);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(len);
		memcpy(CMSG_DATA(c), s->out_fds, len);
	}
	do
		n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	s->out_sent += (size_t)n;
	if (s->out_sent == s->out_len)
		s->out_len = 0;
	return 0;
}

/* The outcome of the request that lies in s->in goes out, and it is forgotten. */
static int answer(struct server *s, int err)
{
	const struct vfio_user_header *in = server_header(s);
	struct vfio_user_header *out = (struct vfio_user_header *)s->out;
	bool silent = in->flags & VFIO_USER_NO_REPLY;

	/* Error replies are a header alone. */
	*out = (struct vfio_user_header){
		.id = in->id,
		.cmd = in->cmd,
		.size = (uint32_t)(HEADER + (err ? 0 : s->body_len)),
		.flags = VFIO_USER_TYPE_REPLY | (err ? VFIO_USER_ERROR : 0),
		.error = (uint32_t)-err,
	};
	if (err)
		s->nout_fds = 0;
	close_fds(s);
	s->in_len = 0;
	s->out_len = silent ? 0 : out->size;
	s->out_sent = 0;
	return silent ? 0 : send_reply(s);
}

/* --- receiving -------------------------------------------------------------------------------- */

static int take_fds(struct server *s, struct msghdr *msg)
{
	bool full = msg->msg_flags & MSG_CTRUNC;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		const int *fds = (const int *)CMSG_DATA(c);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			if (s->nfds < SERVER_FDS_MAX) {
				s->fds[s->nfds++] = fds[i];
			} else {
				close(fds[i]);
				full = true;
			}
		}
	}
	return full ? -EMSGSIZE : 0;
}

/* 1: s->in holds a whole message; 0: not yet; -errno. */
static int receive(struct server *s)
{
	for (;;) {
		size_t want = s->in_len < HEADER ? HEADER : server_header(s)->size;
		union {
			char buf[CMSG_SPACE(SERVER_FDS_MAX * sizeof(int))];
			struct cmsghdr align;
		} control;
		struct iovec iov = { .iov_base = s->in + s->in_len, .iov_len = want - s->in_len };
		struct msghdr msg = { .msg_iov = &iov,
				      .msg_iovlen = 1,
				      .msg_control = control.buf,
				      .msg_controllen = sizeof(control.buf) };
		ssize_t n;

		if (s->in_len >= HEADER && s->in_len == want)
			return 1;
		n = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (take_fds(s, &msg))
			return -EMSGSIZE;
		if (!n)
			return -EPIPE;
		s->in_len += (size_t)n;
		if (s->in_len >= HEADER &&
		    (server_header(s)->size < HEADER || server_header(s)->size > SERVER_MSG_MAX))
			return -EMSGSIZE;
	}
}

/* Carries on with the step that the client waits for. */
static void try_step(struct server *s)
{
	int err = s->step(s);

	if (err == -EINPROGRESS)
		return;
	s->step = NULL;
	if (s->fd >= 0 && s->draining) {
		hang_up(s);
	} else if (s->fd < 0) {
		if (s->listen_fd >= 0 &&
		    loop_add(s->loop, &s->listen, s->listen_fd, POLLIN, listen_ready))
			log_error("%s: no memory to listen any more", s->f->dev.id);
	} else if (answer(s, err)) {
		hang_up(s);
	}
}

static int one_message(struct server *s)
{
	const struct vfio_user_header *h = server_header(s);
	uint32_t leave = s->f->opt.faults.n[FAULT_DISCONNECT];
	int err;

	if ((h->flags & VFIO_USER_TYPE_MASK) != VFIO_USER_TYPE_COMMAND)
		return -EPROTO;
	if (s->agreed && leave && ++s->messages == leave)
		return -EPIPE;
	if (!s->agreed && h->cmd != VFIO_USER_VERSION)
		return -EPROTO;
	function_settle(s->f);
	s->body_len = 0;
	s->nout_fds = 0;
	err = server_request(s);
	if (err == -EINPROGRESS) {
		try_step(s);
		return 0;
	}
	err = answer(s, err);
	return err || s->agreed ? err : -EPROTO;
}

static void watch(struct server *s)
{
	uint32_t events = s->out_len ? POLLOUT : POLLIN;

	if (s->conn.loop && (s->step || s->conn.events != events))
		loop_del(&s->conn);
	if (!s->step && !s->conn.loop && loop_add(s->loop, &s->conn, s->fd, events, conn_ready))
		drop(s, "no memory to watch its socket");
}

static void serve(struct server *s)
{
	int err = s->out_len ? send_reply(s) : 0;

	for (unsigned int i = 0; i < TURN && !err && s->fd >= 0 && !s->step && !s->out_len; i++) {
		err = receive(s);
		if (!err)
			break;
		err = err < 0 ? err : one_message(s);
	}
	if (err == -EPIPE || err == -ECONNRESET)
		hang_up(s);
	else if (err)
		drop(s, strerror(-err));
	if (s->fd < 0 && s->step)
		try_step(s);
	else if (s->fd >= 0)
		watch(s);
}

static void conn_ready(struct loop_fd *lf, uint32_t revents)
{
	(void)revents;
	serve(container_of(lf, struct server, conn));
}

/* The poll thread has said something. */
static void settled(void *owner)
{
	struct server *s = owner;

	if (s->step)
		try_step(s);
	if (s->fd >= 0 && s->f->lost && !s->draining)
		drop(s, "its memory went away");
	if (s->fd < 0 && s->step)
		try_step(s);
	else if (s->fd >= 0 && !s->step)
		serve(s);
}

/* --- connections ------------------------------------------------------------------------------ */

int server_attach(struct server *s, int fd)
{
	int size = SNDBUF_SIZE;

	/* So that a reply leaves in one piece; where the host allows less, it leaves in several. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	s->fd = fd;
	s->in_len = s->out_len = 0;
	s->state = VFIO_DEVICE_STATE_RUNNING;
	s->client_fds = VFIO_USER_DEFAULT_MSG_FDS;
	if (loop_add(s->loop, &s->conn, fd, POLLIN, conn_ready) == 0)
		return 0;
	s->fd = -1;
	close(fd);
	return -ENOMEM;
}

static void listen_ready(struct loop_fd *lf, uint32_t revents)
{
	struct server *s = container_of(lf, struct server, listen);
	int fd;

	(void)revents;
	fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return;
	/* Who comes next waits in the queue of the socket. */
	loop_del(&s->listen);
	if (server_attach(s, fd) &&
	    loop_add(s->loop, &s->listen, s->listen_fd, POLLIN, listen_ready))
		log_error("%s: no memory for a client", s->f->dev.id);
}

/* A socket that nobody listens on any more is left from another life, and replaced. */
static int open_socket(struct server *s, const char *path, struct diag *d)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(addr.sun_path))
		return diag_set(d, -ENAMETOOLONG,
				"--socket %s: is longer than the %zu characters of a socket's name",
				path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listen_fd < 0)
		return diag_errno(d, -errno, "--socket %s: cannot make a socket", path);
	if (connect(s->listen_fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 ||
	    errno == EAGAIN)
		return diag_set(d, -EADDRINUSE, "--socket %s: another server listens there", path);
	if (errno == ECONNREFUSED)
		unlink(path);
	if (bind(s->listen_fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(s->listen_fd, 4) < 0)
		return diag_errno(d, -errno, "--socket %s: cannot listen there", path);
	s->path = path;
	return 0;
}

int server_init(struct server *s, struct function *f, struct loop *loop, const char *path,
		struct diag *d)
{
	int err = 0;

	*s = (struct server){
		.f = f, .loop = loop, .listen_fd = -1, .fd = -1, .memory.all = GMEM_EMPTY
	};
	s->in = malloc(SERVER_MSG_MAX);
	s->out = malloc(SERVER_MSG_MAX);
	if (!s->in || !s->out)
		err = diag_errno(d, -ENOMEM, "%s", f->dev.id);
	if (!err && path)
		err = open_socket(s, path, d);
	if (!err && path)
		err = loop_add(loop, &s->listen, s->listen_fd, POLLIN, listen_ready);
	if (err) {
		server_close(s);
		server_fini(s);
		return diag_errno(d, err, "%s", f->dev.id);
	}
	f->settled = settled;
	f->owner = s;
	return 0;
}

void server_close(struct server *s)
{
	loop_del(&s->listen);
	loop_del(&s->conn);
	if (s->path)
		unlink(s->path);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->fd >= 0)
		close(s->fd);
	s->path = NULL;
	s->listen_fd = s->fd = -1;
	s->f->settled = NULL;
	close_fds(s);
}

void server_fini(struct server *s)
{
	/* What the poll thread has handed out for a step that is not taken any more. */
	gmem_destroy(&s->memory.all);
	if (s->step && s->memory.change == FN_MEMORY_REMOVE && !s->memory.err)
		gmem_region_unmap(&s->memory.region);
	server_mig_reset(s);
	free(s->in);
	free(s->out);
}
