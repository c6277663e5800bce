/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migrate_ram.c - rounds of RAM: what is pending, zero pages, sections and what is refused of
 * them, the hash. With host writes only; KVM's log has test_migration_kvm.c. The test's thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "ram.h"
#include "stream.h"

#define PAGE PAGE_SIZE_4K

struct two {
	struct gmem from, to;
	struct ram ram;
	struct ram_loaded loaded;
	uint8_t *payload;
	struct diag d;
};

static void open_two_of(struct two *t, uint64_t size, enum gmem_kind kind)
{
	memset(t, 0, sizeof(*t));
	t->payload = malloc(RAM_SECTION_MAX);
	assert_non_null(t->payload);
	assert_int_equal(gmem_create(&t->from, size, kind, &t->d), 0);
	assert_int_equal(gmem_create(&t->to, size, kind, &t->d), 0);
}

static void open_two(struct two *t, uint64_t size)
{
	open_two_of(t, size, GMEM_PRIVATE);
}

static void close_two(struct two *t)
{
	ram_stop(&t->ram);
	gmem_destroy(&t->from);
	gmem_destroy(&t->to);
	free(t->payload);
}

static void put(struct gmem *g, uint64_t page, uint8_t value)
{
	assert_int_equal(gmem_write(g, page * PAGE + 4000, &value, 1), 0);
}

/* Sends what is pending; returns the number of sections. */
static unsigned int send_round(struct two *t)
{
	unsigned int n = 0;
	int len;

	while ((len = ram_fill(&t->ram, t->payload, &t->d)) > 0) {
		uint8_t *copy = malloc((size_t)len); /* for the sanitizer */

		assert_non_null(copy);
		memcpy(copy, t->payload, (size_t)len);
		assert_int_equal(ram_load(&t->to, copy, (size_t)len, &t->loaded, &t->d), 0);
		free(copy);
		n++;
	}
	assert_int_equal(len, 0);
	return n;
}

static void test_rounds(void **state)
{
	struct two t;

	(void)state;
	open_two(&t, MiB(20) + 5 * PAGE); /* neither words nor sections come out even */
	put(&t.from, 0, 1);
	put(&t.from, 300, 2);
	put(&t.from, MiB(20) / PAGE + 4, 3);
	put(&t.to, 700, 9); /* is zero at the source */
	assert_int_equal(ram_start(&t.ram, NULL, &t.from, &t.d), 0);
	assert_int_equal(t.ram.npending, MiB(20) / PAGE + 5);
	assert_int_equal(send_round(&t), 21);
	assert_int_equal(t.ram.npending, 0);
	assert_int_equal(t.loaded.pages, 3);
	assert_int_equal(t.loaded.zero_pages, MiB(20) / PAGE + 2);
	assert_int_equal(t.ram.pages, 3);
	assert_true(ram_hash(&t.from) == ram_hash(&t.to));

	/* Only what was written; a page that has become zero as well. */
	put(&t.from, 300, 0);
	put(&t.from, 555, 7);
	assert_true(ram_hash(&t.from) != ram_hash(&t.to));
	assert_int_equal(ram_fetch(&t.ram, &t.d), 0);
	assert_int_equal(t.ram.npending, 2);
	assert_int_equal(send_round(&t), 2);
	assert_int_equal(t.ram.pages, 4);
	assert_true(ram_hash(&t.from) == ram_hash(&t.to));
	assert_int_equal(ram_fetch(&t.ram, &t.d), 0);
	assert_int_equal(t.ram.npending, 0);
	assert_int_equal(send_round(&t), 0);

	/* Stopped and begun anew: everything. A mark of before has no effect. */
	ram_stop(&t.ram);
	put(&t.from, 12, 1);
	assert_int_equal(ram_start(&t.ram, NULL, &t.from, &t.d), 0);
	assert_int_equal(t.ram.npending, MiB(20) / PAGE + 5);
	assert_int_equal(send_round(&t), 21);
	assert_true(ram_hash(&t.from) == ram_hash(&t.to));
	close_two(&t);
}

/* Memory that was emptied: what it had before is gone, and of what stays zero nothing is mapped. */
static void test_emptied(void **state)
{
	unsigned char resident = 1;
	struct two t;

	(void)state;
	open_two(&t, MiB(20) + 5 * PAGE);
	for (uint64_t page = 0; page < t.to.size / PAGE; page++)
		put(&t.to, page, 9);
	put(&t.from, 3, 1);
	put(&t.from, 1000, 2); /* in the second section of its 2 MiB; the first is all zero */
	put(&t.from, MiB(20) / PAGE + 4, 3);
	ram_load_empty(&t.loaded, &t.to);
	assert_int_equal(ram_start(&t.ram, NULL, &t.from, &t.d), 0);
	send_round(&t);
	assert_int_equal(mincore(t.to.base + MiB(8), PAGE, &resident), 0);
	assert_int_equal(resident & 1, 0);
	assert_int_equal(t.loaded.pages, 3);
	assert_int_equal(t.loaded.zero_pages, MiB(20) / PAGE + 2);
	assert_true(ram_hash(&t.from) == ram_hash(&t.to));

	put(&t.from, 3, 0);
	put(&t.from, 4, 0);
	put(&t.from, 2048, 7);
	assert_int_equal(ram_fetch(&t.ram, &t.d), 0);
	send_round(&t);
	assert_true(ram_hash(&t.from) == ram_hash(&t.to));
	ram_load_end(&t.loaded);
	close_two(&t);
}

