/* SPDX-License-Identifier: Apache-2.0 */
/* boot_env.c - loads synthetic kernels for the boot loader's tests; see boot_env.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unvmm/platform.h>

#include "boot_env.h"

void boot_env_init(struct boot_env *e, uint64_t ram)
{
	memset(e, 0, sizeof(*e));
	assert_int_equal(gmem_create(&e->mem, ram, false, &e->d), 0);
	e->src = (struct boot_source){ .kernel_fd = -1,
				       .initrd_fd = -1,
				       .kernel_path = "the-kernel",
				       .initrd_path = "the-initrd",
				       .cmdline = "console=ttyS0 quiet",
				       .acpi_rsdp = BOOT_ENV_RSDP };
}

void boot_env_free(struct boot_env *e)
{
	if (e->src.initrd_fd >= 0)
		close(e->src.initrd_fd);
	kimage_free(&e->k);
	gmem_destroy(&e->mem);
}

int boot_env_load_part(struct boot_env *e, size_t len)
{
	int err;

	e->src.kernel_fd = kimage_fd(&e->k, len);
	e->d.text[0] = '\0';
	err = boot_load(&e->mem, &e->src, &e->entry, &e->d);
	close(e->src.kernel_fd);
	return err;
}

int boot_env_load(struct boot_env *e)
{
	return boot_env_load_part(e, e->k.len);
}

void boot_env_load_ok(struct boot_env *e)
{
	int err = boot_env_load(e);

	if (err)
		fail_msg("refused (%d): %s", err, e->d.text);
	assert_string_equal(e->d.text, "");
}

void boot_env_load_fails(struct boot_env *e, int err, const char *words)
{
	int got = boot_env_load(e);

	if (got != err || !strstr(e->d.text, words))
		fail_msg("want %d and \"%s\", got %d and \"%s\"", err, words, got, e->d.text);
	/* One sentence that names the file. */
	assert_non_null(strstr(e->d.text, "the-"));
	assert_null(strchr(e->d.text, '\n'));
}

void boot_env_add_initrd(struct boot_env *e, size_t size)
{
	struct kimage rd = { .data = malloc(size + 1), .len = size };

	for (size_t i = 0; i < size; i++)
		rd.data[i] = kimage_byte(i + 3);
	e->src.initrd_fd = kimage_fd(&rd, size);
	kimage_free(&rd);
}

const uint8_t *boot_env_at(struct boot_env *e, gpa_t gpa, uint64_t len)
{
	const uint8_t *p = gmem_ptr(&e->mem, gpa, len);

	assert_non_null(p);
	return p;
}

void boot_env_content(struct boot_env *e, gpa_t gpa, size_t len, size_t first)
{
	const uint8_t *p = boot_env_at(e, gpa, len);

	for (size_t i = 0; i < len; i++)
		if (p[i] != kimage_byte(first + i))
			fail_msg("byte %zu at 0x%" PRIx64 " is 0x%x, want 0x%x", i, gpa, p[i],
				 kimage_byte(first + i));
}

void boot_env_zero(struct boot_env *e, gpa_t gpa, size_t len)
{
	const uint8_t *p = boot_env_at(e, gpa, len);

	for (size_t i = 0; i < len; i++)
		if (p[i])
			fail_msg("byte at 0x%" PRIx64 " is 0x%x, want 0", gpa + i, p[i]);
}

struct boot_params boot_env_zero_page(struct boot_env *e)
{
	struct boot_params bp;

	assert_int_equal(e->entry.info, PLAT_ZERO_PAGE);
	assert_int_equal(gmem_read(&e->mem, PLAT_ZERO_PAGE, &bp, sizeof(bp)), 0);
	return bp;
}

struct boot_env_pvh boot_env_pvh_info(struct boot_env *e)
{
	struct boot_env_pvh info;

	assert_int_equal(e->entry.info, PLAT_PVH_INFO);
	assert_int_equal(gmem_read(&e->mem, PLAT_PVH_INFO, &info, sizeof(info)), 0);
	return info;
}

void boot_env_map_entry(const struct boot_env *e, unsigned int i, uint64_t addr, uint64_t size,
			uint32_t type)
{
	const struct {
		uint64_t addr, size;
		uint32_t type;
	} want[] = {
		{ 0, PLAT_EBDA, 1 },
		{ 0xe0000, 0x20000, 2 },
		{ 0x100000, e->mem.regions[0].size - 0x100000, 1 },
		{ PLAT_ECAM_BASE, PLAT_ECAM_SIZE, 2 },
		{ 0xfeffc000, 0x4000, 2 },
		{ 0x100000000, e->mem.size - e->mem.regions[0].size, 1 },
	};

	assert_true(i < ARRAY_SIZE(want));
	assert_int_equal(addr, want[i].addr);
	assert_int_equal(size, want[i].size);
	assert_int_equal(type, want[i].type);
}

void boot_env_e820(struct boot_env *e, unsigned int entries)
{
	struct boot_params bp = boot_env_zero_page(e);

	assert_int_equal(bp.e820_entries, entries);
	for (unsigned int i = 0; i < entries; i++)
		boot_env_map_entry(e, i, bp.e820_table[i].addr, bp.e820_table[i].size,
				   bp.e820_table[i].type);
}

/* Walks the tables as the processor would. */
static gpa_t translate(struct boot_env *e, uint64_t virt)
{
	gpa_t table = PLAT_PAGE_TABLES;

	for (int shift = 39; shift >= 21; shift -= 9) {
		uint64_t entry;

		assert_int_equal(gmem_read(&e->mem, table + (virt >> shift) % 512 * 8, &entry, 8),
				 0);
		assert_int_equal(entry & 3, 3);
		if (shift == 21) {
			assert_true(entry & 0x80);
			assert_int_equal(entry & 0x1ff000, 0);
			return (entry & ~0x1fffffull) + virt % 0x200000;
		}
		assert_false(entry & 0x80);
		table = entry & ~0xfffull;
	}
	return 0;
}

void boot_env_long_mode_tables(struct boot_env *e)
{
	static const uint64_t addr[] = { 0,	     0x12345,	 0x1fffff,   0x200000,	0x3fffffff,
					 0x40000000, 0xbfffffff, 0xfee00000, 0xffffffff };
	uint64_t gdt[BOOT_GDT_ENTRIES], pml4[512];

	for (unsigned int i = 0; i < ARRAY_SIZE(addr); i++)
		assert_int_equal(translate(e, addr[i]), addr[i]);
	assert_int_equal(gmem_read(&e->mem, PLAT_PAGE_TABLES, pml4, sizeof(pml4)), 0);
	for (unsigned int i = 1; i < 512; i++)
		assert_int_equal(pml4[i], 0);
	assert_int_equal(gmem_read(&e->mem, PLAT_GDT, gdt, sizeof(gdt)), 0);
	assert_int_equal(gdt[0], 0);
	assert_int_equal(gdt[BOOT_SEL_CODE64 / 8], 0x00af9b000000ffff);
	assert_int_equal(gdt[BOOT_SEL_DATA / 8], 0x00cf93000000ffff);
	assert_int_equal(gdt[BOOT_SEL_CODE32 / 8], 0x00cf9b000000ffff);
}
