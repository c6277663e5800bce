/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - unvmm-tls: the process that encrypts a migration. It is given a connected (or listening)
 * TCP socket and one end of a socket pair, whose other end is a VMM's; see unvmm-tls(8).
 *
 * In this order: certificates, another user and a filter of system calls, the first byte from the
 * network. It has one thread, and lives as long as both of its sockets do.
 */
#include "session.h"

#include <unvmm/log.h>
#include <unvmm/sandbox.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DEADLINE_MS 10000 /* of a handshake */
#define LINGER_MS   10000 /* of what is left when the VMM has closed */
#define PENDING_MAX 8	  /* handshakes under way: one that hangs keeps nobody out */

enum { EXIT_OK, EXIT_FAILED, EXIT_WRONG };

struct options {
	bool server, background;
	const char *folder, *names;
	unsigned int deadline_ms;
	int local, net;
};

/* --- what it says ---------------------------------------------------------------------------- */

/* One line on stdout, for the unvmm that waits for it; nothing more comes. */
static void tell(bool good, const char *text)
{
	char line[600];
	int n = snprintf(line, sizeof(line), "%c%s\n", good ? '+' : '-', text);

	if (write(STDOUT_FILENO, line, (size_t)n) < 0)
		log_debug("nobody waits for: %s", line);
}

/* --- a handshake ----------------------------------------------------------------------------- */

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct pending {
	struct session s;
	uint64_t until;
};

struct door {
	struct pending pending[PENDING_MAX];
	struct log_limit limit; /* strangers can cause lines */
};

static int begin(struct pending *p, const struct options *o, const struct creds *c, int fd,
		 struct diag *d)
{
	p->s.fd = fd;
	p->s.creds = c;
	p->s.names = o->names;
	p->until = now_ms() + o->deadline_ms;
	return session_begin(&p->s, d);
}

/* What has come is read first: with something unread the close resets the connection, and our last
 * words (an alert) may be lost. */
static void end(struct pending *p)
{
	char buf[KiB(4)];

	session_end(&p->s);
	for (unsigned int i = 0; i < 64 && recv(p->s.fd, buf, sizeof(buf), MSG_DONTWAIT) > 0; i++)
		;
	close(p->s.fd);
	*p = (struct pending){ .s.fd = -1 };
}

/* session_step(), and the deadline. */
static int step(struct pending *p, const struct options *o, struct diag *d)
{
	int err = session_step(&p->s, d);

	if (err == -EAGAIN && now_ms() >= p->until)
		return diag_set(d, -ETIMEDOUT, "%s has not ended its TLS handshake within %g s",
				p->s.peer, o->deadline_ms / 1000.0);
	return err;
}

static int left(const struct pending *p)
{
	uint64_t now = now_ms();

	return p->until > now ? (int)(p->until - now) : 0;
}

/* Waits; -EPIPE: nobody is there any more for whom it would be done. */
static int wait_for(struct pollfd *pfd, unsigned int n, int ms, struct diag *d)
{
	/* pfd[0] is the VMM's: it has nothing to say yet, only to hang up. */
	if (poll(pfd, n, ms) > 0 && pfd[0].revents & (POLLHUP | POLLERR))
		return diag_set(d, -EPIPE, "unvmm has ended");
	return 0;
}

/* --- the side that connects ------------------------------------------------------------------ */

static int connected(const struct options *o, const struct creds *c, struct pending *p,
		     struct diag *d)
{
	int err;

	snprintf(p->s.peer, sizeof(p->s.peer), "%.100s", o->names);
	err = begin(p, o, c, o->net, d);
	while (!err && (err = step(p, o, d)) == -EAGAIN) {
		struct pollfd pfd[] = { { .fd = o->local },
					{ .fd = p->s.fd, .events = session_events(&p->s) } };

		err = wait_for(pfd, ARRAY_SIZE(pfd), left(p), d);
	}
	return err;
}

/* --- the side that is connected to ----------------------------------------------------------- */

/* Not getnameinfo(), which asks the kernel for the name of a link. */
static void name_peer(struct session *s, const struct sockaddr_storage *a)
{
	const struct sockaddr_in *v4 = (const void *)a;
	const struct sockaddr_in6 *v6 = (const void *)a;
	char host[INET6_ADDRSTRLEN];

	if (a->ss_family == AF_INET && inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host)))
		snprintf(s->peer, sizeof(s->peer), "%s:%u", host, ntohs(v4->sin_port));
	else if (a->ss_family == AF_INET6 &&
		 inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host)))
		snprintf(s->peer, sizeof(s->peer), "[%s]:%u", host, ntohs(v6->sin6_port));
	else
		snprintf(s->peer, sizeof(s->peer), "the peer");
}