/* What is written while its section is under way belongs to the next round. */
static void test_nothing_is_lost_meanwhile(void **state)
{
	struct two t;
	int len;

	(void)state;
	open_two(&t, MiB(16));
	assert_int_equal(ram_start(&t.ram, NULL, &t.from, &t.d), 0);
	len = ram_fill(&t.ram, t.payload, &t.d);
	assert_true(len > 0);
	put(&t.from, 5, 1);    /* has been read */
	put(&t.from, 3000, 1); /* has not */
	assert_int_equal(ram_load(&t.to, t.payload, (size_t)len, &t.loaded, &t.d), 0);
	send_round(&t);
	assert_int_equal(ram_fetch(&t.ram, &t.d), 0);
	assert_int_equal(t.ram.npending, 2);
	send_round(&t);
	assert_true(ram_hash(&t.from) == ram_hash(&t.to));
	close_two(&t);
}

/* A fetch in the middle of a round keeps what was not sent. */
static void test_unsent_pages_stay(void **state)
{
	struct two t;

	(void)state;
	open_two(&t, MiB(16));
	put(&t.from, 4095, 1);
	assert_int_equal(ram_start(&t.ram, NULL, &t.from, &t.d), 0);
	assert_true(ram_fill(&t.ram, t.payload, &t.d) > 0);
	assert_int_equal(ram_fetch(&t.ram, &t.d), 0);
	assert_int_equal(t.ram.npending, 4096 - RAM_PAGES);
	assert_int_equal(send_round(&t), 15);
	assert_true(ram_hash(&t.from) == ram_hash(&t.to));
	close_two(&t);
}

static void test_zero_pages(void **state)
{
	static uint8_t page[PAGE] __attribute__((aligned(32)));

	(void)state;
	assert_true(ram_page_is_zero(page));
	for (unsigned int i = 0; i < PAGE; i++) {
		page[i] = 0x80;
		assert_false(ram_page_is_zero(page));
		page[i] = 0;
	}
}

/* Every bit of memory is in the hash, and its place too. */
static void test_hash(void **state)
{
	uint8_t a[2 * PAGE] = { 0 };
	struct two t;
	uint64_t base;

	(void)state;
	open_two(&t, MiB(16));
	base = ram_hash(&t.from);
	for (unsigned int bit = 0; bit < 8 * 64; bit += 7) {
		uint64_t at = (uint64_t)bit * 31 % (MiB(16) / 8) * 8 + bit / 8;

		((uint8_t *)t.from.base)[at] ^= (uint8_t)(1u << bit % 8);
		assert_true(ram_hash(&t.from) != base);
		((uint8_t *)t.from.base)[at] ^= (uint8_t)(1u << bit % 8);
	}
	assert_true(ram_hash(&t.from) == base);
	a[0] = a[PAGE + 1] = 1;
	memcpy(t.from.base, a, sizeof(a));
	memcpy(t.to.base, a + PAGE, PAGE);
	memcpy((uint8_t *)t.to.base + PAGE, a, PAGE);
	assert_true(ram_hash(&t.from) != ram_hash(&t.to));
	close_two(&t);
}

/* --- hostile sections ----------------------------------------------------------------------------
 */

static void refuse(struct two *t, const uint8_t *payload, size_t len, const char *why)
{
	uint8_t *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, payload, len);
	t->d.text[0] = 0;
	assert_int_equal(ram_load(&t->to, copy, len, &t->loaded, &t->d), -EPROTO);
	if (!strstr(t->d.text, why))
		fail_msg("\"%s\" instead of \"%s\"", t->d.text, why);
	free(copy);
}

