/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.c - speaks QMP to a running guest. Main thread of a command.
 */
#include "client.h"
#include "usock.h"

#include <unvmm/control.h>
#include <unvmm/timer.h>

#include <dirent.h>
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SUFFIX	   ".sock"
#define DEPTH_MAX  32
#define RETRY_MS   10
#define NAMES_STEP 64

/* Waits for fd until the deadline: 0 or -ETIMEDOUT. */
static int wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	for (;;) {
		uint64_t now = timer_now_ms();
		int n = now < deadline ? poll(&pfd, 1, (int)(deadline - now)) : 0;

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* --- which guests there are ------------------------------------------------------------------ */

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int is_socket(const struct dirent *e)
{
	size_t len = strlen(e->d_name), suffix = strlen(SUFFIX);

	return len > suffix && !strcmp(e->d_name + len - suffix, SUFFIX);
}

static int add_name(char ***names, unsigned int *n, const char *file)
{
	char **bigger = *names;

	if (*n % NAMES_STEP == 0)
		bigger = reallocarray(*names, *n + NAMES_STEP, sizeof(*bigger));
	if (!bigger)
		return -ENOMEM;
	*names = bigger;
	bigger[*n] = strndup(file, strlen(file) - strlen(SUFFIX));
	if (!bigger[*n])
		return -ENOMEM;
	++*n;
	return 0;
}

int client_names(char ***names, unsigned int *n, struct diag *d)
{
	char folder[USOCK_PATH_MAX + 1];
	struct dirent *e;
	DIR *dir;
	int err = control_folder(folder, sizeof(folder), false, d);

	*names = NULL;
	*n = 0;
	if (err == -ENOENT || err == -ENXIO) {
		d->text[0] = '\0';
		return 0;
	}
	if (err)
		return err;
	dir = opendir(folder);
	if (!dir)
		return diag_errno(d, -errno, "%s", folder);
	while (!err && (e = readdir(dir)))
		if (is_socket(e))
			err = add_name(names, n, e->d_name);
	closedir(dir);
	if (err) {
		client_free_names(*names, *n);
		return diag_set(d, err, "out of memory");
	}
	if (*n)
		qsort(*names, *n, sizeof(**names), compare);
	return 0;
}

void client_free_names(char **names, unsigned int n)
{
	while (n)
		free(names[--n]);
	free(names);
}

static int socket_path(char *path, size_t size, const char *name, struct diag *d)
{
	char folder[USOCK_PATH_MAX + 1];
	int err, n;

	if (strchr(name, '/')) {
		n = snprintf(path, size, "%s", name);
	} else {
		err = control_folder(folder, sizeof(folder), false, d);
		if (err)
			return err;
		n = snprintf(path, size, "%s/%s%s", folder, name, SUFFIX);
	}
	if (n < 0 || (size_t)n >= size)
		return diag_set(d, -ENAMETOOLONG,
				"the socket path of \"%.60s\" is too long; a UNIX socket takes at "
				"most %d characters",
				name, USOCK_PATH_MAX);
	return 0;
}

void client_forget(const char *name)
{
	char path[USOCK_PATH_MAX + 1];

	if (!socket_path(path, sizeof(path), name, NULL))
		usock_remove_stale(path);
}

/* The only guest that runs. */
static int only_name(char **name, struct diag *d)
{
	char **names, path[USOCK_PATH_MAX + 1];
	unsigned int n, running = 0;
	int err = client_names(&names, &n, d), fd;

	*name = NULL;
	for (unsigned int i = 0; !err && i < n; i++) {
		if (socket_path(path, sizeof(path), names[i], NULL))
			continue;
		fd = usock_connect(path);
		if (fd >= 0)
			close(fd);
		else if (fd != -EAGAIN)
			continue;
		running++;
		if (!*name)
			*name = strdup(names[i]);
	}
	if (!err)
		client_free_names(names, n);
	if (!err && running != 1)
		err = running ? diag_set(d, -ENOENT,
					 "%u guests are running; say which (unvmm list)", running)
			      : diag_set(d, -ENOENT, "no guest is running");
	if (!err && !*name)
		err = diag_set(d, -ENOMEM, "out of memory");
	if (err) {
		free(*name);
		*name = NULL;
	}
	return err;
}

/* --- lines ----------------------------------------------------------------------------------- */

static int receive(struct client_link *l, uint64_t deadline)
{
	size_t cap = l->cap ? 2 * l->cap : KiB(4);
	ssize_t n;
	char *buf;
	int err;

	if (l->len == l->cap) {
		buf = l->cap < CLIENT_ANSWER_MAX ? realloc(l->buf, cap) : NULL;
		if (!buf)
			return -EMSGSIZE;
		l->buf = buf;
		l->cap = cap;
	}
	err = wait_for(l->fd, POLLIN, deadline);
	if (err)
		return err;
	n = recv(l->fd, l->buf + l->len, l->cap - l->len, MSG_DONTWAIT);
	if (n > 0)
		l->len += (size_t)n;
	if (n == 0)
		return -EPIPE;
	return n < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
}

static struct json_object *parse(const char *text, size_t len)
{
	struct json_tokener *tok = json_tokener_new_ex(DEPTH_MAX);
	struct json_object *o = tok ? json_tokener_parse_ex(tok, text, (int)len) : NULL;

	if (tok && json_tokener_get_error(tok) != json_tokener_success) {
		json_object_put(o);
		o = NULL;
	}
	if (tok)
		json_tokener_free(tok);
	if (o && !json_object_is_type(o, json_type_object)) {
		json_object_put(o);
		o = NULL;
	}
	return o;
}

/* The next message that is no event. */
static int next_message(struct client_link *l, uint64_t deadline, struct json_object **m)
{
	size_t seen = 0;

	for (;;) {
		char *end = l->len > seen ? memchr(l->buf + seen, '\n', l->len - seen) : NULL;
		size_t line;
		int err;

		if (!end) {
			seen = l->len;
			err = receive(l, deadline);
			if (err)
				return err;
			continue;
		}
		line = (size_t)(end - l->buf) + 1;
		*m = parse(l->buf, line - 1);
		memmove(l->buf, l->buf + line, l->len - line);
		l->len -= line;
		seen = 0;
		if (!*m)
			return -EBADMSG;
		if (!json_object_object_get_ex(*m, "event", NULL))
			return 0;
		json_object_put(*m);
	}
}

/* With the first byte goes the descriptor, if there is one. */
static ssize_t send_some(int sock, const char *text, size_t len, int fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .head = { .cmsg_level = SOL_SOCKET,
				.cmsg_type = SCM_RIGHTS,
				.cmsg_len = CMSG_LEN(sizeof(int)) } };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)text, .iov_len = len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int));
	}
	return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int send_all(struct client_link *l, const char *text, int fd, uint64_t deadline)
{
	size_t left = strlen(text);
	ssize_t n;
	int err;

	while (left) {
		err = wait_for(l->fd, POLLOUT, deadline);
		if (err)
			return err;
		n = send_some(l->fd, text, left, fd);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n > 0) {
			fd = -1;
			text += n;
			left -= (size_t)n;
		}
	}
	return 0;
}

