/* SPDX-License-Identifier: Apache-2.0 */
/* spawn.c - starts a helper program; see spawn.h. Main thread. */
#include <unvmm/spawn.h>

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

int spawn_program(const char *program, char *const argv[], const struct spawn_fd *fds,
		  unsigned int n, pid_t *pid)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t set;
	int err = 0;

	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	sigemptyset(&set);
	posix_spawnattr_setsigmask(&attr, &set);
	sigaddset(&set, SIGPIPE);
	sigaddset(&set, SIGXFSZ);
	posix_spawnattr_setsigdefault(&attr, &set);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	/* To its own number: that takes close-on-exec away, there only. */
	for (unsigned int i = 0; i < n && !err; i++)
		err = fds[i].fd < 0
			      ? posix_spawn_file_actions_addopen(&files, fds[i].as, "/dev/null",
								 O_RDWR, 0)
			      : posix_spawn_file_actions_adddup2(&files, fds[i].fd, fds[i].as);
	if (!err)
		err = posix_spawnp(pid, program, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	return -err;
}
