/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_boot.c - loads synthetic bzImages and looks at what is in guest memory afterwards; spoils
 * one header field after the other and looks at what is said about it; files that are none; a
 * second load. With UNVMM_TEST_KERNEL=FILE that kernel is loaded, too. ELF: test_boot_elf.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/platform.h>

#include "boot_env.h"
#include "boot_internal.h"

/* --- bzImage -------------------------------------------------------------------------------- */

static void bz_loads(void **state)
{
	struct boot_env e;
	struct boot_params bp;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(8192);
	boot_env_load_ok(&e);
	assert_int_equal(e.entry.mode, BOOT_LONG_MODE);
	assert_int_equal(e.entry.rip, KIMAGE_BZ_LOAD + 0x200);
	boot_env_content(&e, KIMAGE_BZ_LOAD, 8192, 0);
	boot_env_zero(&e, KIMAGE_BZ_LOAD + 8192, 4096);
	assert_string_equal((const char *)boot_env_at(&e, PLAT_CMDLINE, 64), "console=ttyS0 quiet");
	boot_env_long_mode_tables(&e);
	boot_env_e820(&e, 5);

	bp = boot_env_zero_page(&e);
	assert_int_equal(bp.hdr.header, 0x53726448);
	assert_int_equal(bp.hdr.version, 0x020f);
	assert_int_equal(bp.hdr.init_size, KIMAGE_BZ_INIT);
	assert_int_equal(bp.hdr.type_of_loader, 0xff);
	assert_int_equal(bp.hdr.cmd_line_ptr, PLAT_CMDLINE);
	assert_int_equal(bp.ext_cmd_line_ptr, 0);
	assert_int_equal(bp.hdr.ramdisk_image, 0);
	assert_int_equal(bp.hdr.ramdisk_size, 0);
	assert_int_equal(bp.hdr.setup_data, 0);
	assert_int_equal(bp.hdr.code32_start, KIMAGE_BZ_LOAD);
	assert_int_equal(bp.acpi_rsdp_addr, BOOT_ENV_RSDP);
	assert_int_equal(bp.sentinel, 0);
	assert_int_equal(bp.efi_info.efi_loader_signature, 0);
	boot_env_free(&e);
}

static void bz_with_memory_above_4g(void **state)
{
	struct boot_env e;

	(void)state;
	boot_env_init(&e, GiB(5));
	e.k = kimage_bzimage(4096);
	boot_env_add_initrd(&e, 5000);
	kimage_setup_header(&e.k)->initrd_addr_max = 0xffffffff;
	boot_env_load_ok(&e);
	boot_env_e820(&e, 6);
	assert_int_equal(boot_env_zero_page(&e).hdr.ramdisk_image, 0xc0000000 - 8192);
	boot_env_free(&e);
}

/* Address wanted, flags -> address got. */
static void bz_load_addresses(void **state)
{
	static const struct {
		uint64_t pref;
		uint8_t relocatable;
		uint32_t align;
		gpa_t load;
	} cases[] = {
		{ 0x1000000, 1, 0x200000, 0x1000000 },
		{ 0x1000000, 0, 0x200000, 0x1000000 },
		{ 0x1080000, 1, 0x200000, 0x1200000 }, /* not aligned: the next one that is */
		{ 0x110000, 0, 0, 0x110000 },	       /* cannot move: alignment says nothing */
		{ 0, 1, 0x200000, 0x200000 },	       /* below 1 MiB */
		{ 0, 1, 0x1000, 0x100000 },
		{ 0x100000, 1, 1, 0x100000 },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct setup_header *hdr;
		struct boot_env e;

		boot_env_init(&e, BOOT_ENV_RAM);
		e.k = kimage_bzimage(1024);
		hdr = kimage_setup_header(&e.k);
		hdr->pref_address = cases[i].pref;
		hdr->relocatable_kernel = cases[i].relocatable;
		hdr->kernel_alignment = cases[i].align;
		boot_env_load_ok(&e);
		assert_int_equal(e.entry.rip, cases[i].load + 0x200);
		boot_env_content(&e, cases[i].load, 1024, 0);
		boot_env_free(&e);
	}
}

