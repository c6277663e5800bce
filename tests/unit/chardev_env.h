/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chardev_env.h - a console's other end with a device that takes what it is allowed to: what the
 * chardev tests share. Included once by each program; the test's thread.
 */
#ifndef UNVMM_TESTS_CHARDEV_ENV_H
#define UNVMM_TESTS_CHARDEV_ENV_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include <unvmm/report.h>

#include "fake_vm.h"

/* A device that takes `room` bytes and no more until it is given new room. */
struct sink {
	uint8_t buf[128 * 1024];
	size_t len, room, want;
	unsigned int writable; /* calls */
};

struct fixture {
	char dir[32];
	int saved[2]; /* the test's own stdin and stdout */
	struct fake_vm *f;
	struct sink sink;
};

static inline size_t sink_room(void *dev)
{
	return ((struct sink *)dev)->room;
}

static inline void sink_receive(void *dev, const uint8_t *buf, size_t len)
{
	struct sink *s = dev;

	assert_in_range(len, 1, s->room);
	assert_true(s->len + len <= sizeof(s->buf));
	memcpy(s->buf + s->len, buf, len);
	s->len += len;
	s->room -= len;
}

static inline void sink_writable(void *dev)
{
	((struct sink *)dev)->writable++;
}

static inline bool sink_has(void *arg)
{
	struct sink *s = arg;

	return s->len >= s->want;
}

static inline bool never(void *arg)
{
	(void)arg;
	return false;
}

static inline int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	strcpy(x->dir, "/tmp/unvmm-chardev-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	fflush(stdout);
	x->saved[0] = dup(STDIN_FILENO);
	x->saved[1] = dup(STDOUT_FILENO);
	signal(SIGPIPE, SIG_IGN); /* as main does */
	*state = x;
	return 0;
}

static inline void restore_stdio(struct fixture *x)
{
	dup2(x->saved[0], STDIN_FILENO);
	dup2(x->saved[1], STDOUT_FILENO);
}

static inline int teardown(void **state)
{
	struct fixture *x = *state;
	char cmd[64];

	restore_stdio(x);
	if (x->f)
		fake_vm_free(x->f);
	close(x->saved[0]);
	close(x->saved[1]);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", x->dir);
	assert_int_equal(system(cmd), 0);
	free(x);
	return 0;
}

static inline void start(struct fixture *x, const char *spec, size_t room)
{
	struct chardev_user user = { .room = sink_room,
				     .receive = sink_receive,
				     .writable = sink_writable,
				     .dev = &x->sink };

	x->f = fake_vm_new(spec);
	x->sink.room = room;
	chardev_attach(x->f->vm.console, &user);
}

static inline void start_stdio(struct fixture *x, int in, int out, size_t room)
{
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	start(x, "stdio", room);
	assert_int_equal(chardev_take_terminal(x->f->vm.console, NULL), 0);
}

static inline void stop(struct fixture *x)
{
	fake_vm_free(x->f);
	x->f = NULL;
}

static inline void put(struct fixture *x, const void *buf, size_t len)
{
	chardev_write(x->f->vm.console, buf, len);
}

static inline bool has_room(void *arg)
{
	return chardev_room(((struct fixture *)arg)->f->vm.console) > 0;
}

/* As a device does that waits when it is told to. */
static inline void put_patiently(struct fixture *x, const uint8_t *buf, size_t len)
{
	while (len) {
		size_t n = chardev_room(x->f->vm.console);

		if (!n) {
			assert_true(fake_vm_run(x->f, has_room, x, 30000));
			continue;
		}
		n = n < len ? n : len;
		put(x, buf, n);
		buf += n;
		len -= n;
		x->f->out_len = 0;
	}
}

static inline void expect_input(struct fixture *x, const char *text)
{
	x->sink.want = strlen(text);
	if (!fake_vm_run(x->f, sink_has, &x->sink, 30000))
		fail_msg("the device got %zu bytes instead of \"%s\"", x->sink.len, text);
	assert_int_equal(x->sink.len, strlen(text));
	assert_memory_equal(x->sink.buf, text, strlen(text));
	x->sink.len = 0;
}

static inline void path_in(struct fixture *x, char *buf, size_t size, const char *prefix,
			   const char *name)
{
	snprintf(buf, size, "%s%s/%s", prefix, x->dir, name);
}

static inline void refused(const char *spec, const char *says)
{
	struct fake_vm *f = fake_vm_new("none");
	struct diag d = { 0 };

	assert_null(chardev_open(&f->vm, spec, &d));
	if (!strstr(d.text, says))
		fail_msg("the refusal \"%s\" does not say \"%s\"", d.text, says);
	fake_vm_free(f);
}

static inline double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

#endif
