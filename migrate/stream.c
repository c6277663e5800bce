/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c - reads and writes sections. The descriptor may block or not: it is only touched when
 * poll(2) says so, and then by calls that do not wait. The migration thread.
 */
#include "stream.h"
#include "crc32c.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define TICK_MS	  200
/* A wait that takes so much longer than it was to take was slept through. */
#define ASLEEP_MS 500
/* A peer that dribbles is not silent: a whole section may take so many silences. */
#define SILENCES 6

/* The first two bytes of a TLS connection: a handshake record of version 3 (RFC 8446, 5.1). */
#define TLS_RECORD (0x16 | 3 << 8)

/* In front of the payload, in buffers aligned for whatever a payload holds. */
#define OFF_TYPE   0
#define OFF_FLAGS  2
#define OFF_LENGTH 4
#define OFF_NUMBER 8
#define OFF_CRC	   12

uint64_t stream_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 * NS_PER_MS + (uint64_t)t.tv_nsec;
}

int stream_init(struct stream *s, int fd, struct diag *d)
{
	struct stat st;

	*s = (struct stream){ .fd = fd,
			      .silence_ms = 10000,
			      .tick_ms = TICK_MS,
			      .wake_fd = -1,
			      .peer = "the other side" };
	if (fstat(fd, &st) == 0) {
		s->file = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
		s->not_socket = !S_ISSOCK(st.st_mode);
	}
	s->out = malloc(STREAM_HEADER + STREAM_PAYLOAD_MAX);
	s->in = malloc(STREAM_HEADER + STREAM_PAYLOAD_MAX);
	if (!s->out || !s->in) {
		stream_fini(s);
		return diag_set(d, -ENOMEM, "out of memory for the migration's buffers");
	}
	return 0;
}

void stream_fini(struct stream *s)
{
	free(s->out);
	free(s->in);
	s->out = s->in = NULL;
}

uint8_t *stream_payload(struct stream *s)
{
	return s->out + STREAM_HEADER;
}

/* --- waiting ---------------------------------------------------------------------------------- */

static int tick(struct stream *s, struct diag *d)
{
	return s->tick ? s->tick(s->arg, d) : 0;
}

/*
 * When a process was stopped, or got no CPU, and perhaps all of its host with the peer: what came
 * meanwhile, if anything, is not known yet, and the peer is given that time once more.
 */
static uint64_t slept_through(uint64_t since, uint64_t ms)
{
	uint64_t took = stream_now() - since;

	return took > (ms + ASLEEP_MS) * NS_PER_MS ? took - ms * NS_PER_MS : 0;
}

