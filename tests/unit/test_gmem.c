/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_gmem.c - the one door to guest memory: bounds, the hole below 4 GiB, the log of writes. The
 * large machines are sparse: nothing but a few pages of them is ever touched. One thread, but for
 * the one that logs in parallel.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <unvmm/gmem.h>
#include <unvmm/platform.h>

#define LOW  ((uint64_t)PLAT_RAM_LOW_MAX)
#define HIGH ((uint64_t)PLAT_RAM_HIGH_BASE)

static enum gmem_kind kind; /* all tests run on private and on shared memory */

static int make_private(void **state)
{
	(void)state;
	kind = GMEM_PRIVATE;
	return 0;
}

static int make_shared(void **state)
{
	(void)state;
	kind = GMEM_SHARED;
	return 0;
}

static void create(struct gmem *g, uint64_t size)
{
	struct diag d = { 0 };

	if (gmem_create(g, size, kind, &d))
		fail_msg("%s", d.text);
}

static void test_create_refuses(void **state)
{
	static const uint64_t wrong[] = {
		0, 1, PLAT_RAM_MIN - 4096, PLAT_RAM_MIN + 1, PLAT_RAM_MIN + 2048, UINT64_MAX
	};
	struct gmem g;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct diag d = { 0 };

		assert_int_equal(gmem_create(&g, wrong[i], kind, &d), -EINVAL);
		assert_non_null(strstr(d.text, "multiple of 4 KiB"));
		gmem_destroy(&g); /* also after a failure */
	}
	for (uint64_t size = PLAT_RAM_MIN; size <= PLAT_RAM_MIN + 4096; size += 4096) {
		struct diag d = { 0 };

		if (size % MiB(2) == 0)
			continue;
		assert_int_equal(gmem_create(&g, size, GMEM_HUGETLB, &d), -EINVAL);
		assert_non_null(strstr(d.text, "2 MiB"));
	}
	/* More than any file can have: refused by the kernel, with a sentence, and nothing leaks.
	 */
	struct diag d = { 0 };

	assert_true(gmem_create(&g, UINT64_MAX - 4095, kind, &d) < 0);
	assert_non_null(strstr(d.text, "memory: "));
	assert_int_equal(g.fd, -1);
	gmem_destroy(&g);
}

static void test_hugepages_that_are_not_there(void **state)
{
	struct diag d = { 0 };
	struct gmem g;

	(void)state;
	/* 1 PiB: no pool has that. Some hosts have no 2 MiB pages at all: refused one step earlier.
	 */
	assert_true(gmem_create(&g, 1ull << 50, GMEM_HUGETLB, &d) < 0);
	assert_true(strstr(d.text, "2 MiB") || strstr(d.text, "hugepages"));
	assert_int_equal(g.fd, -1);
	gmem_destroy(&g);
}

static void test_small_machine(void **state)
{
	static const uint8_t zeroes[64];
	uint8_t buf[64], page[4096];
	struct gmem g;

	(void)state;
	create(&g, PLAT_RAM_MIN);
	assert_int_equal(g.nregions, 1);
	assert_int_equal(gmem_read(&g, PLAT_RAM_MIN - 64, buf, 64), 0);
	assert_memory_equal(buf, zeroes, 64);
	memset(page, 0x77, sizeof(page));
	assert_int_equal(gmem_write(&g, 0x1800, page, sizeof(page)), 0);
	memset(page, 0, sizeof(page));
	assert_int_equal(gmem_read(&g, 0x1800, page, sizeof(page)), 0);
	assert_int_equal(page[0] & page[4095], 0x77);
	assert_int_equal(gmem_zero(&g, 0x1801, 4094), 0);
	assert_int_equal(gmem_read(&g, 0x1800, page, sizeof(page)), 0);
	assert_true(page[0] == 0x77 && page[1] == 0 && page[4094] == 0 && page[4095] == 0x77);
	gmem_destroy(&g);
	gmem_destroy(&g); /* does nothing more */
}

/* What each call must refuse; nothing may be copied then. */
static void refused(struct gmem *g, gpa_t gpa, uint64_t len)
{
	static uint8_t buf[8192];
	uint8_t before = 0x5c;

	assert_null(gmem_ptr(g, gpa, len));
	if (len > sizeof(buf))
		return;
	memset(buf, before, sizeof(buf));
	assert_int_equal(gmem_read(g, gpa, buf, len), -EFAULT);
	assert_int_equal(buf[0], before);
	assert_int_equal(gmem_write(g, gpa, buf, len), -EFAULT);
	assert_int_equal(gmem_zero(g, gpa, len), -EFAULT);
}

