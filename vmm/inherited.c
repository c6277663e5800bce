/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inherited.c - finds the descriptors that this process was started with, and closes them. Main
 * thread.
 */
#include "inherited.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define FIRST (STDERR_FILENO + 1)

static void add(struct inherited *in, int fd)
{
	int *fds = reallocarray(in->fds, in->n + 1, sizeof(*fds));

	if (!fds) {
		close(fd); /* better gone than forgotten */
		return;
	}
	fds[in->n++] = fd;
	in->fds = fds;
}

/* getdents64(2) itself: opendir(3) would take 32 KiB for good, for a handful of names. */
static void list(struct inherited *in, int folder)
{
	char buf[1024] __attribute__((aligned(__alignof__(struct dirent64))));
	ssize_t got;

	while ((got = getdents64(folder, buf, sizeof(buf))) > 0) {
		const struct dirent64 *e;

		for (ssize_t at = 0; at < got; at += e->d_reclen) {
			char *end;
			long fd;

			e = (const struct dirent64 *)(buf + at);
			fd = strtol(e->d_name, &end, 10);
			if (!*end && fd >= FIRST && fd != folder)
				add(in, (int)fd);
		}
	}
}

void inherited_find(struct inherited *in)
{
	int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	*in = (struct inherited){ 0 };
	if (folder < 0) {
		(void)close_range(FIRST, ~0u, 0);
		return;
	}
	list(in, folder);
	close(folder);
	for (unsigned int i = 0; i < in->n; i++)
		(void)fcntl(in->fds[i], F_SETFD, FD_CLOEXEC);
}

void inherited_close(struct inherited *in)
{
	for (unsigned int i = 0; i < in->n; i++)
		close(in->fds[i]);
	free(in->fds);
	*in = (struct inherited){ 0 };
}
