/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev_internal.h - struct chardev, shared by the chardev*.c files alone.
 * Thread: control lock held; watches belong to the main loop.
 */
#ifndef UNVMM_CHARDEV_INTERNAL_H
#define UNVMM_CHARDEV_INTERNAL_H

#include <termios.h>

#include <unvmm/chardev.h>
#include <unvmm/log.h>
#include <unvmm/loop.h>

#include "usock.h"

#define CHARDEV_BUF   65536u
#define PIPE_BUF_SAFE 4096u

struct chardev_fifo {
	size_t head, len;
	uint8_t data[CHARDEV_BUF]; /* its pages are touched only when used */
};

enum out_how {
	OUT_WRITE,     /* write(2) does not block */
	OUT_SOCKET,    /* send(2) with MSG_DONTWAIT */
	OUT_ASK_FIRST, /* poll(2), then a short write(2) */
};

struct chardev {
	struct vm *vm;
	struct chardev_user user;
	chardev_watch_fn watch;
	void *watch_opaque;
	enum chardev_kind kind;
	char *spec; /* as it was asked for; owned */

	int in_fd, out_fd;     /* -1: none, or not any more */
	int own_fd;	       /* out_fd, if it is to be closed */
	int own_in_fd;	       /* in_fd, likewise */
	struct usock listener; /* "unix:PATH" */
	enum out_how out_how;
	bool patient; /* a full buffer makes the device wait */
	bool held;    /* and it does: chardev_room() is 0 */
	bool stalled; /* the peer is left behind: output is dropped until the buffer is empty */
	int stall_fd; /* a timer that runs while held, and begins anew when the peer takes bytes */
	struct loop_fd stall;
	bool stall_watched, stall_armed;
	bool half_closed; /* the client types no more, and still reads */
	bool reader_gone; /* for good: everything is lost */
	uint64_t bytes_in, bytes_out, lost;
	bool lost_said; /* since the buffer was empty */
	struct log_limit limit;

	struct loop_work sync; /* chardev_sync() on the main loop */
	struct loop_fd in_watch, out_watch, listen_watch;
	bool in_watched, out_watched, listen_watched;

	char pty[32];	/* path of its slave, "" for other kinds */
	char *link;	/* that leads to it, or NULL; owned */
	bool link_kept; /* it is for the keeper to remove */
	int slave_fd;

	bool tty;	/* stdin is a terminal */
	bool in_paused; /* we are in the background: the keys are not for us */
	int probe_fd;	/* a timer that looks for the foreground while in_paused */
	struct loop_fd probe;
	bool probing;
	bool raw;    /* we changed the terminal; old_modes gives it back */
	bool escape; /* the last key was Ctrl-A */
	struct termios old_modes;

	struct chardev_fifo in, out;
};

/* Watches what is wanted now. On the main loop's thread. */
void chardev_sync(struct chardev *c);

/* chardev_open.c: fills in the descriptors. On failure chardev_close() releases what there is. */
int chardev_open_spec(struct chardev *c, struct diag *d) must_check;

/* chardev_pty.c: "pty" (path NULL) or "pty:PATH". */
int pty_open(struct chardev *c, const char *path, struct diag *d) must_check;
void pty_close(struct chardev *c);

/* chardev_tty.c */
void tty_open(struct chardev *c);
void tty_close(struct chardev *c);
/* Starts or stops looking for the foreground. On the main loop's thread. */
void tty_sync(struct chardev *c);
bool tty_foreground(int fd) must_check;
/* Handles Ctrl-A sequences; leaves in buf what is for the guest and returns its length. */
size_t tty_keys(struct chardev *c, uint8_t *buf, size_t len);

#endif
