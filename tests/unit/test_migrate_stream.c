/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migrate_stream.c - sections: their checksum, every cut and every flipped bit of a small
 * stream, peers that are silent, and waits that are interrupted. The test's thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crc32c.h"
#include "stream.h"

#define TYPES 5

static uint32_t cap(uint16_t type)
{
	return type && type < TYPES ? 1000u * type : 0;
}

static void open_stream(struct stream *s, int fd)
{
	struct diag d = { 0 };

	assert_int_equal(stream_init(s, fd, &d), 0);
	s->cap = cap;
	s->silence_ms = 100;
	s->peer = "the peer";
}

/* --- checksum -------------------------------------------------------------------------------- */

static void test_crc_is_that_of_the_rfc(void **state)
{
	uint8_t zeroes[32] = { 0 }, ones[32], up[32];

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	for (unsigned int i = 0; i < sizeof(up); i++)
		up[i] = (uint8_t)i;
	/* RFC 3720, B.4. */
	assert_int_equal(crc32c(0, zeroes, 32), 0x8a9136aa);
	assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
	assert_int_equal(crc32c(0, up, 32), 0x46dd794e);
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
}

/* Whatever the length, the start and where it is cut: as the table says. */
static void test_crc_of_any_piece(void **state)
{
	static uint8_t buf[100000];
	static const size_t lengths[] = { 0,	 1,	7,     8,     9,     4032,
					  10752, 10760, 16127, 16128, 65536, 99990 };

	(void)state;
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 2654435761u >> 11);
	for (unsigned int i = 0; i < ARRAY_SIZE(lengths); i++)
		for (unsigned int start = 0; start < 10; start += 3) {
			size_t len = lengths[i], half = len / 3;
			uint32_t want = crc32c_by_table(0, buf + start, len);

			assert_int_equal(crc32c(0, buf + start, len), want);
			assert_int_equal(crc32c(crc32c(0, buf + start, half), buf + start + half,
						len - half),
					 want);
		}
}

/* --- a small stream
 * ------------------------------------------------------------------------------- */

struct sample {
	uint8_t bytes[4096];
	size_t len;
};

/* Three sections as they are on the wire. */
static void make_sample(struct sample *s)
{
	struct diag d = { 0 };
	struct stream out;
	ssize_t n;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	open_stream(&out, pair[0]);
	assert_int_equal(stream_send(&out, 1, "hello", 5, &d), 0);
	assert_int_equal(stream_send(&out, 2, NULL, 0, &d), 0);
	memset(stream_payload(&out), 'x', 20);
	assert_int_equal(stream_send(&out, 3, NULL, 20, &d), 0);
	n = read(pair[1], s->bytes, sizeof(s->bytes));
	assert_int_equal(n, 3 * STREAM_HEADER + 25);
	assert_int_equal(out.sent, n);
	s->len = (size_t)n;
	stream_fini(&out);
	close(pair[0]);
	close(pair[1]);
}

/* Reads sections until an error, which is returned; the number of good ones in *good. */
static int feed(const uint8_t *bytes, size_t len, unsigned int *good, struct diag *d)
{
	struct stream in;
	struct section sec;
	int pair[2], err;

	*d = (struct diag){ 0 };
	*good = 0;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(write(pair[0], bytes, len), (ssize_t)len);
	close(pair[0]);
	open_stream(&in, pair[1]);
	while (!(err = stream_recv(&in, &sec, d)))
		(*good)++;
	stream_fini(&in);
	close(pair[1]);
	return err;
}

