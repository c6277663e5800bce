/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.c - the control socket: where it is, who is connected, and how much of a client's silence
 * or chatter is borne. What is said there is qmp.c's. Runs on the main loop.
 *
 * A client is heard only while it takes its answers: with OUT_SOFT bytes waiting for it, it is not
 * read from. Events come all the same; at OUT_MAX it is cut off.
 */
#include "keeper.h"
#include "qmp.h"
#include "qmp_migrate.h"
#include "usock.h"

#include <unvmm/log.h>
#include <unvmm/vcpu.h>
#include <unvmm/vm.h>

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG	 64
#define ACCEPTS	 32   /* connections looked at in one turn of the loop */
#define IN_SIZE	 1024 /* bytes read from a client in one turn */
#define OUT_SOFT KiB(64)
#define OUT_MAX	 KiB(512)
#define FDS_MAX	 16 /* that one message may carry */

struct client {
	struct qmp_session session;
	struct control *control;
	struct client *next;
	int fd;
	struct loop_fd watch;
	uint32_t watched; /* events; 0: not watched */
	bool ended;	  /* it will say no more */
	bool dead;	  /* freed by the reaper */
	char in[IN_SIZE];
	size_t in_off, in_len;
	char *out;
	size_t out_off, out_len, out_cap;
};

struct control {
	struct vm *vm;
	struct qmp qmp;
	char *name; /* of the guest, as the socket is called; owned */
	struct usock listener;
	int spare_fd; /* for when there is no other */
	struct loop_fd watch;
	struct client *clients;
	unsigned int nclients;
	struct loop_work reap; /* frees the dead at the end of a turn */
	struct log_limit limit;
};

/* --- one client ------------------------------------------------------------------------------ */

/* Others may stand in a loop over the clients: the memory goes later. */
static void drop(struct client *c)
{
	c->dead = true;
	loop_del(&c->watch);
	c->watched = 0;
	loop_defer(&c->control->vm->main_loop, &c->control->reap);
}

static void reap(struct loop_work *w)
{
	struct control *ctl = container_of(w, struct control, reap);
	struct client **p = &ctl->clients, *c;

	while ((c = *p)) {
		if (!c->dead) {
			p = &c->next;
			continue;
		}
		*p = c->next;
		ctl->nclients--;
		qmp_close(&c->session);
		loop_del(&c->watch);
		/* The ring holds on to the socket until its next turn, which may not come. */
		shutdown(c->fd, SHUT_RDWR);
		close(c->fd);
		free(c->out);
		free(c);
	}
}

static void client_ready(struct loop_fd *lf, uint32_t revents);

/* Watches for what is of interest now. */
static void rewatch(struct client *c)
{
	uint32_t want = 0;

	if (c->dead)
		return;
	if (c->out_len)
		want |= POLLOUT;
	if (!c->ended && c->out_len < OUT_SOFT)
		want |= POLLIN;
	if (!want) { /* it has ended and has all its answers */
		drop(c);
		return;
	}
	if (want == c->watched)
		return;
	loop_del(&c->watch);
	c->watched = want;
	if (loop_add(&c->control->vm->main_loop, &c->watch, c->fd, want, client_ready))
		drop(c);
}

/* Sends what waits. */
static void flush(struct client *c)
{
	while (c->out_len && !c->dead) {
		ssize_t n =
			send(c->fd, c->out + c->out_off, c->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0 && errno != EINTR) {
			drop(c);
			return;
		}
		if (n > 0) {
			c->out_off += (size_t)n;
			c->out_len -= (size_t)n;
		}
	}
	free(c->out);
	c->out = NULL;
	c->out_off = c->out_len = c->out_cap = 0;
}

static bool make_room(struct client *c, size_t len)
{
	size_t cap = c->out_cap ? c->out_cap : KiB(4);
	char *out;

	if (c->out_off) {
		memmove(c->out, c->out + c->out_off, c->out_len);
		c->out_off = 0;
	}
	if (c->out_len + len > OUT_MAX)
		return false;
	while (cap < c->out_len + len)
		cap *= 2;
	if (cap == c->out_cap)
		return true;
	out = realloc(c->out, cap);
	if (!out)
		return false;
	c->out = out;
	c->out_cap = cap;
	return true;
}

static void client_send(struct qmp_session *s, const char *text, size_t len)
{
	struct client *c = container_of(s, struct client, session);
	ssize_t n = 0;

	if (c->dead)
		return;
	if (!c->out_len) {
		n = send(c->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n == (ssize_t)len)
			return;
		n = n < 0 ? 0 : n; /* if that is for good, the next attempt says so */
	}
	if (!make_room(c, len - (size_t)n)) {
		log_limited(&c->control->limit, LOG_WARN,
			    "a control client that does not read is cut off");
		drop(c);
		return;
	}
	memcpy(c->out + c->out_len, text + n, len - (size_t)n);
	c->out_len += len - (size_t)n;
	rewatch(c);
}

