/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd_receive.c - `unvmm receive`: builds a machine from this host's configuration and runs the
 * guest that it is sent. Where the guest comes from is opened here; with --stdio a second process
 * holds the machine, so that the guest does not end with the connection that brought it.
 * Main thread.
 */
#include "cmd.h"
#include "cmd_guest.h"
#include "keeper.h"
#include "migrate_tls.h"
#include "migrate_transport.h"
#include "usock.h"

#include <unvmm/log.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct source {
	struct arrival arrival;
	struct migrate_tls tls;
	struct migrate_address address;
	struct usock usock;
	int peer, told; /* --stdio: what the front process holds the other ends of */
};

static struct source *source_of(struct arrival *a)
{
	return container_of(a, struct source, arrival);
}

/* --- how it is opened ------------------------------------------------------------------------ */

static int open_tcp(struct arrival *a, struct vm *vm, struct diag *d)
{
	char at[MIGRATE_AT_MAX];

	(void)vm;
	a->fd = migrate_listen(&source_of(a)->address, at, d);
	if (a->fd < 0)
		return a->fd;
	snprintf(a->at, sizeof(a->at), "%s", at);
	return 0;
}

/* The listener is the helper's, which speaks up when it has a guest for us. */
static int open_tls(struct arrival *a, struct vm *vm, struct diag *d)
{
	int err = open_tcp(a, vm, d);

	if (err)
		return err;
	a->fd = migrate_tls_accept(&source_of(a)->tls, a->fd, d);
	return a->fd < 0 ? a->fd : 0;
}

static int open_unix(struct arrival *a, struct vm *vm, struct diag *d)
{
	struct source *s = source_of(a);
	int err = usock_listen(&s->usock, s->address.path, 1, d);

	if (!err)
		err = keeper_add(vm->keeper, s->address.path, &s->usock.kept, d);
	if (err) {
		diag_prefix(d, "--listen unix:%s", s->address.path);
		return err;
	}
	a->fd = s->usock.fd;
	s->usock.fd = -1; /* closed by whoever accepts */
	snprintf(a->at, sizeof(a->at), "unix:%.200s", s->address.path);
	return 0;
}

static int open_file(struct arrival *a, struct vm *vm, struct diag *d)
{
	const char *path = source_of(a)->address.path;

	(void)vm;
	/* An open would wait for a FIFO's writer, deaf to ^C; the engine waits with a deadline. */
	a->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	return a->fd < 0 || fcntl(a->fd, F_SETFL, O_RDONLY) < 0
		       ? diag_errno(d, -errno, "--from file:%.200s", path)
		       : 0;
}

/*
 * What this process was started with is closed when the guest runs (inherited.h): copies are not.
 */
static int open_stdio(struct arrival *a, struct vm *vm, struct diag *d)
{
	struct source *s = source_of(a);

	(void)vm;
	a->fd = fcntl(s->peer, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	a->told_fd = fcntl(s->told, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	return a->fd < 0 || a->told_fd < 0 ? diag_errno(d, -errno, "--stdio") : 0;
}

/* What --listen says. */
static int choose_listener(struct source *s, const struct run_options *o, struct diag *d)
{
	bool tcp = s->address.kind == MIGRATE_TCP;

	if (!tcp && s->address.kind != MIGRATE_UNIX)
		return diag_set(d, -EINVAL, "--listen %.100s: it must be HOST[:PORT] or unix:PATH",
				o->listen);
	if ((o->tls_folder || o->tls_peer) && (!tcp || o->insecure))
		return diag_set(d, -EINVAL,
				"--tls-creds and --tls-peer are for --listen HOST[:PORT], without "
				"--insecure");
	s->tls = (struct migrate_tls){ .folder = o->tls_folder, .peer = o->tls_peer };
	s->arrival.kind = tcp && !o->insecure ? ARRIVAL_LATER : ARRIVAL_LISTEN;
	s->arrival.open = !tcp ? open_unix : o->insecure ? open_tcp : open_tls;
	return 0;
}

static int choose(struct source *s, const struct run_options *o, struct diag *d)
{
	const char *text = o->listen ? o->listen : o->from;
	int err;

	*s = (struct source){ .arrival = { .fd = -1, .told_fd = -1 },
			      .usock = { .fd = -1 },
			      .peer = -1,
			      .told = -1 };
	if (o->stdio) {
		s->arrival.kind = ARRIVAL_STREAM;
		s->arrival.open = open_stdio;
		return 0;
	}
	err = migrate_address_parse(&s->address, text, d);
	if (err) {
		diag_prefix(d, "--%s", o->listen ? "listen" : "from");
		return err;
	}
	if (o->listen)
		return choose_listener(s, o, d);
	if (s->address.kind != MIGRATE_FILE)
		return diag_set(d, -EINVAL, "--from %.100s: it must be file:PATH", text);
	s->arrival.kind = ARRIVAL_FILE;
	s->arrival.open = open_file;
	return 0;
}

/* --- --stdio: two processes ------------------------------------------------------------------ */

/*
 * The guest's own process: a session of its own, and nothing of the connection's. What it says goes
 * to the front process as long as that is there.
 */
static int run_detached(struct run_options *o, struct vm_config *config, struct source *s,
			int messages)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), status;

	setsid();
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
	    dup2(messages, STDERR_FILENO) < 0) {
		log_error("--stdio: %s", strerror(errno));
		return EXIT_USAGE;
	}
	close(null);
	close(messages);
	status = guest_run(o, config, &s->arrival);
	usock_close(&s->usock);
	return status;
}

