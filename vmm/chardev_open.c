/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev_open.c - what a console's specification stands for: finds or makes the descriptors and
 * decides how they are written to. Runs on main, before the guest does. And what it tells of
 * itself: control lock held.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <unvmm/report.h>
#include <unvmm/timer.h>
#include <unvmm/vm.h>

#include "chardev_internal.h"
#include "keeper.h"

/*
 * A descriptor for stdout that never blocks. O_NONBLOCK belongs to the open file description, which
 * the shell and other processes share, so it is never set there: a pipe or terminal is opened anew
 * through /proc, a socket has MSG_DONTWAIT, a regular file does not wait for a peer. What cannot be
 * opened anew (another user's terminal) is asked by poll(2) before each write.
 */
static void open_stdout(struct chardev *c)
{
	struct stat st;
	int fd;

	if (fstat(STDOUT_FILENO, &st) < 0)
		return; /* closed: as "none" */
	c->out_fd = STDOUT_FILENO;
	if (S_ISSOCK(st.st_mode)) {
		c->out_how = OUT_SOCKET;
	} else if (S_ISFIFO(st.st_mode) || isatty(STDOUT_FILENO)) {
		fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (fd >= 0)
			c->out_fd = c->own_fd = fd;
		else
			c->out_how = OUT_ASK_FIRST;
	}
}

static int open_stdio(struct chardev *c)
{
	c->kind = CHARDEV_STDIO;
	c->patient = true;
	open_stdout(c);
	if (fcntl(STDIN_FILENO, F_GETFD) < 0)
		return 0;
	c->in_fd = STDIN_FILENO;
	if (isatty(STDIN_FILENO))
		tty_open(c);
	return 0;
}

static int open_file(struct chardev *c, const char *path, struct diag *d)
{
	/*
	 * O_NONBLOCK: a FIFO without a reader is an error, not a hang. O_APPEND: whoever keeps the
	 * file small truncates it, and what comes then goes to its beginning.
	 */
	int fd = open(path,
		      O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOCTTY | O_NONBLOCK | O_CLOEXEC,
		      0600);

	if (fd < 0 && errno == ENXIO)
		return diag_set(d, -ENXIO,
				"console \"file:%s\": it is a FIFO that nobody reads, or a socket; "
				"start its reader first, or choose another path",
				path);
	if (fd < 0)
		return diag_errno(d, -errno, "console \"file:%s\"", path);
	c->kind = CHARDEV_FILE;
	c->patient = true;
	c->out_fd = c->own_fd = fd;
	return 0;
}

static int open_unix(struct chardev *c, const char *path, struct diag *d)
{
	int err = usock_listen(&c->listener, path, 1, d);

	if (!err)
		err = keeper_add(c->vm->keeper, path, &c->listener.kept, d);
	if (err)
		diag_prefix(d, "console \"unix:%s\"", path);
	c->kind = CHARDEV_UNIX;
	c->out_how = OUT_SOCKET;
	return err;
}

static int open_kind(struct chardev *c, struct diag *d)
{
	const char *spec = c->spec;

	if (strcmp(spec, "none") == 0)
		return 0;
	if (strcmp(spec, "stdio") == 0)
		return open_stdio(c);
	if (strncmp(spec, "file:", 5) == 0)
		return open_file(c, spec + 5, d);
	if (strncmp(spec, "unix:", 5) == 0)
		return open_unix(c, spec + 5, d);
	if (strcmp(spec, "pty") == 0)
		return pty_open(c, NULL, d);
	if (strncmp(spec, "pty:", 4) == 0)
		return pty_open(c, spec + 4, d);
	return diag_set(d, -EINVAL,
			"console \"%s\": must be \"stdio\", \"none\", \"file:PATH\", "
			"\"unix:PATH\", \"pty\" or \"pty:PATH\"",
			spec);
}

int chardev_open_spec(struct chardev *c, struct diag *d)
{
	int err = open_kind(c, d);

	if (err || !c->patient)
		return err;
	c->stall_fd = timer_open();
	return c->stall_fd < 0 ? diag_errno(d, c->stall_fd, "console \"%s\": a timer", c->spec) : 0;
}

/* --- what it tells ---------------------------------------------------------------------------- */

enum chardev_kind chardev_kind(const struct chardev *c)
{
	return c->kind;
}

bool chardev_connected(const struct chardev *c)
{
	return c->kind != CHARDEV_UNIX || c->in_fd >= 0;
}

void chardev_info(const struct chardev *c, struct report *r)
{
	report_text(r, "chardev", "%s", c->spec);
	if (c->pty[0])
		report_text(r, "pty", "%s", c->pty);
}

void chardev_stats(const struct chardev *c, struct report *r)
{
	report_number(r, "bytes-in", c->bytes_in);
	report_number(r, "bytes-out", c->bytes_out);
	report_number(r, "bytes-lost", c->lost);
}
