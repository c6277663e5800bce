/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.c - the process that removes the names of sockets behind a guest; see keeper.h. keep() and
 * what it calls run in that process, the rest on main.
 */
#include "keeper.h"

#include "usock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAMES_MAX 32
#define PATH_SIZE 1000
#define WAIT_MS	  10000

/* One message each; a message of another size is the end of the list. */
struct entry {
	dev_t dev;
	ino_t ino;
	char path[PATH_SIZE];
};

struct held {
	int folder, file;
	dev_t dev;
	ino_t ino;
	char name[NAME_MAX + 1];
};

/* --- the keeper's process -------------------------------------------------------------------- */

static void keep_one_capability(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };
	uint32_t keep;

	if (syscall(SYS_capget, &header, data) < 0)
		return;
	keep = data[0].permitted & CAP_TO_MASK(CAP_DAC_OVERRIDE);
	memset(data, 0, sizeof(data));
	data[0].permitted = data[0].effective = keep;
	syscall(SYS_capset, &header, data); /* to have less is always allowed */
}

static ssize_t receive(void *buf, size_t size)
{
	ssize_t n;

	do
		n = read(0, buf, size);
	while (n < 0 && errno == EINTR);
	return n;
}

/* Opens what holds on to a name: its folder, and the file, so that no other gets its number. */
static bool hold(struct held *h, const struct entry *e)
{
	const char *slash = strrchr(e->path, '/');
	const char *base = slash ? slash + 1 : e->path;
	size_t len = strnlen(base, NAME_MAX);
	char folder[PATH_SIZE] = ".";
	struct stat st;

	if (slash)
		memcpy(folder, e->path, (size_t)(slash - e->path) + 1);
	memcpy(h->name, base, len);
	h->name[len] = '\0';
	h->file = open(e->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	h->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	h->dev = e->dev;
	h->ino = e->ino;
	return h->folder >= 0 && fstat(h->file, &st) == 0 && st.st_dev == h->dev &&
	       st.st_ino == h->ino;
}

/* Another process may take a stale name for its own at this moment: both lock the folder. */
static void remove_name(const struct held *h)
{
	struct stat st;

	usock_lock(h->folder);
	if (fstatat(h->folder, h->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == h->dev &&
	    st.st_ino == h->ino)
		(void)unlinkat(h->folder, h->name, 0);
	(void)flock(h->folder, LOCK_UN);
}

/* The names, up to a shorter message; false: the guest's process has ended before that. */
static bool learn(struct held *held, unsigned int *n)
{
	struct entry e;
	ssize_t got;

	while ((got = receive(&e, sizeof(e))) == sizeof(e))
		if (*n < NAMES_MAX && hold(&held[*n], &e))
			++*n;
	return got > 0;
}

static _Noreturn void keep(int fd, const struct sandbox *s)
{
	struct held held[NAMES_MAX];
	struct diag d = { 0 };
	unsigned int n = 0;
	sigset_t all;
	char byte;

	/* Whatever ends the guest's process group must not end this: it has its work then. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	(void)setsid();
	(void)prctl(PR_SET_NAME, "unvmm-keeper", 0, 0, 0);
	if (dup2(fd, 0) < 0 || close_range(1, ~0u, 0) < 0)
		_exit(1);
	keep_one_capability();
	/* Nobody reads the answer: then there is work already. */
	if (learn(held, &n) && write(0, "", 1) == 1 && sandbox_enter(s, SANDBOX_KEEPER, &d))
		_exit(1);
	while (receive(&byte, 1) > 0)
		; /* nothing is heard any more */
	while (n--)
		remove_name(&held[n]);
	_exit(0);
}

/* --- main ------------------------------------------------------------------------------------ */

int keeper_start(struct keeper *k, const struct sandbox *s, struct diag *d)
{
	int pair[2];
	pid_t pid;

	*k = (struct keeper){ .fd = -1 };
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return diag_errno(d, -errno, "sandbox: cannot make a socket pair");
	pid = fork();
	if (pid == 0)
		keep(pair[1], s);
	close(pair[1]);
	if (pid < 0) {
		int err = diag_errno(d, -errno, "sandbox: cannot start the keeper of the sockets");

		close(pair[0]);
		return err;
	}
	k->fd = pair[0];
	return 0;
}

static int keeper_ended(struct diag *d, int err)
{
	return diag_errno(d, err, "sandbox: the keeper of the sockets has ended");
}

int keeper_add(struct keeper *k, const char *path, bool *kept, struct diag *d)
{
	struct entry e = { 0 };
	size_t len = strlen(path);
	struct stat st;

	*kept = false;
	if (!k || k->fd < 0 || lstat(path, &st) < 0) /* somebody was faster */
		return 0;
	if (k->n == NAMES_MAX)
		return diag_set(d, -ENOSPC, "sandbox: more than %d sockets and links", NAMES_MAX);
	if (len >= sizeof(e.path))
		return diag_set(d, -ENAMETOOLONG, "sandbox: the path %.40s... is too long", path);
	e.dev = st.st_dev;
	e.ino = st.st_ino;
	memcpy(e.path, path, len + 1);
	if (send(k->fd, &e, sizeof(e), MSG_NOSIGNAL) < 0)
		return keeper_ended(d, -errno);
	k->n++;
	*kept = true;
	return 0;
}

int keeper_settle(struct keeper *k, struct diag *d)
{
	struct pollfd pfd = { .fd = k->fd, .events = POLLIN };
	char answer;

	if (k->fd < 0)
		return 0;
	if (!k->n) {
		keeper_stop(k);
		return 0;
	}
	if (send(k->fd, "", 1, MSG_NOSIGNAL) < 0)
		return keeper_ended(d, -errno);
	/* Only when it has hold of them may they be replaced. */
	if (poll(&pfd, 1, WAIT_MS) != 1 || read(k->fd, &answer, 1) != 1)
		return keeper_ended(d, -EPIPE);
	return 0;
}

void keeper_stop(struct keeper *k)
{
	struct pollfd pfd = { .fd = k->fd, .events = POLLIN };

	if (k->fd < 0)
		return;
	/* It reads the end of this direction; the end of the other comes with its own. */
	shutdown(k->fd, SHUT_WR);
	(void)poll(&pfd, 1, WAIT_MS);
	close(k->fd);
	k->fd = -1;
}
