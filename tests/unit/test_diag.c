/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_diag.c - the sentence for the user (diag.h) and the lines on stderr (log.h). One thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/diag.h>
#include <unvmm/log.h>

static void test_first_report_stays(void **state)
{
	struct diag d = { 0 };

	(void)state;
	assert_int_equal(diag_set(&d, -EINVAL, "disk %d is %s", 3, "too small"), -EINVAL);
	assert_string_equal(d.text, "disk 3 is too small");
	assert_int_equal(diag_set(&d, -EIO, "something outer"), -EIO);
	assert_int_equal(diag_errno(&d, -ENOENT, "something outer"), -ENOENT);
	assert_string_equal(d.text, "disk 3 is too small");
	diag_prefix(&d, "guest.cfg:%u", 7u);
	assert_string_equal(d.text, "guest.cfg:7: disk 3 is too small");
}

static void test_errno(void **state)
{
	struct diag d = { 0 };

	(void)state;
	assert_int_equal(diag_errno(&d, -ENOENT, "\"%s\" cannot be opened", "x"), -ENOENT);
	assert_string_equal(d.text, "\"x\" cannot be opened: No such file or directory");
}

static void test_nobody_asks(void **state)
{
	(void)state;
	assert_int_equal(diag_set(NULL, -EINVAL, "x"), -EINVAL);
	assert_int_equal(diag_errno(NULL, -EINVAL, "x"), -EINVAL);
	diag_prefix(NULL, "x");
}

/* What is too long is cut, never written behind the end. */
static void test_long_texts(void **state)
{
	struct {
		struct diag d;
		char behind[8];
	} s = { .behind = "canary" };
	char *x = malloc(2000);

	(void)state;
	memset(x, 'x', 1999);
	x[1999] = '\0';
	assert_int_equal(diag_set(&s.d, -EIO, "%s", x), -EIO);
	assert_int_equal(strlen(s.d.text), sizeof(s.d.text) - 1);
	diag_prefix(&s.d, "file");
	assert_int_equal(strlen(s.d.text), sizeof(s.d.text) - 1);
	assert_memory_equal(s.d.text, "file: xxx", 9);
	diag_prefix(&s.d, "%s", x);
	assert_int_equal(strlen(s.d.text), sizeof(s.d.text) - 1);
	s.d.text[0] = '\0';
	assert_int_equal(diag_errno(&s.d, -EIO, "%s", x), -EIO);
	assert_int_equal(strlen(s.d.text), sizeof(s.d.text) - 1);
	assert_string_equal(s.behind, "canary");
	free(x);
}

/* --- the log --------------------------------------------------------------------------------- */

static int saved_stderr, pipe_fd[2];

static int capture(void **state)
{
	(void)state;
	if (pipe2(pipe_fd, O_NONBLOCK))
		return -1;
	saved_stderr = dup(STDERR_FILENO);
	return dup2(pipe_fd[1], STDERR_FILENO) < 0;
}

static int release(void **state)
{
	(void)state;
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	log_set_level(LOG_WARN);
	log_set_name("unvmm");
	return 0;
}

/* What was logged since the last call. */
static const char *logged(void)
{
	static char buf[8192];
	ssize_t n = read(pipe_fd[0], buf, sizeof(buf) - 1);

	buf[n < 0 ? 0 : n] = '\0';
	return buf;
}

static void test_levels(void **state)
{
	(void)state;
	errno = EXDEV;
	log_error("%s is broken", "it");
	assert_int_equal(errno, EXDEV);
	assert_string_equal(logged(), "unvmm: it is broken\n");
	log_warn("w");
	log_info("i");
	log_debug("d");
	assert_string_equal(logged(), "unvmm: warning: w\n");
	log_set_level(LOG_DEBUG);
	log_set_name("unvf");
	log_info("i");
	log_debug("d");
	assert_string_equal(logged(), "unvf: i\nunvf: debug: d\n");
	log_set_level(LOG_ERROR);
	log_warn("w");
	assert_string_equal(logged(), "");
}

static void test_long_line(void **state)
{
	char *x = malloc(5000);
	const char *line;

	(void)state;
	memset(x, 'x', 4999);
	x[4999] = '\0';
	log_error("%s", x);
	line = logged();
	assert_int_equal(strlen(line), 1023);
	assert_int_equal(line[1022], '\n'); /* still one line */
	free(x);
}

/* Texts of files, guests and peers: one line, and nothing that a terminal obeys. */
static void test_control_characters(void **state)
{
	struct diag d = { 0 };

	(void)state;
	(void)diag_set(&d, -EINVAL, "name is \"%s\"",
		       "a\nb\033[2J\x7f\xc2\x9b"
		       "2J");
	assert_string_equal(d.text, "name is \"a?b?[2J???2J\"");
	diag_prefix(&d, "x\t");
	assert_string_equal(d.text, "x?: name is \"a?b?[2J???2J\"");
	d.text[0] = '\0';
	(void)diag_errno(&d, -ENOENT, "\xc3\xa9\r"); /* an e with an accent */
	assert_string_equal(d.text, "\xc3\xa9?: No such file or directory");
	log_error("one\ntwo \xe2\x82\xac");
	assert_string_equal(logged(), "unvmm: one?two \xe2\x82\xac\n");
}

static void test_limit(void **state)
{
	struct log_limit l = { 0 };
	unsigned int lines = 0;
	const char *p;

	(void)state;
	for (int i = 0; i < 1000; i++)
		log_limited(&l, LOG_WARN, "again %d", i);
	for (p = logged(); (p = strchr(p, '\n')); p++)
		lines++;
	/* Ten at once; a slow run may see a second or two go by. */
	assert_true(lines >= 10 && lines <= 16);
	assert_true(l.dropped > 900);
	/* A second later there is room for one, which says how many are missing. */
	l.last_ms -= 1500;
	l.dropped = 990;
	log_limited(&l, LOG_WARN, "and again");
	assert_string_equal(logged(),
			    "unvmm: warning: 990 messages of the same kind were left out\n"
			    "unvmm: warning: and again\n");
	/* What nobody would see costs no budget. */
	l.tokens_used = 0;
	log_limited(&l, LOG_INFO, "quiet");
	assert_int_equal(l.tokens_used, 0);
}

int main(void)
{
#define LOG_TEST(name) cmocka_unit_test_setup_teardown(test_##name, capture, release)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_report_stays),
		cmocka_unit_test(test_errno),
		cmocka_unit_test(test_nobody_asks),
		cmocka_unit_test(test_long_texts),
		LOG_TEST(levels),
		LOG_TEST(long_line),
		LOG_TEST(control_characters),
		LOG_TEST(limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
