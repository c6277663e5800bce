/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_transport.c - sockets, ssh and pipes for migrations; see migrate_transport.h. Main thread
 * of `unvmm migrate` and `unvmm receive`.
 */
#include "migrate_transport.h"
#include "usock.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RELAY_BUF KiB(256)

/* --- TCP ------------------------------------------------------------------------------------- */

static int look_up(const struct migrate_address *a, int flags, struct addrinfo **list,
		   struct diag *d)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC,
					.ai_socktype = SOCK_STREAM,
					.ai_flags = flags | AI_NUMERICSERV };
	int err = getaddrinfo(a->host[0] ? a->host : NULL, a->port, &hints, list);

	if (!err)
		return 0;
	return diag_set(d, -EHOSTUNREACH, "the host \"%.100s\" cannot be found: %s", a->host,
			err == EAI_SYSTEM ? strerror(errno) : gai_strerror(err));
}

/* A connect() under way: 0, or why it failed. */
static int wait_connected(int fd, unsigned int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };
	socklen_t len = sizeof(int);
	int n, err = 0;

	do
		n = poll(&pfd, 1, (int)timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -ETIMEDOUT;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) ? -errno : -err;
}

static int connect_one(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err = 0;
	const int on = 1;

	if (fd < 0)
		return -errno;
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0)
		err = errno == EINPROGRESS ? wait_connected(fd, MIGRATE_CONNECT_MS) : -errno;
	/* The handshake of the switch is made of small messages, each on the downtime's account. */
	if (!err && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

static int connect_tcp(const struct migrate_address *a, struct diag *d)
{
	struct addrinfo *list;
	int fd = look_up(a, 0, &list, d);

	if (fd)
		return fd;
	fd = -EHOSTUNREACH;
	for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = connect_one(ai);
	freeaddrinfo(list);
	if (fd == -ECONNREFUSED)
		return diag_set(
			d, fd,
			"nobody listens at %.100s port %s; \"unvmm receive --listen\" there "
			"does",
			a->host, a->port);
	return fd < 0 ? diag_errno(d, fd, "cannot connect to %.100s port %s", a->host, a->port)
		      : fd;
}

static int listen_one(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err = 0;
	const int on = 1;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 || listen(fd, 1) < 0)
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

int migrate_listen(const struct migrate_address *a, char at[static MIGRATE_AT_MAX], struct diag *d)
{
	char host[MIGRATE_AT_MAX - 12] = "?", port[8] = "?";
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	struct addrinfo *list;
	int fd = look_up(a, AI_PASSIVE, &list, d);

	if (fd)
		return fd;
	fd = -EADDRNOTAVAIL;
	for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = listen_one(ai);
	freeaddrinfo(list);
	if (fd < 0)
		return diag_errno(d, fd, "cannot listen at %.100s port %s", a->host, a->port);
	if (!getsockname(fd, (struct sockaddr *)&addr, &len))
		(void)getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port,
				  sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(at, MIGRATE_AT_MAX, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	return fd;
}

/* --- UNIX sockets, descriptors --------------------------------------------------------------- */

static int connect_unix(const char *path, struct diag *d)
{
	int fd = usock_connect(path);

	if (fd == -ECONNREFUSED || fd == -ENOENT)
		return diag_set(d, fd, "nobody listens at %.200s; \"unvmm receive --listen\" does",
				path);
	return fd < 0 ? diag_errno(d, fd, "cannot connect to %.200s", path) : fd;
}

static int take_fd(int fd, struct diag *d)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), type;
	socklen_t len = sizeof(type);

	if (copy < 0)
		return diag_errno(d, -errno, "fd:%d", fd);
	if (!getsockopt(copy, SOL_SOCKET, SO_TYPE, &type, &len) && type == SOCK_STREAM)
		return copy;
	close(copy);
	return diag_set(d, -ENOTSOCK, "fd:%d is no connected stream socket", fd);
}

/* --- ssh ------------------------------------------------------------------------------------- */

char *migrate_quote(const char *text)
{
	char *word = malloc(4 * strlen(text) + 3), *out = word;

	if (!word)
		return NULL;
	*out++ = '\'';
	for (; *text; text++) {
		if (*text == '\'') {
			memcpy(out, "'\\''", 4);
			out += 4;
		} else {
			*out++ = *text;
		}
	}
	memcpy(out, "'", 2);
	return word;
}

