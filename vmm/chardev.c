/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev.c - the other end of a console: stdio, a file, a UNIX socket, a pty, or nothing.
 * Runs on the thread that holds the control lock; descriptors are watched on the main loop. What is
 * particular to a terminal is in chardev_tty.c, to a pty in chardev_pty.c, opening in
 * chardev_open.c.
 *
 * Output of one byte is one write(2) and nothing else, on a descriptor that never blocks. When it
 * would block, bytes collect in a buffer until the main loop sees that the peer takes more. A full
 * buffer loses output to a socket or a pty at once. stdio is the operator's own, often a pipe to
 * a pager or to a log collector that is only slow: there the device is held, as long as the peer
 * takes at least something every STALL_MS. A peer that does not is left behind, and output to it is
 * dropped, until it has emptied the buffer.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <unvmm/chardev.h>
#include <unvmm/log.h>
#include <unvmm/timer.h>
#include <unvmm/vm.h>

#include "chardev_internal.h"

#define STALL_MS 1000
#define CLOSE_MS 1000

/* --- A ring of bytes --- */

static size_t fifo_put(struct chardev_fifo *f, const uint8_t *buf, size_t len)
{
	size_t tail = (f->head + f->len) % CHARDEV_BUF, first;

	if (len > CHARDEV_BUF - f->len)
		len = CHARDEV_BUF - f->len;
	first = len < CHARDEV_BUF - tail ? len : CHARDEV_BUF - tail;
	memcpy(f->data + tail, buf, first);
	memcpy(f->data, buf + first, len - first);
	f->len += len;
	return len;
}

/* The bytes at the head that lie in one piece. */
static size_t fifo_peek(const struct chardev_fifo *f, const uint8_t **p)
{
	*p = f->data + f->head;
	return f->len < CHARDEV_BUF - f->head ? f->len : CHARDEV_BUF - f->head;
}

static void fifo_drop(struct chardev_fifo *f, size_t len)
{
	f->head = (f->head + len) % CHARDEV_BUF;
	f->len -= len;
}

/* --- Output --- */