/* --- requests -------------------------------------------------------------------------------- */

static int sentence(const struct client_link *l, int err, struct diag *d)
{
	switch (err) {
	case -ETIMEDOUT:
		return diag_set(d, err, "%s gives no answer", l->name);
	case -EPIPE:
	case -ECONNRESET:
		return diag_set(d, -EPIPE, "%s has ended", l->name);
	case -EBADMSG:
	case -EMSGSIZE:
		return diag_set(d, err, "%s answers with something else than QMP", l->name);
	default:
		return diag_errno(d, err, "%s", l->name);
	}
}

static int refused(const struct client_link *l, struct json_object *error, struct diag *d)
{
	struct json_object *desc = NULL;

	json_object_object_get_ex(error, "desc", &desc);
	return diag_set(d, -EREMOTEIO, "%s: %.300s", l->name,
			desc ? json_object_get_string(desc) : "refused");
}

static int send_command(struct client_link *l, const char *command, struct json_object *args,
			int fd, uint64_t deadline)
{
	struct json_object *m = json_object_new_object();
	const char *text = NULL;
	int err = -ENOMEM;

	if (m) {
		json_object_object_add(m, "execute", json_object_new_string(command));
		if (args)
			json_object_object_add(m, "arguments", json_object_get(args));
		text = json_object_to_json_string_ext(m, JSON_C_TO_STRING_PLAIN);
	}
	if (text)
		err = send_all(l, text, fd, deadline);
	if (!err)
		err = send_all(l, "\r\n", -1, deadline);
	json_object_put(m);
	return err;
}

