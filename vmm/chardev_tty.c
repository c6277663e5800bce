/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev_tty.c - the console on a terminal: raw mode while we are in the foreground, the Ctrl-A
 * keys, and giving the terminal back. Thread: control lock held.
 *
 * Ctrl-A is special only on a terminal, so that what is piped in reaches the guest unchanged. In
 * the background the terminal is left alone: neither read nor set, both would stop the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <unvmm/log.h>
#include <unvmm/timer.h>
#include <unvmm/vm.h>

#include "chardev_internal.h"

#define CTRL_A	 0x01
#define PROBE_MS 500

bool tty_foreground(int fd)
{
	pid_t pgrp = tcgetpgrp(fd);

	/* ENOTTY: a terminal that is not our controlling one has no job control for us. */
	return pgrp < 0 || pgrp == getpgrp();
}

static int tty_raw(struct chardev *c)
{
	struct termios raw;

	/* Once only: a second time they might be our own. */
	if (!c->raw && tcgetattr(STDIN_FILENO, &c->old_modes) < 0)
		return -errno;
	raw = c->old_modes;
	cfmakeraw(&raw);
	/* Output processing stays on: log lines on stderr end in a bare newline. */
	raw.c_oflag |= c->old_modes.c_oflag & OPOST;
	if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
		return -errno;
	c->raw = true;
	return 0;
}

void tty_open(struct chardev *c)
{
	c->tty = true;
	/* Opened anew, so that a read never blocks; see open_stdout(). */
	c->own_in_fd = open("/proc/self/fd/0", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (c->own_in_fd >= 0)
		c->in_fd = c->own_in_fd;
}

/* In the foreground the keys are the guest's. */
static int tty_take(struct chardev *c)
{
	c->in_paused = !tty_foreground(STDIN_FILENO);
	return c->in_paused ? 0 : tty_raw(c);
}

int chardev_take_terminal(struct chardev *c, struct diag *d)
{
	int ret = c->tty ? tty_take(c) : 0;

	return ret ? diag_errno(d, ret, "console \"stdio\": the terminal's modes") : 0;
}

void tty_close(struct chardev *c)
{
	/* In the background the shell has set its own modes since. */
	if (c->raw && tty_foreground(STDIN_FILENO))
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &c->old_modes);
	c->raw = false;
	loop_del(&c->probe);
	if (c->probe_fd >= 0)
		close(c->probe_fd);
	if (c->own_in_fd >= 0)
		close(c->own_in_fd);
}

static void probe_ready(struct loop_fd *lf, uint32_t revents)
{
	struct chardev *c = container_of(lf, struct chardev, probe);

	(void)revents;
	vm_lock(c->vm);
	if (timer_rang(c->probe_fd)) {
		c->probing = false;
		chardev_continue(c);
	}
	vm_unlock(c->vm);
}

/*
 * A shell that brings a stopped job to the foreground sends SIGCONT; to one that runs bash sends
 * nothing. So a job in the background looks for itself, twice a second; nobody else has this timer.
 */
void tty_sync(struct chardev *c)
{
	if (c->in_paused == c->probing)
		return;
	if (c->probe_fd < 0) {
		c->probe_fd = timer_open();
		if (c->probe_fd < 0 ||
		    loop_add(&c->vm->main_loop, &c->probe, c->probe_fd, POLLIN, probe_ready))
			log_warn("the console does not notice when it comes to the foreground");
	}
	c->probing = c->in_paused;
	timer_arm(c->probe_fd, c->in_paused ? PROBE_MS : 0); /* does nothing if there is none */
}

void chardev_continue(struct chardev *c)
{
	if (!c->tty)
		return;
	/* The shell has put its own modes back while we were stopped: ours are set again. */
	(void)tty_take(c);
	chardev_resized(c);
	chardev_sync(c);
}

void chardev_window(const struct chardev *c, uint16_t *cols, uint16_t *rows)
{
	struct winsize w = { 0 };

	if (c->kind == CHARDEV_STDIO && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) < 0 && c->tty)
		(void)ioctl(STDIN_FILENO, TIOCGWINSZ, &w); /* 0 x 0 if that fails too */
	*cols = w.ws_col;
	*rows = w.ws_row;
}

void chardev_resized(struct chardev *c)
{
	if (c->user.resized)
		c->user.resized(c->user.dev);
}

bool chardev_saved_terminal(const struct chardev *c, int *fd, struct termios *modes)
{
	*fd = STDIN_FILENO;
	*modes = c->old_modes;
	return c->raw;
}

static void tty_help(void)
{
	static const char text[] = "\r\nCtrl-A x       ends the machine\r\n"
				   "Ctrl-A Ctrl-A  sends Ctrl-A to the guest\r\n"
				   "Ctrl-A h       shows this\r\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		return; /* nobody to help */
}

size_t tty_keys(struct chardev *c, uint8_t *buf, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (!c->escape) {
			if (buf[i] == CTRL_A)
				c->escape = true;
			else
				buf[n++] = buf[i];
			continue;
		}
		c->escape = false;
		if (buf[i] == CTRL_A)
			buf[n++] = CTRL_A;
		else if (buf[i] == 'x' || buf[i] == 'X')
			vm_request(c->vm, VM_EVENT_QUIT, 0);
		else if (buf[i] == 'h' || buf[i] == '?')
			tty_help();
	}
	return n;
}
