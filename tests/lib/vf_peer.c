/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vf_peer.c - starts and ends the independent vfio-user server, see vf_peer.h.
 */
#include "vf_peer.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define END_TRIES 600 /* of 10 ms: a server that was told to be late sleeps for seconds */

static void become_server(int sock, int ready, const char *const *args)
{
	const char *argv[VF_PEER_ARGS + 7] = { "python3", "tests/peers/vfio_user_server.py",
					       "--fd" };
	char sock_number[16], ready_number[16];
	int n = 3;

	snprintf(sock_number, sizeof(sock_number), "%d", sock);
	snprintf(ready_number, sizeof(ready_number), "%d", ready);
	argv[n++] = sock_number;
	argv[n++] = "--ready";
	argv[n++] = ready_number;
	for (int i = 0; args && args[i] && i < VF_PEER_ARGS; i++)
		argv[n++] = args[i];
	fcntl(sock, F_SETFD, 0);
	fcntl(ready, F_SETFD, 0);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	_exit(127);
}

bool vf_peer_start(struct vf_peer *p, const char *const *args)
{
	int pair[2], ready[2];
	char byte;
	bool ok;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) || pipe2(ready, O_CLOEXEC))
		return false;
	p->sock = pair[0];
	p->pid = fork();
	if (!p->pid)
		become_server(pair[1], ready[1], args);
	close(pair[1]);
	close(ready[1]);
	/* Deadlines are measured in the tests; that an interpreter has to start is no part of them.
	 */
	ok = p->pid > 0 && read(ready[0], &byte, 1) == 1;
	close(ready[0]);
	return ok;
}

bool vf_peer_stop(struct vf_peer *p)
{
	int status = 0;

	for (int i = 0; i < END_TRIES; i++) {
		if (waitpid(p->pid, &status, WNOHANG) == p->pid)
			return WIFEXITED(status) && !WEXITSTATUS(status);
		usleep(10000);
	}
	kill(p->pid, SIGKILL);
	waitpid(p->pid, &status, 0);
	return false;
}