/* One of the pending slots is free. */
static void take(const struct options *o, const struct creds *c, struct pending *p)
{
	struct sockaddr_storage a = { 0 };
	socklen_t len = sizeof(a);
	struct diag d = { 0 };
	int fd = accept4(o->net, (struct sockaddr *)&a, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	name_peer(&p->s, &a);
	if (begin(p, o, c, fd, &d)) {
		log_error("%s: %s", p->s.peer, d.text);
		end(p);
	}
}

/* All handshakes under way go on; the one that has succeeded, or NULL. */
static struct pending *step_all(const struct options *o, struct door *door)
{
	for (unsigned int i = 0; i < PENDING_MAX; i++) {
		struct pending *p = &door->pending[i];
		struct diag d = { 0 };
		int err = p->s.fd < 0 ? -EAGAIN : step(p, o, &d);

		if (!err)
			return p;
		if (err == -EAGAIN)
			continue;
		log_limited(&door->limit, LOG_WARN, "%s; still waiting for a guest", d.text);
		end(p);
	}
	return NULL;
}

static int wait_all(const struct options *o, const struct creds *c, struct door *door,
		    struct diag *d)
{
	struct pollfd pfd[PENDING_MAX + 2] = { { .fd = o->local }, { .fd = -1, .events = POLLIN } };
	struct pending *free_slot = NULL;
	int ms = -1, err;

	for (unsigned int i = 0; i < PENDING_MAX; i++) {
		struct pending *p = &door->pending[i];

		pfd[i + 2].fd = p->s.fd;
		if (p->s.fd < 0) {
			free_slot = p;
			continue;
		}
		pfd[i + 2].events = session_events(&p->s);
		ms = ms < 0 || left(p) < ms ? left(p) : ms;
	}
	if (free_slot)
		pfd[1].fd = o->net;
	err = wait_for(pfd, ARRAY_SIZE(pfd), ms, d);
	if (!err && free_slot && pfd[1].revents)
		take(o, c, free_slot);
	return err;
}

/* The first that shows a good certificate is it; those that do not cost nobody anything. */
static int accepted(const struct options *o, const struct creds *c, struct door *door,
		    struct pending **found, struct diag *d)
{
	int err = 0;

	while (!(*found = step_all(o, door)) && !err)
		err = wait_all(o, c, door, d);
	for (unsigned int i = 0; i < PENDING_MAX; i++)
		if (&door->pending[i] != *found && door->pending[i].s.fd >= 0)
			end(&door->pending[i]);
	close(o->net);
	return err;
}

/* --- the process ----------------------------------------------------------------------------- */

/* What the filter forbids: it says which call, since somebody has to mend it. */
static void forbidden(int sig, siginfo_t *si, void *context)
{
	char text[300] = "unvmm-tls: ";
	size_t used = strlen(text);

	(void)context;
	if (sandbox_describe(si, text + used, sizeof(text) - used - 1)) {
		strcat(text, "\n");
		if (write(STDERR_FILENO, text, strlen(text)) < 0)
			_exit(128 + sig);
	}
	_exit(128 + sig);
}

static int set_signals(void)
{
	struct sigaction sa = { .sa_sigaction = forbidden, .sa_flags = SA_SIGINFO };

	signal(SIGPIPE, SIG_IGN);
	return sigaction(SIGSYS, &sa, NULL);
}

/* Nothing of the process that started this one but the two sockets and where it speaks. */
static int keep_only(const struct options *o)
{
	unsigned int a = (unsigned int)(o->local < o->net ? o->local : o->net);
	unsigned int b = (unsigned int)(o->local < o->net ? o->net : o->local);
	int err = 0;

	if (a > STDERR_FILENO + 1)
		err = close_range(STDERR_FILENO + 1, a - 1, 0);
	if (!err && b > a + 1)
		err = close_range(a + 1, b - 1, 0);
	return err ? err : close_range(b + 1, ~0u, 0);
}

/*
 * Away from who started it: ^C is for that one, and nobody has to wait for this process. That one
 * may end; the VMM at the other end of the socket pair is what counts.
 */
static int detach(void)
{
	pid_t pid = fork();

	if (pid > 0)
		_exit(EXIT_OK);
	return pid < 0 || setsid() < 0 ? -errno : 0;
}

static int confine(struct diag *d)
{
	struct sandbox s;
	int err = sandbox_init(&s, NULL, true, d);

	if (!err && set_signals() < 0)
		err = diag_errno(d, -errno, "signals");
	return err ? err : sandbox_enter(&s, SANDBOX_TLS, d);
}

static int prepare(const struct options *o, struct creds *c, struct diag *d)
{
	int err = creds_load(c, o->folder, o->server, d);

	if (!err &&
	    (fcntl(o->local, F_SETFL, O_NONBLOCK) < 0 || fcntl(o->net, F_SETFL, O_NONBLOCK) < 0))
		err = diag_errno(d, -errno, "the sockets");
	return err ? err : confine(d);
}

static int carry(const struct options *o, struct pending *p)
{
	struct pump_tls tls = session_pump(&p->s);
	struct diag d = { 0 };
	int err = pump_run(o->local, &tls, LINGER_MS, &d);

	if (err)
		log_error("%s", d.text);
	return err ? EXIT_FAILED : EXIT_OK;
}

/* The certificates are good. The accepting side is ready now, the other one when it is let in. */
static int serve(const struct options *o, const struct creds *c)
{
	struct door door = { 0 };
	struct pending *p = &door.pending[0];
	struct diag d = { 0 };
	int err, status;

	for (unsigned int i = 0; i < PENDING_MAX; i++)
		door.pending[i].s.fd = -1;
	if (o->server) {
		tell(true, "");
		err = accepted(o, c, &door, &p, &d);
		if (err)
			log_error("%s", d.text);
	} else {
		err = connected(o, c, p, &d);
		tell(!err, d.text);
	}
	status = err ? EXIT_FAILED : carry(o, p);
	if (p && p->s.fd >= 0)
		end(p);
	return status;
}

static int run(const struct options *o)
{
	struct diag d = { 0 };
	struct creds c;
	int status = EXIT_WRONG;

	if (prepare(o, &c, &d))
		tell(false, d.text);
	else
		status = serve(o, &c);
	creds_free(&c);
	return status;
}

/* --- the command line ------------------------------------------------------------------------ */

static int usage(const char *what)
{
	fprintf(stderr,
		"unvmm-tls: %s\nusage: unvmm-tls connect|accept --creds FOLDER [--peer NAME,...]\n"
		"                 [--deadline SECONDS] [--background] --local FD --net FD\n"
		"unvmm starts it; unvmm-tls(8) describes it\n",
		what);
	return EXIT_WRONG;
}

static int number(const char *text, int max)
{
	char *end_of;
	long v = strtol(text, &end_of, 10);

	return *text < '0' || *text > '9' || *end_of || v > max ? -1 : (int)v;
}

static const char *parse(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "creds", required_argument, NULL, 'c' },
		{ "peer", required_argument, NULL, 'p' },
		{ "deadline", required_argument, NULL, 'd' },
		{ "background", no_argument, NULL, 'b' },
		{ "local", required_argument, NULL, 'l' },
		{ "net", required_argument, NULL, 'n' },
		{ NULL, 0, NULL, 0 },
	};
	int opt, seconds = DEADLINE_MS / 1000;

	*o = (struct options){ .local = -1, .net = -1 };
	if (argc < 2 || (strcmp(argv[1], "connect") != 0 && strcmp(argv[1], "accept") != 0))
		return "the first argument is connect or accept";
	o->server = argv[1][0] == 'a';
	optind = 2;
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		if (opt == 'c')
			o->folder = optarg;
		else if (opt == 'p')
			o->names = optarg;
		else if (opt == 'd')
			seconds = number(optarg, 3600);
		else if (opt == 'b')
			o->background = true;
		else if (opt == 'l')
			o->local = number(optarg, 1 << 20);
		else if (opt == 'n')
			o->net = number(optarg, 1 << 20);
		else
			return "there is a switch that it does not know, or without its value";
	}
	o->deadline_ms = (unsigned int)seconds * 1000;
	if (optind < argc || !o->folder || strlen(o->folder) > 300 || seconds < 1)
		return "--creds FOLDER (at most 300 characters), --deadline at least 1";
	if (o->local <= STDERR_FILENO || o->net <= STDERR_FILENO || o->local == o->net)
		return "--local and --net are two descriptors above 2";
	return !o->server && !o->names ? "connect needs --peer NAME" : NULL;
}

int main(int argc, char **argv)
{
	struct options o;
	const char *wrong = parse(&o, argc, argv);

	if (wrong)
		return usage(wrong);
	log_set_name("unvmm-tls");
	log_set_level(LOG_WARN);
	if (keep_only(&o) < 0)
		return usage("descriptors cannot be closed");
	if (o.background && detach())
		return usage("it cannot go to the background");
	return run(&o);
}