/* setup_sects 0 means 4; what follows syssize (a signature) is not loaded. */
static void bz_setup_size_and_tail(void **state)
{
	struct boot_env e;
	const size_t skipped = 5 * 512 - KIMAGE_SETUP_SIZE;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(8192);
	kimage_setup_header(&e.k)->setup_sects = 0;
	kimage_setup_header(&e.k)->syssize = 4096 / 16;
	boot_env_load_ok(&e);
	boot_env_content(&e, KIMAGE_BZ_LOAD, 4096, skipped);
	boot_env_zero(&e, KIMAGE_BZ_LOAD + 4096, 4096);
	boot_env_free(&e);
}

static void bz_short_header_is_padded(void **state)
{
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(4096);
	/* The header of protocol 2.12 ends after handover_offset. */
	e.k.data[0x201] = 0x268 - 0x202;
	kimage_setup_header(&e.k)->kernel_info_offset = 0x12345678;
	boot_env_load_ok(&e);
	assert_int_equal(boot_env_zero_page(&e).hdr.kernel_info_offset, 0);
	assert_int_equal(boot_env_zero_page(&e).hdr.init_size, KIMAGE_BZ_INIT);
	boot_env_free(&e);
}

static void bz_initrd_is_high(void **state)
{
	static const struct {
		uint32_t addr_max;
		size_t size;
		gpa_t gpa;
	} cases[] = {
		{ 0x7fffffff, 4096, BOOT_ENV_RAM - 4096 },
		{ 0x7fffffff, 4097, BOOT_ENV_RAM - 8192 },
		{ 0x7fffffff, 100000, BOOT_ENV_RAM - 102400 },
		{ BOOT_ENV_RAM - 4096 - 1, 4096, BOOT_ENV_RAM - 8192 },
		{ BOOT_ENV_RAM - 2, 1, BOOT_ENV_RAM - 4096 },
		{ KIMAGE_BZ_LOAD + KIMAGE_BZ_INIT + 4096 - 1, 4096,
		  KIMAGE_BZ_LOAD + KIMAGE_BZ_INIT },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct boot_params bp;
		struct boot_env e;

		boot_env_init(&e, BOOT_ENV_RAM);
		e.k = kimage_bzimage(4096);
		kimage_setup_header(&e.k)->initrd_addr_max = cases[i].addr_max;
		boot_env_add_initrd(&e, cases[i].size);
		boot_env_load_ok(&e);
		bp = boot_env_zero_page(&e);
		assert_int_equal(bp.hdr.ramdisk_image, cases[i].gpa);
		assert_int_equal(bp.hdr.ramdisk_size, cases[i].size);
		assert_int_equal(bp.ext_ramdisk_image, 0);
		assert_int_equal(bp.ext_ramdisk_size, 0);
		boot_env_content(&e, cases[i].gpa, cases[i].size, 3);
		boot_env_free(&e);
	}
}

static void bz_initrd_addr_max_too_low(void **state)
{
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(4096);
	boot_env_add_initrd(&e, 4096);
	kimage_setup_header(&e.k)->initrd_addr_max = KIMAGE_BZ_LOAD + KIMAGE_BZ_INIT + 4094;
	boot_env_load_fails(&e, -ENOSPC, "initrd_addr_max 0x1400ffe");
	kimage_setup_header(&e.k)->initrd_addr_max = 0;
	boot_env_load_fails(&e, -ENOSPC, "initrd_addr_max 0x0");
	boot_env_free(&e);
}