/* The descriptors among the control messages; all of them, and none that was cut short. */
static void take_fds(struct client *c, struct msghdr *m)
{
	struct cmsghdr *h;
	int fds[FDS_MAX];
	unsigned int n;

	for (h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		n = (unsigned int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		if (n > FDS_MAX)
			n = FDS_MAX;
		memcpy(fds, CMSG_DATA(h), n * sizeof(int));
		qmp_receive_fds(&c->session, fds, n);
	}
}

/* Bytes read, 0: none now, -1: the client has ended or failed. */
static ssize_t client_receive(struct client *c)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = c->in, .iov_len = sizeof(c->in) };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	take_fds(c, &m);
	return n ? n : -1;
}

/* Runs what was read, as long as the answers are taken. */
static void client_run(struct client *c)
{
	while (c->in_off < c->in_len && !c->dead && c->out_len < OUT_SOFT)
		c->in_off += qmp_input(&c->session, c->in + c->in_off, c->in_len - c->in_off);
}

static void client_ready(struct loop_fd *lf, uint32_t revents)
{
	struct client *c = container_of(lf, struct client, watch);
	ssize_t n;

	flush(c);
	client_run(c);
	/* POLLHUP alone: the other side is gone, and a read says so. */
	if (!c->dead && c->in_off == c->in_len && !c->ended && (revents & ~(uint32_t)POLLOUT)) {
		n = client_receive(c);
		c->ended = n < 0;
		c->in_off = 0;
		c->in_len = n > 0 ? (size_t)n : 0;
		client_run(c);
	}
	/* Nobody is left to take the answers. */
	if (!c->dead && c->ended && (revents & (POLLHUP | POLLERR)))
		drop(c);
	rewatch(c);
}

/* --- the socket ------------------------------------------------------------------------------ */