/* Copies what is left of the guest's process's messages. */
static void pass_messages(int from)
{
	char buf[KiB(4)];
	ssize_t n;

	while ((n = read(from, buf, sizeof(buf))) > 0 && write(STDERR_FILENO, buf, (size_t)n) == n)
		;
}

struct front {
	int peer, told, messages;
	pid_t pid;
};

/* Carries the stream; its end is the guest's arrival or the end of the guest's process. */
static int run_front(const struct front *f)
{
	pid_t writer;
	int status = 0;
	char byte;

	signal(SIGPIPE, SIG_IGN);
	/* Messages come at any time, and the stream must not wait for them. */
	writer = fork();
	if (writer == 0) {
		close(f->peer);
		close(f->told);
		signal(SIGPIPE, SIG_DFL);
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		pass_messages(f->messages);
		_exit(0);
	}
	if (migrate_relay(STDIN_FILENO, STDOUT_FILENO, f->peer))
		log_debug("--stdio: the connection broke");
	close(f->peer);
	if (read(f->told, &byte, 1) == 1) { /* the guest runs */
		if (writer > 0 && !kill(writer, SIGTERM))
			(void)waitpid(writer, NULL, 0);
		if (!fcntl(f->messages, F_SETFL, O_NONBLOCK))
			pass_messages(f->messages);
		return 0;
	}
	while (waitpid(f->pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run_stdio(struct run_options *o, struct vm_config *config, struct source *s)
{
	int pair[2] = { -1, -1 }, told[2] = { -1, -1 }, messages[2] = { -1, -1 };
	struct front f;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    pipe2(told, O_CLOEXEC) < 0 || pipe2(messages, O_CLOEXEC) < 0) {
		log_error("--stdio: %s", strerror(errno));
		return EXIT_USAGE;
	}
	f = (struct front){ .peer = pair[0], .told = told[0], .messages = messages[0] };
	f.pid = fork();
	if (f.pid < 0) {
		log_error("--stdio: cannot start the guest's process: %s", strerror(errno));
		return EXIT_USAGE;
	}
	if (f.pid == 0) {
		close(pair[0]);
		close(told[0]);
		close(messages[0]);
		s->peer = pair[1];
		s->told = told[1];
		return run_detached(o, config, s, messages[1]);
	}
	close(pair[1]);
	close(told[1]);
	close(messages[1]);
	return run_front(&f);
}

/* --- the command ----------------------------------------------------------------------------- */

/* A guest in the background has no standard input and output: its console becomes a pty. */
static int move_console(struct vm_config *c, struct diag *d)
{
	if (strcmp(c->console, "stdio") != 0)
		return 0;
	free(c->console);
	c->console = strdup("pty");
	return c->console ? 0 : diag_set(d, -ENOMEM, "out of memory");
}

int cmd_receive(int argc, char **argv)
{
	struct run_options o;
	struct vm_config config = { 0 };
	struct source s;
	struct diag d = { 0 };
	int status = 0, err;

	if (!guest_options(&o, argc, argv, &status))
		return status;
	err = choose(&s, &o, &d);
	if (!err)
		err = config_load_incoming(&config, o.path, o.over, o.nover, device_classes,
					   device_class_count, &d);
	if (!err && o.stdio)
		err = move_console(&config, &d);
	if (err) {
		log_error("%s", d.text);
		status = EXIT_USAGE;
	} else if (o.action == RUN_GUEST) {
		status = o.stdio ? run_stdio(&o, &config, &s) : guest_run(&o, &config, &s.arrival);
		usock_close(&s.usock);
	}
	config_free(&config);
	run_options_free(&o);
	return status;
}
