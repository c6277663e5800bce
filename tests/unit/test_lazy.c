/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_lazy.c - memory that comes out of a file when it is touched: every byte is right, whoever
 * touches it first; what is damaged, changed or cut off ends the process before it is seen.
 * The test plays main and the migration thread; threads of its own play vcpus.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lazy.h"
#include "proto.h"
#include "ram.h"

#define PAGE	 PAGE_SIZE_4K
#define SIZE	 MiB(48)
#define PAGES	 (SIZE / PAGE)
#define TOUCHERS 3
/* Zero pages on both sides of 2 MiB. */
#define FIRST_ZERO 470u
#define LAST_ZERO  540u
/* Exit status of a child: its memory was lost; userfaultfd is not for this user. */
#define LOST   42
#define UNABLE 77

/* --- a snapshot ------------------------------------------------------------------------------- */

struct snapshot {
	struct gmem mem; /* what is in it */
	int fd;
};

static void put(struct gmem *g, uint64_t page, uint64_t value)
{
	uint64_t words[PAGE / 8];

	for (unsigned int i = 0; i < PAGE / 8; i++)
		words[i] = value ? (value << 32 | page) * 0x9e3779b97f4a7c15ull + i : 0;
	assert_int_equal(gmem_write(g, page * PAGE, words, sizeof(words)), 0);
}

static void write_round(struct stream *s, struct ram *r)
{
	struct diag d = { 0 };
	int len;

	while ((len = ram_fill(r, stream_payload(s), &d)) > 0)
		assert_int_equal(stream_send(s, MSG_RAM, NULL, (size_t)len, &d), 0);
	assert_int_equal(len, 0);
}

/*
 * Two rounds, the second of some pages that changed, among them such as became zero or no longer
 * are. forget: a page that is in none, if not 0.
 */
static void write_snapshot(int fd, struct gmem *mem, uint64_t forget)
{
	struct diag d = { 0 };
	struct stream s;
	struct ram r;

	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(stream_init(&s, fd, &d), 0);
	s.head_type = MSG_RAM;
	s.head_len = RAM_HEAD;
	assert_int_equal(ram_start(&r, NULL, mem, &d), 0);
	if (forget)
		r.pending[forget / 64] &= ~(1ull << forget % 64);
	write_round(&s, &r);
	for (uint64_t p = 0; p < PAGES; p += 97)
		put(mem, p, p % 2 ? 0 : 2);
	assert_int_equal(ram_fetch(&r, &d), 0);
	write_round(&s, &r);
	assert_int_equal(stream_send(&s, MSG_COMMIT, NULL, 0, &d), 0);
	ram_stop(&r);
	stream_fini(&s);
}

/*
 * Of every 7 pages one is zero, all around 2 MiB, where gmem's mapping has two parts, and all of
 * the last quarter. A memfd is a regular file.
 */
static struct snapshot make_snapshot(void)
{
	struct snapshot sn = { .fd = memfd_create("snapshot", MFD_CLOEXEC) };
	struct diag d = { 0 };

	assert_true(sn.fd >= 0);
	assert_int_equal(gmem_create(&sn.mem, SIZE, GMEM_PRIVATE, &d), 0);
	for (uint64_t p = 0; p < PAGES * 3 / 4; p++)
		put(&sn.mem, p, p % 7 && (p < FIRST_ZERO || p > LAST_ZERO));
	write_snapshot(sn.fd, &sn.mem, 0);
	return sn;
}

static void free_snapshot(struct snapshot *sn)
{
	gmem_destroy(&sn->mem);
	close(sn->fd);
}

/* --- the machine that it comes into ------------------------------------------------------------
 */

struct box {
	struct gmem mem;
	struct lazy *lazy;
	uint64_t pages, zero_pages;
	struct diag d;
};

static void on_lost(void *arg, const char *why)
{
	(void)arg;
	fprintf(stderr, "# %s\n", why);
	_exit(LOST);
}

/* False: this user may not. */
static bool open_box(struct box *b)
{
	int err;

	memset(b, 0, sizeof(*b));
	assert_int_equal(gmem_create(&b->mem, SIZE, GMEM_PRIVATE, &b->d), 0);
	err = lazy_create(&b->mem, NULL, on_lost, b, &b->lazy, &b->d);
	if (err == -EPERM)
		gmem_destroy(&b->mem);
	else
		assert_int_equal(err, 0);
	return !err;
}

