/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev.h - the other end of a console: stdio, a file, a UNIX socket or a pseudo-terminal.
 *
 * Nothing here ever waits: output goes to a bounded buffer and out when the peer takes it. A peer
 * that stops reading loses output (counted, said once), not the guest. A socket or a pty does so as
 * soon as its buffer is full. stdio and files, often a pipe to something that is only slow, are
 * worth waiting for: the device is told to (chardev_room() is 0), until the peer has taken nothing
 * for 1 s. Input is delivered when the device has room. A watcher sees all output first (console
 * matching). Needs SIGPIPE ignored and descriptors 0 to 2 not used for anything else.
 *
 * Thread: control lock held; handlers of descriptors run on the main loop and take it.
 */
#ifndef UNVMM_CHARDEV_H
#define UNVMM_CHARDEV_H

#include <termios.h>

#include <unvmm/diag.h>

struct chardev;
struct report;
struct vm;

/* The device in front of it. Its functions are called with the control lock held. */
struct chardev_user {
	/* How many bytes receive() would take now; 0 stops reading until chardev_poll_input(). */
	size_t (*room)(void *dev);
	void (*receive)(void *dev, const uint8_t *buf, size_t len);
	/*
	 * On the main loop; each may be NULL. chardev_room() was 0 and is not any more; what
	 * chardev_connected() or chardev_window() says has changed.
	 */
	void (*writable)(void *dev);
	void (*connected)(void *dev);
	void (*resized)(void *dev);
	void *dev;
};

/* Sees every byte the guest writes, before the peer does. */
typedef void (*chardev_watch_fn)(void *opaque, const uint8_t *buf, size_t len);

/*
 * spec: "stdio" (on a terminal, Ctrl-A x quits, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h helps),
 * "file:PATH" (truncated, 0600), "unix:PATH" (listens, 0600, one client at a time; a stale socket
 * is replaced, a live one is an error), "pty" (a new pseudo-terminal in raw mode; readers may come
 * and go), "pty:PATH" (PATH becomes a symbolic link to it; a link to another pty is replaced),
 * "none". NULL with a sentence.
 */
struct chardev *chardev_open(struct vm *vm, const char *spec, struct diag *d) must_check;
/*
 * Flushes until the peer takes nothing for 1 s, restores the terminal, removes what open made.
 * Called when the main loop does not run any more, before loop_fini(). NULL does nothing.
 */
void chardev_close(struct chardev *c);
/*
 * A terminal gets raw mode, if we are in its foreground, until chardev_close(). Apart from opening
 * it, so that its keys make signals while the machine is being set up. Others: nothing to do.
 */
int chardev_take_terminal(struct chardev *c, struct diag *d) must_check;
/* After SIGCONT, on the main loop: takes the terminal again if we are in the foreground. */
void chardev_continue(struct chardev *c);
/*
 * For main's handler of fatal signals, which gives the terminal back by tcsetattr(): the terminal
 * and the modes it had. False if it was not changed.
 */
bool chardev_saved_terminal(const struct chardev *c, int *fd, struct termios *modes) must_check;

void chardev_attach(struct chardev *c, const struct chardev_user *user);
void chardev_watch(struct chardev *c, chardev_watch_fn fn, void *opaque);

/* What there is no room for is lost. */
void chardev_write(struct chardev *c, const uint8_t *buf, size_t len);
/*
 * How much chardev_write() takes now without losing what could be kept by waiting: 0 if the device
 * should wait for writable(), else at least CHARDEV_ROOM_MIN.
 */
#define CHARDEV_ROOM_MIN 256
size_t chardev_room(const struct chardev *c) must_check;
/* writable() will be called, soon if there is room now: for a device that comes to it waiting. */
void chardev_await_room(struct chardev *c);
/* The device has room again. */
void chardev_poll_input(struct chardev *c);
/*
 * At the end, when the main loop does not run any more: waits until the peer takes some of what is
 * buffered, for 1 s at most. False if it took nothing.
 */
bool chardev_flush(struct chardev *c) must_check;
/* As if the peer had typed it (--input). Bounded: -ENOSPC over 64 KiB. */
int chardev_inject(struct chardev *c, const uint8_t *buf, size_t len) must_check;

enum chardev_kind { CHARDEV_NONE, CHARDEV_STDIO, CHARDEV_FILE, CHARDEV_UNIX, CHARDEV_PTY };
enum chardev_kind chardev_kind(const struct chardev *c) must_check;
/* Is somebody there? Known of a socket; the others are taken to be. */
bool chardev_connected(const struct chardev *c) must_check;
/* The terminal's size, 0 x 0 if it has none. chardev_resized(): it may have changed (SIGWINCH). */
void chardev_window(const struct chardev *c, uint16_t *cols, uint16_t *rows);
void chardev_resized(struct chardev *c);

/* Into an open group: "chardev" as it was asked for and "pty"; bytes in, out and lost. */
void chardev_info(const struct chardev *c, struct report *r);
void chardev_stats(const struct chardev *c, struct report *r);

#endif
