/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_watch.h - waits for texts on a console and answers them: --expect and --input.
 *
 * A script is a list of steps. An expect step waits until its pattern is seen, a send step types
 * its text at once. When the last step is through, on_done is called, once.
 *
 * Patterns are POSIX extended regular expressions over what the guest has printed since the last
 * match, without NUL bytes, carriage returns and ANSI escape sequences, and at most the last
 * CONSOLE_WATCH_WINDOW bytes of it. `.` stops at the end of a line; `^` and `$` are the ends of a
 * line. A line is looked at when it is complete, or when the guest has been silent for
 * CONSOLE_WATCH_QUIET_MS: so a prompt without a newline is seen, and "PASS$" is not seen in the
 * middle of "PASSED". The cost is one regexec() per line.
 *
 * Thread: control lock held, except console_watch_free().
 */
#ifndef UNVMM_CONSOLE_WATCH_H
#define UNVMM_CONSOLE_WATCH_H

#include <unvmm/diag.h>

#define CONSOLE_WATCH_WINDOW   4096
#define CONSOLE_WATCH_QUIET_MS 100

struct chardev;
struct console_watch;
struct vm;

struct console_watch *console_watch_new(void) must_check;
/*
 * Ends the watch, before its chardev is closed. The main loop does not run, vcpus may. NULL does
 * nothing.
 */
void console_watch_free(struct console_watch *w);

/*
 * Adds a step at the end, before the start. A pattern must compile and must not match the empty
 * text, which would always be there: -EINVAL with a sentence.
 */
int console_watch_expect(struct console_watch *w, const char *pattern, struct diag *d) must_check;
int console_watch_send(struct console_watch *w, const char *text, struct diag *d) must_check;

/* Watches c from now on, and carries out the send steps that stand first. */
int console_watch_start(struct console_watch *w, struct vm *vm, struct chardev *c,
			void (*on_done)(void *opaque), void *opaque, struct diag *d) must_check;

/* The guest has ended: looks at an unfinished last line. */
void console_watch_finish(struct console_watch *w);

/* The pattern that is waited for, for the message after a timeout; NULL when done. */
const char *console_watch_pending(const struct console_watch *w) must_check;

#endif