int client_call(struct client_link *l, const char *command, unsigned int timeout_ms,
		struct json_object **result, struct diag *d)
{
	return client_command(l, command, NULL, -1, timeout_ms, result, d);
}

int client_command(struct client_link *l, const char *command, struct json_object *args, int fd,
		   unsigned int timeout_ms, struct json_object **result, struct diag *d)
{
	uint64_t deadline = timer_now_ms() + timeout_ms;
	struct json_object *m, *o;
	int err;

	if (result)
		*result = NULL;
	err = send_command(l, command, args, fd, deadline);
	json_object_put(args);
	if (!err)
		err = next_message(l, deadline, &m);
	if (err)
		return sentence(l, err, d);
	if (json_object_object_get_ex(m, "error", &o))
		err = refused(l, o, d);
	else if (!json_object_object_get_ex(m, "return", &o))
		err = sentence(l, -EBADMSG, d);
	else if (result)
		*result = json_object_get(o);
	json_object_put(m);
	return err;
}

static int connect_until(const char *path, uint64_t deadline)
{
	const struct timespec pause = { .tv_nsec = RETRY_MS * 1000000 };
	int fd;

	/* The queue of the listener is full: it has not been at it for a while. */
	while ((fd = usock_connect(path)) == -EAGAIN && timer_now_ms() < deadline)
		nanosleep(&pause, NULL);
	return fd == -EAGAIN ? -ETIMEDOUT : fd;
}

static int greet(struct client_link *l, uint64_t deadline, struct diag *d)
{
	struct json_object *m, *o;
	uint64_t now;
	int err = next_message(l, deadline, &m);

	if (err)
		return sentence(l, err, d);
	if (json_object_object_get_ex(m, "error", &o))
		err = refused(l, o, d);
	else if (!json_object_object_get_ex(m, "QMP", NULL))
		err = sentence(l, -EBADMSG, d);
	json_object_put(m);
	if (err)
		return err;
	now = timer_now_ms();
	return client_call(l, "qmp_capabilities",
			   now < deadline ? (unsigned int)(deadline - now) : 0, NULL, d);
}

int client_open(struct client_link *l, const char *name, unsigned int timeout_ms, struct diag *d)
{
	uint64_t deadline = timer_now_ms() + timeout_ms;
	char path[USOCK_PATH_MAX + 1];
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	int err;

	*l = (struct client_link){ .fd = -1, .pidfd = -1 };
	if (name) {
		l->name = strdup(name);
		if (!l->name)
			return diag_set(d, -ENOMEM, "out of memory");
	} else {
		err = only_name(&l->name, d);
		if (err)
			return err;
	}
	err = socket_path(path, sizeof(path), l->name, d);
	if (!err)
		l->fd = connect_until(path, deadline);
	if (!err && l->fd < 0) {
		err = l->fd;
		if (err == -ENOENT || err == -ECONNREFUSED)
			diag_set(d, err, "there is no running guest \"%.80s\" (%s)", l->name, path);
		else
			sentence(l, err, d);
	}
	if (!err && !getsockopt(l->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) && peer.pid > 0) {
		l->pid = peer.pid;
		l->pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
	}
	if (!err)
		err = greet(l, deadline, d);
	return err;
}

void client_close(struct client_link *l)
{
	if (l->fd >= 0)
		close(l->fd);
	if (l->pidfd >= 0)
		close(l->pidfd);
	free(l->name);
	free(l->buf);
	*l = (struct client_link){ .fd = -1, .pidfd = -1 };
}

/* The process, not only the connection: then its disks are free for the next one. */
int client_wait_end(struct client_link *l, unsigned int timeout_ms)
{
	uint64_t deadline = timer_now_ms() + timeout_ms;
	struct json_object *m;
	int err;

	if (l->pidfd >= 0)
		return wait_for(l->pidfd, POLLIN, deadline);
	while (!(err = next_message(l, deadline, &m)))
		json_object_put(m);
	return err == -ETIMEDOUT ? err : 0;
}
