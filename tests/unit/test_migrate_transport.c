/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migrate_transport.c - connections of migrations: listening and connecting on the loopback,
 * descriptors, a shell's words, and the relay between pipes and a socket, also when a side ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "migrate_transport.h"

static struct migrate_address address(const char *text)
{
	struct migrate_address a;

	assert_int_equal(migrate_address_parse(&a, text, NULL), 0);
	return a;
}

static void test_tcp(void **state)
{
	struct migrate_address a = address("127.0.0.1:0");
	char at[MIGRATE_AT_MAX], buf[4];
	struct diag d = { "" };
	int l, c, s;

	(void)state;
	l = migrate_listen(&a, at, &d);
	assert_true(l >= 0);
	assert_memory_equal(at, "127.0.0.1:", 10);
	a = address(at);
	assert_string_not_equal(a.port, "0");
	c = migrate_connect(&a, NULL, NULL, &d);
	assert_true(c >= 0);
	s = accept(l, NULL, NULL);
	assert_true(s >= 0);
	assert_int_equal(write(c, "abc", 4), 4);
	assert_int_equal(read(s, buf, 4), 4);
	assert_string_equal(buf, "abc");
	close(c);
	close(s);
	/* The address is taken; and nobody is there when it is given up. */
	assert_int_equal(migrate_listen(&a, at, &d), -EADDRINUSE);
	assert_non_null(strstr(d.text, "cannot listen"));
	close(l);
	d.text[0] = '\0';
	assert_int_equal(migrate_connect(&a, NULL, NULL, &d), -ECONNREFUSED);
	assert_non_null(strstr(d.text, "nobody listens"));
}

static void test_descriptor(void **state)
{
	struct migrate_address a;
	struct diag d = { "" };
	char text[16];
	int pair[2], fd;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	snprintf(text, sizeof(text), "fd:%d", pair[0]);
	a = address(text);
	fd = migrate_connect(&a, NULL, NULL, &d);
	assert_true(fd > 2 && fd != pair[0]);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	close(pair[0]);
	close(pair[1]);
	assert_int_equal(migrate_connect(&a, NULL, NULL, &d), -EBADF);
	fd = open("/dev/null", O_RDWR);
	snprintf(text, sizeof(text), "fd:%d", fd);
	a = address(text);
	d.text[0] = '\0';
	assert_int_equal(migrate_connect(&a, NULL, NULL, &d), -ENOTSOCK);
	assert_non_null(strstr(d.text, "stream socket"));
	close(fd);
}

/* What a shell makes of the word is what it was. */
static void test_quote(void **state)
{
	static const char *const texts[] = { "",   "a",	     "it's",
					     "'",  "a b\tc", "$(reboot) `x` \\ \"",
					     "-n", "*",	     "a\nb" };
	char command[256], back[256];

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char *word = migrate_quote(texts[i]);
		size_t n;
		FILE *f;

		assert_non_null(word);
		snprintf(command, sizeof(command), "printf %%s %s", word);
		f = popen(command, "r");
		assert_non_null(f);
		n = fread(back, 1, sizeof(back) - 1, f);
		back[n] = '\0';
		assert_int_equal(pclose(f), 0);
		assert_string_equal(back, texts[i]);
		free(word);
	}
}

static void test_ssh(void **state)
{
	struct migrate_address a = address("ssh://u@host2:22");
	struct diag d = { "" };
	char buf[256] = "";
	pid_t pid = 0;
	ssize_t n;
	int fd, status;

	(void)state;
	setenv("UNVMM_SSH", "echo", 1); /* says what it was called with */
	fd = migrate_connect(&a, "unvmm receive --stdio", &pid, &d);
	assert_true(fd >= 0 && pid > 0);
	n = read(fd, buf, sizeof(buf) - 1);
	assert_true(n > 0);
	assert_string_equal(buf, "-T -p 22 -- u@host2 unvmm receive --stdio\n");
	assert_int_equal(read(fd, buf, 1), 0);
	close(fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	unsetenv("UNVMM_SSH");
}

struct relayed {
	int in[2], out[2], peer[2], err;
	pthread_t thread;
};

static void *run_relay(void *arg)
{
	struct relayed *r = arg;

	r->err = migrate_relay(r->in[0], r->out[1], r->peer[0]);
	close(r->in[0]);
	close(r->out[1]);
	close(r->peer[0]);
	return NULL;
}

static void start_relay(struct relayed *r)
{
	assert_int_equal(pipe(r->in) | pipe(r->out), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, r->peer), 0);
	assert_int_equal(pthread_create(&r->thread, NULL, run_relay, r), 0);
}

static void read_all(int fd, char *buf, size_t len)
{
	while (len) {
		ssize_t n = read(fd, buf, len);

		assert_true(n > 0);
		buf += n;
		len -= (size_t)n;
	}
}

static void test_relay(void **state)
{
	size_t size = MiB(1) + 17;
	char *sent = malloc(size), *got = malloc(size), byte;
	struct relayed r;

	(void)state;
	assert_true(sent && got);
	for (size_t i = 0; i < size; i++)
		sent[i] = (char)(i * 2654435761u >> 13);
	start_relay(&r);
	for (size_t at = 0; at < size; at += KiB(8)) { /* more than a pipe holds, in turn */
		size_t n = size - at < KiB(8) ? size - at : KiB(8);

		assert_int_equal(write(r.in[1], sent + at, n), (ssize_t)n);
		read_all(r.peer[1], got + at, n);
	}
	assert_memory_equal(sent, got, size);
	assert_int_equal(write(r.peer[1], "back", 4), 4);
	read_all(r.out[0], got, 4);
	assert_memory_equal(got, "back", 4);
	/* The end of input is passed on; what the other side says afterwards still comes. */
	close(r.in[1]);
	assert_int_equal(read(r.peer[1], &byte, 1), 0);
	assert_int_equal(write(r.peer[1], "bye", 3), 3);
	close(r.peer[1]);
	read_all(r.out[0], got, 3);
	assert_memory_equal(got, "bye", 3);
	assert_int_equal(read(r.out[0], &byte, 1), 0);
	pthread_join(r.thread, NULL);
	assert_int_equal(r.err, 0);
	close(r.out[0]);
	free(sent);
	free(got);
}

/* Nobody reads what comes back any more: that ends it. */
static void test_relay_breaks(void **state)
{
	struct relayed r;

	(void)state;
	start_relay(&r);
	close(r.out[0]);
	assert_int_equal(write(r.peer[1], "x", 1), 1);
	pthread_join(r.thread, NULL);
	assert_int_equal(r.err, -EPIPE);
	close(r.in[1]);
	close(r.peer[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tcp),   cmocka_unit_test(test_descriptor),
		cmocka_unit_test(test_quote), cmocka_unit_test(test_ssh),
		cmocka_unit_test(test_relay), cmocka_unit_test(test_relay_breaks),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120); /* a relay that hangs is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