static void cmdline_limit(void **state)
{
	char text[PLAT_CMDLINE_MAX + 1];
	struct boot_env e;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[2047] = '\0';
	boot_env_init(&e, BOOT_ENV_RAM);
	e.src.cmdline = text;
	e.k = kimage_bzimage(4096);
	boot_env_load_ok(&e);
	assert_string_equal((const char *)boot_env_at(&e, PLAT_CMDLINE, 2048), text);
	text[2047] = 'x';
	text[2048] = '\0';
	boot_env_load_fails(&e, -EINVAL, "has 2048 bytes, this kernel takes at most 2047");

	/* Our own limit is below that of this one. */
	kimage_setup_header(&e.k)->cmdline_size = 0xffffffff;
	boot_env_load_ok(&e);
	text[2048] = 'x';
	text[PLAT_CMDLINE_MAX] = '\0';
	boot_env_load_fails(&e, -EINVAL, "at most 65535");
	text[PLAT_CMDLINE_MAX - 1] = '\0';
	boot_env_load_ok(&e);
	assert_string_equal((const char *)boot_env_at(&e, PLAT_CMDLINE, PLAT_CMDLINE_MAX), text);
	e.src.cmdline = "";
	boot_env_load_ok(&e);
	assert_int_equal(*boot_env_at(&e, PLAT_CMDLINE, 1), 0);
	boot_env_free(&e);
}

static void bz_refusals(void **state)
{
	/* One value stored at one header offset. */
	static const struct {
		size_t offset, size;
		uint64_t value;
		const char *words;
	} cases[] = {
#define F(field, val, words)                                                                    \
	{ offsetof(struct setup_header, field), sizeof(((struct setup_header *)0)->field), val, \
	  words }
		F(boot_flag, 0, "neither a Linux bzImage nor an ELF file"),
		F(header, 0x12345678, "neither a Linux bzImage nor an ELF file"),
		F(version, 0x020b, "boot protocol 2.11 is too old, 2.12"),
		F(loadflags, 0, "LOADED_HIGH"),
		F(xloadflags, 0, "XLF_KERNEL_64"),
		F(kernel_alignment, 0, "kernel_alignment 0x0 is not a power of two"),
		F(kernel_alignment, 0x300000, "kernel_alignment 0x300000 is not a power of two"),
		F(init_size, 0xffffffff, "init_size 0xffffffff"),
		F(init_size, 0xbf001000, "does not lie between 1 MiB and 3 GiB"),
		F(syssize, 0, "syssize 0 leaves no room"),
		F(syssize, 0x20, "syssize 32 leaves no room"),
		F(syssize, 0xffffffff, "is it truncated?"),
		F(syssize, 257, "is it truncated?"),
		F(setup_sects, 255, "is it truncated?"),
		F(pref_address, UINT64_MAX, "pref_address 0xffffffffffffffff"),
		F(pref_address, 0xc0000000, "pref_address 0xc0000000"),
		F(pref_address, 0xbff00000, "pref_address 0xbff00000"),
#undef F
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct boot_env e;

		boot_env_init(&e, BOOT_ENV_RAM);
		e.k = kimage_bzimage(4096);
		memcpy((uint8_t *)kimage_setup_header(&e.k) + cases[i].offset, &cases[i].value,
		       cases[i].size);
		boot_env_load_fails(&e, -ENOEXEC, cases[i].words);
		boot_env_free(&e);
	}
}

static void bz_aligned_out_of_reach(void **state)
{
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(4096);
	kimage_setup_header(&e.k)->kernel_alignment = 0x80000000;
	kimage_setup_header(&e.k)->init_size = 0x40000001;
	boot_env_load_fails(&e, -ENOEXEC, "alignment 0x80000000) with 0x40000001 bytes");
	kimage_setup_header(&e.k)->init_size = 0x40000000;
	boot_env_load_fails(&e, -ENOSPC, "at least \"3072M\"");
	boot_env_free(&e);
}

