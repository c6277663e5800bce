/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_passt.c - frames through passt, which turns them into ordinary sockets of an ordinary user:
 * a network without privileges. passt is started here on one end of a socket pair and ends with it.
 * Opened and closed by main, the rest runs on the loop's thread.
 *
 * On the stream each frame follows its length, 4 bytes big-endian; there is no virtio header.
 */
#include "net_backend.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/spawn.h>

#define LENGTH	 4u
#define RX_BYTES KiB(128) /* two of the largest frames, or many small ones in one read */
#define TX_BYTES KiB(128) /* the unsent rest of one frame */
#define START_MS 10000
#define CHILD_FD 3

struct net_passt {
	struct net_backend b;
	int fd;
	bool dead, want_rx, want_tx;
	struct loop_fd in, out;
	struct loop_work ready;	    /* frames are in rx[] already */
	unsigned int rx_at, rx_end; /* of rx[]: not yet taken */
	unsigned int tx_at, tx_end; /* of tx[]: not yet sent */
	uint8_t rx[RX_BYTES], tx[TX_BYTES];
};

static struct net_passt *of_backend(struct net_backend *b)
{
	return container_of(b, struct net_passt, b);
}

static void died(struct net_passt *p, const char *why)
{
	if (p->dead)
		return;
	p->dead = true;
	p->rx_at = p->rx_end = p->tx_at = p->tx_end = 0;
	loop_del(&p->in);
	loop_del(&p->out);
	log_error("%s: passt %s; the guest's link is down", p->b.id, why);
	p->b.link = false;
	p->b.events->link_changed(&p->b);
	if (p->want_tx)
		p->b.events->tx_ready(&p->b); /* what waits is lost, but does not hang */
	p->want_tx = false;
}

/* --- from passt ------------------------------------------------------------------------------ */

/* The length of the next frame if all of it is in rx[], 0 if not, -EPROTO: that is no frame. */
static int next_frame(const struct net_passt *p)
{
	uint32_t len;

	if (p->rx_end - p->rx_at < LENGTH)
		return 0;
	memcpy(&len, p->rx + p->rx_at, LENGTH);
	len = ntohl(len);
	if (!len || len > NET_FRAME_MAX)
		return -EPROTO;
	return p->rx_end - p->rx_at - LENGTH >= len ? (int)len : 0;
}

static int fill(struct net_passt *p)
{
	ssize_t got;

	if (p->rx_at) {
		memmove(p->rx, p->rx + p->rx_at, p->rx_end - p->rx_at);
		p->rx_end -= p->rx_at;
		p->rx_at = 0;
	}
	do
		got = read(p->fd, p->rx + p->rx_end, sizeof(p->rx) - p->rx_end);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	p->rx_end += (unsigned int)got;
	return got ? 0 : -EPIPE;
}

static ssize_t passt_rx(struct net_backend *b, unsigned int q, const struct iovec *iov,
			unsigned int n)
{
	static const struct virtio_net_hdr_v1 none;
	struct net_passt *p = of_backend(b);
	int err, len;

	(void)q;
	if (p->dead)
		return -ENETDOWN;
	while (!(len = next_frame(p))) {
		err = fill(p);
		if (err == -EAGAIN)
			return err;
		if (err) {
			died(p, "has ended");
			return -ENETDOWN;
		}
	}
	if (len < 0) {
		died(p, "sends what is no frame");
		return -ENETDOWN;
	}
	net_iov_store(iov, n, 0, &none, NET_HDR);
	net_iov_store(iov, n, NET_HDR, p->rx + p->rx_at + LENGTH, (size_t)len);
	p->rx_at += LENGTH + (unsigned int)len;
	return (ssize_t)NET_HDR + len;
}

static void ready_work(struct loop_work *w)
{
	struct net_passt *p = container_of(w, struct net_passt, ready);

	if (p->want_rx && !p->dead)
		p->b.events->rx_ready(&p->b, 0);
}

static void in_ready(struct loop_fd *lf, uint32_t revents)
{
	struct net_passt *p = container_of(lf, struct net_passt, in);

	if (p->want_rx)
		p->b.events->rx_ready(&p->b, 0);
	else if (revents & (POLLHUP | POLLERR))
		died(p, "has ended");
	else
		loop_del(lf); /* frames that nobody can take yet */
}

