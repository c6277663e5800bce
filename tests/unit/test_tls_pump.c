/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_tls_pump.c - the pump between a VMM's socket and TLS, with a socket in TLS's place that
 * sends in pieces, is not ready, and fails when it is told to: nothing is lost, reordered or waited
 * for without end.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "pump.h"

#define FATAL (-1234)

/* TLS's end of a socket pair; the test has the peer's. */
struct fake {
	int fd;
	unsigned int seed;
	size_t send_limit, recv_limit; /* bytes until it fails */
	bool taken_back;	       /* recv() waits for room to send, once */
	bool bye;
};

struct bed {
	struct fake tls;
	int vmm, peer, local;
	unsigned int linger_ms;
	struct diag d;
	int err;
	pthread_t thread;
};

static unsigned int dice(struct fake *f, unsigned int sides)
{
	f->seed = f->seed * 1103515245 + 12345;
	return (f->seed >> 16 & 0x7fff) % sides;
}

static ssize_t fake_send(void *arg, const void *p, size_t len)
{
	struct fake *f = arg;
	size_t most;
	ssize_t n;

	if (!f->send_limit)
		return FATAL;
	if (dice(f, 4) == 0)
		return -EAGAIN; /* poll() will say at once that there is room */
	most = 1 + dice(f, 16000);
	if (len > most)
		len = most;
	if (len > f->send_limit)
		len = f->send_limit;
	n = send(f->fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : FATAL;
	f->send_limit -= (size_t)n;
	return n;
}

static ssize_t fake_recv(void *arg, void *p, size_t len)
{
	struct fake *f = arg;
	ssize_t n;

	assert_true(len >= PUMP_RECORD);
	if (!f->recv_limit)
		return FATAL;
	len = 1 + dice(f, PUMP_RECORD - 1);
	if (len > f->recv_limit)
		len = f->recv_limit;
	n = recv(f->fd, p, len, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : FATAL;
	f->recv_limit -= (size_t)n;
	return n;
}

static int fake_bye(void *arg)
{
	struct fake *f = arg;

	if (dice(f, 2) == 0)
		return -EAGAIN;
	assert_false(f->bye);
	f->bye = true;
	return shutdown(f->fd, SHUT_WR) < 0 ? FATAL : 0;
}

static bool fake_recv_sends(void *arg)
{
	struct fake *f = arg;
	bool was = f->taken_back;

	f->taken_back = false;
	return was;
}

static int fake_explain(void *arg, int err, struct diag *d)
{
	(void)arg;
	assert_int_equal(err, FATAL);
	return diag_set(d, -ECONNRESET, "it broke");
}

static void *run(void *arg)
{
	struct bed *b = arg;
	const struct pump_tls tls = { .arg = &b->tls,
				      .fd = b->tls.fd,
				      .send = fake_send,
				      .recv = fake_recv,
				      .bye = fake_bye,
				      .recv_sends = fake_recv_sends,
				      .explain = fake_explain };

	b->err = pump_run(b->local, &tls, b->linger_ms, &b->d);
	close(b->local);
	close(b->tls.fd);
	return NULL;
}

static void start(struct bed *b)
{
	int near[2], far[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, near), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, far), 0);
	b->vmm = near[0];
	b->local = near[1];
	b->tls.fd = far[0];
	b->peer = far[1];
	if (!b->tls.send_limit)
		b->tls.send_limit = b->tls.recv_limit = SIZE_MAX;
	b->tls.seed = b->tls.seed ? b->tls.seed : 1;
	b->linger_ms = b->linger_ms ? b->linger_ms : 30000;
	assert_int_equal(pthread_create(&b->thread, NULL, run, b), 0);
}

static int end(struct bed *b)
{
	pthread_join(b->thread, NULL);
	return b->err;
}

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 2654435761u >> 13);
}

static void write_all(int fd, size_t len)
{
	uint8_t buf[5000];

	for (size_t at = 0; at < len;) {
		size_t n = len - at < sizeof(buf) ? len - at : sizeof(buf);
		ssize_t did;

		for (size_t i = 0; i < n; i++)
			buf[i] = byte_at(at + i);
		did = send(fd, buf, n, MSG_NOSIGNAL);
		assert_true(did > 0);
		at += (size_t)did;
	}
}

/* How much comes before the end; all of it must be what was sent. */
static size_t read_end(int fd)
{
	uint8_t buf[70000];
	size_t at = 0;
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] != byte_at(at + (size_t)i))
				fail_msg("byte %zu differs", at + (size_t)i);
		at += (size_t)n;
	}
	return at;
}

struct writer {
	int fd;
	size_t len;
};

static void *write_and_end(void *arg)
{
	struct writer *w = arg;

	write_all(w->fd, w->len);
	shutdown(w->fd, SHUT_WR);
	return NULL;
}