/* 0: one of the events is there; -ETIMEDOUT without a sentence; or what tick() said. */
static int wait_for(struct stream *s, short events, uint64_t until, struct diag *d)
{
	for (;;) {
		struct pollfd p[] = { { .fd = s->fd, .events = events },
				      { .fd = s->wake_fd, .events = POLLIN } };
		uint64_t now = stream_now(), ms;
		int err = tick(s, d), n;

		if (err)
			return err;
		ms = now < until ? (until - now + NS_PER_MS - 1) / NS_PER_MS : 0;
		ms = ms < s->tick_ms ? ms : s->tick_ms;
		n = poll(p, ARRAY_SIZE(p), (int)ms);
		if (n < 0 && errno != EINTR)
			return diag_errno(d, -errno, "cannot wait for %s", s->peer);
		until += slept_through(now, ms);
		if (n > 0 && p[0].revents)
			return 0;
		if (n > 0 && p[1].revents) { /* tick() looks why */
			uint64_t count;

			if (read(s->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
				return diag_errno(d, -errno, "cannot hear what main says");
			if (!events) /* what is slept for may have come */
				return tick(s, d);
		}
		if (stream_now() >= until)
			return -ETIMEDOUT;
	}
}

static uint64_t in_ms(uint64_t ms)
{
	return stream_now() + ms * NS_PER_MS;
}

int stream_sleep(struct stream *s, uint64_t ns, struct diag *d)
{
	int err = wait_for(s, s->file ? 0 : POLLIN, stream_now() + ns, d);

	return err == -ETIMEDOUT ? 0 : err;
}

bool stream_readable(const struct stream *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

static int silent(struct stream *s, const char *verb, struct diag *d)
{
	return diag_set(d, -ETIMEDOUT, "%s %s nothing for %.3g s", s->peer, verb,
			s->silence_ms / 1000.0);
}

uint32_t stream_crc(const uint8_t *header, size_t len)
{
	return crc32c(crc32c(0, header, OFF_CRC), header + STREAM_HEADER, len);
}

/* How much of a payload the CRC is for. */
static size_t covered(const struct stream *s, uint16_t type, size_t len)
{
	return s->head_type && type == s->head_type && len > s->head_len ? s->head_len : len;
}

/* --- out -------------------------------------------------------------------------------------- */

static ssize_t write_some(struct stream *s, const uint8_t *p, size_t len)
{
	ssize_t n;

	if (!s->not_socket)
		n = send(s->fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL | (s->more ? MSG_MORE : 0));
	else /* a pipe that polls writable takes so much without waiting (pipe(7)) */
		n = write(s->fd, p, s->file || len < PIPE_BUF ? len : PIPE_BUF);
	return n < 0 ? -errno : n;
}

static int write_all(struct stream *s, const uint8_t *p, size_t len, struct diag *d)
{
	uint64_t end = in_ms((uint64_t)s->silence_ms * SILENCES);

	while (len) {
		uint64_t quiet = in_ms(s->silence_ms);
		int err = wait_for(s, POLLOUT, quiet < end ? quiet : end, d);
		ssize_t n;

		if (err == -ETIMEDOUT)
			return silent(s, "takes", d);
		if (err)
			return err;
		n = write_some(s, p, len);
		if (n == -EAGAIN || n == -EINTR)
			continue;
		if (n == -EPIPE || n == -ECONNRESET)
			return diag_set(d, (int)n, "%s has closed the connection", s->peer);
		if (n < 0)
			return diag_errno(d, (int)n, "cannot write to %s", s->peer);
		p += n;
		len -= (size_t)n;
		s->sent += (uint64_t)n;
	}
	return 0;
}

int stream_send(struct stream *s, uint16_t type, const void *payload, size_t len, struct diag *d)
{
	uint8_t *h = s->out;
	int err;

	if (len > STREAM_PAYLOAD_MAX)
		return diag_set(d, -E2BIG, "a section of %zu bytes cannot be sent", len);
	if (payload && len)
		memcpy(h + STREAM_HEADER, payload, len);
	put_le16(h + OFF_TYPE, type);
	put_le16(h + OFF_FLAGS, 0);
	put_le32(h + OFF_LENGTH, (uint32_t)len);
	put_le32(h + OFF_NUMBER, s->out_number++);
	put_le32(h + OFF_CRC, stream_crc(h, covered(s, type, len)));
	s->broken = true;
	err = write_all(s, h, STREAM_HEADER + len, d);
	s->broken = err;
	return err;
}

/* --- in --------------------------------------------------------------------------------------- */

/* *got: how much came, also with an error. -ENODATA without a sentence: the end. */
static int read_all(struct stream *s, uint8_t *p, size_t len, uint64_t end, size_t *got,
		    struct diag *d)
{
	*got = 0;
	while (*got < len) {
		uint64_t quiet = in_ms(s->silence_ms);
		int err = wait_for(s, POLLIN, quiet < end ? quiet : end, d);
		ssize_t n;

		if (err == -ETIMEDOUT)
			return silent(s, "sends", d);
		if (err)
			return err;
		n = read(s->fd, p + *got, len - *got);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0 && errno != ECONNRESET)
			return diag_errno(d, -errno, "cannot read from %s", s->peer);
		if (n <= 0)
			return -ENODATA;
		*got += (size_t)n;
		s->received += (uint64_t)n;
	}
	return 0;
}

static int cut(struct stream *s, bool between, struct diag *d)
{
	if (s->file)
		return diag_set(d, -EPROTO, "%s ends too early: it is not complete", s->peer);
	return diag_set(d, between ? -ECONNRESET : -EPROTO, "%s has closed the connection%s",
			s->peer, between ? "" : " in the middle of a section");
}

static int check_header(struct stream *s, const uint8_t *h, struct diag *d)
{
	uint16_t type = get_le16(h + OFF_TYPE), flags = get_le16(h + OFF_FLAGS);
	uint32_t len = get_le32(h + OFF_LENGTH), number = get_le32(h + OFF_NUMBER);
	uint32_t cap = s->cap ? s->cap(type) : STREAM_PAYLOAD_MAX;

	if (!s->in_number && !cap)
		return diag_set(d, -EPROTO, "%s does not speak unvmm's migration protocol%s",
				s->peer,
				type == TLS_RECORD ? ", but TLS: is --insecure meant on both sides?"
						   : "");
	if (flags)
		return diag_set(d, -EPROTO, "section %u from %s has unknown flags 0x%04x", number,
				s->peer, flags);
	if (number != s->in_number)
		return diag_set(d, -EPROTO, "section %u from %s has the number %u", s->in_number,
				s->peer, number);
	if (len > STREAM_PAYLOAD_MAX || (s->cap && len > cap))
		return diag_set(d, -EPROTO,
				"section %u from %s, of type %u, has %u bytes of at most %u",
				number, s->peer, type, len, cap);
	return 0;
}

/* The rest of a payload whose first `got` bytes have been read is left where it is. */
static int pass_over(struct stream *s, struct section *sec, struct diag *d)
{
	off_t at = lseek(s->fd, sec->len - sec->got, SEEK_CUR);
	struct stat st;

	if (at < 0 || fstat(s->fd, &st))
		return diag_errno(d, -errno, "cannot read from %s", s->peer);
	if (at > st.st_size)
		return cut(s, false, d);
	sec->at = (uint64_t)at - sec->len - STREAM_HEADER;
	return 0;
}

int stream_recv(struct stream *s, struct section *sec, struct diag *d)
{
	uint64_t end = in_ms((uint64_t)s->silence_ms * SILENCES);
	uint8_t *h = s->in;
	uint32_t len;
	size_t got;
	int err;

	err = read_all(s, h, STREAM_HEADER, end, &got, d);
	if (err == -ENODATA)
		return cut(s, !got, d);
	if (!err)
		err = check_header(s, h, d);
	if (err)
		return err;
	len = get_le32(h + OFF_LENGTH);
	*sec = (struct section){ .type = get_le16(h + OFF_TYPE),
				 .len = len,
				 .payload = h + STREAM_HEADER,
				 .got = len,
				 .crc = get_le32(h + OFF_CRC) };
	if (s->heads_only)
		sec->got = (uint32_t)covered(s, sec->type, len);
	err = read_all(s, h + STREAM_HEADER, sec->got, end, &got, d);
	if (err == -ENODATA)
		return cut(s, false, d);
	if (!err && stream_crc(h, covered(s, sec->type, len)) != sec->crc)
		err = diag_set(d, -EPROTO, "section %u from %s is damaged: its checksum is wrong",
			       s->in_number, s->peer);
	if (!err && sec->got < len)
		err = pass_over(s, sec, d);
	if (!err)
		s->in_number++;
	return err;
}