/* Writes without blocking: bytes taken, 0 if the peer takes none now, or -errno. */
static ssize_t out_write(struct chardev *c, const uint8_t *buf, size_t len)
{
	struct pollfd pfd = { .fd = c->out_fd, .events = POLLOUT };
	ssize_t n;

	switch (c->out_how) {
	case OUT_SOCKET:
		n = send(c->out_fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case OUT_ASK_FIRST:
		if (poll(&pfd, 1, 0) <= 0)
			return 0;
		/* A pipe that is writable takes PIPE_BUF bytes without blocking (pipe(7)). */
		n = write(c->out_fd, buf, len < PIPE_BUF_SAFE ? len : PIPE_BUF_SAFE);
		break;
	default:
		n = write(c->out_fd, buf, len);
		break;
	}
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return n;
}

static void out_lost(struct chardev *c, size_t n, const char *why)
{
	if (n && !c->lost_said)
		log_limited(&c->limit, LOG_WARN, "output to console \"%s\" is being lost: %s",
			    c->spec, why);
	c->lost_said |= n > 0;
	c->lost += n;
}

/* The peer refuses len bytes, and what is buffered before them. The guest goes on without it. */
static void out_failed(struct chardev *c, int err, size_t len)
{
	out_lost(c, c->out.len + len, strerror(-err));
	fifo_drop(&c->out, c->out.len);
	/* A disk may have room again; a reader that is gone does not come back. */
	if (err != -ENOSPC && err != -EDQUOT && err != -EFBIG && err != -EIO) {
		c->out_fd = -1;
		c->reader_gone = c->listener.fd < 0;
	}
}

/* Passes on what is buffered, as far as the peer takes it. Returns whether it took something. */
static bool out_drain(struct chardev *c)
{
	bool progress = false;
	const uint8_t *p;
	ssize_t n;
	size_t len;

	while (c->out.len && c->out_fd >= 0) {
		len = fifo_peek(&c->out, &p);
		n = out_write(c, p, len);
		if (n < 0)
			out_failed(c, (int)n, 0);
		if (n <= 0)
			break;
		fifo_drop(&c->out, (size_t)n);
		c->bytes_out += (size_t)n;
		progress = true;
	}
	if (!c->out.len && c->out_fd >= 0)
		c->stalled = c->lost_said = false;
	return progress;
}

static void out_buffer(struct chardev *c, const uint8_t *buf, size_t len)
{
	size_t n = c->stalled ? 0 : fifo_put(&c->out, buf, len);

	c->stalled |= n < len && !c->patient;
	c->held |= c->patient && !c->stalled && c->out.len > CHARDEV_BUF - CHARDEV_ROOM_MIN;
	/* The main loop watches for room in the peer; handlers there call loop_add() themselves. */
	if ((c->out.len && !c->out_watched) || (c->held && !c->stall_armed))
		loop_call(&c->vm->main_loop, &c->sync);
	out_lost(c, len - n,
		 c->kind == CHARDEV_PTY ? "nobody reads it" : "the other side does not read it");
}

size_t chardev_room(const struct chardev *c)
{
	if (c->held)
		return 0;
	return c->patient && !c->stalled ? CHARDEV_BUF - c->out.len : CHARDEV_BUF;
}

void chardev_await_room(struct chardev *c)
{
	c->held = true;
	loop_call(&c->vm->main_loop, &c->sync);
}

/* The device is held no longer: the peer has taken enough, was given up, or is gone. */
static void out_release(struct chardev *c)
{
	bool waits = c->patient && !c->stalled && c->out_fd >= 0;

	if (!c->held || (waits && c->out.len > CHARDEV_BUF / 2))
		return;
	c->held = false;
	if (c->user.writable)
		c->user.writable(c->user.dev);
}

/* The peer has taken nothing for as long as the timer runs. */
static void stall_ready(struct loop_fd *lf, uint32_t revents)
{
	struct chardev *c = container_of(lf, struct chardev, stall);

	(void)revents;
	vm_lock(c->vm);
	if (timer_rang(c->stall_fd)) {
		c->stall_armed = false;
		c->stalled |= c->held;
		chardev_sync(c);
	}
	vm_unlock(c->vm);
}

/* Starts the timer, anew if it runs, or stops it. */
static void stall_timer(struct chardev *c, bool on)
{
	if (on || c->stall_armed)
		timer_arm(c->stall_fd, on ? STALL_MS : 0);
	c->stall_armed = on;
}

void chardev_write(struct chardev *c, const uint8_t *buf, size_t len)
{
	if (c->watch)
		c->watch(c->watch_opaque, buf, len);
	while (len && !c->out.len && c->out_fd >= 0) {
		ssize_t n = out_write(c, buf, len);

		if (n < 0) {
			out_failed(c, (int)n, len);
			return;
		}
		if (!n)
			break;
		buf += n;
		len -= (size_t)n;
		c->bytes_out += (size_t)n;
	}
	if (len && c->out_fd >= 0)
		out_buffer(c, buf, len);
	else if (c->reader_gone)
		c->lost += len;
}

/* --- Input --- */

static void in_deliver(struct chardev *c)
{
	uint8_t chunk[64];
	const uint8_t *p;
	size_t n, room;

	if (!c->user.receive)
		return;
	while (c->in.len && (room = c->user.room(c->user.dev))) {
		n = fifo_peek(&c->in, &p);
		if (n > room)
			n = room;
		if (n > sizeof(chunk))
			n = sizeof(chunk);
		/* The device may ask for more from inside receive(): let go of the bytes first. */
		memcpy(chunk, p, n);
		fifo_drop(&c->in, n);
		c->user.receive(c->user.dev, chunk, n);
	}
}

/*
 * A terminal is always read, so that Ctrl-A x ends a guest that takes no input; what then does not
 * fit is lost. Everything else is read when the guest has taken what was read before.
 */
static bool in_wanted(const struct chardev *c)
{
	return c->in_fd >= 0 && !c->in_paused && (c->tty || !c->in.len || c->half_closed);
}

static void in_eof(struct chardev *c);
static void client_gone(struct chardev *c);

/*
 * Bytes that were read, 0 for none now, -1 at the end. Never blocks, though others use the same
 * pipe or terminal: what the watch saw may be gone, or wait for the end of a line in the shell's
 * modes.
 */
static ssize_t in_read(struct chardev *c, uint8_t *buf, size_t len)
{
	struct pollfd pfd = { .fd = c->in_fd, .events = POLLIN };
	ssize_t n;

	if (poll(&pfd, 1, 0) <= 0)
		return 0;
	n = read(c->in_fd, buf, len);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	return n > 0 ? n : -1;
}

/* The main loop saw in_fd readable. One read per turn: the watch is level-triggered. */
static void in_ready(struct loop_fd *lf, uint32_t revents)
{
	struct chardev *c = container_of(lf, struct chardev, in_watch);
	uint8_t buf[4096];
	ssize_t n;

	vm_lock(c->vm);
	if (c->half_closed) {
		if (revents & (POLLHUP | POLLERR))
			client_gone(c);
		n = 0;
	} else if (c->tty && !tty_foreground(STDIN_FILENO)) {
		/*
		 * The keys belong to the shell, and a read would stop us. See chardev_continue().
		 */
		c->in_paused = true;
		n = 0;
	} else {
		n = in_read(c, buf, sizeof(buf));
		if (n < 0)
			in_eof(c);
	}
	if (n > 0) {
		c->bytes_in += (size_t)n;
		if (c->tty)
			n = (ssize_t)tty_keys(c, buf, (size_t)n);
		(void)fifo_put(&c->in, buf, (size_t)n);
		in_deliver(c);
	}
	chardev_sync(c);
	vm_unlock(c->vm);
}

void chardev_poll_input(struct chardev *c)
{
	in_deliver(c);
	if (in_wanted(c) && !c->in_watched)
		loop_call(&c->vm->main_loop, &c->sync);
}

int chardev_inject(struct chardev *c, const uint8_t *buf, size_t len)
{
	if (len > CHARDEV_BUF - c->in.len)
		return -ENOSPC;
	(void)fifo_put(&c->in, buf, len);
	/* Not delivered from here: the caller may stand inside a write of the device itself. */
	loop_call(&c->vm->main_loop, &c->sync);
	return 0;
}

/* --- UNIX socket --- */

static void client_gone(struct chardev *c)
{
	/* In this order: a watch ends before its descriptor is closed. */
	loop_del(&c->in_watch);
	loop_del(&c->out_watch);
	c->in_watched = c->out_watched = false;
	close(c->in_fd);
	c->in_fd = c->out_fd = -1;
	c->lost += c->out.len;
	fifo_drop(&c->out, c->out.len);
	c->stalled = c->lost_said = false;
	c->half_closed = false;
	if (c->user.connected)
		c->user.connected(c->user.dev);
}

/*
 * The end of a client's input is its own end only if it has closed the other direction, too
 * (POLLHUP). One that just has nothing more to type goes on listening; from then on its watch waits
 * for the hangup alone.
 */
static void in_eof(struct chardev *c)
{
	struct pollfd pfd = { .fd = c->in_fd };
	bool client = c->listener.fd >= 0;

	if (client && (poll(&pfd, 1, 0) < 0 || pfd.revents)) {
		client_gone(c);
		return;
	}
	loop_del(&c->in_watch);
	c->in_watched = false;
	c->half_closed = client;
	if (!client)
		c->in_fd = -1; /* descriptor 0 stays open: it is not ours */
}

static void listen_ready(struct loop_fd *lf, uint32_t revents)
{
	struct chardev *c = container_of(lf, struct chardev, listen_watch);
	int fd;

	(void)revents;
	vm_lock(c->vm);
	fd = accept4(c->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		c->in_fd = c->out_fd = fd;
		if (c->user.connected)
			c->user.connected(c->user.dev);
	}
	chardev_sync(c);
	vm_unlock(c->vm);
}

/* --- Watches --- */

static void out_ready(struct loop_fd *lf, uint32_t revents)
{
	struct chardev *c = container_of(lf, struct chardev, out_watch);

	(void)revents;
	vm_lock(c->vm);
	if (out_drain(c) && c->stall_armed)
		stall_timer(c, true);
	chardev_sync(c);
	vm_unlock(c->vm);
}

static void watch_set(struct chardev *c, struct loop_fd *lf, bool *on, bool want, int fd,
		      uint32_t events, void (*ready)(struct loop_fd *, uint32_t))
{
	if (want == *on)
		return;
	if (!want) {
		loop_del(lf);
		*on = false;
		return;
	}
	if (loop_add(&c->vm->main_loop, lf, fd, events, ready) == 0)
		*on = true;
	else
		log_error("the console's descriptor cannot be watched");
}

void chardev_sync(struct chardev *c)
{
	out_release(c);
	if (c->held != c->stall_armed)
		stall_timer(c, c->held);
	watch_set(c, &c->stall, &c->stall_watched, c->held, c->stall_fd, POLLIN, stall_ready);
	if (c->half_closed && !c->in_watched) /* its hangup is an edge: the rest stays readable */
		c->in_watched =
			loop_add_eventfd(&c->vm->main_loop, &c->in_watch, c->in_fd, in_ready) == 0;
	else
		watch_set(c, &c->in_watch, &c->in_watched, in_wanted(c), c->in_fd, POLLIN,
			  in_ready);
	watch_set(c, &c->out_watch, &c->out_watched, c->out.len && c->out_fd >= 0, c->out_fd,
		  POLLOUT, out_ready);
	tty_sync(c);
	/* One client at a time: the next one waits in the backlog. */
	watch_set(c, &c->listen_watch, &c->listen_watched, c->listener.fd >= 0 && c->in_fd < 0,
		  c->listener.fd, POLLIN, listen_ready);
}

static void sync_work(struct loop_work *w)
{
	struct chardev *c = container_of(w, struct chardev, sync);

	vm_lock(c->vm);
	in_deliver(c);
	chardev_sync(c);
	vm_unlock(c->vm);
}

/* --- Opening and closing --- */

struct chardev *chardev_open(struct vm *vm, const char *spec, struct diag *d)
{
	struct chardev *c = calloc(1, sizeof(*c));

	if (!c) {
		diag_set(d, -ENOMEM, "no memory for the console");
		return NULL;
	}
	c->vm = vm;
	c->in_fd = c->out_fd = c->own_fd = c->listener.fd = -1;
	c->own_in_fd = c->probe_fd = c->stall_fd = c->slave_fd = -1;
	c->sync.fn = sync_work;
	c->spec = strdup(spec);
	if (!c->spec || chardev_open_spec(c, d)) {
		if (!c->spec)
			diag_set(d, -ENOMEM, "no memory for the console");
		chardev_close(c);
		return NULL;
	}
	/* Watched from the loop's first turn on: until then it has room for few. */
	loop_call(&vm->main_loop, &c->sync);
	return c;
}

bool chardev_flush(struct chardev *c)
{
	struct pollfd pfd = { .fd = c->out_fd, .events = POLLOUT };
	uint64_t end = timer_now_ms() + CLOSE_MS, now;

	if (!c->out.len || c->kind == CHARDEV_PTY) /* whose readers come as they like */
		return false;
	while (c->out_fd >= 0 && (now = timer_now_ms()) < end) {
		if (poll(&pfd, 1, (int)(end - now)) < 0 && errno != EINTR)
			break;
		if (out_drain(c)) {
			out_release(c);
			return true;
		}
	}
	return false;
}

void chardev_close(struct chardev *c)
{
	if (!c)
		return;
	while (chardev_flush(c))
		;
	out_lost(c, c->out.len, "the other side does not read it");
	if (c->lost)
		log_warn("%llu bytes of output to console \"%s\" were lost",
			 (unsigned long long)c->lost, c->spec);
	loop_uncall(&c->vm->main_loop, &c->sync);
	loop_del(&c->stall);
	loop_del(&c->in_watch);
	loop_del(&c->out_watch);
	loop_del(&c->listen_watch);
	tty_close(c);
	if (c->listener.fd >= 0 && c->in_fd >= 0)
		close(c->in_fd);
	usock_close(&c->listener);
	pty_close(c);
	if (c->own_fd >= 0)
		close(c->own_fd);
	if (c->stall_fd >= 0)
		close(c->stall_fd);
	free(c->spec);
	free(c);
}

void chardev_attach(struct chardev *c, const struct chardev_user *user)
{
	c->user = *user;
}

void chardev_watch(struct chardev *c, chardev_watch_fn fn, void *opaque)
{
	c->watch = fn;
	c->watch_opaque = opaque;
}