static void test_what_is_sent_arrives(void **state)
{
	struct sample s;
	struct diag d = { 0 };
	struct stream in;
	struct section sec;
	int pair[2];

	(void)state;
	make_sample(&s);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	open_stream(&in, pair[1]);
	/* Byte by byte: a section comes in any pieces. */
	for (size_t i = 0; i < s.len; i++)
		assert_int_equal(write(pair[0], s.bytes + i, 1), 1);
	assert_int_equal(stream_recv(&in, &sec, &d), 0);
	assert_true(sec.type == 1 && sec.len == 5 && !memcmp(sec.payload, "hello", 5));
	assert_int_equal((uintptr_t)sec.payload % 16, 0);
	assert_int_equal(stream_recv(&in, &sec, &d), 0);
	assert_true(sec.type == 2 && sec.len == 0);
	assert_true(stream_readable(&in));
	assert_int_equal(stream_recv(&in, &sec, &d), 0);
	assert_true(sec.type == 3 && sec.len == 20 && sec.payload[19] == 'x');
	assert_false(stream_readable(&in));
	assert_int_equal(in.received, s.len);
	close(pair[0]);
	assert_int_equal(stream_recv(&in, &sec, &d), -ECONNRESET);
	stream_fini(&in);
	close(pair[1]);
}

static void test_every_cut(void **state)
{
	struct sample s;
	struct diag d;
	unsigned int good;

	(void)state;
	make_sample(&s);
	for (size_t len = 0; len <= s.len; len++) {
		bool between = len == 0 || len == STREAM_HEADER + 5 ||
			       len == 2 * STREAM_HEADER + 5 || len == s.len;

		assert_int_equal(feed(s.bytes, len, &good, &d), between ? -ECONNRESET : -EPROTO);
		assert_non_null(strstr(d.text, "has closed the connection"));
		assert_int_equal(good, (len >= STREAM_HEADER + 5) + (len >= 2 * STREAM_HEADER + 5) +
					       (len == s.len));
	}
}

/* No flipped bit passes: the sections before it arrive, the one with it never does. */
static void test_every_flipped_bit(void **state)
{
	struct sample s;
	struct diag d;
	unsigned int good;

	(void)state;
	make_sample(&s);
	for (size_t bit = 0; bit < 8 * s.len; bit++) {
		size_t at = bit / 8;
		unsigned int before = (at >= STREAM_HEADER + 5) + (at >= 2 * STREAM_HEADER + 5);
		int err;

		s.bytes[at] ^= (uint8_t)(1u << bit % 8);
		err = feed(s.bytes, s.len, &good, &d);
		assert_true(err == -EPROTO);
		assert_true(d.text[0]);
		assert_int_equal(good, before);
		s.bytes[at] ^= (uint8_t)(1u << bit % 8);
	}
}

/* Of a type with a head the CRC is for that alone; of all others, and of a short one, for all. */
static void test_the_rest_behind_a_head(void **state)
{
	struct section sec;
	struct stream s;
	struct diag d = { 0 };
	uint8_t bytes[2 * STREAM_HEADER + 12 + 6];
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	open_stream(&s, pair[0]);
	s.head_type = 3;
	s.head_len = 8;
	assert_int_equal(stream_send(&s, 3, "headheadrest", 12, &d), 0);
	assert_int_equal(stream_send(&s, 3, "header", 6, &d), 0);
	assert_int_equal(read(pair[1], bytes, sizeof(bytes)), sizeof(bytes));
	stream_fini(&s);
	close(pair[0]);
	close(pair[1]);
	for (size_t at = 0; at < sizeof(bytes); at++) {
		bool rest = at >= STREAM_HEADER + 8 && at < STREAM_HEADER + 12;
		int err;

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		bytes[at] ^= 0x10;
		assert_int_equal(write(pair[0], bytes, sizeof(bytes)), sizeof(bytes));
		bytes[at] ^= 0x10;
		close(pair[0]);
		open_stream(&s, pair[1]);
		s.head_type = 3;
		s.head_len = 8;
		err = stream_recv(&s, &sec, &d);
		if (!err)
			err = stream_recv(&s, &sec, &d);
		assert_int_equal(err, rest ? 0 : -EPROTO);
		stream_fini(&s);
		close(pair[1]);
	}
}