static void bz_fixed_below_1m_is_refused(void **state)
{
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(4096);
	kimage_setup_header(&e.k)->relocatable_kernel = 0;
	kimage_setup_header(&e.k)->pref_address = 0xff000;
	boot_env_load_fails(&e, -ENOEXEC, "pref_address 0xff000 (not relocatable");
	boot_env_free(&e);
}

/* The figure that the message names is enough, and one page less is not. */
static void assert_exact_need(struct boot_env *e, uint64_t need, const char *words)
{
	struct gmem small = e->mem;

	assert_true(need % MiB(1) == 0);
	gmem_destroy(&small);
	assert_int_equal(gmem_create(&e->mem, need - PAGE_SIZE_4K, false, &e->d), 0);
	boot_env_load_fails(e, -ENOSPC, words);
	gmem_destroy(&e->mem);
	assert_int_equal(gmem_create(&e->mem, need, false, &e->d), 0);
	boot_env_load_ok(e);
}

static void too_little_ram(void **state)
{
	struct boot_env e;

	(void)state;
	boot_env_init(&e, MiB(16));
	e.k = kimage_bzimage(4096);
	boot_env_load_fails(&e, -ENOSPC,
			    "needs 4 MiB at 0x1000000, the guest has 16 MiB: set memory to at "
			    "least \"20M\"");
	assert_exact_need(&e, MiB(20), "at least \"20M\"");
	boot_env_add_initrd(&e, MiB(1) - 4095);
	boot_env_load_fails(&e, -ENOSPC,
			    "and its initrd 1 MiB above that, the guest has 20 MiB: set memory "
			    "to at least \"21M\"");
	assert_exact_need(&e, MiB(21), "at least \"21M\"");
	boot_env_free(&e);
}

static void initrd_beyond_3g(void **state)
{
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(4096);
	boot_env_add_initrd(&e, 1);
	assert_int_equal(ftruncate(e.src.initrd_fd, INT64_MAX), 0);
	boot_env_load_fails(&e, -ENOSPC, "must fit below 3 GiB");
	assert_int_equal(ftruncate(e.src.initrd_fd, (off_t)GiB(3)), 0);
	boot_env_load_fails(&e, -ENOSPC, "must fit below 3 GiB");
	boot_env_free(&e);
}

/* --- files ---------------------------------------------------------------------------------- */

/* Every prefix is refused, with a sentence, and the whole is taken. */
static void truncated_anywhere(void **state)
{
	(void)state;
	for (int elf = 0; elf < 2; elf++) {
		struct boot_env e;

		boot_env_init(&e, BOOT_ENV_RAM);
		e.k = elf ? kimage_elf(2048) : kimage_bzimage(4096);
		for (size_t len = 0; len < e.k.len; len += len < 0x300 ? 1 : 97) {
			int err = boot_env_load_part(&e, len);

			if (err != (len ? -ENOEXEC : -EINVAL) || !e.d.text[0])
				fail_msg("%zu bytes: %d, \"%s\"", len, err, e.d.text);
		}
		assert_int_equal(boot_env_load_part(&e, e.k.len - 1), -ENOEXEC);
		boot_env_load_ok(&e);
		boot_env_free(&e);
	}
}

static void not_files(void **state)
{
	int pipefd[2];
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.src.kernel_fd = open("/", O_RDONLY | O_DIRECTORY);
	assert_int_equal(boot_load(&e.mem, &e.src, &e.entry, &e.d), -EINVAL);
	assert_string_equal(e.d.text, "kernel the-kernel: it is a directory: it must be a regular "
				      "file");
	close(e.src.kernel_fd);

	assert_int_equal(pipe(pipefd), 0);
	e.d.text[0] = '\0';
	e.src.kernel_fd = pipefd[0];
	assert_int_equal(boot_load(&e.mem, &e.src, &e.entry, &e.d), -EINVAL);
	assert_non_null(strstr(e.d.text, "a device or a pipe"));

	e.d.text[0] = '\0';
	e.src.kernel_fd = -1;
	assert_int_equal(boot_load(&e.mem, &e.src, &e.entry, &e.d), -EBADF);
	assert_non_null(strstr(e.d.text, "kernel the-kernel: cannot get its size"));

	/* A good kernel, and an initrd that is none. */
	e.k = kimage_bzimage(4096);
	e.src.initrd_fd = pipefd[0];
	boot_env_load_fails(&e, -EINVAL, "initrd the-initrd: it is a device or a pipe");
	close(pipefd[1]);
	close(pipefd[0]);
	boot_env_add_initrd(&e, 0);
	boot_env_load_fails(&e, -EINVAL, "initrd the-initrd: the file is empty");
	boot_env_free(&e);
}

