// SPDX-License-Identifier: Apache-2.0
/*
 * on.c - runs a command on another host under test: "on 2 COMMAND [ARG]..." on host 1. As ssh
 * would, without its keys and its CPU time: input, output, errors and the exit status are the
 * command's, its folder is the checkout, its environment that of a command on host 2. When this
 * program ends, so does the command. "on -s" is the other side, which runs on every host but the
 * first.
 *
 * On the connection: the arguments, then frames both ways. Any process on a host may use it; the
 * LAN of the hosts reaches no further than the emulators.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT	  7300
#define LAN	  "10.99.0."
#define ARGS_MAX  64
#define BYTES_MAX 16384

/* What a frame carries. No bytes: that is the end of it. */
enum { IN, OUT, ERR, STATUS, KINDS };

struct frame {
	uint8_t kind, pad;
	uint16_t len;
	char bytes[BYTES_MAX];
};

#define HEAD offsetof(struct frame, bytes)

static void die(const char *what)
{
	fprintf(stderr, "on: %s: %s\n", what, strerror(errno));
	exit(255);
}

static bool put_all(int fd, const void *buf, size_t len)
{
	for (const char *p = buf; len;) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static bool get_all(int fd, void *buf, size_t len)
{
	for (char *p = buf; len;) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static bool send_frame(int sock, struct frame *f, int kind, size_t len)
{
	f->kind = (uint8_t)kind;
	f->pad = 0;
	f->len = (uint16_t)len;
	return put_all(sock, f, HEAD + len);
}

static bool recv_frame(int sock, struct frame *f)
{
	return get_all(sock, f, HEAD) && f->len <= sizeof(f->bytes) && f->kind < KINDS &&
	       get_all(sock, f->bytes, f->len);
}

/* What fd has now, as one frame; at its end it is closed. False: the connection is gone. */
static bool pass(int *fd, int sock, int kind)
{
	struct frame f;
	ssize_t n = read(*fd, f.bytes, sizeof(f.bytes));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (n <= 0) {
		close(*fd);
		*fd = -1;
		n = 0;
	}
	return send_frame(sock, &f, kind, (size_t)n);
}

/* --- the host that is asked --------------------------------------------------------------------
 */

struct job {
	int in, out, err; /* our ends */
	pid_t pid;
};

static void start(struct job *j, char **args)
{
	int in[2], out[2], err[2];

	if (pipe(in) || pipe(out) || pipe(err))
		die("pipe");
	j->pid = fork();
	if (j->pid < 0)
		die("fork");
	if (!j->pid) {
		setpgid(0, 0);
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		for (int fd = STDERR_FILENO + 1; fd < 64; fd++)
			close(fd);
		signal(SIGPIPE, SIG_DFL);
		execvp(args[0], args);
		fprintf(stderr, "on: %s: %s\n", args[0], strerror(errno));
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	*j = (struct job){ .in = in[1], .out = out[0], .err = err[0], .pid = j->pid };
}

/* Input for the job. False: whoever asked is gone. */
static bool feed(struct job *j, int sock)
{
	struct frame f;

	if (!recv_frame(sock, &f))
		return false;
	if (j->in >= 0 && (!f.len || !put_all(j->in, f.bytes, f.len))) {
		close(j->in);
		j->in = -1;
	}
	return true;
}

/* Until the process itself has ended and what it wrote is on its way. */
static bool attend(struct job *j, int sock, int *status)
{
	bool ended = false, there = true;

	while (there) {
		struct pollfd p[] = { { .fd = sock, .events = POLLIN },
				      { .fd = j->out, .events = POLLIN },
				      { .fd = j->err, .events = POLLIN } };
		bool closed = j->out < 0 && j->err < 0;
		int n = poll(p, 3, ended ? 0 : closed ? 1 : 50);

		if (ended && n <= 0)
			return true;
		if (p[1].revents)
			there = pass(&j->out, sock, OUT);
		if (p[2].revents && there)
			there = pass(&j->err, sock, ERR);
		if (p[0].revents && there)
			there = feed(j, sock);
		ended = ended || waitpid(j->pid, status, WNOHANG) == j->pid;
	}
	return false;
}

static void serve_one(int sock)
{
	char text[BYTES_MAX], *args[ARGS_MAX + 1];
	unsigned int n = 0;
	struct frame f;
	struct job j;
	uint16_t len;
	int status = 0;

	if (!get_all(sock, &len, sizeof(len)) || !len || len > sizeof(text) ||
	    !get_all(sock, text, len) || text[len - 1])
		exit(1);
	for (char *p = text; p < text + len && n < ARGS_MAX; p += strlen(p) + 1)
		args[n++] = p;
	args[n] = NULL;
	start(&j, args);
	if (attend(&j, sock, &status)) {
		f.bytes[0] =
			(char)(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
		exit(!send_frame(sock, &f, STATUS, 1));
	}
	kill(-j.pid, SIGKILL);
	exit(1);
}

static void serve(void)
{
	struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	int sock = socket(AF_INET6, SOCK_STREAM, 0), one = 1;

	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(sock, (struct sockaddr *)&at, sizeof(at)) || listen(sock, 16))
		die("listen");
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int peer = accept(sock, NULL, NULL);

		if (peer >= 0 && !fork()) {
			close(sock);
			signal(SIGCHLD, SIG_DFL);
			serve_one(peer);
		}
		close(peer);
	}
}

/* --- the host that asks ------------------------------------------------------------------------
 */

static int ask(const char *host)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	char text[sizeof(LAN) + 8];
	int sock = socket(AF_INET, SOCK_STREAM, 0);

	snprintf(text, sizeof(text), LAN "%.3s", host);
	if (inet_pton(AF_INET, text, &at.sin_addr) != 1) {
		fprintf(stderr, "on: %s: no number of a host\n", host);
		exit(255);
	}
	if (sock < 0 || connect(sock, (struct sockaddr *)&at, sizeof(at)))
		die(text);
	return sock;
}

static void tell(int sock, char **args)
{
	char text[BYTES_MAX];
	uint16_t len = 0;

	for (unsigned int n = 0; args[n]; n++) {
		size_t l = strlen(args[n]) + 1;

		if (n >= ARGS_MAX || len + l > sizeof(text)) {
			fprintf(stderr, "on: too many arguments\n");
			exit(255);
		}
		memcpy(text + len, args[n], l);
		len = (uint16_t)(len + l);
	}
	if (!put_all(sock, &len, sizeof(len)) || !put_all(sock, text, len))
		die("the other host");
}

static int follow(int sock)
{
	int in = STDIN_FILENO;
	struct frame f;

	for (;;) {
		struct pollfd p[] = { { .fd = sock, .events = POLLIN },
				      { .fd = in, .events = POLLIN } };

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents && !pass(&in, sock, IN))
			in = -1;
		if (!p[0].revents)
			continue;
		if (!recv_frame(sock, &f)) {
			fprintf(stderr, "on: the other host is gone\n");
			return 255;
		}
		if (f.kind == STATUS)
			return (uint8_t)f.bytes[0];
		if (f.len && !put_all(f.kind, f.bytes, f.len))
			return 255;
	}
}

int main(int argc, char **argv)
{
	int sock;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && !strcmp(argv[1], "-s"))
		serve();
	if (argc < 3) {
		fprintf(stderr, "usage: on HOST COMMAND [ARG]...\n");
		return 255;
	}
	sock = ask(argv[1]);
	tell(sock, argv + 2);
	return follow(sock);
}
