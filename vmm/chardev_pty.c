/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev_pty.c - a console on a pseudo-terminal of its own (pty(7)): made and taken down by main,
 * before the guest runs and after it. In between it is a descriptor like others.
 *
 * The slave stays open here too, though nobody reads it: a terminal whose last reader goes would
 * hang up, and only asking again and again tells when there is a reader anew. So readers come and
 * go unseen; what none of them takes collects in the terminal and in our buffer, and then is lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/vm.h>

#include "chardev_internal.h"
#include "keeper.h"

#define PTS "/dev/pts/"

static int open_pair(struct chardev *c)
{
	struct termios modes;

	c->own_fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (c->own_fd < 0 || grantpt(c->own_fd) || unlockpt(c->own_fd) ||
	    ptsname_r(c->own_fd, c->pty, sizeof(c->pty)))
		return -errno;
	c->slave_fd = open(c->pty, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (c->slave_fd < 0 || tcgetattr(c->slave_fd, &modes))
		return -errno;
	/* Raw: what the guest prints must not come back as if it had been typed. */
	cfmakeraw(&modes);
	return tcsetattr(c->slave_fd, TCSANOW, &modes) ? -errno : 0;
}

/* Does a symbolic link at path lead to exactly this, or with NULL to any pty? */
static bool leads_to(const char *path, const char *pty)
{
	char target[sizeof(((struct chardev *)0)->pty)];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = '\0';
	return pty ? !strcmp(target, pty) : !strncmp(target, PTS, strlen(PTS));
}

static int make_link(struct chardev *c, const char *path, struct diag *d)
{
	int err = symlink(c->pty, path) ? -errno : 0;

	/*
	 * Numbers of ptys are soon used again, so a link that was left behind may lead somewhere.
	 */
	if (err == -EEXIST && leads_to(path, NULL) && !unlink(path))
		err = symlink(c->pty, path) ? -errno : 0;
	if (err == -EEXIST)
		return diag_set(d, err,
				"console \"%s\": something that is no link to a pty is there; "
				"remove it or choose another path",
				c->spec);
	if (err)
		return diag_errno(d, err, "console \"%s\"", c->spec);
	c->link = strdup(path);
	if (c->link)
		return keeper_add(c->vm->keeper, path, &c->link_kept, d);
	(void)unlink(path);
	return diag_set(d, -ENOMEM, "no memory for the console");
}

int pty_open(struct chardev *c, const char *path, struct diag *d)
{
	int err;

	c->kind = CHARDEV_PTY;
	err = open_pair(c);
	if (err)
		return diag_errno(d, err, "console \"%s\": a pseudo-terminal", c->spec);
	if (path)
		err = make_link(c, path, d);
	if (err)
		return err;
	c->in_fd = c->out_fd = c->own_fd;
	log_notice("console \"%s\" is %s", c->spec, c->pty);
	return 0;
}

void pty_close(struct chardev *c)
{
	/* Another guest may have made it its own since. */
	if (c->link && !c->link_kept && leads_to(c->link, c->pty))
		(void)unlink(c->link);
	free(c->link);
	c->link = NULL;
	if (c->slave_fd >= 0)
		close(c->slave_fd);
	c->slave_fd = -1;
}
