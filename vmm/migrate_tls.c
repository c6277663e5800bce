/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate_tls.c - finds and starts the helper that encrypts a migration; see migrate_tls.h. Main
 * thread.
 */
#include "migrate_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <unvmm/spawn.h>
#include <unvmm/timer.h>

#define REPORT_MS 20000 /* the helper's own deadline is 10 s */
#define END_MS	  5000
#define LINE_SIZE 600u

/* --- the program ----------------------------------------------------------------------------- */

/* "DIR/unvmm" -> "DIR/<rest>", if that can be run. */
static bool beside(const char *self, const char *rest, char *path, size_t size)
{
	int len = (int)(strrchr(self, '/') - self);
	int n = snprintf(path, size, "%.*s/%s", len, self, rest);

	return n > 0 && (size_t)n < size && access(path, X_OK) == 0;
}

/* $UNVMM_TLS, or where the build and the installation put it, from where this program is. */
static int find(char *path, size_t size, struct diag *d)
{
	const char *named = getenv("UNVMM_TLS");
	char self[PATH_MAX];
	ssize_t n;

	if (named && *named) {
		snprintf(path, size, "%s", named);
		return 0;
	}
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0 && self[0] == '/') {
		self[n] = '\0';
		if (beside(self, "unvmm-tls", path, size) ||
		    beside(self, "../libexec/unvmm/unvmm-tls", path, size))
			return 0;
	}
	return diag_set(d, -ENOENT,
			"the program unvmm-tls is neither beside unvmm nor in ../libexec/unvmm; "
			"\"make install\" puts it there");
}

static int start(const struct migrate_tls *t, bool server, int local, int net, int report,
		 struct diag *d)
{
	char path[PATH_MAX], local_text[12], net_text[12];
	const char *argv[12] = { "unvmm-tls",
				 server ? "accept" : "connect",
				 "--background",
				 "--creds",
				 t->folder ? t->folder : MIGRATE_TLS_FOLDER,
				 "--local",
				 local_text,
				 "--net",
				 net_text };
	const struct spawn_fd fds[] = {
		{ -1, STDIN_FILENO }, { report, STDOUT_FILENO }, { local, local }, { net, net }
	};
	int err = find(path, sizeof(path), d), status;
	pid_t pid;

	if (err)
		return err;
	snprintf(local_text, sizeof(local_text), "%d", local);
	snprintf(net_text, sizeof(net_text), "%d", net);
	if (t->peer) {
		argv[9] = "--peer";
		argv[10] = t->peer;
	}
	err = spawn_program(path, (char *const *)(uintptr_t)argv, fds, ARRAY_SIZE(fds), &pid);
	if (err)
		return diag_errno(d, err, "cannot start %.200s", path);
	/* It goes to the background at once. */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return 0;
}

/* --- what it reports -------------------------------------------------------------------------- */

static bool readable(int fd, uint64_t until)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	uint64_t now;
	int n;

	do {
		now = timer_now_ms();
		n = poll(&pfd, 1, now < until ? (int)(until - now) : 0);
	} while (n < 0 && errno == EINTR);
	return n > 0;
}

/* One line: "+", or "-" and a sentence. */
static int hear(int report, struct diag *d)
{
	uint64_t until = timer_now_ms() + REPORT_MS;
	char line[LINE_SIZE];
	size_t len = 0;

	while (len < sizeof(line) - 1 && readable(report, until)) {
		ssize_t n = read(report, line + len, 1);

		if (n <= 0 || line[len] == '\n')
			break;
		len++;
	}
	line[len] = '\0';
	if (line[0] == '+')
		return 0;
	return diag_set(d, -EACCES, "TLS: %s",
			line[0] == '-' ? line + 1 : "unvmm-tls has ended without a word");
}

static int encrypt(const struct migrate_tls *t, bool server, int net, int *ended, struct diag *d)
{
	int pair[2] = { -1, -1 }, report[2] = { -1, -1 }, err = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    pipe2(report, O_CLOEXEC) < 0)
		err = diag_errno(d, -errno, "cannot make a socket pair for unvmm-tls");
	if (!err)
		err = start(t, server, pair[1], net, report[1], d);
	if (pair[1] >= 0)
		close(pair[1]);
	if (report[1] >= 0)
		close(report[1]);
	close(net);
	if (!err)
		err = hear(report[0], d);
	if (!err && ended)
		*ended = report[0];
	else if (report[0] >= 0)
		close(report[0]);
	if (!err)
		return pair[0];
	if (pair[0] >= 0)
		close(pair[0]); /* which ends it, if it runs */
	return err;
}

int migrate_tls_connect(const struct migrate_tls *t, int net, int *ended, struct diag *d)
{
	*ended = -1;
	return encrypt(t, false, net, ended, d);
}

int migrate_tls_accept(const struct migrate_tls *t, int listener, struct diag *d)
{
	return encrypt(t, true, listener, NULL, d);
}

void migrate_tls_end(int ended)
{
	if (ended < 0)
		return;
	(void)readable(ended, timer_now_ms() + END_MS);
	close(ended);
}