static void close_box(struct box *b)
{
	lazy_destroy(b->lazy);
	gmem_destroy(&b->mem);
}

/* Reads the heads; 0 when COMMIT has come and every page is known. */
static int note_all(struct box *b, int fd)
{
	struct section sec = { .type = MSG_NONE };
	struct stream s;
	int err;

	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(stream_init(&s, fd, &b->d), 0);
	s.head_type = MSG_RAM;
	s.head_len = RAM_HEAD;
	s.heads_only = true;
	s.peer = "the file";
	do {
		err = stream_recv(&s, &sec, &b->d);
		if (!err && sec.type == MSG_RAM)
			err = lazy_note(b->lazy, &sec, &b->d);
	} while (!err && sec.type != MSG_COMMIT);
	assert_true(err || s.received < SIZE / 16); /* it read heads */
	stream_fini(&s);
	return err ? err : lazy_complete(b->lazy, &b->pages, &b->zero_pages, &b->d);
}

#define need(box)                                               \
	do {                                                    \
		if (!open_box(box)) {                           \
			print_message("# %s\n", (box)->d.text); \
			skip();                                 \
		}                                               \
	} while (0)

/* --- who touches it ----------------------------------------------------------------------------
 */

struct toucher {
	pthread_t thread;
	const struct box *b;
	const struct snapshot *sn;
	uint64_t seed;
	uint64_t wrong;
};

/* In an order of its own, so that faults and background meet in many ways. */
static void *touch(void *arg)
{
	struct toucher *t = arg;
	uint64_t page = t->seed % PAGES;

	for (uint64_t i = 0; i < PAGES; i++) {
		page = (page + 1 + 2 * (t->seed % 1000)) % PAGES;
		t->wrong += memcmp(t->b->mem.base + page * PAGE, t->sn->mem.base + page * PAGE,
				   PAGE) != 0;
	}
	return NULL;
}

static void test_every_byte(void **state)
{
	struct snapshot sn = make_snapshot();
	struct toucher t[TOUCHERS];
	struct box b;

	(void)state;
	need(&b);
	assert_int_equal(note_all(&b, sn.fd), 0);
	assert_int_equal(b.pages + b.zero_pages, PAGES);
	/* What lay there before is not the guest's. */
	memset(b.mem.base, 0xee, MiB(3));
	assert_true(lazy_over(b.lazy));
	assert_int_equal(lazy_serve(b.lazy, sn.fd, &b.d), 0);
	assert_int_equal(b.mem.base[500 * PAGE], 0);
	for (unsigned int i = 0; i < TOUCHERS; i++) {
		t[i] = (struct toucher){ .b = &b, .sn = &sn, .seed = 7919 * i + 13 };
		assert_int_equal(pthread_create(&t[i].thread, NULL, touch, &t[i]), 0);
	}
	for (unsigned int i = 0; i < TOUCHERS; i++) {
		pthread_join(t[i].thread, NULL);
		assert_int_equal(t[i].wrong, 0);
	}
	lazy_finish(b.lazy);
	assert_true(lazy_over(b.lazy));
	assert_true(ram_hash(&b.mem) == ram_hash(&sn.mem));
	/* From here on it is memory like any other. */
	memset(b.mem.base, 0x11, SIZE);
	close_box(&b);
	free_snapshot(&sn);
}

/* The kernel touches it, too: a read(2) into it, a write(2) out of it. */
static void test_system_calls(void **state)
{
	struct snapshot sn = make_snapshot();
	uint8_t page[PAGE];
	int pair[2];
	struct box b;

	(void)state;
	need(&b);
	assert_int_equal(note_all(&b, sn.fd), 0);
	assert_int_equal(pipe(pair), 0);
	assert_int_equal(lazy_serve(b.lazy, sn.fd, &b.d), 0);
	for (uint64_t p = PAGES - 1; p > PAGES / 2; p -= 11) {
		assert_int_equal(write(pair[1], b.mem.base + p * PAGE, PAGE), PAGE);
		assert_int_equal(read(pair[0], page, PAGE), PAGE);
		assert_memory_equal(page, sn.mem.base + p * PAGE, PAGE);
		assert_int_equal(write(pair[1], "written!", 8), 8);
		assert_int_equal(read(pair[0], b.mem.base + p * PAGE + 8, 8), 8);
		assert_memory_equal(b.mem.base + p * PAGE, sn.mem.base + p * PAGE, 8);
		assert_memory_equal(b.mem.base + p * PAGE + 8, "written!", 8);
	}
	close(pair[0]);
	close(pair[1]);
	close_box(&b);
	free_snapshot(&sn);
}