static void test_refused_sections(void **state)
{
	uint8_t p[RAM_FIXED + 16 + 2 * PAGE] = { 0 };
	struct two t;
	size_t len = RAM_FIXED + 16 + PAGE;

	(void)state;
	open_two(&t, MiB(16));
	put_le64(p, MiB(1));
	put_le32(p + 8, 3);
	p[24] = 2; /* the second has contents */
	memset(p + RAM_FIXED + 16, 'x', 2 * PAGE);
	put_le64(p + 16, ram_sum(p + RAM_FIXED + 16, 1));
	assert_int_equal(ram_load(&t.to, p, len, &t.loaded, &t.d), 0);
	assert_int_equal(t.to.base[MiB(1) + PAGE], 'x');
	assert_int_equal(t.to.base[MiB(1)], 0);

	for (size_t cut = 0; cut < len; cut++)
		refuse(&t, p, cut, "RAM section");
	refuse(&t, p, len + 1, "its length");
	refuse(&t, p, len + PAGE, "its length");
	p[32] = 2;
	refuse(&t, p, len, "contradict");
	p[32] = 8; /* the fourth of three */
	refuse(&t, p, len, "contradict");
	p[32] = 0;
	p[24] = 10;
	refuse(&t, p, len + PAGE, "contradict");
	p[24] = 2;
	p[12] = 1;
	refuse(&t, p, len, "impossible");
	p[12] = 0;
	put_le64(p, MiB(1) + 8);
	refuse(&t, p, len, "impossible");
	put_le64(p, MiB(16) - 2 * PAGE);
	refuse(&t, p, len, "not all of it is RAM");
	put_le64(p, UINT64_MAX - PAGE + 1);
	refuse(&t, p, len, "not all of it is RAM");
	put_le64(p, MiB(1));
	put_le32(p + 8, 0);
	refuse(&t, p, len, "impossible");
	put_le32(p + 8, RAM_PAGES + 1);
	refuse(&t, p, len, "impossible");
	put_le32(p + 8, UINT32_MAX);
	refuse(&t, p, len, "impossible");
	close_two(&t);
}

/* Any bit of the contents, or of their sum; and pages that have changed places. */
static void test_damaged_contents(void **state)
{
	uint8_t p[RAM_FIXED + 16 + 2 * PAGE] = { 0 }, *pages = p + RAM_FIXED + 16;
	struct two t;

	(void)state;
	open_two(&t, MiB(16));
	put_le32(p + 8, 2);
	p[24] = 3;
	for (size_t i = 0; i < 2 * PAGE; i++)
		pages[i] = (uint8_t)(i * 2654435761u >> 15);
	put_le64(p + 16, ram_sum(pages, 2));
	assert_int_equal(ram_load(&t.to, p, sizeof(p), &t.loaded, &t.d), 0);
	for (size_t bit = 0; bit < 2 * PAGE * 8; bit += 37) {
		pages[bit / 8] ^= (uint8_t)(1u << bit % 8);
		refuse(&t, p, sizeof(p), "damaged");
		pages[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (size_t bit = 0; bit < 64; bit++) {
		p[16 + bit / 8] ^= (uint8_t)(1u << bit % 8);
		refuse(&t, p, sizeof(p), "damaged");
		p[16 + bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (size_t i = 0; i < PAGE; i++) {
		uint8_t byte = pages[i];

		pages[i] = pages[PAGE + i];
		pages[PAGE + i] = byte;
	}
	refuse(&t, p, sizeof(p), "damaged");
	close_two(&t);
}

static uint64_t pages_of(const struct gmem *g)
{
	struct stat st;

	assert_int_equal(fstat(g->fd, &st), 0);
	return (uint64_t)st.st_blocks * 512 / PAGE;
}

/* The memory of a machine with a function: what no guest has touched costs neither host anything.
 */
static void test_untouched_memory(void **state)
{
	struct two t;

	(void)state;
	open_two_of(&t, MiB(20), GMEM_SHARED);
	put(&t.from, 0, 1);
	put(&t.from, 700, 2);
	put(&t.to, 1500, 9); /* is zero at the source */
	assert_int_equal(ram_start(&t.ram, NULL, &t.from, &t.d), 0);
	assert_int_equal(send_round(&t), MiB(20) / PAGE / RAM_PAGES);
	assert_int_equal(t.loaded.pages, 2);
	assert_int_equal(t.loaded.zero_pages, MiB(20) / PAGE - 2);
	assert_in_range(pages_of(&t.from), 2, 2 * RAM_PAGES);
	assert_in_range(pages_of(&t.to), 3, 3 * RAM_PAGES);

	/* Touched for the first time behind the round: in the next one. */
	assert_int_equal(gmem_write(&t.from, 1200 * PAGE, "x", 1), 0);
	assert_int_equal(ram_fetch(&t.ram, &t.d), 0);
	assert_int_equal(send_round(&t), 1);
	assert_true(ram_hash(&t.from) == ram_hash(&t.to));
	close_two(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rounds),
		cmocka_unit_test(test_emptied),
		cmocka_unit_test(test_nothing_is_lost_meanwhile),
		cmocka_unit_test(test_unsent_pages_stay),
		cmocka_unit_test(test_zero_pages),
		cmocka_unit_test(test_untouched_memory),
		cmocka_unit_test(test_hash),
		cmocka_unit_test(test_refused_sections),
		cmocka_unit_test(test_damaged_contents),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