static void test_bounds(void **state)
{
	const uint64_t size = PLAT_RAM_MIN;
	struct gmem g;

	(void)state;
	create(&g, size);
	assert_non_null(gmem_ptr(&g, 0, size));
	assert_non_null(gmem_ptr(&g, size - 1, 1));
	assert_ptr_equal(gmem_ptr(&g, size - 1, 1), (uint8_t *)gmem_ptr(&g, 0, 1) + size - 1);
	refused(&g, size, 1);
	refused(&g, size - 1, 2);
	refused(&g, 0, size + 1);
	refused(&g, 1, size);
	refused(&g, UINT64_MAX, 1);
	refused(&g, UINT64_MAX, 2);	      /* wraps to 1 */
	refused(&g, UINT64_MAX - 4095, 4096); /* ends at 2^64 */
	refused(&g, UINT64_MAX - 4095, 8192); /* wraps into RAM */
	refused(&g, 4096, UINT64_MAX);
	refused(&g, 4096, UINT64_MAX - 4095); /* wraps to 0 */
	refused(&g, 1ull << 63, 1ull << 63);
	refused(&g, HIGH, 1);
	/* Nothing is everywhere, but has no address. */
	assert_null(gmem_ptr(&g, 0, 0));
	assert_int_equal(gmem_read(&g, UINT64_MAX, NULL, 0), 0);
	assert_int_equal(gmem_write(&g, UINT64_MAX, NULL, 0), 0);
	assert_int_equal(gmem_zero(&g, UINT64_MAX, 0), 0);
	gmem_destroy(&g);
}

static void test_around_the_hole(void **state)
{
	struct gmem g;
	uint64_t v;

	(void)state;
	create(&g, LOW);
	assert_int_equal(g.nregions, 1);
	gmem_destroy(&g);
	create(&g, LOW + 4096);
	assert_int_equal(g.nregions, 2);
	assert_int_equal(g.regions[1].size, 4096);
	gmem_destroy(&g);

	create(&g, GiB(5));
	assert_int_equal(g.nregions, 2);
	assert_true(g.regions[0].size == LOW && g.regions[1].gpa == HIGH);
	assert_true(g.regions[0].size + g.regions[1].size == GiB(5));
	v = 0x1122334455667788;
	assert_int_equal(gmem_write(&g, LOW - 8, &v, 8), 0);
	v = 0x99aabbccddeeff00;
	assert_int_equal(gmem_write(&g, HIGH, &v, 8), 0);
	assert_int_equal(gmem_read(&g, LOW - 8, &v, 8), 0);
	assert_true(v == 0x1122334455667788);
	/* Side by side in the memfd and here, but no access may go from one to the other. */
	assert_ptr_equal((uint8_t *)gmem_ptr(&g, LOW - 8, 8) + 8, gmem_ptr(&g, HIGH, 8));
	refused(&g, LOW - 4, 8);
	refused(&g, LOW - 1, HIGH - LOW + 2);
	refused(&g, 0, GiB(5));
	refused(&g, LOW, 1);
	refused(&g, LOW, 4096);
	refused(&g, HIGH - 1, 1);
	refused(&g, HIGH - 1, 2);
	refused(&g, HIGH + GiB(2), 1);
	refused(&g, HIGH + GiB(2) - 1, 2);
	assert_non_null(gmem_ptr(&g, HIGH + GiB(2) - 1, 1));
	assert_non_null(gmem_ptr(&g, HIGH, GiB(2)));
	gmem_destroy(&g);
}

