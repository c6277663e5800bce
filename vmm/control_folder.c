/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control_folder.c - where the control sockets of this user's guests are. Main thread, of a guest
 * and of the commands that look for it.
 */
#include <unvmm/control.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int folder_name(char *path, size_t size, struct diag *d)
{
	const char *own = getenv("UNVMM_RUNTIME_DIR");
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int n;

	if (own && *own)
		n = snprintf(path, size, "%s", own);
	else if (geteuid() == 0)
		n = snprintf(path, size, "/run/unvmm");
	else if (xdg && *xdg)
		n = snprintf(path, size, "%s/unvmm", xdg);
	else
		return diag_set(
			d, -ENOENT,
			"there is no folder for control sockets: XDG_RUNTIME_DIR is not set");
	if (n < 0 || (size_t)n >= size)
		return diag_set(d, -ENAMETOOLONG,
				"the path of the folder for control sockets is too long; a "
				"socket's path has at most 107 characters");
	return 0;
}

int control_folder(char *path, size_t size, bool make, struct diag *d)
{
	int err = folder_name(path, size, d);
	struct stat st;

	if (err)
		return err;
	if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
		return diag_errno(d, -errno, "the folder %s cannot be made", path);
	if (stat(path, &st) < 0)
		return diag_errno(d, -errno, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return diag_set(d, -ENOTDIR, "%s must be a folder", path);
	/* Whoever may write there could put a socket of his own in place of a guest's. */
	if (st.st_uid != geteuid())
		return diag_set(d, -EPERM,
				"the folder %s belongs to user %u; it must be this user's own "
				"(%u)",
				path, st.st_uid, geteuid());
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return diag_set(d, -EPERM,
				"others may write to the folder %s; \"chmod go-w\" mends that",
				path);
	return 0;
}