static void test_both_ways(void **state)
{
	(void)state;
	for (unsigned int seed = 1; seed <= 20; seed++) {
		struct bed b = { .tls.seed = seed, .tls.taken_back = true };
		struct writer w[2];
		pthread_t t[2];

		start(&b);
		w[0] = (struct writer){ b.vmm, 300000 + seed * 777 };
		w[1] = (struct writer){ b.peer, 200000 - seed * 555 };
		for (unsigned int i = 0; i < 2; i++)
			assert_int_equal(pthread_create(&t[i], NULL, write_and_end, &w[i]), 0);
		assert_int_equal(read_end(b.peer), w[0].len);
		assert_int_equal(read_end(b.vmm), w[1].len);
		for (unsigned int i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		assert_int_equal(end(&b), 0);
		assert_true(b.tls.bye);
		close(b.vmm);
		close(b.peer);
	}
}

/* One direction ends; the other one goes on for as long as it likes. */
static void test_half_close(void **state)
{
	struct bed b = { 0 };

	(void)state;
	start(&b);
	shutdown(b.vmm, SHUT_WR);
	assert_int_equal(read_end(b.peer), 0);
	write_all(b.peer, 70000);
	shutdown(b.peer, SHUT_WR);
	assert_int_equal(read_end(b.vmm), 70000);
	assert_int_equal(end(&b), 0);
	close(b.vmm);
	close(b.peer);

	memset(&b, 0, sizeof(b));
	start(&b);
	shutdown(b.peer, SHUT_WR);
	assert_int_equal(read_end(b.vmm), 0);
	write_all(b.vmm, 70000);
	shutdown(b.vmm, SHUT_WR);
	assert_int_equal(read_end(b.peer), 70000);
	assert_int_equal(end(&b), 0);
	close(b.vmm);
	close(b.peer);
}

/* The VMM says its last word and closes, with the peer's words unread. */
static void test_last_word(void **state)
{
	struct bed b = { 0 };

	(void)state;
	start(&b);
	write_all(b.peer, 1000);
	assert_int_equal(poll(&(struct pollfd){ .fd = b.vmm, .events = POLLIN }, 1, 30000), 1);
	write_all(b.vmm, 7);
	close(b.vmm);
	assert_int_equal(read_end(b.peer), 7);
	close(b.peer);
	assert_int_equal(end(&b), 0);
}

/* What came before the connection broke is the VMM's; then it sees an end, and cannot write. */
static void test_recv_fails(void **state)
{
	struct bed b = { .tls.send_limit = SIZE_MAX, .tls.recv_limit = 30000 };

	(void)state;
	start(&b);
	write_all(b.peer, 30000);
	(void)!send(b.peer, "more", 4, MSG_NOSIGNAL); /* it may be broken by now */
	assert_int_equal(read_end(b.vmm), 30000);
	assert_int_equal(end(&b), -ECONNRESET);
	assert_string_equal(b.d.text, "it broke");
	assert_true(send(b.vmm, "x", 1, MSG_NOSIGNAL) < 0);
	close(b.vmm);
	close(b.peer);
}

/* Nothing goes out any more: the VMM is not held up, and hears the peer's last words. */
static void test_send_fails(void **state)
{
	struct bed b = { .tls.send_limit = 10000, .tls.recv_limit = SIZE_MAX };
	char buf[4096] = { 0 };
	size_t sent = 0;
	ssize_t n;

	(void)state;
	start(&b);
	while ((n = send(b.vmm, buf, sizeof(buf), MSG_NOSIGNAL)) > 0)
		sent += (size_t)n;
	assert_int_equal(errno, EPIPE);
	assert_true(sent >= 10000 && sent < MiB(4));
	write_all(b.peer, 500);
	shutdown(b.peer, SHUT_WR);
	assert_int_equal(read_end(b.vmm), 500);
	assert_int_equal(end(&b), -ECONNRESET);
	close(b.vmm);
	close(b.peer);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* The VMM is gone; the peer knows, and does not close. */
static void test_peer_stays(void **state)
{
	struct bed b = { .linger_ms = 200 };
	uint64_t since = now_ms();

	(void)state;
	start(&b);
	close(b.vmm);
	assert_int_equal(end(&b), 0);
	assert_true(now_ms() - since >= 200);
	assert_true(b.tls.bye);
	close(b.peer);
}

/* ... or takes nothing: then something is lost, and it is said. */
static void test_peer_takes_nothing(void **state)
{
	struct bed b = { .linger_ms = 200 };
	char buf[4096] = { 0 };

	(void)state;
	start(&b);
	while (send(b.vmm, buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL) > 0 ||
	       poll(&(struct pollfd){ .fd = b.vmm, .events = POLLOUT }, 1, 100) > 0)
		;
	close(b.vmm);
	assert_int_equal(end(&b), -ETIMEDOUT);
	assert_non_null(strstr(b.d.text, "did not arrive"));
	close(b.peer);
}

static void *flood(void *arg)
{
	struct bed *b = arg;
	char buf[4096] = { 0 };

	while (send(b->peer, buf, sizeof(buf), MSG_NOSIGNAL) > 0)
		;
	return NULL;
}

/* ... or never stops talking. */
static void test_peer_floods(void **state)
{
	struct bed b = { .linger_ms = 300 };
	uint64_t since = now_ms();
	pthread_t t;

	(void)state;
	start(&b);
	assert_int_equal(pthread_create(&t, NULL, flood, &b), 0);
	close(b.vmm);
	assert_int_equal(end(&b), 0);
	assert_in_range(now_ms() - since, 300, 20000);
	pthread_join(t, NULL);
	close(b.peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ways),   cmocka_unit_test(test_half_close),
		cmocka_unit_test(test_last_word),   cmocka_unit_test(test_recv_fails),
		cmocka_unit_test(test_send_fails),  cmocka_unit_test(test_peer_stays),
		cmocka_unit_test(test_peer_floods), cmocka_unit_test(test_peer_takes_nothing),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120); /* a pump that hangs is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