static void passt_want_rx(struct net_backend *b, unsigned int q, bool want)
{
	struct net_passt *p = of_backend(b);

	(void)q;
	p->want_rx = want;
	if (!want || p->dead)
		return;
	if (next_frame(p))
		loop_call(b->loop, &p->ready);
	else if (!p->in.loop && loop_add(b->loop, &p->in, p->fd, POLLIN, in_ready))
		died(p, "cannot be watched for lack of memory");
}

/* --- to passt -------------------------------------------------------------------------------- */

static void out_ready(struct loop_fd *lf, uint32_t revents);

static void wait_for_room(struct net_passt *p)
{
	if (!p->out.loop && loop_add(p->b.loop, &p->out, p->fd, POLLOUT, out_ready))
		died(p, "cannot be watched for lack of memory");
}

/*
 * No MSG_NOSIGNAL: the thread blocks all signals (loop.h), and writev does with fewer of the system
 * calls that a socket has.
 */
static ssize_t put(struct net_passt *p, const struct iovec *iov, unsigned int n)
{
	ssize_t done;

	do
		done = writev(p->fd, iov, (int)n);
	while (done < 0 && errno == EINTR);
	if (done >= 0)
		return done;
	if (errno == EAGAIN)
		return 0;
	died(p, "has ended");
	return -ENETDOWN;
}

/* The rest of the last frame. True: the stream stands between two frames. */
static bool flush(struct net_passt *p)
{
	struct iovec v = { .iov_base = p->tx + p->tx_at, .iov_len = p->tx_end - p->tx_at };
	ssize_t done;

	if (!v.iov_len)
		return true;
	done = put(p, &v, 1);
	if (done > 0)
		p->tx_at += (unsigned int)done;
	return p->tx_at == p->tx_end;
}

static void out_ready(struct loop_fd *lf, uint32_t revents)
{
	struct net_passt *p = container_of(lf, struct net_passt, out);

	(void)revents;
	if (p->dead || !flush(p) || p->dead)
		return;
	loop_del(lf);
	if (!p->want_tx)
		return;
	p->want_tx = false;
	p->b.events->tx_ready(&p->b);
}

static int passt_tx(struct net_backend *b, unsigned int q, struct iovec *iov, unsigned int n)
{
	struct net_passt *p = of_backend(b);
	uint32_t total = 0, length;
	ssize_t done;

	(void)q;
	for (unsigned int i = 1; i < n; i++)
		total += (uint32_t)iov[i].iov_len;
	length = htonl(total);
	total += LENGTH;
	iov[0] = (struct iovec){ .iov_base = &length, .iov_len = LENGTH };
	if (p->dead)
		return -ENETDOWN;
	done = flush(p) ? put(p, iov, n) : 0;
	if (done < 0 || p->dead)
		return -ENETDOWN;
	if (done == total)
		return 0;
	wait_for_room(p);
	if (!done) {
		p->want_tx = true;
		return -EAGAIN;
	}
	p->tx_at = 0;
	p->tx_end = (unsigned int)net_iov_load(iov, n, (size_t)done, p->tx, sizeof(p->tx));
	return 0;
}

/* --- life ------------------------------------------------------------------------------------ */

static void passt_attach(struct net_backend *b)
{
	struct net_passt *p = of_backend(b);

	/* Watched from the beginning, so that its end is noticed while the guest has no buffers. */
	if (loop_add(b->loop, &p->in, p->fd, POLLIN, in_ready))
		died(p, "cannot be watched for lack of memory");
}

static void passt_detach(struct net_backend *b)
{
	loop_del(&of_backend(b)->in);
	loop_del(&of_backend(b)->out);
}

static int passt_set_queues(struct net_backend *b, unsigned int n)
{
	(void)b;
	(void)n;
	return 0;
}

/* passt notices the closed socket and ends. */
static void passt_close(struct net_backend *b)
{
	close(of_backend(b)->fd);
	free(of_backend(b));
}

static const struct net_backend_ops passt_ops = {
	.name = "passt",
	.attach = passt_attach,
	.detach = passt_detach,
	.rx = passt_rx,
	.want_rx = passt_want_rx,
	.tx = passt_tx,
	.set_queues = passt_set_queues,
	.close = passt_close,
};

