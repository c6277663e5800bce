/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev_open.c - what a console's specification stands for: finds or makes the descriptors and
 * decides how they are written to. Runs on main, before the guest does.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chardev_internal.h"

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
	c->patient = true;
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

static int open_stdio(struct chardev *c, struct diag *d)
{
	open_stdout(c);
	if (fcntl(STDIN_FILENO, F_GETFD) < 0)
		return 0;
	c->in_fd = STDIN_FILENO;
	if (!isatty(STDIN_FILENO))
		return 0;
	return tty_open(c, d);
}

static int open_file(struct chardev *c, const char *path, struct diag *d)
{
	/* O_NONBLOCK: a FIFO without a reader is an error, not a hang. */
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0600);

	if (fd < 0)
		return diag_errno(d, -errno, "console \"file:%s\"", path);
	c->out_fd = c->own_fd = fd;
	return 0;
}

static int open_unix(struct chardev *c, const char *path, struct diag *d)
{
	int err = usock_listen(&c->listener, path, 1, d);

	if (err)
		diag_prefix(d, "console \"unix:%s\"", path);
	c->out_how = OUT_SOCKET;
	return err;
}

int chardev_open_spec(struct chardev *c, const char *spec, struct diag *d)
{
	if (strcmp(spec, "none") == 0)
		return 0;
	if (strcmp(spec, "stdio") == 0)
		return open_stdio(c, d);
	if (strncmp(spec, "file:", 5) == 0)
		return open_file(c, spec + 5, d);
	if (strncmp(spec, "unix:", 5) == 0)
		return open_unix(c, spec + 5, d);
	return diag_set(
		d, -EINVAL,
		"console \"%s\": must be \"stdio\", \"file:PATH\", \"unix:PATH\" or \"none\"",
		spec);
}