/* Between fstat and pread a file may shrink, or be of a kind that cannot be read there. */
static void read_errors(void **state)
{
	struct boot_file f = { .what = "initrd", .path = "the-initrd", .size = 100 };
	struct diag d = { "" };
	uint8_t buf[100] = { 0 };
	struct boot_env e;
	int dup_wo;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(4096);
	f.fd = kimage_fd(&e.k, 60);
	assert_int_equal(boot_file_read(&f, 0, buf, 60, &d), 0);
	assert_memory_equal(buf, e.k.data, 60);
	assert_int_equal(boot_file_read(&f, 0, buf, 100, &d), -EIO);
	assert_non_null(strstr(d.text, "initrd the-initrd: it ended at byte 60 while being read, "
				       "it had 100 bytes before"));
	close(f.fd);

	dup_wo = open("/dev/null", O_WRONLY);
	d.text[0] = '\0';
	f.fd = dup_wo;
	assert_int_equal(boot_file_read(&f, 0, buf, 100, &d), -EBADF);
	assert_non_null(strstr(d.text, "initrd the-initrd: cannot read"));
	close(dup_wo);
	boot_env_free(&e);
}

/* --- both ----------------------------------------------------------------------------------- */

/* What each kind of kernel must find in memory at its start. */
enum { BZ = 1, ELF_PVH = 2, ELF_64 = 4, LONG_MODE = BZ | ELF_64, ELF = ELF_PVH | ELF_64 };

static const struct {
	unsigned int kinds;
	gpa_t gpa;
	uint64_t len;
} boot_ranges[] = {
	{ BZ | ELF, 0, PAGE_SIZE_4K },
	{ BZ | ELF, PLAT_CMDLINE, 20 },
	{ LONG_MODE, PLAT_ZERO_PAGE, PAGE_SIZE_4K },
	{ LONG_MODE, PLAT_PAGE_TABLES, 6 * PAGE_SIZE_4K },
	{ ELF_PVH, PLAT_PVH_INFO, 56 + 32 + 5 * 24 },
	{ BZ, KIMAGE_BZ_LOAD, 4096 },
	{ ELF, KIMAGE_TEXT_GPA, 2048 },
	{ ELF, KIMAGE_DATA_GPA, KIMAGE_DATA_MEMSZ },
	{ BZ | ELF, BOOT_ENV_RAM - 8192, 5000 },
};

static void load_twice(unsigned int kind)
{
	uint8_t *before = malloc(BOOT_ENV_RAM);
	struct boot_entry entry;
	struct boot_env e;
	uint8_t *ram;

	assert_non_null(before);
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kind == BZ ? kimage_bzimage(4096) : kimage_elf(2048);
	e.src.prefer_64bit_entry = kind == ELF_64;
	boot_env_add_initrd(&e, 5000);
	boot_env_load_ok(&e);
	entry = e.entry;

	ram = gmem_ptr(&e.mem, 0, BOOT_ENV_RAM);
	assert_non_null(ram);
	memcpy(before, ram, BOOT_ENV_RAM);
	for (size_t i = 0; i < BOOT_ENV_RAM; i++)
		ram[i] ^= 0x5a;
	boot_env_load_ok(&e);
	assert_int_equal(e.entry.mode, entry.mode);
	assert_int_equal(e.entry.rip, entry.rip);
	assert_int_equal(e.entry.info, entry.info);
	for (unsigned int i = 0; i < ARRAY_SIZE(boot_ranges); i++)
		if (boot_ranges[i].kinds & kind)
			assert_memory_equal(ram + boot_ranges[i].gpa, before + boot_ranges[i].gpa,
					    boot_ranges[i].len);
	boot_env_free(&e);
	free(before);
}

