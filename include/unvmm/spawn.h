/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn.h - starts a helper program. It has no signals blocked or ignored that we block or ignore,
 * and of our descriptors only what is listed: all others are close-on-exec. Main, before the
 * sandbox is entered.
 */
#ifndef UNVMM_SPAWN_H
#define UNVMM_SPAWN_H

#include <sys/types.h>

#include <unvmm/compiler.h>

struct spawn_fd {
	int fd; /* -1: /dev/null */
	int as; /* its number there */
};

/*
 * program: a path, or a name to be looked for in PATH. No `as` may be the `fd` of a later one, but
 * its own. The caller waits for *pid. -errno: nothing runs; -ENOENT: there is no such program.
 */
int spawn_program(const char *program, char *const argv[], const struct spawn_fd *fds,
		  unsigned int n, pid_t *pid) must_check;

#endif