static void run_ssh(const struct migrate_address *a, const char *command, int fd)
{
	const char *ssh = getenv("UNVMM_SSH");
	const char *argv[8] = { ssh && *ssh ? ssh : "ssh", "-T" };
	unsigned int n = 2;

	if (a->port[0]) {
		argv[n++] = "-p";
		argv[n++] = a->port;
	}
	argv[n++] = "--";
	argv[n++] = a->host;
	argv[n++] = command;
	/* ^C is for the command that started us: it cancels, and needs the connection for that. */
	signal(SIGINT, SIG_IGN);
	if (dup2(fd, STDIN_FILENO) >= 0 && dup2(fd, STDOUT_FILENO) >= 0)
		execvp(argv[0], (char *const *)(uintptr_t)argv);
	fprintf(stderr, "unvmm: cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static int start_ssh(const struct migrate_address *a, const char *command, pid_t *pid,
		     struct diag *d)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return diag_errno(d, -errno, "cannot make a socket for ssh");
	*pid = fork();
	if (*pid == 0)
		run_ssh(a, command, pair[1]);
	close(pair[1]);
	if (*pid > 0)
		return pair[0];
	close(pair[0]);
	return diag_errno(d, -errno, "cannot start ssh");
}

int migrate_connect(const struct migrate_address *a, const char *command, pid_t *pid,
		    struct diag *d)
{
	switch (a->kind) {
	case MIGRATE_TCP:
		return connect_tcp(a, d);
	case MIGRATE_UNIX:
		return connect_unix(a->path, d);
	case MIGRATE_SSH:
		return start_ssh(a, command, pid, d);
	case MIGRATE_FD:
		return take_fd(a->fd, d);
	case MIGRATE_FILE:
		break;
	}
	return diag_set(d, -EINVAL, "a file is no connection");
}

/* --- between pipes and a socket -------------------------------------------------------------- */

struct pipe_end {
	int from, to;
	char *buf;
	size_t off, len;
	bool ended; /* `from` has */
};

/* One read or write that poll() said would not wait (a blocking write may, for a slow reader). */
static int move(struct pipe_end *p, bool readable, bool writable)
{
	ssize_t n;

	if (readable && !p->len) {
		n = read(p->from, p->buf, RELAY_BUF);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		p->ended = n == 0;
		p->off = 0;
		p->len = n > 0 ? (size_t)n : 0;
	}
	if (writable && p->len) {
		n = write(p->to, p->buf + p->off, p->len);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (n > 0) {
			p->off += (size_t)n;
			p->len -= (size_t)n;
		}
	}
	return 0;
}

static int relay(struct pipe_end *in, struct pipe_end *out)
{
	bool told = false;
	int err = 0;

	while (!err && !(out->ended && !out->len)) {
		struct pollfd pfd[4] = {
			{ .fd = in->len || in->ended ? -1 : in->from, .events = POLLIN },
			{ .fd = in->len ? in->to : -1, .events = POLLOUT },
			{ .fd = out->len || out->ended ? -1 : out->from, .events = POLLIN },
			{ .fd = out->len ? out->to : -1, .events = POLLOUT },
		};

		if (poll(pfd, ARRAY_SIZE(pfd), -1) < 0) {
			err = errno == EINTR ? 0 : -errno;
			continue;
		}
		err = move(out, pfd[2].revents, pfd[3].revents);
		/* Who takes no more may still have something to say. */
		if (!err && move(in, pfd[0].revents, pfd[1].revents) < 0) {
			in->len = 0;
			in->ended = true;
		}
		if (in->ended && !in->len && !told) {
			told = true;
			(void)shutdown(in->to, SHUT_WR);
		}
	}
	return err;
}

int migrate_relay(int in, int out, int peer)
{
	struct pipe_end to = { .from = in, .to = peer, .buf = malloc(RELAY_BUF) };
	struct pipe_end back = { .from = peer, .to = out, .buf = malloc(RELAY_BUF) };
	int err = to.buf && back.buf ? relay(&to, &back) : -ENOMEM;

	free(to.buf);
	free(back.buf);
	return err;
}
