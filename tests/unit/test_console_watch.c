/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_console_watch.c - the script behind --expect and --input.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <unvmm/console_watch.h>

#include "fake_vm.h"

struct fixture {
	struct fake_vm *f;
	struct console_watch *w;
	unsigned int done; /* calls of on_done */
	char typed[256];   /* what arrived as input */
	size_t typed_len;
	uint64_t last, gap; /* ns: the latest output of chatter(), and its longest silence */
};

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	x->f = fake_vm_new("none");
	x->w = console_watch_new();
	assert_non_null(x->w);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	console_watch_free(x->w);
	fake_vm_free(x->f);
	free(x);
	return 0;
}

static void on_done(void *opaque)
{
	((struct fixture *)opaque)->done++;
}

static size_t room(void *dev)
{
	return sizeof(((struct fixture *)dev)->typed) - ((struct fixture *)dev)->typed_len;
}

static void receive(void *dev, const uint8_t *buf, size_t len)
{
	struct fixture *x = dev;

	memcpy(x->typed + x->typed_len, buf, len);
	x->typed_len += len;
}

static void expect(struct fixture *x, const char *pattern)
{
	struct diag d = { 0 };

	if (console_watch_expect(x->w, pattern, &d))
		fail_msg("%s", d.text);
}

static void start(struct fixture *x)
{
	struct chardev_user user = { .room = room, .receive = receive, .dev = x };
	struct diag d = { 0 };

	chardev_attach(x->f->vm.console, &user);
	if (console_watch_start(x->w, &x->f->vm, x->f->vm.console, on_done, x, &d))
		fail_msg("%s", d.text);
}

/* Byte by byte, as a serial port writes. */
static void print(struct fixture *x, const char *text)
{
	for (; *text; text++)
		chardev_write(x->f->vm.console, (const uint8_t *)text, 1);
}

static bool is_done(void *arg)
{
	return ((struct fixture *)arg)->done;
}

static void test_line(void **state)
{
	struct fixture *x = *state;

	expect(x, "^Linux version [0-9]+\\.[0-9]+");
	start(x);
	assert_string_equal(console_watch_pending(x->w), "^Linux version [0-9]+\\.[0-9]+");
	print(x, "booting\r\nnot a Linux version 6.1\r\n");
	assert_int_equal(x->done, 0);
	print(x, "Linux version 6.1\r\n");
	assert_int_equal(x->done, 1);
	assert_null(console_watch_pending(x->w));
	print(x, "Linux version 6.1\r\n");
	assert_int_equal(x->done, 1);
}

/* The end of a line is where the guest ended it, not where the bytes have got to. */
static void test_end_of_line(void **state)
{
	struct fixture *x = *state;

	expect(x, "PASS$");
	start(x);
	print(x, "PASS");
	assert_int_equal(x->done, 0);
	print(x, "ED nothing\n");
	assert_int_equal(x->done, 0);
	print(x, "test 1: PASS\r\n");
	assert_int_equal(x->done, 1);
}

/* A prompt without a newline is seen when the guest falls silent; then the answer is typed. */
static void test_prompt(void **state)
{
	struct fixture *x = *state;
	struct diag d = { 0 };

	expect(x, "login: $");
	assert_int_equal(console_watch_send(x->w, "root\n", &d), 0);
	expect(x, "root@guest:~# $");
	start(x);
	print(x, "guest login: ");
	assert_false(fake_vm_run(x->f, is_done, x, 250));
	assert_int_equal(x->typed_len, 5);
	assert_memory_equal(x->typed, "root\n", 5);
	assert_string_equal(console_watch_pending(x->w), "root@guest:~# $");
	print(x, "root\r\n\033[1;32mroot@guest\033[0m:~# ");
	assert_true(fake_vm_run(x->f, is_done, x, 30000));
}

/* A guest that goes on printing without a newline is not silent. */
static bool chatter(void *arg)
{
	struct fixture *x = arg;
	uint64_t now = loop_now();

	if (now - x->last > x->gap)
		x->gap = now - x->last;
	x->last = now;
	print(x, ".");
	return x->done;
}

static void test_not_silent(void **state)
{
	struct fixture *x = *state;

	expect(x, "wait\\.*$");
	start(x);
	print(x, "wait");
	x->last = loop_now();
	/* On a busy host it may have been silent for so long after all. */
	if (fake_vm_run(x->f, chatter, x, 400))
		assert_true(x->gap >= (CONSOLE_WATCH_QUIET_MS - 5) * 1000000ull);
	assert_true(fake_vm_run(x->f, is_done, x, 30000));
}