static void test_the_descriptor(void **state)
{
	struct stat st;
	struct gmem g;
	char c = 'x';

	(void)state;
	assert_int_equal(gmem_create(&g, GiB(4), GMEM_SHARED, NULL), 0);
	/* Whoever is handed it can neither cut it nor let it grow. */
	assert_int_equal(ftruncate(g.fd, 4096), -1);
	assert_int_equal(ftruncate(g.fd, (off_t)GiB(8)), -1);
	assert_int_equal(fcntl(g.fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(fcntl(g.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fstat(g.fd, &st), 0);
	assert_int_equal(st.st_blocks, 0); /* not touched yet */
	/* offset is where the region's bytes are. */
	assert_int_equal(pwrite(g.fd, &c, 1, (off_t)g.regions[1].offset + 5), 1);
	assert_int_equal(gmem_read(&g, HIGH + 5, &c, 1), 0);
	assert_int_equal(c, 'x');
	gmem_destroy(&g);
}

/* --- the log --------------------------------------------------------------------------------- */

static uint64_t dirty_pages(const struct gmem *g)
{
	uint64_t n = 0;

	for (uint64_t w = 0; w < (g->size / 4096 + 63) / 64; w++)
		n += (unsigned int)__builtin_popcountll(g->dirty[w]);
	return n;
}

static bool dirty(const struct gmem *g, uint64_t page)
{
	return g->dirty[page / 64] >> (page % 64) & 1;
}

static void test_dirty_log(void **state)
{
	const uint64_t high_page = LOW / 4096;
	uint8_t buf[8192] = { 0 };
	struct gmem g;

	(void)state;
	create(&g, LOW + MiB(1) + 4096);		/* not a multiple of 64 pages */
	assert_int_equal(gmem_write(&g, 0, buf, 1), 0); /* not logged: no log */
	gmem_mark_dirty(&g, 0, 1);
	assert_int_equal(gmem_log_start(&g), 0);
	assert_int_equal(gmem_log_start(&g), -EALREADY);
	assert_int_equal(dirty_pages(&g), 0);
	assert_int_equal(gmem_write(&g, 0x5fff, buf, 1), 0);
	assert_true(dirty_pages(&g) == 1 && dirty(&g, 5));
	assert_int_equal(gmem_write(&g, 0x5fff, buf, 2), 0);
	assert_true(dirty_pages(&g) == 2 && dirty(&g, 6));
	assert_int_equal(gmem_zero(&g, 0x9800, 8192), 0);
	assert_true(dirty_pages(&g) == 5 && dirty(&g, 9) && dirty(&g, 11));
	assert_int_equal(gmem_read(&g, 0x20000, buf, 8192), 0); /* reading dirties nothing */
	assert_int_equal(gmem_write(&g, HIGH, buf, 4096), 0);
	assert_true(dirty_pages(&g) == 6 && dirty(&g, high_page));
	gmem_mark_dirty(&g, HIGH + MiB(1), 4096); /* the last page of all */
	assert_true(dirty_pages(&g) == 7 && dirty(&g, high_page + 256));
	/* Outside of RAM, or nothing: ignored. */
	gmem_mark_dirty(&g, HIGH + MiB(1) + 4096, 1);
	gmem_mark_dirty(&g, LOW - 1, 2);
	gmem_mark_dirty(&g, UINT64_MAX, 2);
	gmem_mark_dirty(&g, 0x40000, 0);
	gmem_mark_dirty(&g, 0, UINT64_MAX);
	assert_int_equal(gmem_write(&g, LOW, buf, 1), -EFAULT);
	assert_int_equal(dirty_pages(&g), 7);
	gmem_mark_dirty(&g, 0, LOW);
	assert_int_equal(dirty_pages(&g), high_page + 2);
	gmem_log_stop(&g);
	gmem_mark_dirty(&g, 0, 1);
	assert_int_equal(gmem_log_start(&g), 0);
	assert_int_equal(dirty_pages(&g), 0); /* a new log is clear */
	gmem_destroy(&g);		      /* and goes with the memory */
}

static void *mark_odd(void *arg)
{
	for (uint64_t page = 1; page < PLAT_RAM_MIN / 4096; page += 2)
		gmem_mark_dirty(arg, page * 4096, 4096);
	return NULL;
}

/* Two threads that mark neighbouring pages share words of the bitmap. */
static void test_dirty_log_two_threads(void **state)
{
	pthread_t thread;
	struct gmem g;

	(void)state;
	create(&g, PLAT_RAM_MIN);
	assert_int_equal(gmem_log_start(&g), 0);
	assert_int_equal(pthread_create(&thread, NULL, mark_odd, &g), 0);
	for (uint64_t page = 0; page < PLAT_RAM_MIN / 4096; page += 2)
		gmem_mark_dirty(&g, page * 4096, 1);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(dirty_pages(&g), PLAT_RAM_MIN / 4096);
	gmem_destroy(&g);
}

/* --- shared regions -------------------------------------------------------------------------- */

static int file_of(uint64_t size)
{
	int fd = memfd_create("region", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void share(struct gmem *g, gpa_t gpa, uint64_t size, int fd, uint64_t offset, bool readonly)
{
	struct gmem_region r;

	assert_int_equal(gmem_region_map(&r, gpa, size, fd, offset, readonly), 0);
	assert_int_equal(gmem_share(g, &r), 0);
}

static void test_region_refused(void **state)
{
	const struct {
		gpa_t gpa;
		uint64_t size, offset;
	} wrong[] = {
		{ 0, 0, 0 },
		{ 1, 4096, 0 },
		{ 0, 4097, 0 },
		{ 0, 4096, 1 },
		{ 0, MiB(1) + 4096, 0 },
		{ 0, 4096, MiB(1) },
		{ 0, MiB(1), 4096 },
		{ UINT64_MAX - 4095, 8192, 0 },
		{ 0, 4096, UINT64_MAX - 4095 },
		{ 0, UINT64_MAX - 4095, 4096 },
		{ 0, 1ull << 63, 0 },
	};
	int fd = file_of(MiB(1)), pipes[2];
	struct gmem_region r;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(gmem_region_map(&r, wrong[i].gpa, wrong[i].size, fd,
						 wrong[i].offset, false),
				 -EINVAL);
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(gmem_region_map(&r, 0, 4096, pipes[0], 0, false), -EINVAL);
	assert_int_equal(gmem_region_map(&r, 0, 4096, 9999, 0, false), -EBADF);
	/* The last page of all addresses is one. */
	assert_int_equal(gmem_region_map(&r, UINT64_MAX - 4095, 4096, fd, 0, false), 0);
	gmem_region_unmap(&r);
	close(pipes[0]);
	close(pipes[1]);
	close(fd);
}

static void test_shared_regions(void **state)
{
	struct gmem g = GMEM_EMPTY;
	int fd = file_of(MiB(1));
	struct gmem_region r;
	char c = 'x';

	(void)state;
	refused(&g, 0, 1);
	share(&g, GiB(4), 8192, fd, 4096, false);
	share(&g, 0, 4096, fd, 0, false);
	share(&g, GiB(4) + 8192, 4096, fd, 65536, true);
	share(&g, GiB(8), 4096, -1, 0, false);
	assert_int_equal(g.nshared, 4);
	/* The same bytes as in the file. */
	assert_int_equal(gmem_write(&g, GiB(4) + 8191, &c, 1), 0);
	c = 0;
	assert_int_equal(pread(fd, &c, 1, 4096 + 8191), 1);
	assert_int_equal(c, 'x');
	/* Neighbours are two regions, one of which may not be written, and one not be reached. */
	refused(&g, GiB(4) + 8191, 2);
	refused(&g, 4095, 2);
	refused(&g, 4096, 1);
	assert_null(gmem_ptr(&g, GiB(4) + 8192, 1));
	assert_non_null(gmem_ptr_read(&g, GiB(4) + 8192, 4096));
	assert_int_equal(gmem_read(&g, GiB(4) + 8192, &c, 1), 0);
	assert_int_equal(gmem_write(&g, GiB(4) + 8192, &c, 1), -EFAULT);
	assert_int_equal(gmem_zero(&g, GiB(4) + 8192, 1), -EFAULT);
	refused(&g, GiB(8), 1);
	/* No overlaps; out goes exactly what came in. */
	assert_int_equal(gmem_region_map(&r, GiB(4) + 4096, MiB(1), fd, 0, false), 0);
	assert_int_equal(gmem_share(&g, &r), -EEXIST);
	gmem_region_unmap(&r);
	assert_int_equal(gmem_unshare(&g, GiB(4), 4096, &r), -ENOENT);
	assert_int_equal(gmem_unshare(&g, GiB(4) + 4096, 4096, &r), -ENOENT);
	assert_int_equal(gmem_unshare(&g, GiB(4), 8192, &r), 0);
	gmem_region_unmap(&r);
	refused(&g, GiB(4), 1);
	assert_non_null(gmem_ptr(&g, 0, 4096));
	gmem_destroy(&g);
	assert_int_equal(g.nshared, 0);
	close(fd);
}

static void test_shared_many(void **state)
{
	struct gmem g = GMEM_EMPTY;
	int fd = file_of(4096);
	struct gmem_region r;

	(void)state;
	for (unsigned int i = 0; i < GMEM_SHARED_MAX; i++) /* in an order that is none */
		share(&g, (uint64_t)(i * 389 % GMEM_SHARED_MAX) * 8192, 4096, fd, 0, false);
	for (unsigned int i = 0; i < GMEM_SHARED_MAX; i++) {
		assert_non_null(gmem_ptr(&g, (uint64_t)i * 8192, 4096));
		assert_null(gmem_ptr(&g, (uint64_t)i * 8192 + 4096, 1));
	}
	assert_int_equal(gmem_region_map(&r, GiB(1), 4096, fd, 0, false), 0);
	assert_int_equal(gmem_share(&g, &r), -ENOSPC);
	gmem_region_unmap(&r);
	gmem_destroy(&g);
	close(fd);
}

static void test_shared_log(void **state)
{
	uint64_t bits[2] = { 0 };
	struct gmem g = GMEM_EMPTY;
	int fd = file_of(MiB(1));
	clock_t started;

	(void)state;
	share(&g, MiB(1), 65536, fd, 0, false);
	gmem_mark_dirty(&g, MiB(1), 1); /* before the log */
	assert_int_equal(gmem_shared_log_start(&g), 0);
	assert_int_equal(gmem_shared_log_start(&g), 0);
	share(&g, MiB(1) + 65536, 65536, fd, 65536, false); /* after its start */
	gmem_mark_dirty(&g, MiB(1) + 4095, 2);
	gmem_mark_dirty(&g, MiB(1) + 65536 + 4096, 1);
	gmem_mark_dirty(&g, MiB(1) + 65535, 2); /* in no single region: none */
	gmem_mark_dirty(&g, 0, 1);
	assert_int_equal(gmem_shared_log_fetch(&g, MiB(1), 131072, bits), 0);
	assert_true(bits[0] == (3 | 1ull << 17) && bits[1] == 0);
	bits[0] = 0;
	assert_int_equal(gmem_shared_log_fetch(&g, MiB(1), 131072, bits), 0);
	assert_true(bits[0] == 0);
	assert_int_equal(gmem_shared_log_fetch(&g, MiB(1), 131072 + 4096, bits), -ENOENT);
	assert_int_equal(gmem_shared_log_fetch(&g, MiB(1) - 4096, 8192, bits), -ENOENT);
	assert_int_equal(gmem_shared_log_fetch(&g, MiB(1) + 1, 4096, bits), -EINVAL);
	assert_int_equal(gmem_shared_log_fetch(&g, MiB(1), UINT64_MAX - 4095, bits), -EINVAL);
	/* No log of what cannot be reached: it may be as large as addresses go. */
	share(&g, 1ull << 62, 1ull << 62, -1, 0, false);
	assert_int_equal(gmem_shared_log_start(&g), 0);
	assert_int_equal(gmem_shared_log_fetch(&g, 1ull << 62, 4096, bits), 0);
	assert_true(bits[0] == 0);
	/* ... and it costs who asks for it no time. */
	started = clock();
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(gmem_shared_log_fetch(&g, 1ull << 62, 1ull << 35, bits), 0);
	assert_true(clock() - started < CLOCKS_PER_SEC / 2);
	gmem_shared_log_stop(&g);
	gmem_mark_dirty(&g, MiB(1), 1);
	assert_int_equal(gmem_shared_log_fetch(&g, MiB(1), 4096, bits), 0);
	assert_true(bits[0] == 0);
	gmem_destroy(&g);
	close(fd);
}

/* Memory whose file was cut is replaced, and only that. */
static void test_trap(void **state)
{
	int fd = file_of(8192), other = file_of(4096);
	struct gmem g = GMEM_EMPTY;
	uint8_t *p, *q;

	(void)state;
	share(&g, 0, 8192, fd, 0, false);
	share(&g, MiB(1), 4096, other, 0, false);
	p = gmem_ptr(&g, 0, 8192);
	q = gmem_ptr(&g, MiB(1), 4096);
	p[0] = q[0] = 1;
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_true(gmem_trap(&g, p + 5000));
	assert_false(gmem_trap(&g, p + 8192));
	assert_false(gmem_trap(&g, NULL));
	assert_int_equal(p[0] + p[8191], 0);
	p[8191] = 7;
	assert_int_equal(q[0], 1);
	gmem_destroy(&g);
	close(fd);
	close(other);
}

int main(void)
{
	const struct CMUnitTest shared_tests[] = {
		cmocka_unit_test(test_region_refused), cmocka_unit_test(test_shared_regions),
		cmocka_unit_test(test_shared_many),    cmocka_unit_test(test_shared_log),
		cmocka_unit_test(test_trap),
	};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create_refuses),
		cmocka_unit_test(test_hugepages_that_are_not_there),
		cmocka_unit_test(test_small_machine),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_around_the_hole),
		cmocka_unit_test(test_the_descriptor),
		cmocka_unit_test(test_dirty_log),
		cmocka_unit_test(test_dirty_log_two_threads),
	};

	return cmocka_run_group_tests_name("private", tests, make_private, NULL) +
	       cmocka_run_group_tests_name("shared", tests, make_shared, NULL) +
	       cmocka_run_group_tests_name("regions", shared_tests, NULL, NULL);
}