/* One more than fits is told so, and not to come back at once. */
static void turn_away(int fd)
{
	char text[128];
	int n = snprintf(text, sizeof(text),
			 "{\"error\":{\"class\":\"GenericError\",\"desc\":\"%u clients are "
			 "connected already\"}}\r\n",
			 CONTROL_CLIENTS);

	if (send(fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		/* It does not wait for the news. */
	}
	close(fd);
}

static void welcome(struct control *ctl, int fd)
{
	struct client *c = ctl->nclients < CONTROL_CLIENTS ? calloc(1, sizeof(*c)) : NULL;

	if (!c) {
		turn_away(fd);
		return;
	}
	c->control = ctl;
	c->fd = fd;
	c->session.send = client_send;
	c->next = ctl->clients;
	ctl->clients = c;
	ctl->nclients++;
	qmp_open(&c->session, &ctl->qmp);
	rewatch(c);
}

/*
 * Without a free descriptor the client would stay in the queue and the loop would never sleep
 * again: the spare one makes room to tell it. Returns what accept4() does; errno as well.
 */
static int shed(struct control *ctl)
{
	int fd, err;

	if (ctl->spare_fd < 0)
		return -1;
	close(ctl->spare_fd);
	fd = accept4(ctl->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	err = errno;
	if (fd >= 0)
		turn_away(fd);
	ctl->spare_fd = fcntl(ctl->listener.fd, F_DUPFD_CLOEXEC, 0);
	errno = err;
	return fd;
}

static void listen_ready(struct loop_fd *lf, uint32_t revents)
{
	struct control *ctl = container_of(lf, struct control, watch);

	(void)revents;
	for (unsigned int i = 0; i < ACCEPTS; i++) {
		int fd = accept4(ctl->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			welcome(ctl, fd);
			continue;
		}
		/* It says so before it looks whether a client is there at all. */
		if ((errno == EMFILE || errno == ENFILE) && shed(ctl) >= 0)
			continue;
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
			log_error("the control socket is given up: %s", strerror(errno));
			loop_del(lf);
		}
		return;
	}
}

/* --- opening and closing --------------------------------------------------------------------- */

static int default_listen(struct control *ctl, bool named, struct diag *d)
{
	char folder[USOCK_PATH_MAX + 1], path[2 * USOCK_PATH_MAX];
	int err = control_folder(folder, sizeof(folder), true, d);
	char *other;

	if (err)
		return err;
	snprintf(path, sizeof(path), "%s/%s.sock", folder, ctl->name);
	err = usock_listen(&ctl->listener, path, BACKLOG, d);
	if (err == -EADDRINUSE && !named) {
		if (asprintf(&other, "%s-%d", ctl->name, getpid()) < 0)
			return -ENOMEM;
		free(ctl->name);
		ctl->name = other;
		d->text[0] = '\0';
		snprintf(path, sizeof(path), "%s/%s.sock", folder, ctl->name);
		err = usock_listen(&ctl->listener, path, BACKLOG, d);
	}
	if (err == -EADDRINUSE) {
		d->text[0] = '\0';
		return diag_set(d, err,
				"a guest named \"%s\" is running already (%s); choose another "
				"--name",
				ctl->name, path);
	}
	if (err)
		diag_prefix(d, "control socket %s", path);
	return err;
}

/* 1: the guest goes on without a socket. */
static int make_socket(struct control *ctl, const struct vm_config *config, struct diag *d)
{
	const char *spec = config->control;
	int err;

	if (spec) {
		err = usock_listen(&ctl->listener, spec + strlen("unix:"), BACKLOG, d);
		if (err)
			diag_prefix(d, "control \"%s\"", spec);
		return err;
	}
	err = default_listen(ctl, config->named, d);
	if (!err || err == -EADDRINUSE)
		return err;
	/*
	 * Nobody asked for it. Without a session (cron, su) there is no folder: not worth a word.
	 */
	log_msg(err == -ENXIO ? LOG_INFO : LOG_WARN, "%s; the guest runs without a control socket",
		d->text);
	d->text[0] = '\0';
	return 1;
}

static void control_free(struct control *ctl)
{
	usock_close(&ctl->listener);
	if (ctl->spare_fd >= 0)
		close(ctl->spare_fd);
	free(ctl->name);
	free(ctl);
}

int control_open(struct control **c, struct vm *vm, struct diag *d)
{
	const struct vm_config *config = vm->config;
	struct control *ctl;
	int err;

	*c = NULL;
	if (config->control && !strcmp(config->control, "none"))
		return 0;
	ctl = calloc(1, sizeof(*ctl));
	if (!ctl)
		return diag_set(d, -ENOMEM, "out of memory for the control socket");
	ctl->vm = vm;
	ctl->listener.fd = ctl->spare_fd = -1;
	ctl->reap.fn = reap;
	ctl->name = strdup(config->name);
	err = ctl->name ? make_socket(ctl, config, d)
			: diag_set(d, -ENOMEM, "out of memory for the control socket");
	if (!err)
		err = keeper_add(vm->keeper, ctl->listener.path, &ctl->listener.kept, d);
	if (!err) {
		ctl->spare_fd = fcntl(ctl->listener.fd, F_DUPFD_CLOEXEC, 0);
		err = loop_add(&vm->main_loop, &ctl->watch, ctl->listener.fd, POLLIN, listen_ready);
		if (err)
			diag_errno(d, err, "the control socket cannot be watched");
	}
	if (err) {
		control_free(ctl);
		return err < 0 ? err : 0;
	}
	ctl->qmp = (struct qmp){
		.vm = vm, .path = ctl->listener.path, .name = ctl->name, .started_ns = loop_now()
	};
	*c = ctl;
	return 0;
}

void control_close(struct control *ctl)
{
	if (!ctl)
		return;
	for (struct client *c = ctl->clients; c; c = c->next)
		c->dead = true;
	reap(&ctl->reap);
	loop_del(&ctl->watch);
	control_free(ctl);
}

/* --- events ---------------------------------------------------------------------------------- */

/* {"guest": ..., "reason": ...}: ShutdownCause of QMP's reference manual. */
static struct json_object *cause(bool guest, const char *reason)
{
	struct json_object *o = json_object_new_object();

	if (o) {
		json_object_object_add(o, "guest", json_object_new_boolean(guest));
		json_object_object_add(o, "reason", json_object_new_string(reason));
	}
	return o;
}

static void tell_end(struct control *ctl)
{
	struct qmp *q = &ctl->qmp;
	struct json_object *o;

	switch (vm_requested(ctl->vm)) {
	case VM_EVENT_PANIC:
		o = json_object_new_object();
		if (o)
			json_object_object_add(o, "action", json_object_new_string("poweroff"));
		qmp_event(q, "GUEST_PANICKED", o);
		qmp_event(q, "SHUTDOWN", cause(true, "guest-panic"));
		break;
	case VM_EVENT_REBOOT:
		qmp_event(q, "SHUTDOWN",
			  q->asked_reset ? cause(false, "host-qmp-system-reset")
					 : cause(true, "guest-reset"));
		break;
	case VM_EVENT_QUIT:
		qmp_event(q, "SHUTDOWN",
			  cause(false, q->asked_quit ? "host-qmp-quit" : "host-signal"));
		break;
	case VM_EVENT_ERROR:
		qmp_event(q, "SHUTDOWN", cause(false, "host-error"));
		break;
	default:
		qmp_event(q, "SHUTDOWN", cause(true, "guest-shutdown"));
		break;
	}
}

void control_event(struct control *ctl, enum control_event event)
{
	if (!ctl)
		return;
	switch (event) {
	case CONTROL_STOP:
		qmp_event(&ctl->qmp, "STOP", NULL);
		break;
	case CONTROL_RESUME:
		qmp_event(&ctl->qmp, "RESUME", NULL);
		break;
	case CONTROL_POWERDOWN:
		qmp_event(&ctl->qmp, "POWERDOWN", NULL);
		break;
	case CONTROL_RESET:
		qmp_event(&ctl->qmp, "RESET",
			  ctl->qmp.asked_reset ? cause(false, "host-qmp-system-reset")
					       : cause(true, "guest-reset"));
		ctl->qmp.asked_reset = false;
		break;
	case CONTROL_END:
		tell_end(ctl);
		break;
	}
}

void control_set_migration(struct control *ctl, struct qmp_migration *m)
{
	if (ctl)
		ctl->qmp.migration = m;
}

void control_migration_event(struct control *ctl, unsigned int phase)
{
	if (ctl)
		qmp_migrate_event(&ctl->qmp, (enum migration_phase)phase);
}
