/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_migration_flips.c - a recorded stream (the snapshot of a guest of 16 MiB, most of it zero)
 * with one wrong bit after the other: whoever restores it refuses with a sentence, or, where the
 * checksum was made right again as a forger would, at most has another guest. It never crashes,
 * hangs, or runs half of it. SEED and FLIPS in the environment choose others, and more.
 */
#include "migration_env.h"

#include <sys/mman.h>

#include "ram.h"
#include "stream.h"

#define SECTIONS_MAX 512u

static struct recording {
	uint8_t *bytes;
	size_t len;
	size_t at[SECTIONS_MAX]; /* of each section's header */
	unsigned int n;
	int fd; /* a file that has them, for the restore */
	uint64_t seed;
	unsigned int flips;
} rec = { .fd = -1 };

static const struct plan plan = { .cmdline = "hot=8 cold=8 zeroed=8", .memory = "16M", .vcpus = 1 };

static uint64_t dice(uint64_t sides)
{
	rec.seed = rec.seed * 6364136223846793005u + 1442695040888963407u;
	return (rec.seed >> 33) % sides;
}

static uint32_t number(const char *name, uint32_t otherwise)
{
	const char *text = getenv(name);

	return text ? (uint32_t)strtoul(text, NULL, 0) : otherwise;
}

/* --- the recording ---------------------------------------------------------------------------- */

static int memory_file(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static uint16_t type_at(unsigned int i)
{
	return get_le16(rec.bytes + rec.at[i]);
}

static size_t length_at(unsigned int i)
{
	return get_le32(rec.bytes + rec.at[i] + 4);
}

static void find_sections(void)
{
	for (size_t at = 0; at < rec.len; at += STREAM_HEADER + length_at(rec.n - 1)) {
		assert_true(rec.n < SECTIONS_MAX && rec.len - at >= STREAM_HEADER);
		rec.at[rec.n++] = at;
	}
	assert_int_equal(type_at(0), MSG_HELLO);
	assert_int_equal(type_at(rec.n - 1), MSG_COMMIT);
}

static int record(void **state)
{
	struct migration_params prm = params();
	struct diag d = { 0 };
	struct side x;
	int fd;

	(void)state;
	rec.seed = number("SEED", (uint32_t)now_ms());
	rec.flips = number("FLIPS", 300);
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		return 0;
	print_message("# SEED=%u\n", (unsigned int)rec.seed);
	fd = memory_file("recording");
	side_open(&x, &plan, false);
	assert_true(run_until(&x, has_begun, 30000));
	assert_int_equal(migration_save(x.migration, dup(fd), true, &prm, &d), 0);
	assert_true(run_until(&x, has_ended, 30000));
	assert_int_equal(x.status.phase, MIGRATION_COMPLETED);
	side_close(&x);
	rec.len = (size_t)lseek(fd, 0, SEEK_END);
	rec.bytes = malloc(rec.len);
	assert_non_null(rec.bytes);
	assert_int_equal(pread(fd, rec.bytes, rec.len, 0), rec.len);
	rec.fd = fd;
	find_sections();
	print_message("# %zu bytes, %u sections\n", rec.len, rec.n);
	return 0;
}

static int forget(void **state)
{
	(void)state;
	free(rec.bytes);
	if (rec.fd >= 0)
		close(rec.fd);
	return 0;
}

/* --- restoring it ----------------------------------------------------------------------------- */

/* One machine is tried again and again, until a guest has run in it. */
static void restore(struct side *x)
{
	struct migration_params prm = params();
	struct diag d = { 0 };
	int fd = dup(rec.fd);

	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	x->ended = false;
	assert_int_equal(migration_restore(x->migration, fd, &prm, &d), 0);
	assert_true(run_until(x, has_ended, 30000));
}

static void check_refused(const struct side *x)
{
	assert_int_equal(x->status.phase, MIGRATION_FAILED);
	assert_true(x->status.error[0]);
	assert_true(x->machine.vm.held);
	assert_int_equal(x->machine.vm.event, VM_EVENT_NONE);
}

static void put(size_t at, const void *bytes, size_t len)
{
	assert_int_equal(pwrite(rec.fd, bytes, len, (off_t)at), len);
}

static void check_flip(struct side *x, size_t at)
{
	uint8_t wrong = rec.bytes[at] ^ (uint8_t)(1u << dice(8));

	put(at, &wrong, 1);
	restore(x);
	if (x->status.phase == MIGRATION_COMPLETED)
		fail_msg("byte %zu of %zu: 0x%02x instead of 0x%02x is restored", at, rec.len,
			 wrong, rec.bytes[at]);
	check_refused(x);
	put(at, &rec.bytes[at], 1);
}

/* Every byte of a header, then any. */
static void test_flips(void **state)
{
	struct side x;

	(void)state;
	need_kvm();
	side_open(&x, &plan, true);
	for (unsigned int i = 0; i < rec.n; i++) /* at most a few sections of each type */
		if (i < 3 || type_at(i) != type_at(i - 3))
			for (size_t byte = 0; byte < STREAM_HEADER; byte++)
				check_flip(&x, rec.at[i] + byte);
	for (unsigned int i = 0; i < rec.flips; i++)
		check_flip(&x, dice(rec.len));
	/* It was the bits. */
	restore(&x);
	assert_int_equal(x.status.phase, MIGRATION_COMPLETED);
	assert_true(runs(&x) && guest_is_content(&x));
	side_close(&x);
}

/* --- with a checksum that is right ------------------------------------------------------------ */

static size_t covered(unsigned int i)
{
	size_t len = length_at(i);

	return type_at(i) == MSG_RAM && len > RAM_HEAD ? RAM_HEAD : len;
}

/* Flips a bit of section i that the checksum covers, and makes that right. */
static void forge(unsigned int i, uint8_t *section)
{
	size_t len = STREAM_HEADER + covered(i), at;

	memcpy(section, rec.bytes + rec.at[i], len);
	do
		at = dice(len);
	while (at >= 4 && at < STREAM_HEADER); /* length, number, checksum */
	section[at] ^= (uint8_t)(1u << dice(8));
	put_le32(section + 12, stream_crc(section, covered(i)));
	put(rec.at[i], section, len);
}

static void test_forgeries(void **state)
{
	uint8_t *section = malloc(STREAM_HEADER + STREAM_PAYLOAD_MAX);
	unsigned int taken = 0;
	struct side x;

	(void)state;
	need_kvm();
	assert_non_null(section);
	side_open(&x, &plan, true);
	for (unsigned int n = 0; n < rec.flips; n++) {
		unsigned int i = (unsigned int)dice(rec.n);

		if (type_at(i) == MSG_RAM && n % 4) /* most are about memory: fewer of these */
			i = rec.n - 1 - (unsigned int)dice(rec.n > 16 ? 16 : rec.n);
		forge(i, section);
		restore(&x);
		put(rec.at[i], rec.bytes + rec.at[i], STREAM_HEADER + covered(i));
		if (x.status.phase != MIGRATION_COMPLETED) {
			check_refused(&x);
			continue;
		}
		/* Another guest than it was, for instance with another value in a register. */
		taken++;
		side_close(&x);
		side_open(&x, &plan, true);
	}
	side_close(&x);
	free(section);
	print_message("# of %u forgeries %u were as good as the original\n", rec.flips, taken);
	assert_true(taken < rec.flips);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flips),
		cmocka_unit_test(test_forgeries),
	};

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_ERROR);
	hear_forbidden_calls();
	return cmocka_run_group_tests(tests, record, forget);
}