/* A second load on memory that the guest has written all over gives the same guest. */
static void reboot(void **state)
{
	(void)state;
	load_twice(BZ);
	load_twice(ELF_PVH);
	load_twice(ELF_64);
}

/* What a migration would have to send again. */
static void marks_dirty(void **state)
{
	static const gpa_t touched[] = {
		PLAT_GDT,     PLAT_ZERO_PAGE, PLAT_PAGE_TABLES,	     PLAT_PAGE_TABLES + 0x5000,
		PLAT_CMDLINE, KIMAGE_BZ_LOAD, KIMAGE_BZ_LOAD + 4096, BOOT_ENV_RAM - 4096
	};
	struct boot_env e;

	(void)state;
	boot_env_init(&e, BOOT_ENV_RAM);
	e.k = kimage_bzimage(8192);
	boot_env_add_initrd(&e, 10);
	assert_int_equal(gmem_log_start(&e.mem), 0);
	boot_env_load_ok(&e);
	for (unsigned int i = 0; i < ARRAY_SIZE(touched); i++) {
		uint64_t page = touched[i] / PAGE_SIZE_4K;

		assert_true(e.mem.dirty[page / 64] >> page % 64 & 1);
	}
	boot_env_free(&e);
}

static void real_kernel(void **state)
{
	struct boot_env e;
	const char *path = getenv("UNVMM_TEST_KERNEL");

	(void)state;
	boot_env_init(&e, MiB(512));
	e.src.kernel_path = path;
	e.src.kernel_fd = open(path, O_RDONLY);
	assert_true(e.src.kernel_fd >= 0);
	if (boot_load(&e.mem, &e.src, &e.entry, &e.d))
		fail_msg("%s", e.d.text);
	assert_true(e.entry.rip >= PLAT_KERNEL_MIN);
	print_message("%s: %s, entry 0x%" PRIx64 "\n", path,
		      e.entry.mode == BOOT_PVH ? "PVH" : "64-bit", e.entry.rip);
	close(e.src.kernel_fd);
	boot_env_free(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bz_loads),
		cmocka_unit_test(bz_with_memory_above_4g),
		cmocka_unit_test(bz_load_addresses),
		cmocka_unit_test(bz_setup_size_and_tail),
		cmocka_unit_test(bz_short_header_is_padded),
		cmocka_unit_test(bz_initrd_is_high),
		cmocka_unit_test(bz_initrd_addr_max_too_low),
		cmocka_unit_test(bz_refusals),
		cmocka_unit_test(bz_aligned_out_of_reach),
		cmocka_unit_test(bz_fixed_below_1m_is_refused),
		cmocka_unit_test(cmdline_limit),
		cmocka_unit_test(too_little_ram),
		cmocka_unit_test(initrd_beyond_3g),
		cmocka_unit_test(truncated_anywhere),
		cmocka_unit_test(not_files),
		cmocka_unit_test(read_errors),
		cmocka_unit_test(reboot),
		cmocka_unit_test(marks_dirty),
	};
	const struct CMUnitTest real[] = {
		cmocka_unit_test(real_kernel),
	};
	int failed = cmocka_run_group_tests_name("boot", tests, NULL, NULL);

	if (getenv("UNVMM_TEST_KERNEL"))
		failed += cmocka_run_group_tests_name("boot (real kernel)", real, NULL, NULL);
	return failed;
}