/* A repeated, a missing and an exchanged section: each is whole by itself. */
static void test_sections_are_numbered(void **state)
{
	struct sample s, t;
	struct diag d;
	unsigned int good;
	size_t first = STREAM_HEADER + 5;

	(void)state;
	make_sample(&s);
	memcpy(t.bytes, s.bytes, first);
	memcpy(t.bytes + first, s.bytes, s.len);
	assert_int_equal(feed(t.bytes, first + s.len, &good, &d), -EPROTO);
	assert_int_equal(good, 1);
	assert_int_equal(feed(s.bytes + first, s.len - first, &good, &d), -EPROTO);
	assert_int_equal(good, 0);
}

/* The length is refused before anything of the payload is waited for. */
static void test_lengths_have_caps(void **state)
{
	uint8_t h[STREAM_HEADER] = { 0 };
	struct diag d;
	unsigned int good;

	(void)state;
	put_le16(h, 2);
	put_le32(h + 4, 2001);
	assert_int_equal(feed(h, sizeof(h), &good, &d), -EPROTO);
	assert_non_null(strstr(d.text, "2001 bytes of at most 2000"));
	put_le32(h + 4, UINT32_MAX);
	assert_int_equal(feed(h, sizeof(h), &good, &d), -EPROTO);
	assert_non_null(strstr(d.text, "of at most 2000"));
	put_le32(h + 4, 2000);
	assert_int_equal(feed(h, sizeof(h), &good, &d), -EPROTO);
	assert_non_null(strstr(d.text, "in the middle"));
	put_le16(h, TYPES);
	assert_int_equal(feed(h, sizeof(h), &good, &d), -EPROTO);
	assert_non_null(strstr(d.text, "does not speak"));
	assert_int_equal(feed((const uint8_t *)"GET / HTTP/1.1\r\n\r\n", 18, &good, &d), -EPROTO);
	assert_non_null(strstr(d.text, "does not speak"));
}

/* --- waiting --------------------------------------------------------------------------------- */

static void test_silence_ends(void **state)
{
	struct diag d = { 0 };
	struct stream s;
	struct section sec;
	uint64_t start;
	int pair[2], err = 0;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	open_stream(&s, pair[0]);
	start = stream_now();
	assert_int_equal(stream_recv(&s, &sec, &d), -ETIMEDOUT);
	assert_in_range(stream_now() - start, 95000000, 30000000000);
	assert_string_equal(d.text, "the peer sends nothing for 0.1 s");
	/* Nobody reads: at some point the kernel takes no more. */
	d.text[0] = 0;
	for (unsigned int i = 0; i < 1000 && !err; i++)
		err = stream_send(&s, 4, NULL, 4000, &d);
	assert_int_equal(err, -ETIMEDOUT);
	assert_string_equal(d.text, "the peer takes nothing for 0.1 s");
	assert_true(s.broken);
	stream_fini(&s);
	close(pair[0]);
	close(pair[1]);
}

static int stop_after(void *arg, struct diag *d)
{
	int *left = arg;

	return (*left)-- > 0 ? 0 : diag_set(d, -ECANCELED, "enough");
}

#define PATIENCE_MS 2000
#define ASLEEP_MS   2500

/* Exit status 0: the section came. */
static int await_section(int fd)
{
	struct diag d = { 0 };
	struct section sec;
	struct stream s;

	open_stream(&s, fd);
	s.silence_ms = PATIENCE_MS;
	return stream_recv(&s, &sec, &d) ? 1 : 0;
}

