/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usock.c - listening UNIX sockets that replace stale ones. Any thread; see usock.h.
 */
#include "usock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LOCK_TRIES 200 /* of 1 ms */
#define ORPHAN_MS  1000

void usock_lock(int folder)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	for (unsigned int i = 0; i < LOCK_TRIES; i++) {
		if (!flock(folder, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK)
			break;
		nanosleep(&pause, NULL);
	}
}

/* The folder of path, locked; -1 if it cannot be. Closing it unlocks it. */
static int lock_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	char folder[USOCK_PATH_MAX + 1] = ".";
	int fd;

	if (slash)
		memcpy(folder, path, (size_t)(slash - path) + 1);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		usock_lock(fd);
	return fd;
}

static void unlock_folder(int fd)
{
	if (fd >= 0)
		close(fd);
}

static int new_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? -errno : fd;
}

static int address(struct sockaddr_un *addr, const char *path)
{
	size_t len = strlen(path);

	if (!len || len > USOCK_PATH_MAX)
		return -ENAMETOOLONG;
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(addr->sun_path, path, len);
	return 0;
}

/*
 * Whether the listener that took our connection died already. An io_uring that watched it is taken
 * down behind the end of its process, and until then the kernel takes connections for nobody: they
 * break when it lets go. A daemon that forked behind listen() looks alike and does not break.
 */
static bool orphaned(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid > 0 &&
	       kill(peer.pid, 0) < 0 && errno == ESRCH && poll(&pfd, 1, ORPHAN_MS) > 0 &&
	       (pfd.revents & POLLHUP);
}

int usock_connect(const char *path)
{
	struct sockaddr_un addr;
	int err = address(&addr, path), fd;

	if (err)
		return err;
	fd = new_socket();
	if (fd < 0)
		return fd;
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	if (orphaned(fd)) {
		close(fd);
		return -ECONNREFUSED;
	}
	return fd;
}

/* The folder is locked. 0: nothing is in the way any more. */
static int make_room(const char *path, struct diag *d)
{
	struct stat st;
	int fd;

	if (lstat(path, &st) < 0)
		return 0; /* if that is no good sign, bind() says so */
	if (!S_ISSOCK(st.st_mode))
		return diag_set(d, -EEXIST,
				"something that is no socket is there; remove it or choose another "
				"path");
	fd = usock_connect(path);
	if (fd >= 0)
		close(fd);
	if (fd != -ECONNREFUSED)
		return diag_set(d, -EADDRINUSE,
				"another process listens there; choose another path");
	(void)unlink(path); /* if it fails, so does bind(), and says why */
	return 0;
}

/* Returns -error. */
static int why_not(const char *path, struct diag *d, int error)
{
	const char *slash = strrchr(path, '/');

	if (error != ENOENT || !slash)
		return diag_set(d, -error, "%s", strerror(error));
	return diag_set(d, -error, "there is no folder %.*s; make it or choose another path",
			(int)(slash - path), path);
}

int usock_listen(struct usock *u, const char *path, int backlog, struct diag *d)
{
	struct sockaddr_un addr;
	int lock, err;

	*u = (struct usock){ .fd = -1 };
	if (address(&addr, path))
		return diag_set(d, -ENAMETOOLONG, "the path must have 1 to %d characters",
				USOCK_PATH_MAX);
	u->path = strdup(path);
	if (!u->path)
		return diag_set(d, -ENOMEM, "out of memory");
	lock = lock_folder(path);
	err = make_room(path, d);
	if (!err)
		u->fd = new_socket();
	/*
	 * bind() gives the file the mode of the socket's inode: it is 0600 from its first moment.
	 */
	if (!err && (u->fd < 0 || fchmod(u->fd, 0600) < 0 ||
		     bind(u->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		     lstat(path, &u->stat) < 0 || listen(u->fd, backlog) < 0))
		err = why_not(path, d, errno);
	unlock_folder(lock);
	if (err)
		usock_close(u);
	return err;
}

void usock_close(struct usock *u)
{
	struct stat st;

	/* Only our own: by now another process may have put one of its own there. */
	if (u->path && u->stat.st_ino && !u->kept && lstat(u->path, &st) == 0 &&
	    st.st_ino == u->stat.st_ino && st.st_dev == u->stat.st_dev)
		(void)unlink(u->path);
	if (u->fd >= 0)
		close(u->fd);
	free(u->path);
	*u = (struct usock){ .fd = -1 };
}

void usock_remove_stale(const char *path)
{
	struct stat st;
	int lock, fd;

	if (strlen(path) > USOCK_PATH_MAX || lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	lock = lock_folder(path);
	fd = usock_connect(path);
	if (fd >= 0)
		close(fd);
	else if (fd == -ECONNREFUSED)
		(void)unlink(path);
	unlock_folder(lock);
}
