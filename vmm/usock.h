/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usock.h - UNIX sockets in the file system: listening ones, which take the place of what a dead
 * process left behind and never that of a living one, and connecting to them.
 *
 * Processes that make or remove a socket hold a lock on its folder meanwhile, so that none takes
 * another's, just bound and not yet listening, for stale. A folder that cannot be locked within a
 * moment (somebody else may hold it for ever) is used all the same.
 *
 * Thread: any; the caller's data. Blocks for 1.2 s at most, and only when something died or hangs.
 */
#ifndef UNVMM_VMM_USOCK_H
#define UNVMM_VMM_USOCK_H

#include <stdbool.h>
#include <sys/stat.h>

#include <unvmm/diag.h>

#define USOCK_PATH_MAX 107 /* characters that fit into a struct sockaddr_un */

struct usock {
	int fd;	    /* -1: none */
	char *path; /* owned */
	struct stat stat;
	bool kept; /* path is for the keeper to remove: keeper_add() */
};

/*
 * Makes a socket of mode 0600 at path that listens, close-on-exec and non-blocking. -EADDRINUSE:
 * a process listens there. The sentence does not name the path: prefix it.
 */
int usock_listen(struct usock *u, const char *path, int backlog, struct diag *d) must_check;
/* Closes it, and removes the path if it still leads to this socket and it is not the keeper's. */
void usock_close(struct usock *u);

/* A connection that does not block, or -errno: -ECONNREFUSED when nobody listens, -EAGAIN when the
 * listener's queue is full. */
int usock_connect(const char *path) must_check;
/* Locks a folder that is open, or gives up after 0.2 s. Closing it unlocks it. */
void usock_lock(int folder);
/* Removes the socket at path if nobody listens there. */
void usock_remove_stale(const char *path);

#endif