/* An idle guest costs no timer. */
static void test_idle(void **state)
{
	struct fixture *x = *state;
	uint64_t turns;

	expect(x, "never");
	start(x);
	print(x, "prompt> ");
	(void)fake_vm_run(x->f, is_done, x, 300);
	turns = x->f->vm.main_loop.turns;
	(void)fake_vm_run(x->f, is_done, x, 1000);
	/* The test's own ticks come every 2 ms. */
	assert_true(x->f->vm.main_loop.turns - turns <= 1000 / 2 + 5);
}

static void test_order(void **state)
{
	struct fixture *x = *state;

	expect(x, "two");
	expect(x, "one");
	expect(x, "three");
	start(x);
	print(x, "one\ntwo\n");
	assert_string_equal(console_watch_pending(x->w), "one");
	/* Several on one line, each after the one before. */
	print(x, "one three\n");
	assert_int_equal(x->done, 1);
}

static void test_noise(void **state)
{
	static const uint8_t noisy[] = "\0R\033[1m\0ea\033]0;title\007d\033(By\033[?25l\r\n";
	struct fixture *x = *state;

	expect(x, "^Ready$");
	start(x);
	chardev_write(x->f->vm.console, noisy, sizeof(noisy) - 1);
	assert_int_equal(x->done, 1);
}

/* An escape sequence that never ends must not swallow the rest of the output. */
static void test_broken_escapes(void **state)
{
	struct fixture *x = *state;
	int i;

	expect(x, "alive");
	start(x);
	print(x, "\033]");
	for (i = 0; i < 300; i++)
		print(x, "x");
	print(x, "\033[1;1\nalive\n");
	assert_int_equal(x->done, 1);
}

/* What follows a match on the same line is no beginning of a line. */
static void test_rest_of_line(void **state)
{
	struct fixture *x = *state;

	expect(x, "one");
	expect(x, "^two");
	start(x);
	print(x, "onetwo\n");
	assert_string_equal(console_watch_pending(x->w), "^two");
	print(x, "two\n");
	assert_int_equal(x->done, 1);
}

static void test_several_lines(void **state)
{
	struct fixture *x = *state;

	expect(x, "first\nsecond");
	start(x);
	print(x, "first\r\nsecond\r\n");
	assert_int_equal(x->done, 1);
}

/* Endless output without a newline stays bounded, and is looked at piece by piece. */
static void test_long_line(void **state)
{
	struct fixture *x = *state;
	int i;

	expect(x, "needle");
	expect(x, "^start");
	start(x);
	for (i = 0; i < 3 * CONSOLE_WATCH_WINDOW; i++)
		print(x, "h");
	print(x, "needle");
	for (i = 0; i < CONSOLE_WATCH_WINDOW; i++)
		print(x, "h");
	assert_string_equal(console_watch_pending(x->w), "^start");
	print(x, "start\n"); /* in the middle of the line */
	assert_int_equal(x->done, 0);
	print(x, "start\n");
	assert_int_equal(x->done, 1);
}

static void test_finish(void **state)
{
	struct fixture *x = *state;

	expect(x, "bye$");
	start(x);
	print(x, "good bye");
	assert_int_equal(x->done, 0);
	console_watch_finish(x->w);
	assert_int_equal(x->done, 1);
}

static void test_only_input(void **state)
{
	struct fixture *x = *state;
	struct diag d = { 0 };

	assert_int_equal(console_watch_send(x->w, "hello\n", &d), 0);
	start(x);
	assert_int_equal(x->done, 1);
	chardev_poll_input(x->f->vm.console);
	assert_memory_equal(x->typed, "hello\n", 6);
}

static void test_bad_patterns(void **state)
{
	struct fixture *x = *state;
	struct diag d = { 0 };

	assert_int_equal(console_watch_expect(x->w, "a(b", &d), -EINVAL);
	assert_non_null(strstr(d.text, "--expect \"a(b\": "));
	assert_non_null(strstr(d.text, "POSIX extended"));
	d.text[0] = '\0';
	assert_int_equal(console_watch_expect(x->w, "a*", &d), -EINVAL);
	assert_non_null(strstr(d.text, "matches the empty text"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_line),	       T(test_end_of_line),    T(test_prompt),
		T(test_not_silent),    T(test_idle),	       T(test_order),
		T(test_noise),	       T(test_broken_escapes), T(test_rest_of_line),
		T(test_several_lines), T(test_long_line),      T(test_finish),
		T(test_only_input),    T(test_bad_patterns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