/* Who was stopped for longer than the peer may be silent gives it the time to be heard. */
static void test_own_sleep_is_no_silence(void **state)
{
	struct diag d = { 0 };
	struct stream s;
	int pair[2], status;
	pid_t child;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	child = fork();
	if (!child)
		_exit(await_section(pair[1]));
	usleep(50000);
	assert_int_equal(kill(child, SIGSTOP), 0);
	usleep(ASLEEP_MS * 1000);
	assert_int_equal(kill(child, SIGCONT), 0);
	usleep(50000);
	open_stream(&s, pair[0]);
	assert_int_equal(stream_send(&s, 1, "hello", 5, &d), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	stream_fini(&s);
	close(pair[0]);
	close(pair[1]);
}

static void test_waits_can_be_ended(void **state)
{
	struct diag d = { 0 };
	struct stream s;
	struct section sec;
	uint64_t start, one = 1;
	int pair[2], left = 3;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	open_stream(&s, pair[0]);
	s.silence_ms = 60000;
	s.tick = stop_after;
	s.arg = &left;
	s.tick_ms = 10;
	assert_int_equal(stream_recv(&s, &sec, &d), -ECANCELED);
	assert_string_equal(d.text, "enough");
	/* By a wake-up, long before the tick. */
	d.text[0] = 0;
	s.tick_ms = 60000;
	s.wake_fd = eventfd(0, EFD_NONBLOCK);
	left = 1;
	assert_int_equal(write(s.wake_fd, &one, 8), 8);
	start = stream_now();
	assert_int_equal(stream_sleep(&s, 60000000000, &d), -ECANCELED);
	assert_true(stream_now() - start < 5000000000);
	/* Sleeping ends with something to read. */
	left = 100;
	assert_int_equal(write(pair[1], "x", 1), 1);
	assert_int_equal(stream_sleep(&s, 60000000000, &d), 0);
	close(s.wake_fd);
	stream_fini(&s);
	close(pair[0]);
	close(pair[1]);
}

static void test_closed_peer(void **state)
{
	struct diag d = { 0 };
	struct stream s;
	int pair[2], err;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	open_stream(&s, pair[0]);
	close(pair[1]);
	err = stream_send(&s, 1, "x", 1, &d);
	assert_true(err == -EPIPE || err == -ECONNRESET);
	assert_string_equal(d.text, "the peer has closed the connection");
	stream_fini(&s);
	close(pair[0]);
}

/* Through a file and a pipe that block, too. */
static void test_files_and_pipes(void **state)
{
	struct diag d = { 0 };
	struct stream out, in;
	struct section sec;
	int fds[2], fd = memfd_create("stream", 0);

	(void)state;
	open_stream(&out, fd);
	assert_true(out.file);
	assert_int_equal(stream_send(&out, 1, "abc", 3, &d), 0);
	stream_fini(&out);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	open_stream(&in, fd);
	assert_int_equal(stream_recv(&in, &sec, &d), 0);
	assert_memory_equal(sec.payload, "abc", 3);
	assert_int_equal(stream_recv(&in, &sec, &d), -EPROTO);
	assert_non_null(strstr(d.text, "ends too early"));
	stream_fini(&in);
	close(fd);

	assert_int_equal(pipe(fds), 0);
	open_stream(&out, fds[1]);
	assert_false(out.file);
	d.text[0] = 0;
	for (unsigned int i = 0; i < 100; i++)
		if (stream_send(&out, 4, NULL, 4000, &d))
			break;
	assert_string_equal(d.text, "the peer takes nothing for 0.1 s");
	stream_fini(&out);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc_is_that_of_the_rfc),
		cmocka_unit_test(test_crc_of_any_piece),
		cmocka_unit_test(test_what_is_sent_arrives),
		cmocka_unit_test(test_every_cut),
		cmocka_unit_test(test_every_flipped_bit),
		cmocka_unit_test(test_the_rest_behind_a_head),
		cmocka_unit_test(test_sections_are_numbered),
		cmocka_unit_test(test_lengths_have_caps),
		cmocka_unit_test(test_silence_ends),
		cmocka_unit_test(test_own_sleep_is_no_silence),
		cmocka_unit_test(test_waits_can_be_ended),
		cmocka_unit_test(test_closed_peer),
		cmocka_unit_test(test_files_and_pipes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