/* The other way, for who wants to compare: all at once, and the caller may touch nothing before. */
static void test_read_all(void **state)
{
	struct snapshot sn = make_snapshot();
	struct box b;

	(void)state;
	need(&b);
	assert_int_equal(note_all(&b, sn.fd), 0);
	assert_int_equal(lazy_read_all(b.lazy, sn.fd, &b.d), 0);
	assert_true(ram_hash(&b.mem) == ram_hash(&sn.mem));
	close_box(&b);
	free_snapshot(&sn);
}

/* It may end at any moment: before anything came, or in the middle of it. */
static void test_ends_early(void **state)
{
	struct snapshot sn = make_snapshot();
	struct box b;

	(void)state;
	need(&b);
	close_box(&b);
	need(&b);
	assert_int_equal(note_all(&b, sn.fd), 0);
	close_box(&b);
	need(&b);
	assert_int_equal(note_all(&b, sn.fd), 0);
	assert_int_equal(lazy_serve(b.lazy, sn.fd, &b.d), 0);
	close_box(&b);
	free_snapshot(&sn);
}

/* --- bad files ---------------------------------------------------------------------------------
 */

static void flip(int fd, off_t at)
{
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x20;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

/* Any bit of what is looked at first; the rest shows when its page is wanted. */
static void test_damaged_heads(void **state)
{
	struct snapshot sn = make_snapshot();
	const size_t head = STREAM_HEADER + RAM_HEAD;

	(void)state;
	for (size_t at = 0; at < head; at++) {
		struct box b;

		need(&b);
		flip(sn.fd, (off_t)at);
		assert_true(note_all(&b, sn.fd) < 0);
		assert_true(b.d.text[0]);
		flip(sn.fd, (off_t)at);
		close_box(&b);
	}
	free_snapshot(&sn);
}

static void test_page_missing(void **state)
{
	struct snapshot sn = make_snapshot();
	struct box b;

	(void)state;
	need(&b);
	write_snapshot(sn.fd, &sn.mem, 12000);
	assert_int_equal(note_all(&b, sn.fd), -EPROTO);
	assert_non_null(strstr(b.d.text, "lacks a page"));
	close_box(&b);
	free_snapshot(&sn);
}

enum harm { HARM_FLIP, HARM_CUT, HARM_REPLACE, HARMS };

/* HARM_REPLACE: by a snapshot that is sound in itself. */
static void do_harm(const struct snapshot *sn, enum harm harm)
{
	struct snapshot other;

	switch (harm) {
	case HARM_FLIP:
		flip(sn->fd, MiB(20) + 123);
		break;
	case HARM_CUT:
		assert_int_equal(ftruncate(sn->fd, MiB(20)), 0);
		break;
	default:
		other = make_snapshot();
		put(&other.mem, 3000, 9);
		write_snapshot(sn->fd, &other.mem, 0);
		free_snapshot(&other);
		break;
	}
}

/* Exit status of a process whose file is harmed when its heads have been read. */
static int run_harmed(const struct snapshot *sn, enum harm harm, bool all)
{
	struct box b;

	if (!open_box(&b))
		return UNABLE;
	if (note_all(&b, sn->fd))
		return 1;
	do_harm(sn, harm);
	if (all)
		return lazy_read_all(b.lazy, sn->fd, &b.d) ? LOST : 1;
	if (lazy_serve(b.lazy, sn->fd, &b.d))
		return 1;
	for (uint64_t p = PAGES; p-- > 0;)
		if (memcmp(b.mem.base + p * PAGE, sn->mem.base + p * PAGE, PAGE))
			return 3; /* a wrong byte was seen */
	return 0;
}

static void test_harmed_later(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 2 * HARMS; i++) {
		struct snapshot sn = make_snapshot();
		int status;
		pid_t pid;

		pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			alarm(60);
			_exit(run_harmed(&sn, (enum harm)(i / 2), i % 2));
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		free_snapshot(&sn);
		if (WEXITSTATUS(status) == UNABLE)
			skip();
		assert_int_equal(WEXITSTATUS(status), LOST);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_byte),    cmocka_unit_test(test_system_calls),
		cmocka_unit_test(test_read_all),      cmocka_unit_test(test_ends_early),
		cmocka_unit_test(test_damaged_heads), cmocka_unit_test(test_page_missing),
		cmocka_unit_test(test_harmed_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