/* --- starting it ----------------------------------------------------------------------------- */

static int spawn(pid_t *pid, int sock, int messages, unsigned int mtu)
{
	char fd[12], mtu_text[12];
	char *argv[] = { (char[]){ "passt" },
			 (char[]){ "-e" },
			 (char[]){ "-q" },
			 (char[]){ "-F" },
			 fd,
			 (char[]){ "-m" },
			 mtu_text,
			 NULL };
	/* Not the terminal: passt must not take what is typed to the guest. */
	const struct spawn_fd fds[] = { { -1, STDIN_FILENO },
					{ -1, STDOUT_FILENO },
					{ messages, STDERR_FILENO },
					{ sock, CHILD_FD } };

	snprintf(fd, sizeof(fd), "%d", CHILD_FD);
	snprintf(mtu_text, sizeof(mtu_text), "%u", mtu);
	if (!mtu)
		argv[5] = NULL;
	return spawn_program("passt", argv, fds, ARRAY_SIZE(fds), pid);
}

/*
 * passt goes to the background, into a PID namespace of its own, when it is ready to serve; what we
 * started ends then, or earlier if it cannot. 0 or its status.
 */
static int wait_started(pid_t pid)
{
	struct pollfd pfd = { .fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };
	int status = 0, n;

	do
		n = pfd.fd < 0 ? 1 : poll(&pfd, 1, START_MS); /* without pidfds: no deadline */
	while (n < 0 && errno == EINTR);
	if (pfd.fd >= 0)
		close(pfd.fd);
	if (n == 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return n == 0 ? -ETIMEDOUT : status;
}

/* Its last words: the end of what it wrote, without the line's end. */
static void last_line(int fd, char *buf, size_t size)
{
	ssize_t got = read(fd, buf, size - 1);
	char *line;

	buf[got > 0 ? got : 0] = '\0';
	buf[strcspn(buf, "\r")] = '\0';
	while (*buf && buf[strlen(buf) - 1] == '\n')
		buf[strlen(buf) - 1] = '\0';
	line = strrchr(buf, '\n');
	if (line)
		memmove(buf, line + 1, strlen(line));
}

static int start(int sock, unsigned int mtu, struct diag *d)
{
	char words[2048];
	int messages[2], status, err;
	pid_t pid;

	if (pipe2(messages, O_CLOEXEC | O_NONBLOCK) < 0)
		return diag_errno(d, -errno, "cannot start passt");
	err = spawn(&pid, sock, messages[1], mtu);
	close(messages[1]);
	status = err ? 0 : wait_started(pid);
	last_line(messages[0], words, sizeof(words));
	close(messages[0]);
	if (err == -ENOENT)
		return diag_set(d, err,
				"there is no passt on this host; Debian has it in the "
				"package passt, or use a tap");
	if (err)
		return diag_errno(d, err, "cannot start passt");
	if (status == -ETIMEDOUT)
		return diag_set(d, status, "passt was not ready in %d s", START_MS / 1000);
	if (status)
		return diag_set(d, -EIO,
				"passt cannot start: %.200s (it needs an interface of this host "
				"with an address and a default route)",
				words[0] ? words : "it gives no reason");
	return 0;
}

int net_passt_open(struct net_backend **b, const char *id, unsigned int mtu, struct diag *d)
{
	int pair[2] = { -1, -1 }, moved, err;
	struct net_passt *p;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return diag_errno(d, -errno, "cannot make a socket pair for passt");
	/* Away from the numbers that the child's own descriptors get. */
	moved = fcntl(pair[1], F_DUPFD_CLOEXEC, CHILD_FD + 1);
	err = moved < 0 ? diag_errno(d, -errno, "cannot start passt") : start(moved, mtu, d);
	if (moved >= 0)
		close(moved);
	close(pair[1]);
	p = err ? NULL : calloc(1, sizeof(*p));
	if (!err && (!p || fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0))
		err = diag_errno(d, -ENOMEM, "%s", id);
	if (err) {
		free(p);
		close(pair[0]);
		return err;
	}
	p->b.ops = &passt_ops;
	p->b.id = id;
	p->b.link = true;
	p->fd = pair[0];
	p->ready.fn = ready_work;
	*b = &p->b;
	return 0;
}
