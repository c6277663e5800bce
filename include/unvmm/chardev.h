/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev.h - the other end of a console: stdio, a file or a UNIX socket.
 *
 * Output never blocks the guest for long: bytes go to a bounded buffer and out when the peer takes
 * them; a peer that stops reading loses output (counted, said once), not the guest. On stdio, a
 * full buffer makes the guest wait, lock held, for 1 s at most without any byte taken; then it is
 * so too. Input is delivered when the device has room. A watcher sees all output first (console
 * matching). Needs SIGPIPE ignored and descriptors 0 to 2 not used for anything else.
 *
 * Thread: control lock held; handlers of descriptors run on the main loop and take it.
 */
#ifndef UNVMM_CHARDEV_H
#define UNVMM_CHARDEV_H

#include <termios.h>

#include <unvmm/diag.h>

struct chardev;
struct vm;

/* The device in front of it. */
struct chardev_user {
	/* How many bytes receive() would take now; 0 stops reading until chardev_poll_input(). */
	size_t (*room)(void *dev);
	void (*receive)(void *dev, const uint8_t *buf, size_t len);
	void *dev;
};

/* Sees every byte the guest writes, before the peer does. */
typedef void (*chardev_watch_fn)(void *opaque, const uint8_t *buf, size_t len);

/*
 * spec: "stdio" (raw mode on a terminal, restored at close and on fatal signals; Ctrl-A x quits,
 * Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h helps), "file:PATH" (truncated, 0600), "unix:PATH" (listens,
 * 0600, one client at a time; a stale socket is replaced, a live one is an error), "none".
 * NULL with a sentence.
 */
struct chardev *chardev_open(struct vm *vm, const char *spec, struct diag *d) must_check;
/*
 * Flushes until the peer takes nothing for 1 s, restores the terminal, removes a socket it made.
 * Called when the main loop does not run any more, before loop_fini(). NULL does nothing.
 */
void chardev_close(struct chardev *c);
/* After SIGCONT, on the main loop: takes the terminal again if we are in the foreground. */
void chardev_continue(struct chardev *c);
/*
 * For main's handler of fatal signals, which gives the terminal back by tcsetattr(): the terminal
 * and the modes it had. False if it was not changed.
 */
bool chardev_saved_terminal(const struct chardev *c, int *fd, struct termios *modes) must_check;

void chardev_attach(struct chardev *c, const struct chardev_user *user);
void chardev_watch(struct chardev *c, chardev_watch_fn fn, void *opaque);

void chardev_write(struct chardev *c, const uint8_t *buf, size_t len);
/* The device has room again. */
void chardev_poll_input(struct chardev *c);
/* As if the peer had typed it (--input). Bounded: -ENOSPC over 64 KiB. */
int chardev_inject(struct chardev *c, const uint8_t *buf, size_t len) must_check;

#endif
